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

# What is built where no checkpoint is named: small enough for a CPU, random, trained with the rest.
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
        sha256: of a frozen checkpoint.
    """

    architecture: Mapping[str, Any] | None = None
    prepare: Mapping[str, Any] | None = None
    sha256: str | None = None


NOT_FITTED = FittedTower()


@vision_encoders.register("hf_vision", needs=("transformers",))
class HFVision(nn.Module):
    """One tower of the transformers library sees every view; the sentence points into its places, and all of them are tokens.

    Tokens: one per heatmap, as of `ViT`; then, with `patches`, of each view the feature of the whole image and its places. The
    tower's own preprocessing is part of the network, the same in training and in serving. A frozen tower is no part of this
    module or of a saved policy: its sha256 is, and is checked. A trained one is saved whole, and needs its checkpoint no more.
    Without a checkpoint a model of `architecture` begins at random; its convolutions have group norm for batch norm.

    Args:
        source: the checkpoint, e.g. ``"openai/clip-vit-base-patch32"``, ``"microsoft/resnet-50"``, ``"google/efficientnet-b0"``,
            ``"google/siglip-base-patch16-224"``, ``"facebook/dinov2-small"``. An early stage (`depth`) has a finer grid.
        size: ``"model"``, ``"image"`` or a side in pixels; see `Tower`.
        film: the sentence scales and shifts a convolution's features after every stage or block, at first by nothing: RT-1,
            Brohan et al. 2022. A frozen tower's features are then no function of the image alone.
        heatmaps: per view; the first three are those that the keypoint loss teaches.
        patches: whether the features are given out as tokens beside the keypoint tokens.
        fitted: made by `fit`, saved with the policy.

    Raises:
        ConfigError: no such checkpoint, mode, depth or model type; FiLM in a transformer.
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
            self._held = (tower,)  # in a tuple, so that torch does not find it
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
        """`options` with what a policy must know of the checkpoint: of a frozen one its identity, of another its architecture."""
        if options.get("checkpoint") is None:
            return dict(options)
        folder = pretrained.find(options["checkpoint"], options.get("revision"))
        if options.get("mode") == pretrained.FROZEN:
            return {**options, "sha256": pretrained.identity(folder)}
        architecture = pretrained.architecture(folder)
        return {**options, "architecture": architecture, "prepare": _prepare(architecture, folder)}

    @property
    def cacheable(self) -> bool:
        """Whether the tower is frozen and sees without words."""
        return self.frozen and self.film is None

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self.groups(self._see(images, sentence), mask, sentence)

    def ask_many(
        self, images: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the taught heatmaps alone for questions (q, e) of images `rows` (q,), seen once for all."""
        features = self._see(images, sentence)
        if self.film is None:
            return self.answer(features, mask, sentence, questions, rows)
        asked = self._see(images[rows], questions)
        return self.groups(features, mask, sentence), self._point(asked, mask[rows], questions)

    def answer(
        self, features: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `ask_many`, of features (b, v, n + 1, d) as of `features`."""
        return self.groups(features, mask, sentence), self._point(features[rows], mask[rows], questions)

    def features(self, images: Tensor) -> Tensor:
        """What the tower makes of images (…, 3, h, w), uint8 or float in [0, 1]: (…, n + 1, d), the whole image first.

        Of a frozen tower a function of the image alone, that may be computed once and kept (under `key`): `groups` goes on from
        there. Raises `ConfigError` with FiLM.
        """
        if self.film is not None:
            raise ConfigError("with film=True the features depend on the sentence: they cannot be had without it")
        return self._run(centered(images).flatten(0, -4)).unflatten(0, images.shape[:-3])

    def groups(self, features: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        """The tokens of features (b, v, n + 1, d) under mask (b, v)."""
        x = self._places(features)
        found = [self.point(x[:, :, 1:], mask, sentence)]
        if self.patches:
            found.append(TokenGroup(x.flatten(1, 2), mask.repeat_interleave(x.shape[2], 1), "patches"))
        return found

    @property
    def key(self) -> str:
        """What features of a frozen tower may be kept under; it changes whenever they do."""
        tower = self._tower
        return f"{self.sha256}-{tower.depth}-{tower.size[0]}x{tower.size[1]}"

    @property
    def _tower(self) -> Tower:
        return self._held[0] if self.frozen else self.tower

    def _point(self, features: Tensor, mask: Tensor, questions: Tensor) -> TokenGroup:
        return self.point(self._places(features)[:, :, 1:], mask, questions, len(POINTS))

    def _places(self, features: Tensor) -> Tensor:
        """(b, v, n + 1, e)"""
        places: Tensor = self.project(self.norm(features.to(self.norm.weight.dtype)))
        return places + self.view

    def _see(self, images: Tensor, sentence: Tensor) -> Tensor:
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
        if film is not None:  # a gradient must come through
            return tower(images, film)
        with torch.no_grad():
            return tower(images)

    def _film(self, sizes: Sizes, tower: Tower) -> nn.Linear:
        if not tower.family.convolutional:
            raise ConfigError(f"film=True steers a convolution (resnet, efficientnet); {tower.family.kind} is none")
        film = nn.Linear(sizes.width, 2 * sum(tower.channels))
        nn.init.zeros_(film.weight)
        nn.init.zeros_(film.bias)
        return film


def _model(
    source: Checkpoint, fitted: FittedTower
) -> tuple[nn.Module, Mapping[str, Any], Mapping[str, Any], str | None, str | None]:
    """The model, its architecture, preprocessing and identity, and why it has no weights where it has none."""
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
