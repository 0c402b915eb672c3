"""The architecture of a decoder, and how it is read from a ``config.json`` of the transformers library."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verbot.errors import ConfigError

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
}
FAMILIES = ("llama", "qwen2", "qwen3", "gemma")
# Models of images and text whose text model is a decoder, with the family of it where their file does not say.
WITH_IMAGES = {"paligemma": "gemma", "smolvlm": "llama", "idefics3": "llama", "llava": "llama", "openvla": "llama"}
# What transformers leaves out of a config.json because it is the default of the family.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    },
    "qwen2": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "qwen3": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "gemma": {
        "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class RotaryScaling:
    """The rotary frequencies of Llama 3.1 and later: low ones are slower by `factor`, with a smooth transition.

    Args:
        factor: by which the longest wavelengths grow.
        low, high: wavelengths longer than ``trained / low`` are scaled, shorter than ``trained / high`` are not.
        trained: the number of positions before scaling.
    """

    factor: float
    low: float
    high: float
    trained: int


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture of a decoder (Llama, Touvron et al. 2023; Qwen2 and 3; Gemma).

    Args:
        vocabulary: number of tokens v; 0 for a decoder without embedding and output layer.
        width: d of the hidden states.
        depth: number of blocks.
        heads, key_heads: query heads, and the heads of keys and values that they share (Ainslie et al. 2023).
        head_width: h of each head.
        hidden: width of the gated MLP.
        theta: base of the rotary wavelengths (Su et al. 2021).
        scaling: of the rotary frequencies; None leaves them.
        epsilon: of the norms.
        activation: of the MLP's gate: ``"silu"``, ``"gelu"`` or ``"gelu_tanh"``.
        offset_norm: norms multiply by one plus their weight (Gemma).
        bias: queries, keys and values have a bias (Qwen2).
        head_norm: queries and keys are normalized head by head (Qwen3).
        tied: the output layer is the embedding.
        embedding_scale: factor of the embeddings (Gemma: √d).

    Raises `ConfigError` for sizes that do not fit.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    key_heads: int
    head_width: int
    hidden: int
    theta: float = 10_000.0
    scaling: RotaryScaling | None = None
    epsilon: float = 1e-6
    activation: str = "silu"
    offset_norm: bool = False
    bias: bool = False
    head_norm: bool = False
    tied: bool = True
    embedding_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "key_heads", "head_width", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a decoder is {getattr(self, name)}; expected at least 1")
        if self.heads % self.key_heads:
            raise ConfigError(f"{self.heads} heads cannot share {self.key_heads} heads of keys and values evenly")
        if self.head_width % 2:
            raise ConfigError(f"a head of width {self.head_width} cannot be rotated; expected an even width")
        if self.activation not in ACTIVATIONS.values():
            raise ConfigError(
                f"a decoder has no activation {self.activation!r}; known: {', '.join(sorted(set(ACTIVATIONS.values())))}"
            )

    def first(self, layers: int) -> DecoderConfig:
        """The same with the first `layers` blocks only; 0 keeps all. Raises `ConfigError` if there are fewer."""
        if not 0 <= layers <= self.depth:
            raise ConfigError(f"this language model has {self.depth} layers; the first {layers} are not possible")
        return dataclasses.replace(self, depth=layers or self.depth)


def text_architecture(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a ``config.json`` about the language model, with its ``model_type``.

    Raises `ConfigError` for a family that is not known; the message lists those that are.
    """
    kind = str(record.get("model_type"))
    if kind in WITH_IMAGES:
        inner = record.get("text_config") or {}
        record = {**inner, "model_type": inner.get("model_type", WITH_IMAGES[kind])}
        kind = str(record["model_type"])
    if kind not in FAMILIES:
        raise ConfigError(
            f"language models of type {kind!r} are not known; known: {', '.join(FAMILIES)}, "
            f"and with images {', '.join(WITH_IMAGES)}"
        )
    return record


def decoder_config(record: Mapping[str, Any]) -> DecoderConfig:
    """The architecture that a ``config.json`` describes. Raises `ConfigError` for what a decoder cannot do."""
    own = text_architecture(record)
    kind = str(own["model_type"])
    values = {**DEFAULTS[kind], **{name: value for name, value in own.items() if value is not None}}
    _refuse_others(kind, values)
    try:
        width, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
        # Gemma's files say "gelu" where the model was trained with its approximation by tanh.
        activation = "gelu_pytorch_tanh" if kind == "gemma" else str(values["hidden_act"])
        theta, scaling = _rotation(values)
        return DecoderConfig(
            vocabulary=int(values["vocab_size"]),
            width=width,
            depth=int(values["num_hidden_layers"]),
            heads=heads,
            key_heads=int(values.get("num_key_value_heads", heads)),
            head_width=int(values.get("head_dim", width // heads)),
            hidden=int(values["intermediate_size"]),
            theta=theta,
            scaling=scaling,
            epsilon=float(values["rms_norm_eps"]),
            activation=ACTIVATIONS.get(activation, activation),
            offset_norm=kind == "gemma",
            bias=kind == "qwen2",
            head_norm=kind == "qwen3",
            tied=bool(values["tie_word_embeddings"]),
            embedding_scale=math.sqrt(width) if kind == "gemma" else 1.0,
        )
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the architecture of this {kind} model cannot be read: {error!r}") from error


def _refuse_others(kind: str, values: Mapping[str, Any]) -> None:
    for name in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if values.get(name):
            raise ConfigError(f"this {kind} model has {name}, which the decoder does not know")


def _rotation(values: Mapping[str, Any]) -> tuple[float, RotaryScaling | None]:
    """The base of the wavelengths and their scaling, from the record of transformers 5 or of the versions before."""
    record = {"rope_theta": values.get("rope_theta", 10_000.0), **(values.get("rope_scaling") or {})}
    record |= values.get("rope_parameters") or {}
    kind = record.get("rope_type", record.get("type", "default"))
    if kind == "default":
        return float(record["rope_theta"]), None
    if kind != "llama3":
        raise ConfigError(f"a decoder does not know rotary positions of type {kind!r}; known: default, llama3")
    trained = int(record["original_max_position_embeddings"])
    low, high = float(record["low_freq_factor"]), float(record["high_freq_factor"])
    return float(record["rope_theta"]), RotaryScaling(float(record["factor"]), low, high, trained)
