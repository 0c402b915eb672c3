"""Pictures for pages: camera images as JPEG, heatmaps as transparent PNG that lie over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from verbot.contracts import POINTS
from verbot.spec import FloatArray, UInt8Array

QUALITY = 85
COLORS = {"target": (255, 38, 98), "receptacle": (0, 214, 255), "reference": (255, 214, 10)}  # as in reports
FULL = 64.0  # multiple of a uniform map's value that is shown in full color
OPACITY = 0.85


def jpeg(image: UInt8Array) -> bytes:
    """A picture (h, w, 3) as JPEG."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=QUALITY, subsampling=0)
    return sink.getvalue()


def pixels_of(content: bytes) -> UInt8Array:
    """The picture (h, w, 3) that `jpeg` wrote."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def heat_png(maps: FloatArray) -> bytes:
    """Maps (3, h, w) of the target, the receptacle and the reference, each of sum 1, as one transparent picture."""
    color, opacity = np.zeros((*maps.shape[1:], 3)), np.zeros((*maps.shape[1:], 1))
    for name, heat in zip(POINTS, maps, strict=True):
        strength = (heat * (heat.size / FULL)).clip(0, 1)[..., None] * OPACITY
        covered = opacity + strength * (1 - opacity)
        color = np.where(
            covered > 0, (color * opacity * (1 - strength) + np.array(COLORS[name]) * strength) / (covered + 1e-9), 0
        )
        opacity = covered
    sink = io.BytesIO()
    Image.fromarray(np.rint(np.concatenate([color, opacity * 255], -1)).clip(0, 255).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def data_urls(pictures: Mapping[str, bytes], kind: str) -> dict[str, str]:
    """Pictures as text in a message. `kind` is ``"jpeg"`` or ``"png"``."""
    return {name: f"data:image/{kind};base64,{base64.b64encode(content).decode()}" for name, content in pictures.items()}
