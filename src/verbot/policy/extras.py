"""Labels as training targets, and what objectives predict of them as extras of a chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from verbot.models.features import AuxiliaryPrediction
from verbot.models.tokens import Masked
from verbot.spec import FloatArray
from verbot.transforms import FitImage, Transform

if TYPE_CHECKING:
    from verbot.data.samples.labels import MaskedArray


def target_of(label: MaskedArray, fit: FitImage, state: Transform) -> Masked:
    """A label as a training target: normalized, with positions in the resized images."""
    values, mask = label.values, label.mask
    if label.space == "state":
        values = state.forward(values)
    if label.space == "image_points":
        values = fit.points(values).astype(np.float32)
        mask = mask & (np.abs(values) <= 1).all(-1)
    return Masked(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (values, mask)))


def extra_of(predicted: AuxiliaryPrediction, row: int, state: Transform, points: Callable[[FloatArray], FloatArray]) -> Any:
    """The prediction of an objective for one row as an entry of `ActionChunk.extras`; `points` brings points to the cameras."""
    values = predicted.values[row]
    if predicted.names:
        return dict(zip(predicted.names, values.tolist(), strict=True))
    if not values.ndim:
        return values.item()
    array: FloatArray = values.cpu().numpy()
    if predicted.space == "state":
        return state.inverse(array)
    return points(array) if predicted.space == "image_points" else array
