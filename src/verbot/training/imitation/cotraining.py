"""Co-training of several robots in one run: each has its own policy, and some of their weights are shared.

Robots differ in cameras, state and actions, so each has its own network, statistics and ranges. Parts that do not depend on these
(language encoder, vision encoder, fusion) are trained on the data of all robots. Every policy is saved completely and works
independently.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.flat_names import holder
from verbot.models.protocols import CountsUnreadTokens
from verbot.policy.policy import VLAPolicy
from verbot.training.imitation.config import CotrainingEmbodiment, TrainConfig
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.mixing import opened
from verbot.training.log import Log

READ = 1000  # instructions that are looked at for their language


@dataclass(frozen=True)
class TrainedEmbodiment:
    """One robot of a run.

    Args:
        name: name of the robot; empty for the first one.
        policy: the policy that is trained.
        training_data: its batches.
    """

    name: str
    policy: VLAPolicy
    training_data: TrainingData

    def named(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses with their names in the log: those of other robots than the first are prefixed with the robot's name."""
        return {f"{self.name}.{key}" if self.name else key: value for key, value in losses.items()}

    def record_notes(self, log: Log, show: bool) -> None:
        """Log what a person should know of the data and of the instructions; `show` prints the latter (data are known before)."""
        found = _language_note(self.policy, self.training_data.instructions)
        if show and found:
            print(found, file=sys.stderr)
        robot = {"robot": self.name} if self.name else {}
        for note in (*self.training_data.notes, *([found] if found else [])):
            log.record("note", 0, **robot, text=note)


def _language_note(policy: VLAPolicy, instructions: Sequence[str]) -> str | None:
    """Whether most tokens of the instructions say nothing to a pretrained language encoder."""
    backbone = policy.network.backbone
    if not isinstance(backbone, CountsUnreadTokens):
        return None
    unread, total = backbone.unread_tokens(instructions[:READ])
    if 2 * unread <= total:
        return None
    return (
        f"{unread} of {total} tokens of the instructions are unknown to the language encoder {policy.config.language.name!r}, or "
        f"single letters: it was trained on another language. Train with network.language=word_embedding, which learns the words "
        f"of the instructions, or with hf_language and a multilingual checkpoint"
    )


def embodiment_config(config: TrainConfig, other: CotrainingEmbodiment) -> TrainConfig:
    """The configuration of a co-training embodiment as an independent run.

    Raises `ConfigError` if it has no datasets, or datasets of another robot.
    """
    if not other.datasets:
        raise ConfigError(f"the co-training embodiment {other.robot!r} has no dataset: add one of that robot")
    own = {f.name: getattr(other, f.name) for f in dataclasses.fields(other) if f.name not in ("robot", "shared")}
    picked = ("datasets", "cameras", "selections", "features", "origin", "rate_hz")
    data = dataclasses.replace(config.data, weights=None, **{name: own.pop(name) for name in picked})
    for path in other.datasets:
        if (found := opened(data, path).spec.name) != other.robot:
            raise ConfigError(f"{path} is of the robot {found!r}, not of the co-training embodiment {other.robot!r}")
    network = config.network if other.network is None else other.network
    return dataclasses.replace(config, cotraining=(), data=data, **{**own, "network": network})


def tie_weights(first: nn.Module, other: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Share weights of `first` with `other`: those with the same name and shape that match a pattern. Returns their names.

    Raises `ConfigError` for a pattern without a match.
    """
    ours, found = dict(first.named_parameters()), []
    for pattern in patterns:
        fitting = [
            name
            for name, weight in other.named_parameters()
            if fnmatch.fnmatchcase(name, pattern) and name in ours and ours[name].shape == weight.shape
        ]
        if not fitting:
            raise ConfigError(f"{pattern!r} matches no weight that both networks have in the same shape")
        found += fitting
    for name in found:
        module, leaf = holder(other, name)
        module._parameters[leaf] = ours[name]
    return found


def joint_network(embodiments: Sequence[TrainedEmbodiment]) -> nn.Module:
    """A module with all trained weights, each once."""
    networks = [each.policy.network for each in embodiments]
    return networks[0] if len(networks) == 1 else nn.ModuleList(networks)
