"""One task after another: each begins with the policy of the one before, and some of what was learned earlier is replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verbot.errors import ConfigError
from verbot.training.imitation.config import Selection, TrainConfig
from verbot.training.imitation.loop import TrainResult, train


@dataclass(frozen=True)
class ContinualTask:
    """What is learned at once.

    Args:
        name: of the lesson, and of the folder of its run.
        dataset: a folder of episodes, and those of them that `selection` takes.
        samples: to train on.
    """

    name: str
    dataset: str
    selection: Selection = dataclasses.field(default_factory=Selection)
    samples: int = 20_000


def continual_task_config(
    config: TrainConfig, continual_tasks: Sequence[ContinualTask], number: int, start: str | None = None, replay: float = 0.25
) -> TrainConfig:
    """How the `number`-th of `lessons` is trained.

    Args:
        config: what all have in common; its datasets and its budget are the lesson's.
        start: the policy of the lesson before.
        replay: the share of samples that come from the lessons before, shared evenly among them; 0 shows them no more.

    Raises `ConfigError` for a share that leaves the new lesson nothing.

    Example:
        >>> tasks = [ContinualTask("pick", "a"), ContinualTask("push", "b"), ContinualTask("put", "c")]
        >>> later = continual_task_config(TrainConfig(("any",), steps=1), tasks, 2, start="push/policy", replay=0.25)
        >>> later.datasets, later.weights
        (('c', 'a', 'b'), (0.75, 0.125, 0.125))
    """
    if not 0 <= replay < 1:
        raise ConfigError(f"replay is the share of old samples, at least 0 and below 1; got {replay:g}")
    earlier = continual_tasks[:number] if replay else []
    shown = [continual_tasks[number], *earlier]
    weights = (1.0 - replay, *(replay / len(earlier) for _ in earlier)) if earlier else None
    return dataclasses.replace(
        config,
        datasets=tuple(continual_task.dataset for continual_task in shown),
        selections=tuple(continual_task.selection for continual_task in shown),
        weights=weights,
        steps=None,
        minutes=None,
        samples=continual_tasks[number].samples,
        start=start,
        start_sha256=None,
    )


def train_sequentially(
    config: TrainConfig,
    continual_tasks: Sequence[ContinualTask],
    out: Path,
    replay: float = 0.25,
    known: int = 0,
    progress: bool = True,
) -> list[TrainResult]:
    """Train `lessons` one after another, each into a folder of its name in `out`; called again it continues.

    Args:
        config: what all lessons have in common; the first begins with its `start`, or with a new network.
        replay: as of `continual_task_config`.
        known: so many of the lessons the start has learned before: they are replayed, and not learned anew.

    Raises `ConfigError` where two lessons have one name, or some are known and there is no start; and as `train` does.
    """
    names = [continual_task.name for continual_task in continual_tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"each lesson needs a name of its own; got {', '.join(names)}")
    if known and config.start is None:
        raise ConfigError(f"who knows {', '.join(names[:known])}? Give the config a start, or leave out known")
    results: list[TrainResult] = []
    for number in range(known, len(continual_tasks)):
        start = results[-1].policy if results else config.start
        told = continual_task_config(config, continual_tasks, number, start, replay)
        results.append(train(told, out / names[number], progress=progress))
    return results
