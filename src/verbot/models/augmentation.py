"""What may change in a batch without changing what should be done: the camera's aim and colors, words unheard."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.encoders.words import END, UNKNOWN
from verbot.models.tokens import Batch, TextBatch


@dataclass(frozen=True)
class Augmentation:
    """How much, at most; zero turns a part off.

    Args:
        shift: pixels that each view is moved, the border repeating the edge; its keypoints move along.
        brightness, contrast, gain: shares; gain is drawn per color channel.
        words: share of the words that are not understood.
    """

    shift: int = 2
    brightness: float = 0.15
    contrast: float = 0.2
    gain: float = 0.1
    words: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0 or not all(0 <= x < 1 for x in (self.brightness, self.contrast, self.gain, self.words)):
            raise ConfigError(f"augmentation needs shift ≥ 0 and shares in [0, 1); got {self}")


def augment(batch: Batch, augmentation: Augmentation, generator: torch.Generator) -> Batch:
    """`batch` changed at random; the frames of one window change alike. Randomness comes from `generator` alone."""
    if augmentation.shift:
        batch = _shift(batch, augmentation.shift, generator)
    if augmentation.brightness or augmentation.contrast or augmentation.gain:
        batch = dataclasses.replace(batch, images=_jitter(batch.images, augmentation, generator))
    if augmentation.words:
        batch = dataclasses.replace(batch, text=_unhear(batch.text, augmentation.words, generator))
    return batch


def _shift(batch: Batch, most: int, generator: torch.Generator) -> Batch:
    images = batch.images
    rows, views, (height, width) = len(images), images.shape[2], images.shape[-2:]
    wide = _extend(images, most)
    moved = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    shifts = torch.randint(-most, most + 1, (rows, views, 2), generator=generator)  # x right, y down
    for row, per_view in enumerate((most - shifts).tolist()):
        for view, (x, y) in enumerate(per_view):
            moved[row, :, view] = wide[row, :, view, :, y : y + height, x : x + width]
    if batch.keypoints is None or batch.keypoints_mask is None:
        return dataclasses.replace(batch, images=moved)
    points = batch.keypoints + (2 * shifts / torch.tensor([width, height])).unsqueeze(2).to(batch.keypoints)
    mask = batch.keypoints_mask & (points.abs() <= 1).all(-1)
    return dataclasses.replace(batch, images=moved, keypoints=points, keypoints_mask=mask)


def _extend(images: Tensor, border: int) -> Tensor:
    """Images (…, h, w) with a border that repeats the edge (torch's own padding knows no uint8)."""
    *rest, height, width = images.shape
    wide = torch.empty((*rest, height + 2 * border, width + 2 * border), dtype=images.dtype, device=images.device)
    inner = wide[..., border : border + width]
    inner[..., border : border + height, :] = images
    inner[..., :border, :] = images[..., :1, :]
    inner[..., border + height :, :] = images[..., -1:, :]
    wide[..., :border] = inner[..., :1]
    wide[..., border + width :] = inner[..., -1:]
    return wide


def _jitter(images: Tensor, most: Augmentation, generator: torch.Generator) -> Tensor:
    """In [-1, 1]: (1 + contrast)·(1 + gain)·pixel + 2·brightness; a light that is too bright is not clipped."""
    rows, views = len(images), images.shape[2]

    def draw(share: float, channels: int) -> Tensor:
        values = torch.rand((rows, 1, views, channels, 1, 1), generator=generator) * 2 - 1
        return (share * values).to(images.device)

    scale = (1 + draw(most.contrast, 1)) * (1 + draw(most.gain, 3))
    shift = 2 * draw(most.brightness, 1)
    if images.dtype == torch.uint8:  # planes in one piece: broadcasting over interleaved channels is ten times slower
        return images.contiguous().float().mul_(scale / 127.5).add_(shift - scale)
    return torch.addcmul(shift, images, scale)


def _unhear(text: TextBatch, share: float, generator: torch.Generator) -> TextBatch:
    drawn = (torch.rand(text.mask.shape, generator=generator) < share).to(text.mask.device)
    if text.values.dtype == torch.int64:
        return TextBatch(torch.where(drawn & (text.values > END), UNKNOWN, text.values), text.mask)
    drawn[:, 0] = False  # something always remains
    return TextBatch(text.values, text.mask & ~drawn)
