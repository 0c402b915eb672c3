"""Several robots that learn in one run: each has a policy of its own, and some of their weights are the same.

Robots differ in cameras, in state and in what they can do, so each keeps its own network, statistics and ranges; what does not
hang on that (the words, what a camera sees, how tokens attend to each other) is learned once from all of them. Nothing else
knows of it: every policy is saved as any other and acts alone.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from verbot.data import open_dataset
from verbot.errors import ConfigError
from verbot.models.flat_names import holder
from verbot.policy.policy import Policy
from verbot.training.imitation.config import CotrainingEmbodiment, TrainConfig
from verbot.training.imitation.data import TrainingData


@dataclass(frozen=True)
class TrainedEmbodiment:
    """One robot of a run; `name` is empty for the first.

    Args:
        name: of the robot.
        policy: the policy that is trained.
        training_data: the batches that it is trained on.
    """

    name: str
    policy: Policy
    training_data: TrainingData

    def named(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its losses as the log calls them: the first robot's as they are, of others after the robot's name."""
        return {f"{self.name}.{key}" if self.name else key: value for key, value in losses.items()}


def alone(config: TrainConfig, other: CotrainingEmbodiment) -> TrainConfig:
    """The configuration by which a co-training embodiment would be trained without the first robot.

    Raises `ConfigError` where it has no datasets, or those of another robot.
    """
    if not other.datasets:
        raise ConfigError(f"the co-training embodiment {other.robot!r} has no dataset: name one of that robot beside the others")
    for path in other.datasets:
        if (found := open_dataset(path).spec.name) != other.robot:
            raise ConfigError(f"{path} is of the robot {found!r}, not of the co-training embodiment {other.robot!r}")
    own = {f.name: getattr(other, f.name) for f in dataclasses.fields(other) if f.name not in ("robot", "shared")}
    picked = ("datasets", "cameras", "selections")
    data = dataclasses.replace(config.data, weights=None, **{name: own.pop(name) for name in picked})
    return dataclasses.replace(config, cotraining=(), data=data, **own)


def share(first: nn.Module, other: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Make weights of `other` the very ones of `first`: those of the same name and shape that fit a pattern. Returns their names.

    Raises `ConfigError` for a pattern that fits none.
    """
    ours, found = dict(first.named_parameters()), []
    for pattern in patterns:
        fitting = [
            name
            for name, weight in other.named_parameters()
            if fnmatch.fnmatchcase(name, pattern) and name in ours and ours[name].shape == weight.shape
        ]
        if not fitting:
            raise ConfigError(f"nothing is shared by {pattern!r}: the networks have no weight of such a name in the same shape")
        found += fitting
    for name in found:
        module, leaf = holder(other, name)
        module._parameters[leaf] = ours[name]
    return found


def together(members: Sequence[TrainedEmbodiment]) -> nn.Module:
    """All weights that are learned, each once."""
    networks = [member.policy.network for member in members]
    return networks[0] if len(networks) == 1 else nn.ModuleList(networks)
