"""Continual learning: tasks are trained in sequence, each from the previous policy, with replay of earlier episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verbot.errors import ConfigError
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.loop import TrainResult, train_policy
from verbot.training.imitation.records import Selection


@dataclass(frozen=True)
class ContinualTask:
    """One task of a sequence.

    Args:
        name: name of the task, and of the folder of its run.
        dataset: a folder of episodes, filtered by `selection`.
        samples: number of training samples.
    """

    name: str
    dataset: str
    selection: Selection = dataclasses.field(default_factory=Selection)
    samples: int = 20_000


def continual_task_config(
    config: TrainConfig, continual_tasks: Sequence[ContinualTask], number: int, init_from: str | None = None, replay: float = 0.25
) -> TrainConfig:
    """The training of the `number`-th of `continual_tasks`.

    Args:
        config: the common configuration; its datasets and budget are replaced by those of the task.
        init_from: the policy after the previous task.
        replay: fraction of samples from previous tasks, in equal parts; 0 uses none.

    Raises `ConfigError` for a fraction that leaves the new task no samples.

    Example:
        >>> from verbot.training.imitation.records import BudgetConfig, DataConfig
        >>> tasks = [ContinualTask("pick", "a"), ContinualTask("push", "b"), ContinualTask("put", "c")]
        >>> config = TrainConfig(DataConfig(("any",)), BudgetConfig(steps=1))
        >>> later = continual_task_config(config, tasks, 2, init_from="push/policy", replay=0.25)
        >>> later.data.datasets, later.data.weights
        (('c', 'a', 'b'), (0.75, 0.125, 0.125))
    """
    if not 0 <= replay < 1:
        raise ConfigError(f"replay is the fraction of old samples, at least 0 and below 1; got {replay:g}")
    earlier = continual_tasks[:number] if replay else []
    shown = [continual_tasks[number], *earlier]
    weights = (1.0 - replay, *(replay / len(earlier) for _ in earlier)) if earlier else None
    data = dataclasses.replace(
        config.data,
        datasets=tuple(continual_task.dataset for continual_task in shown),
        selections=tuple(continual_task.selection for continual_task in shown),
        weights=weights,
    )
    init = dataclasses.replace(config.init, init_from=init_from, sha256=None)
    return dataclasses.replace(config, data=data, init=init).with_budget(samples=continual_tasks[number].samples)


def train_sequentially(
    config: TrainConfig,
    continual_tasks: Sequence[ContinualTask],
    out: Path,
    replay: float = 0.25,
    known: int = 0,
    progress: bool = True,
) -> list[TrainResult]:
    """Train tasks in sequence, each in a folder of its name in `out`. A repeated call resumes.

    Args:
        config: the common configuration; the first task starts from its `init`, or with a new network.
        replay: as in `continual_task_config`.
        known: number of tasks on which the policy of `init` was trained already; they are replayed, not trained.

    Raises `ConfigError` if two tasks have one name, or some are known without a policy to start from; and as `train_policy`.
    """
    names = [continual_task.name for continual_task in continual_tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"each task needs a name of its own; got {', '.join(names)}")
    if known and config.init.init_from is None:
        raise ConfigError(
            f"known names {', '.join(names[:known])}, and no policy was trained on them: give init.init_from, or leave out known"
        )
    results: list[TrainResult] = []
    for number in range(known, len(continual_tasks)):
        init_from = results[-1].policy if results else config.init.init_from
        task_config = continual_task_config(config, continual_tasks, number, init_from, replay)
        results.append(train_policy(task_config, out / names[number], progress=progress))
    return results
