"""Strict loading of published weights: safetensors in one or several files, memory-mapped, one file at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from verbot.errors import ConfigError, CorruptFileError
from verbot.models.trunks.architecture import DecoderConfig

INDEX = "*.safetensors.index.json"
COMPILED = "_orig_mod."  # what torch.compile writes into names
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREFIXES = ("model.", "language_model.", "text_model.")
# Parts beside the language model in a model of images and text.
BESIDE = ("vision_tower.", "vision_model.", "vision_backbone.", "multi_modal_projector.", "connector.", "projector.")
LAYER = re.compile(r"layers\.(\d+)\.")
# The parameters that get a tensor, in equal parts along its first axis; none if it is left out on purpose.
Targets = tuple[str, ...]


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a checkpoint. Only headers are read.

    Args:
        folder: where the files are.
        files: the file of each tensor, by its name.
        shapes: the shape of each tensor.
    """

    folder: Path
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    @staticmethod
    def find(folder: Path, pattern: str = "*.safetensors") -> TensorFiles:
        """Those in `folder`, of its index if it has one, else of the files of this pattern.

        Raises `CorruptFileError` for what is missing, doubled or unreadable.
        """
        indices = sorted(folder.glob(INDEX))
        if len(indices) > 1:
            raise CorruptFileError(folder, f"has {len(indices)} indices of weights, {', '.join(path.name for path in indices)}")
        index = _index(indices[0]) if indices else None
        paths = sorted(folder.glob(pattern)) if index is None else [folder / name for name in sorted({*index.values()})]
        if not paths:
            raise ConfigError(f"{folder} has no weights in safetensors")
        files, shapes = dict[str, Path](), dict[str, tuple[int, ...]]()
        for path in paths:
            for name, shape in _header(path).items():
                if name in files:
                    raise CorruptFileError(path, f"holds {name}, which {files[name].name} holds too")
                if index is not None and name not in index:
                    raise CorruptFileError(path, f"holds {name}, which {indices[0].name} does not list")
                files[name], shapes[name] = path, shape
        for name in index or ():
            if name not in files:
                raise CorruptFileError(folder, f"lacks {name}, which {indices[0].name} lists")
        return TensorFiles(folder, files, shapes)

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors, memory-mapped, file by file."""
        for path in dict.fromkeys(self.files[name] for name in names):
            with _opened(path) as stream:
                for name in names:
                    if self.files[name] == path:
                        yield name, stream.get_tensor(name)


def load_exactly(
    module: nn.Module, tensors: TensorFiles, targets: Callable[[str], Targets], dtype: torch.dtype | None = None
) -> None:
    """Give every parameter and buffer of `module`, which is on the meta device, a tensor of the files.

    Args:
        targets: which parameters a tensor of the files is for, by its name; it may raise for a name that it does not know.
        dtype: of the parameters; None keeps that of the files, whose memory the parameters then share.

    Raises `CorruptFileError` for a tensor that is unknown, missing, misshapen or doubled, and names it.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    sources = dict[str, str]()
    found = {name: targets(name) for name in tensors.files}
    for name, own in found.items():
        for target in own:
            if target not in wanted:
                raise CorruptFileError(tensors.files[name], f"holds {name}, which this model does not have")
            if target in sources:
                raise CorruptFileError(tensors.files[name], f"holds {name}, which is the same weight as {sources[target]}")
            sources[target] = name
            shape = wanted[target]
            _check_shape(tensors, name, (len(own) * shape[0], *shape[1:]) if shape else ())
    if lost := [name for name in wanted if name not in sources]:
        raise CorruptFileError(tensors.folder, f"lacks {len(lost)} of {len(wanted)} weights, among them {lost[0]}")
    state = dict[str, Tensor]()
    for name, tensor in tensors.read([name for name, own in found.items() if own]):
        tensor = tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        if wanted[found[name][0]] == ():  # a counter
            state[found[name][0]] = tensor
            continue
        first = wanted[found[name][0]]
        parts = tensor.view(len(found[name]) * first[0], *first[1:]).chunk(len(found[name]))
        state |= dict(zip(found[name], parts, strict=True))
    module.load_state_dict(state, assign=True)


def decoder_targets(config: DecoderConfig, depth: int, tensors: TensorFiles, beside: bool = False) -> Callable[[str], Targets]:
    """The parameters of a `LanguageDecoder` for published names, with and without their prefixes.

    Args:
        config: of the decoder, which may have fewer layers than the checkpoint.
        depth: layers of the checkpoint.
        beside: the checkpoint has vision parts, which are left out.

    A tied output layer may stand in the file for the embedding. Raises `CorruptFileError` if both are there and differ.
    """
    plain = {name: _plain(name) for name in tensors.files}
    embedded = "embed_tokens.weight" in plain.values()
    if config.tied and embedded:
        _check_tied(tensors, plain)

    def targets(name: str) -> Targets:
        own = plain[name]
        if (beside and own.startswith(BESIDE)) or own.endswith("rotary_emb.inv_freq"):
            return ()
        layer = LAYER.match(own)
        if layer and config.depth <= int(layer[1]) < depth:
            return ()
        if own == "lm_head.weight" and config.tied:
            return () if embedded else ("embed_tokens.weight",)
        return (own,)

    return targets


def _plain(name: str) -> str:
    """The name without the prefixes of the modules around a decoder."""
    name = name.replace(COMPILED, "")
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _check_tied(tensors: TensorFiles, plain: dict[str, str]) -> None:
    both = [name for name, own in plain.items() if own in ("embed_tokens.weight", "lm_head.weight")]
    read = dict(tensors.read(both)) if len(both) == 2 else {}
    if read and not torch.equal(*read.values()):
        raise CorruptFileError(
            tensors.folder,
            f"its {both[0]} and {both[1]} differ, but its config.json says that they are tied (tie_word_embeddings)",
        )


def _check_shape(tensors: TensorFiles, name: str, expected: tuple[int, ...]) -> None:
    shape = tensors.shapes[name]
    if shape not in (expected, (1, *expected)):  # timm's position embeddings have a batch of one
        raise CorruptFileError(tensors.files[name], f"its {name} has shape {shape}; the architecture has {expected}")


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(path, f"cannot be read as safetensors: {error}") from error


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    with _opened(path) as stream:
        return {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118


def _index(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(path, f"is not JSON: {error}") from error
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict):
        raise CorruptFileError(path, "is no index of weights: it has no object weight_map")
    names = {str(name): str(file) for name, file in places.items()}
    for file in {*names.values()}:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CorruptFileError(
                path, f"names {file!r}; expected the name of a file in its own folder that ends in .safetensors"
            )
    return names
