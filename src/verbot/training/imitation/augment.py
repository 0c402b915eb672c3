"""Augmentation of training samples: image shifts, color jitter, blank instructions, dropped cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from verbot.data.samples.labels import MaskedArray
from verbot.data.samples.windows import WindowBatch
from verbot.spec import FloatArray, UInt8Array
from verbot.training.imitation.records import AugmentConfig

# Luma of ITU-R BT.601, the gray level for saturation.
_LUMA = torch.tensor([0.299, 0.587, 0.114])


def augment(
    batch: WindowBatch, config: AugmentConfig, rng: np.random.Generator, rank: int = 0, size: int = 1, frames: int = 1
) -> WindowBatch:
    """Shift images with their image points, blank instructions or replace them by goal images, and drop cameras.

    `rng` draws for the whole batch, of which this is part `rank` of `size`, so samples do not depend on the split. The `frames`
    rows of a sequence get the same augmentation.
    """
    b, _, v, height, width, _ = batch.images.shape
    count, mine = size * b // frames, np.arange(rank * b, (rank + 1) * b) // frames
    limit = config.shift_pixels
    shift = rng.integers(-limit, limit + 1, (count, v, 2))[mine]  # (x, y) in pixels
    blank = (rng.random(count) < config.blank_instruction)[mine]
    shown = (rng.random(count) < config.goal_image)[mine] & batch.goal_mask
    dropped = rng.random((count, 1)) < config.camera_dropout * (v > 1)
    missing = dropped & (rng.integers(max(v, 1), size=(count, 1)) == np.arange(v))
    there = ~missing[mine]  # (b, v)
    moved = (2.0 * shift / (width, height)).astype(np.float32)[:, :, None]  # (b, v, 1, 2)
    return dataclasses.replace(
        batch,
        images=shift_images(batch.images, shift, limit) if limit else batch.images,
        images_mask=batch.images_mask & there[:, None],
        targets={name: _moved(target, moved, there) for name, target in batch.targets.items()},
        query_keypoints=_moved(batch.query_keypoints, moved[:, None], there[:, None]),
        instructions=["" if empty else text for text, empty in zip(batch.instructions, blank | shown, strict=True)],
        goal_mask=shown,
    )


def _moved(target: MaskedArray, moved: FloatArray, there: np.ndarray) -> MaskedArray:
    """A target after shifts `moved` (…, v, 1, 2), masked in views that are not `there` (…, v)."""
    if target.space != "image_points":
        return target
    mask = target.mask & there[..., None] if target.visible else target.mask
    return dataclasses.replace(target, values=target.values + moved, mask=mask)


def shift_images(images: UInt8Array, shift: np.ndarray, limit: int) -> UInt8Array:
    """Images (b, t, v, h, w, 3) shifted by `shift` (b, v, 2) pixels (x right, y down) with edge padding."""
    b, _, v, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0),) * 3 + ((limit, limit),) * 2 + ((0, 0),), mode="edge")
    out = np.empty_like(images)
    for i in range(b):
        for j in range(v):
            x, y = limit - shift[i, j]
            out[i, :, j] = padded[i, :, j, y : y + height, x : x + width]
    return out


def jitter_colors(
    images: Tensor, config: AugmentConfig, generator: torch.Generator, rank: int = 0, size: int = 1, frames: int = 1
) -> Tensor:
    """Brightness, contrast and saturation in one matrix per camera.

    Args:
        images: (b, t, v, 3, h, w), uint8 or float in [0, 1]; all frames of a camera change equally.
        generator, rank, size, frames: as in `augment`.

    Returns float in [0, 1].
    """
    pixels = images.float().div_(255) if images.dtype == torch.uint8 else images
    b, t, v, _, height, width = pixels.shape
    amounts = torch.tensor([config.brightness, config.contrast, config.saturation])
    if not amounts.any():
        return pixels
    draws = torch.rand(size * b // frames, 1, v, 3, generator=generator)[torch.arange(rank * b, (rank + 1) * b) // frames]
    factors = 1 + amounts * (2 * draws - 1)
    bright, contrast, color = (factors[..., i, None, None].expand(b, t, v, 1, 1).reshape(-1, 1, 1) for i in range(3))
    matrix = bright * contrast * (color * torch.eye(3) + (1 - color) * _LUMA.expand(3, 3))  # (b t v, 3, 3)
    offset = bright * (1 - contrast) * 0.5
    offset, matrix = offset.to(pixels.device), matrix.to(pixels.device)  # drawn on the CPU, so that they are equal on all devices
    return torch.baddbmm(offset, matrix, pixels.reshape(-1, 3, height * width)).clamp_(0, 1).view(b, t, v, 3, height, width)


def numbers(*key: int) -> np.random.Generator:
    """A generator that is a function of `key` alone, e.g. (seed, step, rank)."""
    return np.random.default_rng(np.random.SeedSequence(key))


def torch_numbers(*key: int) -> torch.Generator:
    """As `numbers`, for torch."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
