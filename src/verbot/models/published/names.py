"""Published names of weights, and the sizes of a network that follow from the shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from verbot.errors import CorruptFileError
from verbot.models.encoders.vision.published_towers import TowerConfig
from verbot.models.trunks.architecture import DecoderConfig
from verbot.models.trunks.weights import COMPILED, Targets, TensorFiles

STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")  # among the weights of old files of LeRobot
Naming = Callable[[str], str | None]  # a tensor's published name -> the plain name that a family knows; None to leave it out


@dataclass(frozen=True)
class Shapes:
    """The shapes of a checkpoint's tensors by their plain names, for reading its sizes."""

    tensors: TensorFiles
    shapes: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(tensors: TensorFiles, plain: Naming) -> Shapes:
        named = {plain(name): shape for name, shape in tensors.shapes.items()}
        return Shapes(tensors, {name: shape for name, shape in named.items() if name is not None})

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def get(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor. Raises `CorruptFileError` if it is missing, or has another number of dimensions."""
        if name not in self.shapes:
            raise CorruptFileError(self.tensors.folder, f"lacks the weight {name}, from which the sizes of its network follow")
        shape = self.shapes[name]
        if len(shape) != dimensions:
            raise CorruptFileError(self.tensors.folder, f"its {name} has shape {shape}; expected {dimensions} dimensions")
        return shape

    def count(self, pattern: str) -> int:
        """How many numbers there are in the place of ``{}`` in names that begin with `pattern`, from 0 without gaps."""
        before, after = pattern.split("{}")
        expression = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
        found = {int(match[1]) for name in self.shapes if (match := expression.match(name))}
        if not found or found != set(range(len(found))):
            raise CorruptFileError(
                self.tensors.folder, f"its weights {pattern} are numbered {sorted(found)[:8]}; expected 0, 1, …"
            )
        return len(found)

    def gemma(self, prefix: str, vocabulary: bool) -> DecoderConfig:
        """The Gemma whose weights begin with `prefix`; it has one head of keys, whose width is therefore in the file."""
        (queries, width), (head, _) = (self.get(f"{prefix}layers.0.self_attn.{part}_proj.weight", 2) for part in "qk")
        rows = self.get(f"{prefix}embed_tokens.weight", 2)[0] if vocabulary else 0
        return DecoderConfig(
            vocabulary=rows,
            width=width,
            depth=self.count(f"{prefix}layers.{{}}."),
            heads=max(queries // max(head, 1), 1),
            key_heads=1,
            head_width=head,
            hidden=self.get(f"{prefix}layers.0.mlp.gate_proj.weight", 2)[0],
            activation="gelu_tanh",
            offset_norm=True,
            embedding_scale=width**0.5 if vocabulary else 1.0,
        )

    def siglip(self, prefix: str, head: int) -> TowerConfig:
        """The SigLIP whose weights begin with `prefix`; the width of a head is not in the file."""
        width, _, patch, _ = self.get(f"{prefix}embeddings.patch_embedding.weight", 4)
        patches = self.get(f"{prefix}embeddings.position_embedding.weight", 2)[0]
        depth, hidden = self.count(f"{prefix}encoder.layers.{{}}."), self.get(f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0]
        return TowerConfig(width, depth, max(width // head, 1), hidden, patch, round(patches**0.5) * patch)


def without_wrappers(name: str, *prefixes: str) -> str:
    """A published name without what torch.compile, and modules around the network, write before it; one of each prefix."""
    name = name.replace(COMPILED, "")
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def named_below(prefix: str, own: str, inside: Callable[[str], Targets]) -> Callable[[str], Targets | None]:
    """Targets of names that begin with `prefix`: those of `inside` for the rest, below `own`; None for others."""

    def targets(name: str) -> Targets | None:
        if not name.startswith(prefix):
            return None
        return tuple(f"{own}{each}" for each in inside(name.removeprefix(prefix)))

    return targets
