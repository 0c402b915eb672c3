"""The vocabulary rule: words of verbot's former private dialect are not used again; standard terms are.

Run it as ``python tools/words.py``. It reads source, documentation and tests, prints each banned word with its successor, and
exits 1 on any. An underscore or a digit ends a word, so ``told_first`` counts as ``told``. A file that must hold a word (old
names that are still read, a term with another meaning) is listed in `ALLOWED`, with its reason.
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "docs", "tests", "tools", "examples", "experiments", "profiling")
PAGES = ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
SUFFIXES = {".py", ".md", ".html", ".js", ".css", ".yaml", ".toml"}

# Words in any letter case -> what to say.
WORDS = {
    "acted": "previous_action",
    "astray": "off-trajectory",
    "companion|companions": "co-training embodiment",
    "corrector|correctors": "dagger_worker",
    "critic_pace": "critic_lr_multiplier",
    "engaged": "first_contact, touched",
    "errand|errands": "task, request",
    "exhibit|exhibits": "clip",
    "filmed|filming|films": "video, recorded",
    "foil|foils": "hard negative",
    "follower|followers": "rank_worker",
    "foretell|foretells|foretelling|foretold|forethought": "predict",
    "glance|glances|glanced": "warm-up sample",
    "headway": "progress reward",
    "lesson|lessons": "continual task",
    "middle color|middle colors": "channel median",
    "player|players": "agent, env_worker",
    "preset|presets": "recipe",
    "ratchet": "best-so-far share",
    "recoloring": "color alignment",
    "scorer|scorers": "language reward model",
    "teaching": "teleop, teleoperation",
    "thing|things": "object",
    "told": "instruction, given, reported",
    "trial|trials": "RL recipe",
    "unhear": "drop_words",
    "value_apart": "detach_critic",
}
# Identifiers of Python, in exactly this letter case -> what to say.
NAMES = {
    "Actor": "ActorCritic",
    "AlignmentAgent": "GroundingMonitor",
    "Attempt": "Episode",
    "Balance": "UncertaintyWeighting",
    "Candidate": "Entry",
    "Carried": "PolicyMemory",
    "Design": "Override",
    "Look": "GroundedObservation",
    "Looking": "PerceptionWarmup",
    "Marks": "TypePositionEmbedding",
    "Member": "TrainedEmbodiment",
    "Playground": "VecEnv",
    "RecoloringAgent": "ColorAlignmentAgent",
    "Recall": "KeypointMemory",
    "Seer": "FrozenFeatureExtractor",
    "Senses": "ObservationEncoder",
    "Sight": "ProcessedObservation",
    "Stage": "VectorRunner",
    "Stretch": "Segment",
    "Supply": "TrainingData",
    "Team": "ProcessGroup",
    "Turn": "Transition",
    "Wish": "Motion",
    "Wishes": "SceneConstraints",
    "Worlds": "EnvFactories, VecEnv",
    "learn_in_turn": "train_sequentially",
    "wants": "next_query",
}
# Path pattern -> (words allowed there, reason).
ALLOWED: dict[str, tuple[frozenset[str], str]] = {
    "tools/words.py": (frozenset({"*"}), "the list itself"),
    "tests/tools/test_words.py": (frozenset({"*"}), "tests of the list"),
    "docs/notebook/*": (frozenset({"*"}), "a dated record of experiments, as it was written"),
    "docs/reference/glossary.md": (frozenset({"*"}), "old names and their successors"),
    "src/verbot/data/storage/reader.py": (frozenset({"engaged"}), "a key of datasets of version 0.1, which is still read"),
    "tests/data/storage/test_writer.py": (frozenset({"engaged"}), "a test of that key"),
    "src/verbot/envs/tabletop/language/templates_*.py": (frozenset({"thing", "things"}), "instructions as people say them"),
    "src/verbot/envs/tabletop/language/captions.py": (frozenset({"things"}), "captions as people say them"),
    "tests/envs/test_episodes.py": (frozenset({"Thing"}), "a digest was taken under this name"),
    "src/verbot/data/storage/video.py": (frozenset({"preset"}), "an option of libx264"),
    "tests/data/importers/test_manifest.py": (frozenset({"preset"}), "an option of libx264"),
    "profiling/video_codecs.py": (frozenset({"preset"}), "an option of libx264"),
}


def files(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            hidden = {"assets", "fixtures", "__pycache__"} & set(path.relative_to(root).parts)
            if path.suffix in SUFFIXES and not hidden:
                yield path
    yield from (root / page for page in PAGES if (root / page).is_file())


def findings(path: Path, name: str) -> Iterator[tuple[int, str, str]]:
    """(line, word, what to say) of each banned word in a file; `name` is its path below the root."""
    allowed = frozenset().union(*(words for pattern, (words, _) in ALLOWED.items() if fnmatch.fnmatch(name, pattern)))
    if "*" in allowed:
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for pattern, successor in _patterns(path.suffix == ".py"):
            for match in pattern.finditer(line):
                if match[0].lower() not in allowed and match[0] not in allowed:
                    yield number, match[0], successor


def _patterns(python: bool) -> Iterator[tuple[re.Pattern[str], str]]:
    yield from _WORDS
    if python:
        yield from _NAMES


_WORDS = [(re.compile(rf"(?<![A-Za-z])(?:{word})(?![A-Za-z])", re.IGNORECASE), say) for word, say in WORDS.items()]
_NAMES = [
    (re.compile(rf"(?<![A-Za-z0-9_.' ]){word}(?![A-Za-z0-9_])(?=\(|\[|:|,|\)|\.|`| =|$)"), say) for word, say in NAMES.items()
]


def main(root: Path = ROOT, summary: bool = False) -> int:
    found = [
        (path.relative_to(root).as_posix(), *item)
        for path in files(root)
        for item in findings(path, path.relative_to(root).as_posix())
    ]
    if summary:
        for (folder, word), count in Counter(
            ("/".join(name.split("/")[:3]), word.lower()) for name, _, word, _ in found
        ).most_common():
            print(f"{count:5d}  {folder}  {word}")
    else:
        for name, line, word, successor in found:
            print(f"{name}:{line}: {word!r}; say: {successor}")
    print(f"words: {len(found)} banned words")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(summary="--summary" in sys.argv))
