"""The published names of Octo's weights in flax, their layout, and the sizes that follow from their shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.published.flax import FlaxFiles
from verbot.models.published.names import Shapes
from verbot.models.published.octo import READOUT, TASK, OctoConfig, StemConfig
from verbot.models.published.t5 import T5Config
from verbot.models.trunks.weights import Targets, TensorFiles

BODY, HEAD = "octo_transformer/", "heads_action/diffusion_model/"
BLOCK = rf"{BODY}BlockTransformer_0/Transformer_0/encoderblock_(\d+)/"
STEM, T5 = rf"{BODY}observation_tokenizers_(\w+)/SmallStem\w*/", rf"{BODY}task_tokenizers_language/hf_model/"
KIND = r"(kernel|bias|scale|embedding|weight)"
ROOTS = {"SmallStem", "SmallStem16", "SmallStem32"}
# Published paths -> own names; the last group is the kind.
NAMES: dict[str, str] = {
    rf"{STEM}StdConv_(\d+)/{KIND}": "stems.{}.convs.{}.{}",
    rf"{STEM}GroupNorm_(\d+)/{KIND}": "stems.{}.norms.{}.{}",
    rf"{STEM}embedding/{KIND}": "stems.{}.embedding.{}",
    rf"{BODY}(\w+)_projection/{KIND}": "projections.{}.{}",
    rf"{BLOCK}LayerNorm_(\d)/{KIND}": "blocks.{}.norms.{}.{}",
    rf"{BLOCK}MultiHeadDotProductAttention_0/(query|key|value|out)/{KIND}": "blocks.{}.{}.{}",
    rf"{BLOCK}MlpBlock_0/Dense_(\d)/{KIND}": "blocks.{}.mlp.{}.{}",
    rf"{BODY}BlockTransformer_0/Transformer_0/encoder_norm/{KIND}": "norm.{}",
    rf"{HEAD}cond_encoder/Dense_(\d)/{KIND}": "score.condition.{}.{}",
    rf"{HEAD}reverse_network/Dense_(\d)/{KIND}": "score.ends.{}.{}",
    rf"{HEAD}reverse_network/MLPResNetBlock_(\d+)/LayerNorm_0/{KIND}": "score.blocks.{}.norm.{}",
    rf"{HEAD}reverse_network/MLPResNetBlock_(\d+)/Dense_(\d)/{KIND}": "score.blocks.{}.layers.{}.{}",
    rf"{T5}shared/{KIND}": "language.shared.{}",
    rf"{T5}encoder/block/0/layer/0/SelfAttention/relative_attention_bias/{KIND}": "language.distances.{}",
    rf"{T5}encoder/block/(\d+)/layer/0/SelfAttention/([qkvo])/{KIND}": "language.blocks.{}.{}.{}",
    rf"{T5}encoder/block/(\d+)/layer/0/layer_norm/{KIND}": "language.blocks.{}.norm1.{}",
    rf"{T5}encoder/block/(\d+)/layer/1/layer_norm/{KIND}": "language.blocks.{}.norm2.{}",
    rf"{T5}encoder/block/(\d+)/layer/1/DenseReluDense/(wi|wo)/{KIND}": "language.blocks.{}.{}.{}",
    rf"{T5}encoder/final_layer_norm/{KIND}": "language.norm.{}",
}
PATTERNS = {re.compile(pattern): own for pattern, own in NAMES.items()}
PLACES = re.compile(rf"{BODY}(\w+)_pos_embedding")
TIMES = f"{HEAD}time_preprocess/kernel"


@dataclass(frozen=True)
class OctoHead:
    """What a ``config.json`` says of the head, and of how often the policy is asked.

    Args:
        chunk, action, steps, largest: see `OctoConfig`.
        window: control steps that are read.
    """

    chunk: int
    action: int
    window: int
    steps: int = 20
    largest: float = 5.0


def own_name(name: str) -> str:
    """The weight that a published one fills; an unknown name is its own."""
    if name == TIMES:
        return "score.times"
    if place := PLACES.fullmatch(name):
        return f"places.{place[1]}"
    for pattern, own in PATTERNS.items():
        if found := pattern.fullmatch(name):
            *parts, kind = found.groups()
            return own.format(*parts, "bias" if kind == "bias" else "weight")
    return name


def torch_layout(name: str, value: Tensor) -> Tensor:
    """A tensor of flax as torch has it: outputs first, heads as one axis."""
    kind = name.rsplit("/", 1)[-1]
    if name == TIMES or kind not in ("kernel", "bias"):
        return value
    if kind == "bias":
        return value.reshape(-1)
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1).contiguous()
    if value.ndim == 3:
        flat = value.flatten(0, 1) if name.endswith("/out/kernel") else value.flatten(1)
        return flat.T.contiguous()
    return value.T.contiguous() if value.ndim == 2 else value


def read_octo(folder: Path, path: Path) -> FlaxFiles:
    """Raises `CorruptFileError` for a file that is not understood."""
    return FlaxFiles.open(folder, path, torch_layout)


def octo_targets(record: Mapping[str, Any]) -> Callable[[str], Targets]:
    """The weights of an `OctoNetwork` for published names. Heads and readouts that nothing here reads are left out.

    Args:
        record: the table ``model`` of a ``config.json``.
    """
    heads = tuple(f"heads_{name}/" for name in _table(record, "heads") if name != "action")
    readouts = {f"{BODY}readout_{name}_pos_embedding" for name in _table(record, "readouts") if name != "action"}

    def targets(name: str) -> Targets:
        return () if name in readouts or (heads and name.startswith(heads)) else (own_name(name),)

    return targets


def octo_config(record: Mapping[str, Any], tensors: TensorFiles, head: OctoHead, used: int) -> OctoConfig:
    """The architecture that the table ``model`` of a ``config.json`` and the shapes of the files have.

    Raises `ConfigError` for parts that are not known, `CorruptFileError` if a weight that says a size is missing.
    """
    shapes = Shapes.of(tensors, own_name)
    _, horizon, readouts, width = shapes.get(f"places.{READOUT}", 4)
    kwargs = _table(record, "transformer_kwargs")
    heads = kwargs.get("num_attention_heads")
    if type(heads) is not int or heads < 1 or width % heads or kwargs.get("add_position_embedding"):
        raise ConfigError(f"{tensors.folder}: its transformer of width {width} cannot have {heads!r} heads, or adds positions")
    if head.window > horizon:
        raise ConfigError(f"{tensors.folder}: window_size is {head.window}, but there are positions of {horizon} control steps")
    return OctoConfig(
        language=_language(shapes),
        words=shapes.get(f"places.{TASK}", 3)[1],
        stems=tuple(_stem(shapes, name, spec) for name, spec in _table(record, "observation_tokenizers").items()),
        width=width,
        depth=shapes.count("blocks.{}."),
        heads=heads,
        hidden=shapes.get("blocks.0.mlp.0.weight", 2)[0],
        horizon=horizon,
        window=head.window,
        readouts=readouts,
        repeated=bool(record.get("repeat_task_tokens", False)),
        exact=bool(record.get("use_correct_attention", False)),
        chunk=head.chunk,
        action=head.action,
        used=used,
        time=2 * shapes.get("score.times", 2)[0],
        blocks=shapes.count("score.blocks.{}."),
        inner=shapes.get("score.ends.0.weight", 2)[0],
        steps=head.steps,
        largest=head.largest,
    )


def _language(shapes: Shapes) -> T5Config:
    tokens, width = shapes.get("language.shared.weight", 2)
    buckets, heads = shapes.get("language.distances.weight", 2)
    inner, hidden = shapes.get("language.blocks.0.q.weight", 2)[0], shapes.get("language.blocks.0.wi.weight", 2)[0]
    if heads < 1 or inner % heads or buckets % 4:
        raise ConfigError(f"{shapes.tensors.folder}: its encoder of words cannot have {heads} heads or {buckets} buckets")
    return T5Config(tokens, width, shapes.count("language.blocks.{}."), heads, hidden, inner, buckets)


def _stem(shapes: Shapes, name: str, spec: object) -> StemConfig:
    """Raises `ConfigError` for another tokenizer of observations than one of images of one camera."""
    place = f"{shapes.tensors.folder}: the tokenizer {name!r} of observations"
    kwargs = spec.get("kwargs") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(kwargs, Mapping) or spec.get("name") != "ImageTokenizer":
        found = spec.get("name") if isinstance(spec, Mapping) else spec
        raise ConfigError(f"{place} is {found!r:.60}; known: ImageTokenizer")
    encoder = kwargs.get("encoder")
    if not isinstance(encoder, Mapping) or encoder.get("name") not in ROOTS or set(encoder.get("kwargs") or {}) - {"patch_size"}:
        raise ConfigError(
            f"{place} has the encoder {str(encoder)[:120]}; known: {', '.join(sorted(ROOTS))} without other options"
        )
    keys = kwargs.get("obs_stack_keys")
    if kwargs.get("use_token_learner") or kwargs.get("task_film_keys") or keys != [f"image_{name}"]:
        raise ConfigError(f"{place} reads {keys}, or words, or has a token learner; expected image_{name} alone")
    count = shapes.count(f"stems.{name}.convs.{{}}.")
    sizes = [shapes.get(f"stems.{name}.convs.{i}.weight", 4) for i in range(count)]
    width, _, patch, _ = shapes.get(f"stems.{name}.embedding.weight", 4)
    tokens = shapes.get(f"places.obs_{name}", 4)[2]
    side = math.isqrt(tokens) * patch * 2**count
    return StemConfig(name, side, tuple(size[0] for size in sizes), patch, width, bool(kwargs.get("task_stack_keys")))


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    if not isinstance(found, Mapping):
        raise ConfigError(f"the model in config.json has no table {name}")
    return found
