"""The published names of OpenVLA's weights, and the sizes that follow from their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from verbot.errors import ConfigError
from verbot.models.encoders.vision.published_towers import TowerConfig, tower_targets
from verbot.models.published.components import SEPARATOR
from verbot.models.published.names import Shapes, named_below, without_wrappers
from verbot.models.published.openvla import OpenVlaConfig
from verbot.models.published.openvla_oft import OftConfig
from verbot.models.trunks.architecture import decoder_config
from verbot.models.trunks.weights import Targets, TensorFiles

DINO, SIGLIP, LANGUAGE = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer.", "language_model."
TOWERS = "dinosiglip-vit-so-224px"  # the pair of towers of all published OpenVLA policies
HEADS = {DINO: 64, SIGLIP: 72}  # the width of a head is not in the shapes
HEAD, PROPRIO = f"action_head{SEPARATOR}", f"proprio_projector{SEPARATOR}"


def plain_name(name: str) -> str:
    """Without wrappers; of a part, below its own name."""
    for part, own in ((HEAD, "action_head."), (PROPRIO, "proprio_projector.")):
        if name.startswith(part):
            return own + without_wrappers(name.removeprefix(part), "module.", "model.")
    return without_wrappers(name, "module.")


def openvla_config(record: Mapping[str, Any], tensors: TensorFiles, action: int) -> OpenVlaConfig:
    """The architecture that a ``config.json`` and the shapes of the files have.

    Raises `ConfigError` for another one than OpenVLA's, `CorruptFileError` if a weight that says it is missing.
    """
    if (found := record.get("vision_backbone_id", TOWERS)) != TOWERS:
        raise ConfigError(f"{tensors.folder}: vision_backbone_id is {found!r}; this reader knows {TOWERS}")
    shapes = Shapes.of(tensors, plain_name)
    dino, siglip = _tower(shapes, DINO), _tower(shapes, SIGLIP)
    if dino.side != siglip.side:
        raise ConfigError(
            f"{tensors.folder}: its vision models read images of {dino.side} and {siglip.side} px; expected one size"
        )
    language, filling, bins = decoder_config(record), record.get("pad_to_multiple_of", 64), record.get("n_action_bins", 256)
    if type(filling) is not int or type(bins) is not int or not 2 <= bins < language.vocabulary - filling or filling < 0:
        raise ConfigError(
            f"{tensors.folder}: pad_to_multiple_of {filling!r} and n_action_bins {bins!r} do not fit {language.vocabulary} tokens"
        )
    return OpenVlaConfig(dino, siglip, language, action, language.vocabulary - filling, bins)


def oft_config(body: OpenVlaConfig, tensors: TensorFiles, chunk: int) -> OftConfig:
    """That of a policy with an action head. Raises `ConfigError` or `CorruptFileError` as `openvla_config`."""
    shapes = Shapes.of(tensors, plain_name)
    hidden = shapes.get("action_head.fc1.weight", 2)[0]
    state = shapes.get("proprio_projector.fc1.weight", 2)[1] if "proprio_projector.fc1.weight" in shapes else 0
    return OftConfig(body, chunk, state, shapes.count("action_head.mlp_resnet_blocks.{}."), hidden)


def head_size(tensors: TensorFiles) -> int:
    """How many numbers of an action the head answers. Raises `CorruptFileError` if its last layer is missing."""
    return Shapes.of(tensors, plain_name).get("action_head.fc2.weight", 2)[0]


def openvla_targets(config: OpenVlaConfig) -> Callable[[str], Targets]:
    """The weights of an `OpenVlaNetwork` or an `OftNetwork` for published names."""
    parts = (
        named_below(DINO, "dino.", tower_targets(config.dino)),
        named_below(SIGLIP, "siglip.", tower_targets(config.siglip)),
        named_below(LANGUAGE, "language.", _decoder_targets),
    )

    def targets(name: str) -> Targets:
        own = plain_name(name)
        return next((found for part in parts if (found := part(own)) is not None), (own,))

    return targets


def _decoder_targets(name: str) -> Targets:
    return () if name.endswith("rotary_emb.inv_freq") else (name.removeprefix("model."),)


def _tower(shapes: Shapes, prefix: str) -> TowerConfig:
    width, _, patch, _ = shapes.get(f"{prefix}patch_embed.proj.weight", 4)
    patches = shapes.get(f"{prefix}pos_embed", 3)[1]
    # A copy that was trained further lacks the last block and the norm, which nothing reads.
    depth = shapes.count(f"{prefix}blocks.{{}}.") + (f"{prefix}norm.weight" not in shapes)
    hidden = shapes.get(f"{prefix}blocks.0.mlp.fc1.weight", 2)[0]
    registers = shapes.get(f"{prefix}reg_token", 3)[1] if prefix == DINO else None
    heads, side = max(width // HEADS[prefix], 1), round(patches**0.5) * patch
    return TowerConfig(
        width, depth, heads, hidden, patch, side, 1e-6, "gelu", registers=registers, scaled=prefix == DINO, skipped=1
    )
