"""Depth of observations and of windows as input of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from verbot.data.samples.window_batch import WindowBatch
from verbot.models.tokens import Masked
from verbot.policy.fitting import ImageFitter
from verbot.spec import BoolArray, Camera, FloatArray
from verbot.transforms import fit_depth


def depth_views(
    images: Mapping[str, npt.NDArray[Any]], cameras: Sequence[Camera], fitter: ImageFitter
) -> tuple[FloatArray, BoolArray]:
    """Depth (d, h, w) of the depth cameras, and which of them there are."""
    out, mask = np.zeros((len(cameras), *fitter.size), np.float32), np.array([c.name in images for c in cameras], bool)
    for view in np.flatnonzero(mask).tolist():
        image = images[cameras[view].name]
        out[view] = fit_depth(image, fitter.transform(*image.shape))
    return out, mask


def depth_of_windows(window: WindowBatch, fitter: ImageFitter) -> dict[str, Masked]:
    """`Batch.depth` of windows with depth (b, t, d, h, w); empty for windows without."""
    depth = window.depth
    return {"depth": as_masked(fit_depth(depth, fitter.transform(*depth.shape[-2:])), window.depth_mask)} if depth.size else {}


def as_masked(depth: FloatArray, mask: BoolArray) -> Masked:
    return Masked(torch.from_numpy(np.ascontiguousarray(depth)), torch.from_numpy(mask))
