"""The state of a run: its clock, its budget, its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from verbot.policy.policy import Policy
from verbot.training import checkpoint
from verbot.training.checkpoint import Progress
from verbot.training.distributed.fsdp import Sharded
from verbot.training.distributed.optimizer import Optimizer
from verbot.training.distributed.process_group import ProcessGroup
from verbot.training.imitation.cotraining import TrainedEmbodiment
from verbot.training.imitation.records import BudgetConfig

CHECKPOINTS = "checkpoints"
MEASURE_S = 15.0  # how long a budget in minutes watches the speed before it fixes the number of steps


class Session:
    """What a run consists of, and where it stands.

    Args:
        budget: how long the run is.
        out: the run's folder.
        embodiments: the robots that are trained, the main one first.
        now: where the run stands.
        started: the clock's seconds when this call began.
        anew: makes a policy such as `policy` was before training.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        out: Path,
        process_group: ProcessGroup,
        embodiments: Sequence[TrainedEmbodiment],
        optimizer: Optimizer,
        now: Progress,
        started: float,
        anew: Callable[[], Policy],
    ):
        self._budget, self.out, self.process_group, self.embodiments = budget, out, process_group, embodiments
        self.policy, self.training_data = embodiments[0].policy, embodiments[0].training_data
        self.optimizer, self.now = optimizer, now
        self.best: Tensor | None = None  # the weights of the best validation, where they are kept
        self._before, self._started, self._anew = now.seconds, started, anew
        self._first = now.step
        self._mark: tuple[float, int] | None = None  # when the speed was last looked at: seconds, step

    def seconds(self) -> float:
        """Spent on this run, over all sessions."""
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        self.now.seconds = self.seconds()
        tensors = self.optimizer.state() | ({} if self.best is None else {"best": self.best})
        if isinstance(self.optimizer.held, Sharded):
            checkpoint.save_shares(self.out / CHECKPOINTS, self.now, tensors, self.process_group)
        elif self.process_group.is_main:
            checkpoint.save(self.out / CHECKPOINTS, self.now, tensors)

    @contextmanager
    def whole(self) -> Iterator[Policy]:
        """The policy with the weights that the network shows, to be saved by the leader; every member takes part."""
        held, policy = self.optimizer.held, self.policy
        if isinstance(held, Sharded):
            state = held.gathered(self.policy.network)
            if self.process_group.is_main:
                policy = self._anew()
                policy.network.load_state_dict(state)
        yield policy

    def over(self, stop_at: int | None) -> bool:
        done = self.now.total is not None and self.now.step >= self.now.total
        early = self._budget.patience is not None and self.now.since_best >= self._budget.patience
        return done or early or self.now.step == stop_at

    def keep_to_budget(self) -> bool:
        """Turn what is left of `minutes` into steps, at the speed since the last time. False while it is too early to say."""
        if self._budget.minutes is None:
            return False
        budget, now = 60 * self._budget.minutes, self.seconds()
        if self._mark is None and self.now.step - self._first >= 3:  # the first steps are slow: memory, caches
            self._mark = (now, self.now.step)
        since, steps = (now - self._mark[0], self.now.step - self._mark[1]) if self._mark else (0.0, 0)
        total = self.now.step + max(1, round((budget - now) * steps / since)) if since > min(MEASURE_S, 0.1 * budget) else None
        total = self.process_group.broadcast(total)
        if total is not None:
            self.now.total, self._mark = total, (now, self.now.step)
        return total is not None


class Mean:
    """Means of values over steps, and the speed of those steps."""

    def __init__(self, samples_per_step: int):
        self._samples = samples_per_step
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._count, self._since = 0, time.monotonic()

    def add(self, values: dict[str, float]) -> None:
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means since the last call; empty after no step."""
        if not self._count:
            return {}
        means = {name: value / self._count for name, value in self._sums.items()}
        means["samples_per_s"] = self._samples * self._count / max(time.monotonic() - self._since, 1e-9)
        self._reset()
        return means
