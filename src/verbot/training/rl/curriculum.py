"""A curriculum over levels of difficulty: a task advances when its success rate exceeds a threshold."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.errors import ConfigError

ORDERS = ("rising", "uniform")


@dataclass(frozen=True)
class Curriculum:
    """The levels of training episodes, for an env with levels of difficulty. The last level is that of test episodes.

    Args:
        thresholds: success rates over the last `episodes` of a task's level that advance the task, one for each level except the
            last. One for the last level is accepted and has no effect.
        episodes: minimum number of episodes at a level.
        review: fraction of episodes at easier levels, against forgetting.
        order: ``"rising"``, or ``"uniform"`` for equal frequencies of all levels from the start, as a baseline.
    """

    thresholds: tuple[float, ...] = (0.7, 0.8, 0.85, 0.9)
    episodes: int = 60
    review: float = 0.2
    order: str = "rising"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"the order of a curriculum is {self.order!r}; expected one of {', '.join(ORDERS)}")
        if not self.thresholds or not all(0 < t < 1 for t in self.thresholds):
            raise ConfigError(f"thresholds are success rates between 0 and 1, one for each level; got {list(self.thresholds)}")
        if self.episodes < 1 or not 0 <= self.review < 1:
            raise ConfigError(
                f"a curriculum needs episodes of at least 1 and a review in [0, 1); got {self.episodes} and {self.review:g}"
            )

    def fit(self, levels: int) -> None:
        """Raise `ConfigError` if the curriculum does not fit an env with this number of levels."""
        if levels < 2:
            raise ConfigError("a curriculum needs an env with levels of difficulty, and this one has none")
        if len(self.thresholds) not in (levels - 1, levels):
            raise ConfigError(f"this env has {levels} levels, which need {levels - 1} thresholds; got {len(self.thresholds)}")

    def draw(self, reached: int, levels: int, rng: np.random.Generator) -> int:
        """Draw the level of an episode, for a task at level `reached`."""
        if self.order == "uniform":
            return int(rng.integers(levels))
        return int(rng.integers(reached)) if reached and rng.random() < self.review else reached


class CurriculumState:
    """The level that each task has reached.

    Args:
        state: from `state`, to resume.
    """

    def __init__(self, config: Curriculum, levels: int, tasks: Sequence[str], state: Mapping[str, Any] | None = None):
        config.fit(levels)
        self._config, self._last = config, levels - 1
        self.reached: dict[str, int] = dict.fromkeys(tasks, 0)
        self._recent: dict[str, deque[bool]] = {task: deque(maxlen=config.episodes) for task in tasks}
        if state:
            self.reached |= state["reached"]
            for task, ended in state["recent"].items():
                self._recent[task].extend(ended)

    def record_episode(self, task: str, level: int, success: bool) -> bool:
        """Record the end of an episode. Returns whether its task advances to the next level."""
        if level != self.reached[task] or self._config.order == "uniform" or level == self._last:
            return False
        recent = self._recent[task]
        recent.append(success)
        if len(recent) < self._config.episodes or np.mean(recent) <= self._config.thresholds[level]:
            return False
        self.reached[task] += 1
        recent.clear()
        return True

    def state(self) -> dict[str, Any]:
        """The state as plain values, for resuming."""
        return {"reached": dict(self.reached), "recent": {task: list(ended) for task, ended in self._recent.items()}}
