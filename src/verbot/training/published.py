"""Fine-tuning of a published policy on a dataset, by low-rank adapters or in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from verbot.data.samples.window_batch import WindowBatch
from verbot.data.samples.window_config import WindowConfig
from verbot.data.samples.windows import Windows
from verbot.errors import ConfigError, TrainingError
from verbot.models.lora import LoraConfig, adapt
from verbot.models.published.base import TrainableNetwork
from verbot.policy.published.base import NormalizesActions
from verbot.policy.published.policy import PublishedPolicy
from verbot.spec import Observation

if TYPE_CHECKING:
    from verbot.data.storage.reader import Dataset


@dataclass(frozen=True)
class FinetuneConfig:
    """How a published policy is fine-tuned.

    Args:
        steps, batch: number of steps, and windows of each.
        lr: learning rate of AdamW, constant.
        lora: the adapters, of every linear layer by default; None trains all weights.
        clip: norm to which gradients are clipped.
        seed: of windows, noise and adapters.

    Raises `ConfigError` for numbers that are not positive.
    """

    steps: int = 1000
    batch: int = 8
    lr: float = 1e-4
    lora: LoraConfig | None = field(default_factory=lambda: LoraConfig(train=()))
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"fine-tuning has {name} {getattr(self, name)}; expected more than 0")


def finetune_published(
    policy: PublishedPolicy,
    dataset: Dataset,
    config: FinetuneConfig = FinetuneConfig(),
    report: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `policy` in place, and return the loss of each step. Statistics and prompts stay those of its files.

    Args:
        dataset: of the robot of the policy's `RobotMap`.
        report: called with the number of a step and its loss.

    Raises:
        ConfigError: the policy has no robot, or another one than the dataset; it cannot be trained, or its weights are not
            float32 throughout.
        TrainingError: the loss is no longer finite.
    """
    network, chunk = policy.network, policy.parts.chunk
    if policy.robot is None or policy.robot.spec != dataset.spec:
        raise ConfigError("a published policy is trained for the robot of the dataset; open it with a RobotMap of that robot")
    if not isinstance(network, TrainableNetwork) or not chunk:
        raise ConfigError(f"published policies of the family {policy.family!r} cannot be trained here")
    if any(weight.dtype != torch.float32 for weight in network.parameters()):
        raise ConfigError("weights are trained in float32: open the policy with OpenOptions(dtype=torch.float32)")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.lora is not None:
            adapt(network, config.lora)
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, config.lr, (0.9, 0.95))
    windows = Windows(dataset, WindowConfig(chunk=chunk))
    draws, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    losses: list[float] = []
    network.train()
    try:
        for step in range(config.steps):
            loss = _loss(policy, windows.batch(draws.integers(len(windows), size=config.batch), draws), windows, generator)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, config.clip)
            optimizer.step()
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise TrainingError(f"the loss of step {step} is {losses[-1]}; try a smaller learning rate than {config.lr:g}")
            if report is not None:
                report(step, losses[-1])
    finally:
        network.eval()
        windows.close()
    return losses


def _loss(policy: PublishedPolicy, window: WindowBatch, windows: Windows, generator: torch.Generator) -> Tensor:
    robot, processing = policy.robot, cast(NormalizesActions, policy.parts.processing)
    assert robot is not None
    episodes = [(robot.seen(each, policy.parts.spec),) for each in _observations(window, windows.cameras)]
    inputs = {name: value.to(policy.device) for name, value in processing.inputs(episodes).items()}
    targets = processing.targets(window.actions[..., robot.action_places()], episodes).to(policy.device)
    mask = torch.from_numpy(window.actions_mask).to(policy.device)
    losses = cast(TrainableNetwork, policy.network).losses(inputs, targets, mask, generator)
    return torch.stack(list(losses.values())).sum()


def _observations(window: WindowBatch, cameras: Sequence[str]) -> list[Observation]:
    """The latest frame of each window."""
    return [
        Observation(
            {name: window.images[row, -1, view] for view, name in enumerate(cameras) if window.images_mask[row, -1, view]},
            window.state[row, -1],
            window.instructions[row],
        )
        for row in range(len(window))
    ]
