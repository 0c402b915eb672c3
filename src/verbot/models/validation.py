"""Checks that the parts of a network are compatible, made when it is built."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from verbot.errors import ConfigError, PolicyError
from verbot.models.config import NetworkConfig
from verbot.models.features import Backbone, TrainingObjective
from verbot.models.protocols import GivesLayers, KeepsFrames, ReadsLayers, TaskClassifier
from verbot.models.speaking import SpeakingBackbone, SpeakingHead
from verbot.models.stochastic import ContinuingHead


def check_frames(config: NetworkConfig, memory: nn.Module) -> None:
    """Raise `ConfigError` if the memory stores more frames than a training sequence contains."""
    kept = memory.frames if isinstance(memory, KeepsFrames) else 0
    if config.memory and kept > config.sequence - 1:
        raise ConfigError(
            f"the memory {config.memory.name!r} stores the last {kept} frames, and a sequence of {config.sequence} has only "
            f"{config.sequence - 1} before its last: older frames are never trained; set its frames to at most "
            f"{config.sequence - 1}, or sequence to at least {kept + 1}"
        )


def check_backbone(config: NetworkConfig, backbone: type[Backbone]) -> None:
    """Raise `ConfigError` for a part of the configuration that this class of backbones would ignore."""
    chosen = [name for name in ("goal", "previous_action", "memory", "depth") if getattr(config, name) is not None]
    chosen += ["ahead"] if config.ahead else []
    if ignored := [name for name in chosen if name not in backbone.uses]:
        raise ConfigError(
            f"the backbone {config.backbone.name!r} does not read {', '.join(ignored)} of the network: leave it out, or use the "
            f"backbone 'modular'"
        )


def check_layers(config: NetworkConfig, backbone: nn.Module, head: nn.Module) -> None:
    """Raise `ConfigError` if the head reads layers of the backbone's that are not available."""
    given = backbone.gives_layers if isinstance(backbone, GivesLayers) else 0
    read = head.reads_layers if isinstance(head, ReadsLayers) else 0
    if read and given != read and not config.is_modular:
        raise ConfigError(
            f"the head {config.head.name!r} reads {read} layers of the backbone; {config.backbone.name!r} gives {given or 'none'}"
        )
    if read and given != read:
        raise ConfigError(
            f"the head {config.head.name!r} reads {read} layers of the fusion; {config.fusion.name!r} gives {given or 'none'} "
            f"(concat with hidden=0 gives all of its layers)"
        )
    if read and config.memory:
        raise ConfigError(
            f"the head {config.head.name!r} reads the layers of the fusion, and the memory {config.memory.name!r} comes after: "
            f"its output would not be used; use a head that reads the last layer"
        )


def check_speaks(config: NetworkConfig, backbone: nn.Module, head: nn.Module) -> None:
    """Raise `ConfigError` for a head whose actions are words, and a backbone without a language trunk to say them."""
    if isinstance(head, SpeakingHead) and not isinstance(backbone, SpeakingBackbone):
        raise ConfigError(
            f"the head {config.head.name!r} says actions as words of a language trunk, and the backbone {config.backbone.name!r} "
            f"has none; use the backbone 'vlm'"
        )


def check_classifier(config: NetworkConfig, head: nn.Module) -> None:
    """Raise `ConfigError` if the head has a task classifier that no objective trains."""
    if isinstance(head, TaskClassifier) and "task_classification" not in config.objectives:
        raise ConfigError(
            f"the head {config.head.name!r} has a task classifier, and no objective trains it: add "
            f"objectives.task_classification, for example with a weight of 0.1"
        )


def check_ahead(config: NetworkConfig, head: nn.Module) -> None:
    """Raise `ConfigError` for a head that continues committed actions, where the prediction begins after them."""
    if config.ahead and isinstance(head, ContinuingHead) and head.continuation.prefix:
        raise ConfigError(
            "head.prefix continues the committed actions, and with ahead the prediction begins after them: leave one of them out"
        )


def is_fusion_trained(config: NetworkConfig, trained: Mapping[str, TrainingObjective]) -> bool:
    """Whether any objective with a weight reads the fused features. Raises `ConfigError` if a memory needs one."""
    is_trained = any(config.objectives[name].weight for name, objective in trained.items() if objective.reads_fused)
    if config.memory and not is_trained:
        raise ConfigError(
            f"no objective with a weight reads the fused features here, and the memory {config.memory.name!r} comes after the "
            f"fusion: it would not be trained"
        )
    return is_trained


def check_acts(config: NetworkConfig) -> None:
    """Raise `PolicyError` if the action head was not trained: its actions are random."""
    if not config.is_trained("action"):
        raise PolicyError(
            "this policy was pretrained without actions (objectives.action) and cannot act: train from it, "
            "`verbot train starter --init-from POLICY --set 'init.parts=[vision, language, sentence]'`"
        )
