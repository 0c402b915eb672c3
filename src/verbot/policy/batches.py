"""Preprocessed arrays as a batch of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from verbot.models.tokens import Batch, TextBatch
from verbot.spec import FloatArray


def batch_of(
    images: np.ndarray,
    images_mask: np.ndarray,
    state: FloatArray,
    state_mask: np.ndarray,
    text: TextBatch,
    others: Mapping[str, np.ndarray],
) -> Batch:
    """A batch on the CPU; images (b, t, v, h, w, 3) stay uint8, in the memory of the windows.

    Args:
        others: further fields of the batch.
    """
    pixels = torch.from_numpy(images).movedim(-1, -3)  # (b, t, v, 3, h, w)
    arrays: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in others.items()}
    seen = (pixels, torch.from_numpy(images_mask), torch.from_numpy(state), torch.from_numpy(state_mask))
    return dataclasses.replace(Batch(*seen, text), **arrays)
