"""The state of a run: clock, budget and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from verbot.policy.policy import VLAPolicy
from verbot.training import checkpoint
from verbot.training.checkpoint import TrainingProgress
from verbot.training.distributed.fsdp import Sharded
from verbot.training.distributed.optimizer import Optimizer
from verbot.training.distributed.process_group import ProcessGroup
from verbot.training.imitation.cotraining import TrainedEmbodiment
from verbot.training.imitation.records import BudgetConfig

CHECKPOINTS = "checkpoints"
MEASURE_S = 15.0  # seconds of speed measurement before a budget in minutes sets the number of steps


class TrainingSession:
    """The parts of a run and its progress.

    Args:
        budget: how long the run is.
        out: the run's folder.
        embodiments: the robots that are trained, the main one first.
        state: the progress.
        make_policy: builds a policy like `policy` before training.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        out: Path,
        process_group: ProcessGroup,
        embodiments: Sequence[TrainedEmbodiment],
        optimizer: Optimizer,
        state: TrainingProgress,
        make_policy: Callable[[], VLAPolicy],
    ):
        self._budget, self.out, self.process_group, self.embodiments = budget, out, process_group, embodiments
        self.policy, self.training_data = embodiments[0].policy, embodiments[0].training_data
        self.optimizer, self.state = optimizer, state
        self.best: Tensor | None = None  # the weights of the best validation, if they are kept
        self._earlier_s, self._started, self._make_policy = state.seconds, time.monotonic(), make_policy
        self._first = state.step
        self._mark: tuple[float, int] | None = None  # the last speed measurement: seconds, step

    def seconds(self) -> float:
        """Training time in seconds, summed over all calls; preparing frames and instructions is not counted."""
        return self._earlier_s + time.monotonic() - self._started

    def save(self) -> None:
        self.state.seconds = self.seconds()
        tensors = self.optimizer.state() | ({} if self.best is None else {"best": self.best})
        if isinstance(self.optimizer.held, Sharded):
            checkpoint.save_shares(self.out / CHECKPOINTS, self.state, tensors, self.process_group)
        elif self.process_group.is_main:
            checkpoint.save(self.out / CHECKPOINTS, self.state, tensors)

    @contextmanager
    def gathered_policy(self) -> Iterator[VLAPolicy]:
        """The policy with the current weights, for the main rank to save. All processes must call this."""
        held, policy = self.optimizer.held, self.policy
        if isinstance(held, Sharded):
            state = held.gathered(self.policy.network)
            if self.process_group.is_main:
                policy = self._make_policy()
                policy.network.load_state_dict(state)
        yield policy

    def is_finished(self, stop_at: int | None) -> bool:
        """Whether the run is complete, `BudgetConfig.patience` ran out, or step `stop_at` is reached."""
        reached_total = self.state.total is not None and self.state.step >= self.state.total
        early = self._budget.patience is not None and self.state.since_best >= self._budget.patience
        return reached_total or early or self.state.step == stop_at

    def update_total_steps(self) -> bool:
        """Convert the remaining `minutes` to steps at the measured speed. Returns False if the measurement is too short."""
        if self._budget.minutes is None:
            return False
        budget, elapsed_s = 60 * self._budget.minutes, self.seconds()
        if self._mark is None and self.state.step - self._first >= 3:  # the first steps are slow
            self._mark = (elapsed_s, self.state.step)
        measured_s, steps = (elapsed_s - self._mark[0], self.state.step - self._mark[1]) if self._mark else (0.0, 0)
        total = (
            self.state.step + max(1, round((budget - elapsed_s) * steps / measured_s))
            if measured_s > min(MEASURE_S, 0.1 * budget)
            else None
        )
        total = self.process_group.broadcast(total)
        if total is not None:
            self.state.total, self._mark = total, (elapsed_s, self.state.step)
        return total is not None


class Mean:
    """Means of values over steps, and the training speed."""

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

    def pop_means(self) -> dict[str, float]:
        """The means since the last call; empty without steps."""
        if not self._count:
            return {}
        means = {name: value / self._count for name, value in self._sums.items()}
        means["samples_per_s"] = self._samples * self._count / max(time.monotonic() - self._since, 1e-9)
        self._reset()
        return means
