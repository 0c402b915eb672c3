"""The optimizer of one flat vector of weights: AdamW, schedule, clipping, weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from verbot.errors import TrainingError
from verbot.models.format_1 import weight_name
from verbot.training.distributed.flat_weights import Whole
from verbot.training.distributed.fsdp import Sharded
from verbot.training.imitation.records import OptimizerConfig, ScheduleConfig


def learning_rate(peak: float, schedule: ScheduleConfig, step: int, done: float) -> float:
    """The rate of step `step` (from 0), when the fraction `done` of the run is over.

    Linear warm-up, then cosine to zero, or a tenth at each milestone, or constant.
    """
    rate = peak * min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    if schedule.name == "cosine":
        return rate * 0.5 * (1.0 + math.cos(math.pi * done))
    return rate * 0.1 ** sum(done >= milestone for milestone in schedule.milestones) if schedule.name == "step" else rate


class Optimizer:
    """AdamW over one flat vector of weights.

    The network's parameters become views of `weights`, their gradients views of `gradient`: one all-reduce, one norm, one
    update and one average for the whole network, whatever the number of its tensors. Matrices decay, vectors do not. A
    parameter with an attribute `lr_scale` is learned at that multiple of the rate. If the weights are
    sharded (`verbot.training.distributed.fsdp`), the vectors are the shard of this process.

    Args:
        held: the weights as vectors; None uses `Whole`.
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig, held: Whole | Sharded | None = None):
        self.held: Whole | Sharded = held or Whole(network)
        self._network, self._config = network, config
        self.layout, self.weights = self.held.layout, self.held.weights
        self.average = self.weights.clone()
        self.first_moment = torch.zeros_like(self.weights)
        self.second_moment = torch.zeros_like(self.weights)
        self.updates = torch.zeros((), dtype=torch.int64)

    @property
    def gradient(self) -> Tensor:
        return self.held.gradient

    def step(self, rate: float) -> float:
        """Clip, update, average. Returns the norm of the gradient; a non-finite norm changes nothing."""
        norm = self.held.norm()
        if not math.isfinite(norm):
            return norm
        if norm > self._config.clip_norm:
            self.gradient.mul_(self._config.clip_norm / norm)
        self.updates += 1
        updates = int(self.updates)
        self._adamw(rate, updates)
        self.held.updated()
        # A smaller decay at first, so that the average forgets the initial weights.
        decay = min(self._config.ema_decay, (1 + updates) / (10 + updates))
        self.average.lerp_(self.weights, 1.0 - decay)
        return norm

    def _adamw(self, rate: float, updates: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        """AdamW (Loshchilov & Hutter 2019), written here because importing torch.optim takes three seconds."""
        self.first_moment.lerp_(self.gradient, 1 - beta1)
        self.second_moment.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1 - beta2)
        scale = self.second_moment.sqrt().div_(math.sqrt(1 - beta2**updates)).add_(eps)
        decay = rate * self._config.weight_decay
        if self.held.scale is None:
            self.weights[: self.held.matrices].mul_(1 - decay)
            self.weights.addcdiv_(self.first_moment, scale, value=-rate / (1 - beta1**updates))
        else:
            self.weights[: self.held.matrices].mul_(1 - decay * self.held.scale[: self.held.matrices])
            self.weights.addcdiv_(self.first_moment * self.held.scale, scale, value=-rate / (1 - beta1**updates))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block, the network uses the averaged weights."""
        with self.use_weights(self.average):
            yield

    @contextmanager
    def use_weights(self, vector: Tensor) -> Iterator[None]:
        """Inside the block, the network uses these weights (w,)."""
        self.held.show(vector)
        try:
            yield
        finally:
            self.held.show(self.weights)

    def state(self) -> dict[str, Tensor]:
        """The complete state, including the buffers of the network."""
        buffers = {f"buffer.{name}": value for name, value in self._network.named_buffers()}
        return {
            "weights": self.weights,
            "average": self.average,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "updates": self.updates,
            **{name: value.clone() for name, value in buffers.items()},
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor], layout: dict[str, list[int]]) -> None:
        """Inverse of `state`; weight names of format 1 are accepted. Raises `TrainingError` for the state of another network."""
        if {weight_name(name): shape for name, shape in layout.items()} != self.layout:
            raise TrainingError("the checkpoint is of another network: its weights have other names or shapes")
        for name, own in self.state().items():
            if not name.startswith("buffer."):
                own.copy_(state[name])
        self.held.updated()
        buffers = {
            weight_name(name.removeprefix("buffer.")): value for name, value in state.items() if name.startswith("buffer.")
        }
        for name, value in self._network.named_buffers():
            value.copy_(buffers[name])
