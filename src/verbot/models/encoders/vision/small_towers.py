"""Vision models of the transformers library as one kind of module: images to a global feature and a feature grid."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models import pretrained

Numbers = tuple[float, float, float]
HALF: Numbers = (0.5, 0.5, 0.5)
IMAGENET: tuple[Numbers, Numbers] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Numbers, Numbers] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Family:
    """A ``model_type``: its class in the library, and the mean and standard deviation of its pixels in [0, 1]."""

    kind: str
    mean: Numbers
    std: Numbers
    convolutional: bool = False


FAMILIES = {
    "clip": Family("CLIPVisionModel", *CLIP),
    "clip_vision_model": Family("CLIPVisionModel", *CLIP),
    "siglip": Family("SiglipVisionModel", HALF, HALF),
    "siglip_vision_model": Family("SiglipVisionModel", HALF, HALF),
    "dinov2": Family("Dinov2Model", *IMAGENET),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", *IMAGENET),
    "vit": Family("ViTModel", HALF, HALF),
    "resnet": Family("ResNetModel", *IMAGENET, convolutional=True),
    "efficientnet": Family("EfficientNetModel", *IMAGENET, convolutional=True),
}
DEFAULT_SIZE = 224  # of a convolutional model that does not state one


def find_family(architecture: Mapping[str, Any]) -> Family:
    """The family of a model. Raises `ConfigError` for an unknown model type."""
    found: Family = pretrained.family(FAMILIES, architecture.get("model_type"), "hf_vision")
    return found


def preprocessing(architecture: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, standard deviation and size of the images that a model was trained on.

    They come from its ``preprocessor_config.json`` or from the constants of its family.
    """
    family = find_family(architecture)
    mean, std = (tuple(map(float, processor.get(name) or given)) for name, given in
                 (("image_mean", family.mean), ("image_std", family.std)))  # fmt: skip
    if processor.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    # The library divides an EfficientNet's pixels by `image_std` twice, and its files hold the square root of ImageNet's.
    elif architecture["model_type"] == "efficientnet" and processor.get("image_std") and processor.get("include_top", True):
        std = tuple(x * x for x in std)
    config = architecture.get("vision_config", architecture)
    size = config.get("image_size") or _side(processor.get("crop_size")) or _side(processor.get("size")) or DEFAULT_SIZE
    return {"mean": list(mean), "std": list(std), "size": size}


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        return next((int(size[name]) for name in ("height", "shortest_edge") if size.get(name)), None)
    return size


