"""What TensorFlow does with images in published processing, computed with NumPy: JPEG, Lanczos, a crop of the center."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from verbot.spec import FloatArray, UInt8Array

RADIUS = 3  # of the Lanczos kernel, in pixels


def jpeg_round_trip(image: UInt8Array) -> UInt8Array:
    """An image (h, w, 3) as a JPEG file of quality 95 with halved chroma, TensorFlow's default, gives it back."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=2)
    return np.asarray(Image.open(buffer).convert("RGB"))


def lanczos(image: UInt8Array, height: int, width: int) -> FloatArray:
    """``tf.image.resize(method="lanczos3", antialias=True)``, (height, width, 3) float32 in 0 … 255, not clipped.

    Unlike PIL's filter it does not round between rows and columns.
    """
    rows, columns = (_weights(size, out) for size, out in zip(image.shape[:2], (height, width), strict=True))
    return np.asarray(np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(np.float32), optimize=True), np.float32)


def rounded(image: FloatArray) -> UInt8Array:
    """``tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)``"""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def center_crop(image: UInt8Array, share: float, side: int) -> UInt8Array:
    """The center with this share of the area, resized to (side, side, 3) as ``tf.image.crop_and_resize`` does, in uint8 again."""
    unit = image.astype(np.float32) * np.float32(1 / 255)
    cropped = np.clip(crop_resized(unit, share, side, side), 0, 1)
    return (cropped * np.float32(255.5)).astype(np.uint8)


def crop_resized(image: FloatArray, share: float, height: int, width: int) -> FloatArray:
    """The center with this share of the area, by a bilinear filter whose corners are those of the crop: float32."""
    crop = np.sqrt(np.float32(share))
    offset = (np.float32(1) - crop) / np.float32(2)
    rows, columns = (_crop_weights(size, out, offset, crop) for size, out in zip(image.shape[:2], (height, width), strict=True))
    return np.asarray(np.einsum("yh,xw,hwc->yxc", rows, columns, image, optimize=True), np.float32)


def _weights(size: int, out: int) -> FloatArray:
    """(out, size): what each pixel adds to each output along one axis."""
    scale = size / out
    widened = max(scale, 1.0)
    centers = (np.arange(out) + 0.5) * scale
    distance = (np.arange(size) + 0.5)[None] - centers[:, None]
    x = distance / widened
    kernel = np.sinc(x) * np.sinc(x / RADIUS) * (np.abs(x) <= RADIUS)
    return np.asarray(kernel / kernel.sum(1, keepdims=True), np.float32)


def _crop_weights(size: int, out: int, offset: np.float32, crop: np.float32) -> FloatArray:
    places = offset * np.float32(size - 1) + np.arange(out, dtype=np.float32) * (crop * np.float32(size - 1) / max(out - 1, 1))
    low = np.floor(places).astype(np.int64).clip(0, size - 1)
    high, part = np.ceil(places).astype(np.int64).clip(0, size - 1), (places - np.floor(places)).astype(np.float32)
    weights = np.zeros((out, size), np.float32)
    np.add.at(weights, (np.arange(out), low), 1 - part)
    np.add.at(weights, (np.arange(out), high), part)
    return weights
