"""Parts that must fit one another, looked at when a network is built."""

from __future__ import annotations

from typing import Any

from torch import nn

from verbot.errors import ConfigError, PolicyError
from verbot.models.config import NetworkConfig
from verbot.models.objectives.weighting import Balance
from verbot.models.registries import contrasts
from verbot.models.tokens import Sizes

BEFORE_FUSION = ("keypoint", "contrast")  # losses of what sees and listens


def make_contrast(config: NetworkConfig, sizes: Sizes, tokens: int) -> Any:
    """The contrast of a vision encoder that makes so many tokens of a frame; None where there is none."""
    if config.contrast is None:
        return None
    make = contrasts.get(config.contrast.name)
    return make(sizes, **config.contrast.options) if make.attends else make(sizes, tokens, **config.contrast.options)


def check_frames(config: NetworkConfig, kept: int) -> None:
    """Raise `ConfigError` where the memory keeps more of the last frames than its sequence ever holds."""
    if config.memory and kept > config.sequence - 1:
        raise ConfigError(
            f"the memory {config.memory.name!r} keeps the last {kept} frames, and a sequence of {config.sequence} has only "
            f"{config.sequence - 1} before its last: what is older is never learned from; set its frames to at most "
            f"{config.sequence - 1}, or sequence to at least {kept + 1}"
        )


def check_layers(config: NetworkConfig, given: int, read: int) -> None:
    """Raise `ConfigError` where the head reads the fusion's layers and cannot have them."""
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


def make_balance(config: NetworkConfig, vision: nn.Module, head: nn.Module) -> Balance:
    """What weighs every loss that the network's parts can have."""
    beside: dict[str, float] = getattr(head, "beside", {})
    weights = {
        "action": config.action_weight,
        **beside,
        **({"keypoint": config.keypoint_weight} if "keypoints" in vision.counts else {}),  # type: ignore[operator]
        "recall": config.recall_weight,
        "value": config.value_weight,
        **({"contrast": config.contrast_weight} if config.contrast else {}),
        "grasp": config.grasp_weight,
    }
    return Balance(weights, config.loss_weights == "learned", fixed=beside)


def has_fused(config: NetworkConfig, balance: Balance) -> bool:
    """Whether anything that is learned comes after the fusion. Raises `ConfigError` where nothing does that a memory needs."""
    fuses = any(weight for name, weight in balance.weights.items() if name not in BEFORE_FUSION)
    if config.memory and not fuses:
        raise ConfigError(
            f"action_weight 0 trains neither fusion nor head here, and the memory {config.memory.name!r} comes after the fusion: "
            f"nothing would teach it"
        )
    return fuses


def check_acts(config: NetworkConfig) -> None:
    """Raise `PolicyError` where the head has learned nothing: what it would do is random."""
    if not config.action_weight:
        raise PolicyError(
            "this policy was pretrained without actions (action_weight 0) and cannot act: begin a training with it, "
            "`verbot train starter --start POLICY --set 'start_parts=[vision, language, sentence]'`"
        )
