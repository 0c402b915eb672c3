"""Easy episodes first: a task's next level begins when the present one is mastered."""

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
    """Which levels of difficulty are played, for an env that has them (``levels``, the last of which is what tests draw).

    Args:
        thresholds: the success, over the last `episodes` of a task's level, beyond which its next level begins; one for each
            level but the last. The one after the last may be given too and changes nothing.
        episodes: that a level lasts at least.
        review: share of episodes at one of the easier levels, so that they are not forgotten.
        order: ``"rising"``, or ``"uniform"``: all levels equally often from the beginning, to compare with.
    """

    thresholds: tuple[float, ...] = (0.7, 0.8, 0.85, 0.9)
    episodes: int = 60
    review: float = 0.2
    order: str = "rising"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"the order of a curriculum is {self.order!r}; expected one of {', '.join(ORDERS)}")
        if not self.thresholds or not all(0 < t < 1 for t in self.thresholds):
            raise ConfigError(f"thresholds are shares of success, one for each level; got {list(self.thresholds)}")
        if self.episodes < 1 or not 0 <= self.review < 1:
            raise ConfigError(f"a level lasts at least 1 episode and review is a share; got {self.episodes} and {self.review:g}")

    def fit(self, levels: int) -> None:
        """Raise `ConfigError` for an env of so many levels."""
        if levels < 2:
            raise ConfigError("a curriculum needs an env with levels of difficulty, and this one has none")
        if len(self.thresholds) not in (levels - 1, levels):
            raise ConfigError(f"this env has {levels} levels, which {levels - 1} thresholds part; got {len(self.thresholds)}")

    def draw(self, reached: int, levels: int, rng: np.random.Generator) -> int:
        """The level of an episode, for a task that has `reached` one."""
        if self.order == "uniform":
            return int(rng.integers(levels))
        return int(rng.integers(reached)) if reached and rng.random() < self.review else reached


class Course:
    """How far each task has come.

    Args:
        state: what `state` returned, to continue from.
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

    def note(self, task: str, level: int, success: bool) -> bool:
        """An episode ended; whether that lifts its task to the next level."""
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
        """All that `Course` needs to continue, as plain values."""
        return {"reached": dict(self.reached), "recent": {task: list(ended) for task, ended in self._recent.items()}}
