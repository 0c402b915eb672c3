"""Pretrained vision models by Hugging Face name: CLIP, SigLIP, DINOv2, ViT, ResNet, EfficientNet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError, CorruptFileError
from verbot.models import pretrained
from verbot.models.encoders.vision import small_towers
from verbot.models.encoders.vision.small_towers import Tower
from verbot.models.encoders.vision.spatial_softmax import Pointer, check_heatmaps
from verbot.models.layers.transformer import centered
from verbot.models.pretrained import RANDOM, Checkpoint
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup

# The default architecture without a checkpoint: small enough for a CPU, trained from random weights.
SMALL = {
    "model_type": "vit", "image_size": 64, "patch_size": 8, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


@dataclass(frozen=True)
class FittedTower:
    """What `HFVision.fit` adds to the options, and a policy saves.

    Args:
        architecture: what a ``config.json`` holds.
        prepare: how images are preprocessed, see `small_towers.preprocessing`.
        sha256: sha256 of a frozen checkpoint.
    """

    architecture: Mapping[str, Any] | None = None
    prepare: Mapping[str, Any] | None = None
    sha256: str | None = None


NOT_FITTED = FittedTower()


@vision_encoders.register("hf_vision", needs=("transformers",))
class HFVision(nn.Module):
    """A vision model of the transformers library for all views, with language-conditioned heatmaps over its feature grid.

    The tokens are one per heatmap, as in `ViT`, and with `patches` the global feature and the feature grid of each view. The
    preprocessing of the model is part of the network. The weights of a frozen model are not part of a saved policy; their sha256
    is saved and checked. A trained model is saved completely and no longer needs its checkpoint. Without a checkpoint, a model of
    `architecture` is trained from random weights, with group norm in place of batch norm.

    Args:
        source: the checkpoint, e.g. ``"openai/clip-vit-base-patch32"``, ``"microsoft/resnet-50"``, ``"google/efficientnet-b0"``,
            ``"google/siglip-base-patch16-224"``, ``"facebook/dinov2-small"``. An early stage (`depth`) has a finer grid.
        size: ``"model"``, ``"image"`` or a side in pixels; see `Tower`.
        film: FiLM conditioning on the sentence after every stage or block of a convolutional model, initially the identity
            (RT-1, Brohan et al. 2022). Features of a frozen model then depend on the sentence.
        heatmaps: per view; the first three are supervised by the keypoint loss.
        patches: return the global feature and the feature grid as tokens too.
        fitted: made by `fit` and saved with the policy.

    Raises:
        ConfigError: unknown checkpoint, mode, depth or model type; FiLM with a transformer.
        CorruptFileError: the frozen weights are not those that the policy was trained on.
        MissingDependencyError: transformers is not installed.
    """

    def __init__(
        self,
        sizes: Sizes,
        source: Checkpoint = RANDOM,
        size: int | str = "model",
        film: bool = False,
        heatmaps: int = 16,
        patches: bool = True,
        fitted: FittedTower = NOT_FITTED,
    ):
        super().__init__()
        check_heatmaps("hf_vision", heatmaps)
        self.views, self.patches = sizes.views, patches
        self.frozen = source.is_frozen
        model, architecture, prepare, self.sha256, reason = _model(source, fitted)
        tower = Tower(model, small_towers.find_family(architecture), prepare, size, (sizes.height, sizes.width_px))
        self._absence = pretrained.Absence(self, reason)
        if self.frozen:
            self._held = (tower,)  # in a tuple, so that torch does not register it
        else:
            self.tower = tower
            pretrained.scale_rate(tower, source.mode)
        self.film = self._film(sizes, tower) if film else None
        self.grid, count = tower.grid, math.prod(tower.grid)
        self.counts = {"keypoints": sizes.views * heatmaps} | ({"patches": sizes.views * (count + 1)} if patches else {})
        self.norm, self.project = nn.LayerNorm(tower.width), nn.Linear(tower.width, sizes.width)
        self.view = nn.Parameter(torch.randn(sizes.views, 1, sizes.width) * 0.02)
        self.point = Pointer(sizes.width, sizes.width, tower.grid, heatmaps, sizes.views)

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str] = ()) -> dict[str, Any]:
        """`options` with the identity of a frozen checkpoint, or with the architecture of a trained one."""
        if options.get("checkpoint") is None:
            return dict(options)
        folder = pretrained.find(options["checkpoint"], options.get("revision"))
        if options.get("mode") == pretrained.FROZEN:
            return {**options, "sha256": pretrained.identity(folder)}
        architecture = pretrained.architecture(folder)
        return {**options, "architecture": architecture, "prepare": _prepare(architecture, folder)}

    @staticmethod
    def side_multiple(options: Mapping[str, Any], /) -> int:
        if options.get("size", "model") != "image":
            return 1
        architecture: Mapping[str, Any] = options.get("architecture") or ({} if options.get("checkpoint") else SMALL)
        return int(architecture.get("vision_config", architecture).get("patch_size", 1))

    @property
    def cacheable(self) -> bool:
        """Whether the model is frozen and does not depend on the instruction."""
        return self.frozen and self.film is None

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self.groups(self._encode(images, sentence), mask, sentence)

    def encode_with_queries(
        self, images: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the supervised keypoint tokens for queries (q, e) about images `rows` (q,), each encoded once."""
        features = self._encode(images, sentence)
        if self.film is None:
            return self.answer(features, mask, sentence, queries, rows)
        of_queries = self._encode(images[rows], queries)
        return self.groups(features, mask, sentence), self._point(of_queries, mask[rows], queries)

    def answer(
        self, features: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `encode_with_queries`, from the output (b, v, n + 1, d) of `features`."""
        return self.groups(features, mask, sentence), self._point(features[rows], mask[rows], queries)

    def features(self, images: Tensor) -> Tensor:
        """The features (…, n + 1, d) of images (…, 3, h, w), uint8 or float in [0, 1]; the global feature comes first.

        Features of a frozen model can be cached under `key`; `groups` starts from them. Raises `ConfigError` with FiLM.
        """
        if self.film is not None:
            raise ConfigError("with film=True the features depend on the sentence and cannot be computed without it")
        return self._run(centered(images).flatten(0, -4)).unflatten(0, images.shape[:-3])

    def groups(self, features: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        """Token groups from features (b, v, n + 1, d) with mask (b, v)."""
        x = self._places(features)
        found = [self.point(x[:, :, 1:], mask, sentence)]
        if self.patches:
            found.append(TokenGroup(x.flatten(1, 2), mask.repeat_interleave(x.shape[2], 1), "patches"))
        return found

    @property
    def key(self) -> str:
        """The cache key of features of a frozen model."""
        tower = self._tower
        return f"{self.sha256}-{tower.depth}-{tower.size[0]}x{tower.size[1]}"

    @property
    def _tower(self) -> Tower:
        return self._held[0] if self.frozen else self.tower

    def _point(self, features: Tensor, mask: Tensor, queries: Tensor) -> TokenGroup:
        return self.point(self._places(features)[:, :, 1:], mask, queries, len(POINTS))

    def _places(self, features: Tensor) -> Tensor:
        """(b, v, n + 1, e)"""
        places: Tensor = self.project(self.norm(features.to(self.norm.weight.dtype)))
        return places + self.view

    def _encode(self, images: Tensor, sentence: Tensor) -> Tensor:
        film = None
        if self.film is not None:
            numbers = self.film(sentence).repeat_interleave(self.views, 0)  # (b·v, 2 Σc)
            channels = self._tower.channels
            film = list(zip(*(half.split(channels, -1) for half in numbers.chunk(2, -1)), strict=True))
        return self._run(images.flatten(0, 1), film).unflatten(0, (-1, self.views))

    def _run(self, images: Tensor, film: Sequence[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        self._absence.check()
        if not self.frozen:
            return self.tower(images, film)
        tower = self._tower.to(images.device)
        if film is not None:  # FiLM needs a gradient
            return tower(images, film)
        with torch.no_grad():
            return tower(images)

    def _film(self, sizes: Sizes, tower: Tower) -> nn.Linear:
        if not tower.family.convolutional:
            raise ConfigError(f"film=True needs a convolutional model (resnet, efficientnet); {tower.family.kind} is none")
        film = nn.Linear(sizes.width, 2 * sum(tower.channels))
        nn.init.zeros_(film.weight)
        nn.init.zeros_(film.bias)
        return film


def _model(
    source: Checkpoint, fitted: FittedTower
) -> tuple[nn.Module, Mapping[str, Any], Mapping[str, Any], str | None, str | None]:
    """The model, its architecture, preprocessing and identity, and the reason if it has no weights."""
    architecture, prepare, depth = fitted.architecture, fitted.prepare, source.depth
    if source.checkpoint is None:
        architecture = architecture or SMALL
        prepare = prepare or small_towers.preprocessing(architecture, {})
        return small_towers.build(architecture, depth, None, normed=True), architecture, prepare, None, None
    try:
        folder = source.find()
        own = pretrained.architecture(folder)
        if not source.is_frozen:
            return small_towers.build(own, depth, folder), own, _prepare(own, folder), None, None
    except (ConfigError, CorruptFileError) as error:
        if source.is_frozen or architecture is None or prepare is None:
            raise
        return small_towers.build(architecture, depth, None), architecture, prepare, None, str(error)
    identity = pretrained.identity(folder)
    if fitted.sha256 not in (None, identity):
        raise CorruptFileError(folder, f"not the weights that the policy was trained on, sha256 {fitted.sha256}")
    return small_towers.frozen(folder, identity, depth), own, _prepare(own, folder), identity, None


def _prepare(architecture: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return small_towers.preprocessing(architecture, pretrained.processor(folder))
