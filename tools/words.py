"""The vocabulary rule: words of verbot's former private dialect are not used again; standard terms are.

Run it as ``python tools/words.py``. It reads source, documentation and tests, prints each banned word with its successor, and
exits 1 if it finds any. ``--summary`` prints counts by folder. An underscore or a digit ends a word, so ``told_first`` counts as
``told``. A file that must contain a word (old names that are still read, a term with another meaning) is listed in `ALLOWED`,
with its reason.
"""

from __future__ import annotations

import fnmatch
import io
import re
import sys
import tokenize
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
    "critic_pace": "critic_lr_multiplier",
    "designs": "comparisons, overrides",
    "engaged": "first_contact, touched",
    "errand|errands": "task, request",
    "exhibit|exhibits": "clip",
    "filmed|filming|films": "video, recorded",
    "foil|foils": "hard negative",
    "foretell|foretells|foretelling|foretold|forethought": "predict",
    "glance|glances|glanced": "warm-up sample",
    "headway": "progress reward",
    "lesson|lessons": "continual task",
    "middle color|middle colors": "channel median",
    "player|players": "agent, env_worker",
    "preset|presets": "recipe",
    "ratchet": "best-so-far share",
    "recall": "keypoint_memory",
    "recoloring": "color alignment",
    "scorer|scorers": "language reward model",
    "stretch|stretches": "segment",
    "teaching": "teleop, teleoperation",
    "thing|things": "object",
    "told": "instruction, given, reported",
    "trial|trials": "RL recipe",
    "unhear": "drop_words",
    "value_apart": "detach_critic",
    "wish|wishes": "motion command, constraint",
    "worlds": "envs, domains",
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
    "LanguageScorer": "LanguageRewardModel",
    "Look": "GroundedObservation",
    "Looking": "PerceptionWarmup",
    "Marks": "TypePositionEmbedding",
    "MOMENTS": "optimizer_state",
    "Member": "TrainedEmbodiment",
    "Playground": "VecEnv",
    "RecoloringAgent": "ColorAlignmentAgent",
    "Recall": "KeypointMemory",
    "SeesBeforeWords": "InstructionFreeFeatures",
    "Seer": "FrozenFeatureExtractor",
    "Senses": "ObservationEncoder",
    "Sight": "ProcessedObservation",
    "Stage": "VectorRunner",
    "Stretch": "Segment",
    "Supply": "TrainingData",
    "Team": "ProcessGroup",
    "Turn": "Transition",
    "Watch": "ConsecutiveAlarm",
    "Wish": "MotionCommand",
    "Wishes": "SceneConstraints",
    "Worlds": "EnvFactories, VecEnv",
    "ask_many": "encode_with_queries",
    "balance": "loss_weighting",
    "begin_parts": "init_parts",
    "beginning": "initial_policy",
    "begun": "resolved, started",
    "briefing": "setup",
    "candidate": "entry",
    "contrasts": "contrastive_losses",
    "design": "override, entry",
    "gives": "receives",
    "leads": "is_main",
    "learn_in_turn": "train_sequentially",
    "meeting": "rendezvous",
    "member": "TrainedEmbodiment, entry",
    "questions": "grounding_queries",
    "seat": "local_rank",
    "seats": "local_ranks",
    "seer": "frozen feature extractor",
    "senses": "observation_encoder",
    "sight": "processed observation",
    "sights": "processed observations",
    "taught": "trained",
    "team": "group",
    "teams": "groups",
    "thoughts": "predict_extras",
    "wants": "next_query",
}
# Path pattern -> (words allowed there, reason).
ALLOWED: dict[str, tuple[frozenset[str], str]] = {
    "tools/words.py": (frozenset({"*"}), "the list itself"),
    "tests/tools/test_words.py": (frozenset({"*"}), "tests of the list"),
    "tests/cases/*": (frozenset({"preset", "follower"}), "an option of an encoder, and the name of a robot"),
    "docs/results/other_data.md": (frozenset({"follower"}), "the name of a robot"),
    "docs/notebook/*": (frozenset({"*"}), "a dated record of experiments, as it was written"),
    "docs/reference/glossary.md": (frozenset({"*"}), "old names and their successors"),
    "src/verbot/data/storage/recorded_extras.py": (
        frozenset({"engaged"}),
        "a key of datasets of version 0.1, which is still read",
    ),
    "tests/data/storage/test_writer.py": (frozenset({"engaged"}), "a test of that key"),
    "src/verbot/envs/tabletop/language/templates_*.py": (frozenset({"thing", "things"}), "instructions as people say them"),
    "src/verbot/envs/tabletop/language/captions.py": (frozenset({"things"}), "captions as people say them"),
    "tests/envs/test_episodes.py": (frozenset({"Thing"}), "a digest was taken under this name"),
    "src/verbot/evaluation/grounding/metrics.py": (
        frozenset({"told"}),
        "a key of looking.json of version 0.1, which is still read",
    ),
    "tests/evaluation/test_grounding.py": (frozenset({"told"}), "a test of that key"),
    "src/verbot/rollout/results.py": (frozenset({"engaged", "player"}), "keys of results.jsonl of version 0.1, which are read"),
    "tests/rollout/test_results.py": (frozenset({"engaged", "player"}), "a test of those keys"),
    "src/verbot/training/rl/config.py": (
        frozenset({"scorer", "value_apart", "critic_pace", "headway", "ratchet", "worlds", "questions"}),
        "field names of version 0.1, which are read for one version",
    ),
    "tests/training/test_reinforce_config.py": (
        frozenset({"scorer", "value_apart", "critic_pace", "headway", "ratchet", "worlds"}),
        "a test of those names",
    ),
    "src/verbot/data/storage/video.py": (frozenset({"preset"}), "an option of libx264"),
    "tests/data/importers/test_manifest.py": (frozenset({"preset"}), "an option of libx264"),
    "profiling/video_codecs.py": (frozenset({"preset"}), "an option of libx264"),
    "profiling/data_loader_lerobot.py": (frozenset({"preset"}), "an option of libx264 and of SVT-AV1"),
    "src/verbot/training/imitation/config.py": (frozenset({"companions"}), "an old field, which is still read"),
    "src/verbot/models/reward_models/__init__.py": (frozenset({"scorers"}), "the former plug-in group, which is still read"),
    "src/verbot/models/reward_models/matcher.py": (frozenset({"scorer"}), "the former format of files, which is still read"),
    "src/verbot/cli/__init__.py": (frozenset({"scorers", "designs"}), "former names, which work for one version"),
    "tests/test_cli_former_names.py": (frozenset({"scorers", "designs", "worlds"}), "a test of former names"),
    "src/verbot/recipes/variants.py": (frozenset({"designs"}), "a former field, which is still read"),
    "src/verbot/training/imitation/records.py": (frozenset({"questions"}), "a former field, which is still read"),
    "src/verbot/models/format_1.py": (
        frozenset({"acted", "glance", "recall", "told"}),
        "fields and weights of policy format 1, which are still read",
    ),
    "tests/policy/test_format_1.py": (
        frozenset({"acted", "recall"}),
        "fields and weights of policy format 1, which are still read",
    ),
}


