"""How published code resizes images: each variant as it is, because a policy was trained on its pixels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from verbot.spec import UInt8Array


def _fitted(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """The largest size of the same aspect ratio in a square."""
    height, width = size
    ratio = max(width / side, height / side)
    return int(height / ratio), int(width / ratio)


def padded_uint8(image: UInt8Array, side: int) -> UInt8Array:
    """An image (h, w, 3) in a square by PIL's bilinear filter, centered on black, as openpi's client does."""
    if image.shape[:2] == (side, side):
        return image
    height, width = _fitted(image.shape[:2], side)
    out = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    resized = Image.fromarray(image).resize((width, height), resample=Image.Resampling.BILINEAR)
    out[top : top + height, left : left + width] = np.asarray(resized)
    return out


def unit_range(image: UInt8Array) -> Tensor:
    """(3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0).float() / 255


def padded_center(image: Tensor, side: int) -> Tensor:
    """An image (3, h, w) in [0, 1] in a square by torch's bilinear filter without antialiasing, centered on 0: LeRobot's π0."""
    if image.shape[-2:] == (side, side):
        return image
    height, width = _fitted(image.shape[-2:], side)
    resized = _resized(image, height, width).clamp(0, 1)
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(resized, (left, side - width - left, top, side - height - top))


def padded_corner(image: Tensor, height: int, width: int, value: float = 0.0) -> Tensor:
    """An image (3, h, w) by torch's bilinear filter at the bottom right of `value`, as LeRobot's SmolVLA."""
    if image.shape[-2:] == (height, width):
        return image
    ratio = max(image.shape[-1] / width, image.shape[-2] / height)
    own = int(image.shape[-2] / ratio), int(image.shape[-1] / ratio)
    return F.pad(_resized(image, *own), (width - own[1], 0, height - own[0], 0), value=value)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image.unsqueeze(0), size=(height, width), mode="bilinear", align_corners=False).squeeze(0)