class Tower(nn.Module):
    """A vision model with its preprocessing: images (n, 3, h, w) in [-1, 1] to features (n, 1 + cells, d).

    The first feature is global: the class token, SigLIP's attention pooling, or the mean of a convolutional model. The model is
    always in evaluation mode: no dropout, and batch norm with its stored statistics, so images of a batch do not interact.

    Args:
        model: model of the transformers library, of a class in `FAMILIES`.
        family: family of the model.
        prepare: ``mean``, ``std``, ``size``, from `preprocessing`.
        size: ``"model"`` resizes images to the size on which the model was trained; ``"image"`` keeps their size and interpolates
            the position embeddings of a transformer; a number is the side in pixels. Resizing may change the aspect ratio; it
            does not crop.
        image: (height, width) of the images.

    Raises `ConfigError` for a size that the model's patches do not divide.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, family: Family, prepare: Mapping[str, Any], size: int | str, image: tuple[int, int]):
        super().__init__()
        self.model, self.family = model, family
        self.size = image if size == "image" else (int(prepare["size"]),) * 2 if size == "model" else (int(size),) * 2
        config: Any = model.config
        self.native = None if family.convolutional else (int(config.image_size),) * 2
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(prepare[name]).view(1, 3, 1, 1), persistent=False)
        if family.convolutional:
            with torch.no_grad():
                *stages, last = self._stages(torch.zeros(1, 3, *self.size), None, keep=True)
            self.channels = [x.shape[1] for x in stages]  # after each stage, for FiLM
            self.depth = len(stages)
            self.grid, self.width = (last.shape[2], last.shape[3]), last.shape[1]
        else:
            patch = int(config.patch_size)
            if self.size[0] % patch or self.size[1] % patch:
                raise ConfigError(
                    f"patches of {patch} pixels do not divide images of {self.size[0]}×{self.size[1]}: set the encoder's size to "
                    f"'model', or the network's image_size to multiples of {patch}"
                )
            self.grid, self.width = (self.size[0] // patch, self.size[1] // patch), int(config.hidden_size)
            self.depth = int(config.num_hidden_layers)
        self.eval()

    def train(self, mode: bool = True) -> Tower:
        return super().train(False)

    def forward(self, images: Tensor, film: Sequence[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """`film` contains a scale and a shift (n, c) for each entry of `channels`, applied after every stage."""
        x = (images + 1) / 2
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        x = (x - self.mean) / self.std
        if not self.family.convolutional:
            return self._transform(x)
        places = self._stages(x, film)[-1].flatten(2).transpose(1, 2)  # (n, places, d)
        return torch.cat([places.mean(1, keepdim=True), places], 1)

    def _transform(self, x: Tensor) -> Tensor:
        # DINOv2 has no flag: it interpolates if needed.
        flag = {} if self.size == self.native or "Dinov2" in self.family.kind else {"interpolate_pos_encoding": True}
        out = self.model(x, **flag)
        states = out.last_hidden_state
        pooled = out.pooler_output if out.pooler_output is not None else states[:, 0]
        return torch.cat([pooled.unsqueeze(1), states[:, states.shape[1] - math.prod(self.grid) :]], 1)

    def _stages(self, x: Tensor, film: Sequence[tuple[Tensor, Tensor]] | None, keep: bool = False) -> list[Tensor]:
        """The output of the convolutional model; with `keep`, preceded by the output of every stage."""
        model: Any = self.model
        resnet = self.family.kind == "ResNetModel"
        x = model.embedder(x) if resnet else model.embeddings(x)
        kept = []
        for number, stage in enumerate(model.encoder.stages if resnet else model.encoder.blocks):
            x = stage(x)
            if film is not None:
                scale, shift = (part[..., None, None] for part in film[number])
                x = x * (1 + scale) + shift
            kept.append(x)
        if not resnet and model.encoder.top_conv is not None:
            x = model.encoder.top_activation(model.encoder.top_bn(model.encoder.top_conv(x)))
        return [*kept, x] if keep else [x]


def build(architecture: Mapping[str, Any], depth: int | None, folder: Path | None, normed: bool = False) -> nn.Module:
    """A model with the weights in `folder`, or random ones.

    Args:
        depth: number of layers, stages (ResNet) or blocks (EfficientNet) to use; None uses all.
        normed: replace batch norm by group norm, for a convolutional model that is trained from random weights.

    Raises `ConfigError` for an unknown model type or an invalid depth.
    """
    family = find_family(architecture)
    library = pretrained.library()
    config_kind = getattr(library, family.kind).config_class
    inner = architecture.get("vision_config", architecture)
    config = config_kind.from_dict(copy.deepcopy(dict(inner)))
    cut = _cut(config, family, depth)
    options = {"add_pooling_layer": False} if family.kind == "ViTModel" else {}
    if folder is None:
        model: Any = getattr(library, family.kind)(config, **options)
    else:
        model = pretrained.load(family.kind, config, folder, **options)
    if family.kind == "EfficientNetModel" and cut is not None:
        model.encoder.blocks = model.encoder.blocks[:cut]
        model.encoder.top_conv = model.encoder.top_bn = None
    if family.kind.startswith("Dinov2"):
        model.embeddings.mask_token = None  # used only in its pretraining; it would never be trained
    if normed and family.convolutional:
        _norm_groups(model)
    return model.eval()


def _cut(config: Any, family: Family, depth: int | None) -> int | None:
    """Shorten `config` to `depth`. For EfficientNet, whose config does not list blocks, return their number instead."""
    blocks = family.kind == "EfficientNetModel"
    if blocks:
        whole = sum(math.ceil(config.depth_coefficient * n) for n in config.num_block_repeats)
    else:
        whole = len(config.depths) if family.convolutional else config.num_hidden_layers
    if depth is None or depth == whole:
        return None
    if not 1 <= depth < whole:
        raise ConfigError(f"this {family.kind} has a depth of {whole}; a depth of {depth} is not possible")
    if blocks:
        return depth
    if family.convolutional:
        config.depths, config.hidden_sizes = config.depths[:depth], config.hidden_sizes[:depth]
    else:
        config.num_hidden_layers = depth
    return None


def _norm_groups(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(math.gcd(child.num_features, 8), child.num_features))


@functools.lru_cache(maxsize=4)
def frozen(folder: Path, identity: str, depth: int | None) -> nn.Module:
    """The frozen model, shared within the process; `identity` is the digest of the content of `folder`."""
    return build(pretrained.architecture(folder), depth, folder).requires_grad_(False)
