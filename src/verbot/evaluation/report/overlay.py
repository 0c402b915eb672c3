"""Overlays heatmaps on images: the policy's attention, and the effect of a word on it. Colors have one meaning everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from verbot.rollout.video import BACKGROUND, GAP, INK, RGB
from verbot.spec import FloatArray, UInt8Array

COLORS: dict[str, RGB] = {"target": (255, 38, 98), "receptacle": (0, 214, 255), "reference": (255, 214, 10)}
MORE, LESS = (255, 120, 0), (60, 120, 255)  # the map has more, or less, here because of a word
FULL = 64.0  # multiple of a uniform map's value that is shown in full color
OPACITY = 0.85
DIM, PALE = 0.75, 0.35  # factors of an image's brightness and saturation below the maps
CAPTION = 18  # height of a line of text in pixels


def overlay(image: UInt8Array, maps: Mapping[str, FloatArray], colors: Mapping[str, RGB] = COLORS) -> UInt8Array:
    """`image` (h, w, 3), dimmed and desaturated, with each map (h, w) in its color, in proportion to its value.

    Args:
        maps: non-negative maps by name. A map that sums to 1 has full color where it is `FULL` times a uniform map.
    """
    color = image.astype(np.float32)
    out = DIM * (PALE * color + (1 - PALE) * color.mean(-1, keepdims=True))
    for name, heat in maps.items():
        strength = (heat * (heat.size / FULL)).clip(0, 1)[..., None] * OPACITY
        out = out * (1 - strength) + np.array(colors[name], np.float32) * strength
    return np.rint(out).astype(np.uint8)


def difference(image: UInt8Array, complete: FloatArray, without: FloatArray) -> UInt8Array:
    """`image` with the effect of a word on a map (h, w): `MORE` where it is larger with the word, `LESS` where smaller.

    Args:
        complete: the map for the complete instruction.
        without: the map for the instruction without the word.
    """
    gain = complete - without
    return overlay(image, {"more": gain.clip(0), "less": (-gain).clip(0)}, {"more": MORE, "less": LESS})


def enlarged(image: UInt8Array, height: int) -> UInt8Array:
    """`image` enlarged by the largest whole factor that fits into `height` pixels."""
    times = max(1, height // image.shape[0])
    return image.repeat(times, 0).repeat(times, 1)


def captioned(image: UInt8Array, words: str) -> UInt8Array:
    """`image` with a line of text below."""
    return np.concatenate([image, line(image.shape[1], words)])


def line(width: int, words: str) -> UInt8Array:
    """A strip of text, cut at `width` pixels."""
    strip = Image.new("RGB", (width, CAPTION), BACKGROUND)
    ImageDraw.Draw(strip).text((3, 2), words, fill=INK, font=_font())
    return np.asarray(strip).copy()


def sheet(rows: Sequence[Sequence[UInt8Array]]) -> UInt8Array:
    """Images in rows on one dark sheet, whose sides are even numbers of pixels."""
    height = sum(max(p.shape[0] for p in row) + GAP for row in rows) + GAP
    width = max(sum(p.shape[1] + GAP for p in row) for row in rows) + GAP
    out = np.full((height + height % 2, width + width % 2, 3), BACKGROUND, np.uint8)
    top = GAP
    for row in rows:
        left = GAP
        for picture in row:
            out[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += picture.shape[1] + GAP
        top += max(p.shape[0] for p in row) + GAP
    return out


def legend(width: int, marks: Mapping[str, RGB]) -> UInt8Array:
    """A strip of color patches, each with its name."""
    strip = Image.new("RGB", (width, CAPTION), BACKGROUND)
    draw, left = ImageDraw.Draw(strip), 3
    for name, color in marks.items():
        draw.rectangle((left, 4, left + 10, 14), fill=color)
        draw.text((left + 15, 2), name, fill=INK, font=_font())
        left += 27 + round(_font().getlength(name))
    return np.asarray(strip).copy()


def weights(width: int, words: Sequence[str], shares: Sequence[float]) -> UInt8Array:
    """A strip of words with a bar under each, whose length is its share (0 to 1) of the word's width; wraps lines."""
    lines: list[list[tuple[int, str, float]]] = [[]]
    left = 3
    for word, share in zip(words, shares, strict=True):
        wide = round(_font().getlength(word))
        if left + wide > width - 3 and lines[-1]:
            lines.append([])
            left = 3
        lines[-1].append((left, word, share))
        left += wide + 9
    strip = Image.new("RGB", (width, len(lines) * (CAPTION + 6)), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        for left, word, share in line:
            top, wide = row * (CAPTION + 6), round(_font().getlength(word))
            draw.text((left, top), word, fill=INK, font=_font())
            draw.rectangle((left, top + CAPTION, left + wide, top + CAPTION + 3), fill=(60, 64, 74))
            if share > 0:
                draw.rectangle((left, top + CAPTION, left + max(1, round(min(1.0, share) * wide)), top + CAPTION + 3), fill=MORE)
    return np.asarray(strip).copy()


@lru_cache
def _font() -> Any:
    return ImageFont.load_default(13)