def files(root: Path) -> Iterator[Path]:
    """The files to read below `root`."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            hidden = {"assets", "fixtures", "__pycache__"} & set(path.relative_to(root).parts)
            if path.suffix in SUFFIXES and not hidden:
                yield path
    yield from (root / page for page in PAGES if (root / page).is_file())


def findings(path: Path, name: str) -> Iterator[tuple[int, str, str]]:
    """(line, word, successor) of each banned word in a file; `name` is its path below the root."""
    allowed = frozenset().union(*(words for pattern, (words, _) in ALLOWED.items() if fnmatch.fnmatch(name, pattern)))
    if "*" in allowed:
        return
    text = path.read_text(encoding="utf-8")
    for number, word, successor in sorted({*_words(text), *(_names(text) if path.suffix == ".py" else ())}):
        if word.lower() not in allowed and word not in allowed:
            yield number, word, successor


def _words(text: str) -> Iterator[tuple[int, str, str]]:
    lowered = text.lower()
    patterns = [(pattern, say) for parts, pattern, say in _WORDS if any(part in lowered for part in parts)]
    for number, line in enumerate(text.splitlines() if patterns else (), 1):
        for pattern, successor in patterns:
            yield from ((number, match[0], successor) for match in pattern.finditer(line))


def _names(text: str) -> Iterator[tuple[int, str, str]]:
    """Identifiers in code, and those in backticks elsewhere."""
    if not _NAME.search(text):  # splitting a file into tokens takes long
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string in NAMES:
            yield token.start[0], token.string, NAMES[token.string]
    for number, line in enumerate(text.splitlines(), 1):
        for match in _QUOTED.finditer(line):
            yield number, match[1], NAMES[match[1]]


_WORDS = [
    (word.split("|"), re.compile(rf"(?<![A-Za-z])(?:{word})(?![A-Za-z])", re.IGNORECASE), say) for word, say in WORDS.items()
]
_NAME = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")
_QUOTED = re.compile(rf"`({'|'.join(NAMES)})(?=[`.(])")


def main(root: Path = ROOT, summary: bool = False) -> int:
    """Print the findings. Returns the exit code: 1 if there are any."""
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
