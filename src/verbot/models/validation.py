"""Parts that must fit one another, checked when a network is built."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from verbot.errors import ConfigError, PolicyError
from verbot.models.config import NetworkConfig
from verbot.models.features import Backbone, TrainingObjective
from verbot.models.protocols import GivesLayers, KeepsFrames, ReadsLayers, TaskClassifier


def check_frames(config: NetworkConfig, memory: nn.Module) -> None:
    """Raise `ConfigError` where the memory keeps more of the last frames than its sequence ever holds."""
    kept = memory.frames if isinstance(memory, KeepsFrames) else 0
    if config.memory and kept > config.sequence - 1:
        raise ConfigError(
            f"the memory {config.memory.name!r} keeps the last {kept} frames, and a sequence of {config.sequence} has only "
            f"{config.sequence - 1} before its last: what is older is never learned from; set its frames to at most "
            f"{config.sequence - 1}, or sequence to at least {kept + 1}"
        )


def check_backbone(config: NetworkConfig, backbone: type[Backbone]) -> None:
    """Raise `ConfigError` for a part of the configuration that this class of backbones would ignore."""
    chosen = [name for name in ("goal", "previous_action", "memory") if getattr(config, name) is not None]
    if ignored := [name for name in chosen if name not in backbone.reads]:
        raise ConfigError(
            f"the backbone {config.backbone.name!r} does not read {', '.join(ignored)} of the network: leave it out, or use the "
            f"backbone 'modular'"
        )


def check_layers(config: NetworkConfig, backbone: nn.Module, head: nn.Module) -> None:
    """Raise `ConfigError` where the head reads the backbone's layers and cannot have them."""
    given = backbone.gives_layers if isinstance(backbone, GivesLayers) else 0
    read = head.reads_layers if isinstance(head, ReadsLayers) else 0
    if read and given != read and not config.is_modular:
        raise ConfigError(
            f"the head {config.head.name!r} reads {read} layers of the backbone; {config.backbone.name!r} gives {given or 'none'}"
        )
    if read and given != read:
        raise ConfigError(
            f"the head {config.head.name!r} reads {read} layers of the fusion; {config.fusion.name!r} gives {given or 'none'} "
            f"(concat with hidden=0 gives as many as it has)"
        )
    if read and config.memory:
        raise ConfigError(
            f"the head {config.head.name!r} reads the layers of the fusion, past which the memory {config.memory.name!r} adds "
            f"what it remembers: nothing of it would be read; use a head that reads the last layer"
        )


def check_classifier(config: NetworkConfig, head: nn.Module) -> None:
    """Raise `ConfigError` where the head chooses by a classifier that nothing teaches."""
    if isinstance(head, TaskClassifier) and "task_classification" not in config.objectives:
        raise ConfigError(
            f"the head {config.head.name!r} chooses its part by a classifier of tasks, and no objective teaches it: add "
            f"objectives.task_classification, with a weight of 0.1 as a start"
        )


def is_fusion_taught(config: NetworkConfig, taught: Mapping[str, TrainingObjective]) -> bool:
    """Whether any objective with a weight reads the fused features. Raises `ConfigError` where a memory needs one."""
    found = any(config.objectives[name].weight for name, objective in taught.items() if objective.reads_fused)
    if config.memory and not found:
        raise ConfigError(
            f"no objective with a weight reads the fused features here, and the memory {config.memory.name!r} comes after the "
            f"fusion: nothing would teach it"
        )
    return found


def check_acts(config: NetworkConfig) -> None:
    """Raise `PolicyError` where the head has learned nothing: its actions are random."""
    if not config.is_taught("action"):
        raise PolicyError(
            "this policy was pretrained without actions (objectives.action) and cannot act: begin a training with it, "
            "`verbot train starter --start POLICY --set 'start_parts=[vision, language, sentence]'`"
        )
