"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 (Tan & Le 2019; Liu 2020, "Lite" for edge
devices). Parameters have their published names."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models import pretrained
from verbot.models.allocation import uncounted
from verbot.models.trunks.weights import Targets, TensorFiles, load_exactly

TYPE = "efficientnet_lite0"  # of its config.json
# (blocks, kernel, stride of the first, expansion, channels) of each stage; the stem before them has stride 2.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, LAST, CLASSES = 32, 1280, 1000
# The last block of each stride, and its channels.
BLOCK_OF = {2: 0, 4: 2, 8: 4, 16: 10, 32: 15}
CHANNELS_OF = {2: 16, 4: 24, 8: 40, 16: 112, 32: 320}
MEAN, STD = 127 / 255, 128 / 255  # of pixels in [0, 1]
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")
GROUPS = 8


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(channels, GROUPS), channels)


class StoredNorm(nn.Module):
    """Batch norm with stored statistics: images of a batch do not interact, in training neither."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: for stride 2, more after the image than before it."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for n, stride, kernel in zip(reversed(x.shape[-2:]), reversed(self.stride), reversed(self.kernel_size), strict=True):
            total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedBlock(nn.Module):
    """Expansion, depthwise convolution and projection, with a skip where the shape stays (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, norm: Any):
        super().__init__()
        hidden = inputs * expansion
        self.skips = stride == 1 and inputs == outputs
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, hidden, 1, bias=False), norm(hidden)
        self._depthwise_conv = SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1, self._project_conv, self._bn2 = norm(hidden), nn.Conv2d(hidden, outputs, 1, bias=False), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.skips else y


class Lite0(nn.Module):
    """The network up to `blocks`.

    Args:
        blocks: how many of the 16 blocks there are.
        classes: with the classifier behind them; 0 for none.
        grouped: group norm in place of batch norm, to be trained from random weights.
    """

    def __init__(self, blocks: int = 16, classes: int = 0, grouped: bool = False):
        super().__init__()
        norm = _group_norm if grouped else StoredNorm
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, 2, bias=False), norm(STEM)
        shapes, inputs = [], STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for number in range(repeats):
                shapes.append((inputs, outputs, expansion, kernel, 1 if number else stride))
                inputs = outputs
        self._blocks = nn.ModuleList(InvertedBlock(*shape, norm) for shape in shapes[:blocks])
        if classes:
            self._conv_head, self._bn1, self._fc = nn.Conv2d(inputs, LAST, 1, bias=False), norm(LAST), nn.Linear(LAST, classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The output (n, c, h, w) of every block for normalized images (n, 3, h, w)."""
        x, found = F.relu6(self._bn0(self._conv_stem(x))), []
        for block in self._blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The logits (n, classes)."""
        x = F.relu6(self._bn1(self._conv_head(self.maps(x)[-1]))).mean((2, 3))
        logits: Tensor = self._fc(x)
        return logits


class Lite0Tower(nn.Module):
    """Feature maps of several strides on the grid of the finest: images (n, 3, h, w) in [-1, 1] to features (n, cells, d).

    Coarser maps are interpolated; their channels stand behind those of finer ones.

    Args:
        strides: of the maps, from `BLOCK_OF`.
        size: (height, width) to which images are resized.
        grouped: as in `Lite0`.

    Raises `ConfigError` for strides that do not exist, or that are larger than the image.
    """

    def __init__(self, strides: Sequence[int], size: tuple[int, int], grouped: bool = False):
        super().__init__()
        self.strides, self.size = sorted(set(strides)), size
        if not self.strides or set(self.strides) - set(BLOCK_OF):
            raise ConfigError(f"the strides of efficientnet_lite0 are {list(strides)}; expected some of {list(BLOCK_OF)}")
        if min(size) < self.strides[-1]:
            raise ConfigError(
                f"images of {size[0]}×{size[1]} are smaller than the stride {self.strides[-1]}; set size, or leave it out"
            )
        self.net = Lite0(BLOCK_OF[self.strides[-1]] + 1, grouped=grouped)
        self.width = sum(CHANNELS_OF[stride] for stride in self.strides)
        self.grid, self.coarse = ((-(-size[0] // s), -(-size[1] // s)) for s in (self.strides[0], self.strides[-1]))

    def forward(self, images: Tensor) -> Tensor:
        x = (images + 1) / 2
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        maps = self.net.maps((x - MEAN) / STD)
        chosen = [maps[BLOCK_OF[stride]] for stride in self.strides]
        whole = [chosen[0], *(F.interpolate(x, self.grid, mode="bilinear", align_corners=False) for x in chosen[1:])]
        return torch.cat(whole, 1).flatten(2).transpose(1, 2)


def read_weights(module: Lite0, folder: Path) -> None:
    """Load the weights in `folder` into `module`, strictly; the classifier and later blocks may be left out.

    Raises `ConfigError` if the folder is of another model, `CorruptFileError` for weights that do not fit.
    """
    kind = pretrained.architecture(folder).get("model_type")
    if kind != TYPE:
        raise ConfigError(f"{folder} holds a model of type {kind!r}; efficientnet_lite0 needs {TYPE!r}")
    own = module.state_dict()
    with_classifier = "_fc.weight" in own
    blocks = {f"_blocks.{i}." for i in range(len(module._blocks), sum(stage[0] for stage in STAGES))}

    def targets(name: str) -> Targets:
        left = (name.startswith(CLASSIFIER) and not with_classifier) or name.endswith(".num_batches_tracked")
        return () if left or name.startswith(tuple(blocks)) else (name,)

    load_exactly(module, TensorFiles.find(folder), targets)


def build_tower(strides: Sequence[int], size: tuple[int, int], folder: Path | None, grouped: bool = False) -> Lite0Tower:
    """A tower with the weights in `folder`, or random ones."""
    if folder is None:
        return Lite0Tower(strides, size, grouped)
    with uncounted():
        with torch.device("meta"):
            tower = Lite0Tower(strides, size)
        read_weights(tower.net, folder)
    return tower


@functools.lru_cache(maxsize=4)
def frozen_tower(folder: Path, identity: str, strides: tuple[int, ...], size: tuple[int, int]) -> Lite0Tower:
    """The frozen tower, shared within the process; `identity` is the digest of the content of `folder`."""
    return build_tower(strides, size, folder).requires_grad_(False)


def classify(folder: Path, images: Tensor) -> Tensor:
    """The logits (n, 1000) of ImageNet's classes for images (n, 3, h, w) in [-1, 1], by the weights in `folder`."""
    with torch.device("meta"):
        net = Lite0(classes=CLASSES)
    read_weights(net, folder)
    with torch.inference_mode():
        logits: Tensor = net(((images + 1) / 2 - MEAN) / STD)
    return logits


def drawn_image(side: int = 224) -> Tensor:
    """A striped disc on a gradient, (1, 3, side, side) in [-1, 1], for a known answer."""
    line = torch.linspace(-1, 1, side)
    y, x = line[:, None], line[None, :]
    disc, stripes = (x.square() + y.square() < 0.4).float(), torch.sin(12 * (x + 2 * y))
    return torch.stack([disc * stripes, (1 - disc) * x + disc * y, disc * -stripes + (1 - disc) * y])[None].clamp(-1, 1)
