"""The vocabulary rule: words of verbot's former private dialect are not used again; standard terms are.

Run it as ``python tools/words.py``. It reads source, documentation and tests, and prints each banned word with its successor.
With ``--done`` it reads only the paths in `DONE` and exits 1 on any finding. ``--summary`` prints counts by folder. An underscore
or a digit ends a word, so ``told_first`` counts as ``told``. A file that must hold a word (old names that are still read, a term
with another meaning) is listed in `ALLOWED`, with its reason.
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
    "Wish": "MotionCommand",
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
    "src/verbot/evaluation/grounding/metrics.py": (
        frozenset({"told"}),
        "a key of looking.json of version 0.1, which is still read",
    ),
    "tests/evaluation/test_grounding.py": (frozenset({"told"}), "a test of that key"),
    "src/verbot/rollout/results.py": (frozenset({"engaged", "player"}), "keys of results.jsonl of version 0.1, which are read"),
    "tests/rollout/test_results.py": (frozenset({"engaged", "player"}), "a test of those keys"),
    "src/verbot/training/rl/config.py": (
        frozenset({"scorer", "value_apart", "critic_pace", "headway", "ratchet"}),
        "field names of version 0.1, which are read for one version",
    ),
    "tests/training/test_reinforce_config.py": (
        frozenset({"scorer", "value_apart", "critic_pace", "headway", "ratchet"}),
        "a test of those names",
    ),
    "src/verbot/data/storage/video.py": (frozenset({"preset"}), "an option of libx264"),
    "tests/data/importers/test_manifest.py": (frozenset({"preset"}), "an option of libx264"),
    "profiling/video_codecs.py": (frozenset({"preset"}), "an option of libx264"),
    "src/verbot/training/imitation/config.py": (frozenset({"companions"}), "an old field, which is still read"),
    "src/verbot/workflows/inspect.py": (frozenset({"scorers"}), "the registry of the plug-in group `verbot.scorers`"),
    "tests/policy/test_format_1.py": (frozenset({"acted"}), "fields and weights of policy format 1, which are still read"),
    "tests/recipes/test_wiring.py": (frozenset({"acted", "told"}), "names of layers and functions of verbot.models"),
    "tests/training/test_pretraining.py": (frozenset({"told"}), "a metric of `verbot.models.objectives.siglip`"),
}


# Paths without banned words. To be extended until it holds all of `FOLDERS` and `PAGES`.
DONE = (
    "experiments/continual_learning.py",
    "experiments/cross_embodiment.py",
    "experiments/cross_episode_memory.py",
    "experiments/few_shot.py",
    "experiments/grounding_error.py",
    "experiments/grounding_monitor.py",
    "experiments/multi_sentence_language.py",
    "experiments/multitask.py",
    "experiments/pretraining.py",
    "experiments/referring_expressions.py",
    "experiments/reward_map.py",
    "experiments/suite_bounds.py",
    "profiling",
    "src/verbot/agents",
    "src/verbot/contracts.py",
    "src/verbot/data/importers",
    "src/verbot/data/storage",
    "src/verbot/deploy",
    "src/verbot/envs",
    "src/verbot/errors.py",
    "src/verbot/evaluation",
    "src/verbot/parallel",
    "src/verbot/recipes/__init__.py",
    "src/verbot/recipes/acting.py",
    "src/verbot/recipes/comparisons",
    "src/verbot/recipes/config.py",
    "src/verbot/recipes/imitation",
    "src/verbot/recipes/models",
    "src/verbot/recipes/overrides.py",
    "src/verbot/recipes/variants.py",
    "src/verbot/registry.py",
    "src/verbot/remote",
    "src/verbot/robots",
    "src/verbot/rollout",
    "src/verbot/spec.py",
    "src/verbot/statistics.py",
    "src/verbot/teleop",
    "src/verbot/training/__init__.py",
    "src/verbot/training/checkpoint.py",
    "src/verbot/training/distributed",
    "src/verbot/training/imitation",
    "src/verbot/training/log.py",
    "src/verbot/training/optimizer_state.py",
    "src/verbot/transforms.py",
    "src/verbot/workflows",
    "tests/agents",
    "tests/data/importers",
    "tests/data/storage",
    "tests/deploy",
    "tests/envs",
    "tests/evaluation",
    "tests/parallel",
    "tests/policy",
    "tests/recipes",
    "tests/remote",
    "tests/robots",
    "tests/rollout",
    "tests/teleop",
    "tests/test_errors.py",
    "tests/test_transforms.py",
    "tests/tools",
    "tests/training/conftest.py",
    "tests/training/test_augment.py",
    "tests/training/test_checkpoint.py",
    "tests/training/test_continual.py",
    "tests/training/test_correction_mixing.py",
    "tests/training/test_cotraining.py",
    "tests/training/test_dagger.py",
    "tests/training/test_device.py",
    "tests/training/test_distributed.py",
    "tests/training/test_features.py",
    "tests/training/test_finetune.py",
    "tests/training/test_history.py",
    "tests/training/test_kill.py",
    "tests/training/test_launch.py",
    "tests/training/test_lead_in.py",
    "tests/training/test_log.py",
    "tests/training/test_loop.py",
    "tests/training/test_optimizer.py",
    "tests/training/test_precision_and_accumulation.py",
    "tests/training/test_pretraining.py",
    "tests/training/test_previous_action.py",
    "tests/training/test_sharding.py",
    "tests/training/test_tasks.py",
    "tests/training/test_value_head.py",
    "tests/training/toys.py",
    "tests/workflows",
    "tools",
)


def files(root: Path, done: bool = False) -> Iterator[Path]:
    """The files to read below `root`; with `done` only those below a path in `DONE`."""
    for path in _all_files(root):
        name = path.relative_to(root).as_posix()
        if not done or any(name == part or name.startswith(f"{part}/") for part in DONE):
            yield path


def _all_files(root: Path) -> Iterator[Path]:
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
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, successor in _WORDS:
            yield from ((number, match[0], successor) for match in pattern.finditer(line))


def _names(text: str) -> Iterator[tuple[int, str, str]]:
    """Identifiers in code, and those in backticks elsewhere."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string in NAMES:
            yield token.start[0], token.string, NAMES[token.string]
    for number, line in enumerate(text.splitlines(), 1):
        for match in _QUOTED.finditer(line):
            yield number, match[1], NAMES[match[1]]


_WORDS = [(re.compile(rf"(?<![A-Za-z])(?:{word})(?![A-Za-z])", re.IGNORECASE), say) for word, say in WORDS.items()]
_QUOTED = re.compile(rf"`({'|'.join(NAMES)})(?=[`.(])")


def main(root: Path = ROOT, summary: bool = False, done: bool = False) -> int:
    found = [
        (path.relative_to(root).as_posix(), *item)
        for path in files(root, done)
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
    sys.exit(main(summary="--summary" in sys.argv, done="--done" in sys.argv))
