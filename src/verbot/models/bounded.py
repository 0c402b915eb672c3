"""Builds a network of a file whose weights are known, without ever allocating much more than these are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from verbot.models import registries
from verbot.models.allocation import AllocationBudget
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.spec import RobotSpec

SLACK, TIMES = 2**23, 3  # numbers beside the weights: buffers, and what is thrown away during initialization
CALLS, CALLS_A_WEIGHT = 50_000, 100  # of torch; modules without end take time, not memory
REGISTRIES = (
    registries.backbones,
    registries.vision_encoders,
    registries.depth_encoders,
    registries.goal_encoders,
    registries.language_encoders,
    registries.state_encoders,
    registries.action_encoders,
    registries.fusions,
    registries.memories,
    registries.heads,
)


def bounded_network(config: NetworkConfig, spec: RobotSpec, weights: Mapping[str, Tensor]) -> VLANetwork:
    """A network whose weights have the names and about the numbers of `weights`, which are not loaded.

    Parts of other packages may hold further weights of their own, so with them nothing is bounded.

    Raises as `VLANetwork` does, and `ConfigError` as soon as it needs far more memory or modules than `weights`.
    """
    if not _is_ours(config):
        return VLANetwork(config, spec)
    numbers = sum(weight.numel() for weight in weights.values())
    with AllocationBudget(SLACK + TIMES * numbers, CALLS + CALLS_A_WEIGHT * len(weights)):
        return VLANetwork(config, spec)


def _is_ours(config: NetworkConfig) -> bool:
    chosen = [(registry, part.name) for registry, part in zip(REGISTRIES, _parts(config), strict=True) if part is not None]
    chosen += [(registries.objectives, name) for name in config.objectives]
    return all(registry.get(name).__module__.startswith("verbot.") for registry, name in chosen)


def _parts(config: NetworkConfig) -> tuple[registries.Part | None, ...]:
    """In the order of `REGISTRIES`."""
    seen = (config.vision, config.depth, config.goal, config.language, config.state, config.previous_action)
    return (config.backbone, *seen, config.fusion, config.memory, config.head)
