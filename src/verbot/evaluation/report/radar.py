"""A radar chart of proportions: a spoke for each condition (0 at the center, 100 % at the rim), an outline for each policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from verbot.errors import ConfigError
from verbot.evaluation.protocol.intervals import Estimate
from verbot.rollout.video import BACKGROUND, INK, RGB

ImagePoint = tuple[float, float]

# Distinguishable with color vision deficiency (Okabe and Ito 2008).
COLORS: tuple[RGB, ...] = ((230, 159, 0), (86, 180, 233), (0, 190, 135), (213, 94, 0), (204, 121, 167), (240, 228, 66))
WIDTH, HEIGHT, RADIUS = 760, 590, 215
FINE = 3  # supersampling factor, because pillow's lines are not antialiased
GRID: RGB = (72, 77, 89)
APART = 0.035  # radians between the intervals of neighboring policies on a spoke


@dataclass(frozen=True)
class Outline:
    """The proportions of one policy, in the order of the spokes; None or an empty estimate if not measured."""

    name: str
    values: Sequence[Estimate | None]


def radar(spokes: Sequence[str], outlines: Sequence[Outline]) -> Image.Image:
    """Draw the chart. An outline connects the measured values; whiskers along the spokes are 95 % intervals.

    Raises `ConfigError` for fewer than three spokes, more outlines than there are colors, or an outline of another length.
    """
    if len(spokes) < 3:
        raise ConfigError(f"a radar chart needs at least three spokes; got {len(spokes)}: {', '.join(spokes)}")
    if not 1 <= len(outlines) <= len(COLORS):
        raise ConfigError(f"a radar chart shows 1 to {len(COLORS)} policies; got {len(outlines)}")
    for outline in outlines:
        if len(outline.values) != len(spokes):
            raise ConfigError(f"{outline.name} has {len(outline.values)} values for {len(spokes)} spokes")
    legend = 26 * len(outlines) + 24
    sheet = Image.new("RGB", (WIDTH * FINE, (HEIGHT + legend) * FINE), BACKGROUND)
    angles = [2 * math.pi * i / len(spokes) for i in range(len(spokes))]
    _grid(ImageDraw.Draw(sheet), angles)
    for number, outline in enumerate(outlines):
        _outline(sheet, outline, angles, COLORS[number], APART * (number - (len(outlines) - 1) / 2))
    picture = sheet.resize((WIDTH, HEIGHT + legend), Image.Resampling.LANCZOS)
    _labels(ImageDraw.Draw(picture), spokes, angles, outlines)
    return picture


def place(share: float, angle: float, scale: float = 1.0) -> ImagePoint:
    """The point (x, y) of a proportion (0 to 1) on the spoke at `angle` (rad, clockwise from the top), in pixels × `scale`.

    Example:
        >>> place(1.0, 0.0) == (WIDTH / 2, HEIGHT / 2 - RADIUS)
        True
    """
    r = RADIUS * share
    return scale * (WIDTH / 2 + r * math.sin(angle)), scale * (HEIGHT / 2 - r * math.cos(angle))


def _grid(draw: ImageDraw.ImageDraw, angles: Sequence[float]) -> None:
    for ring in (0.2, 0.4, 0.6, 0.8, 1.0):
        corners = [place(ring, angle, FINE) for angle in angles]
        draw.line([*corners, corners[0]], fill=GRID, width=2 * FINE if ring == 1.0 else FINE)
    for angle in angles:
        draw.line([place(0, 0, FINE), place(1, angle, FINE)], fill=GRID, width=FINE)


def _outline(sheet: Image.Image, outline: Outline, angles: Sequence[float], color: RGB, aside: float) -> None:
    measured = [(e, angle) for e, angle in zip(outline.values, angles, strict=True) if e is not None and e.value is not None]
    corners = [place(e.value or 0.0, angle, FINE) for e, angle in measured]
    if len(corners) > 2:
        veil = Image.new("L", sheet.size, 0)
        ImageDraw.Draw(veil).polygon(corners, fill=36)
        sheet.paste(Image.new("RGB", sheet.size, color), mask=veil)
    draw = ImageDraw.Draw(sheet)
    if corners:
        draw.line([*corners, corners[0]], fill=color, width=2 * FINE, joint="curve")
    for estimate, angle in measured:
        low, high = estimate.low or 0.0, estimate.high or 0.0
        draw.line([place(low, angle + aside, FINE), place(high, angle + aside, FINE)], fill=color, width=FINE)
        x, y = place(estimate.value or 0.0, angle, FINE)
        draw.ellipse([x - 4 * FINE, y - 4 * FINE, x + 4 * FINE, y + 4 * FINE], fill=color)


def _labels(draw: ImageDraw.ImageDraw, spokes: Sequence[str], angles: Sequence[float], outlines: Sequence[Outline]) -> None:
    for ring in (0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = place(ring, 0.0)
        draw.text((x + 5, y + 2), f"{100 * ring:.0f} %", fill=INK, font=_font(11))
    for number, (spoke, angle) in enumerate(zip(spokes, angles, strict=True)):
        x, y = place(1.07, angle)
        values = [_percent(outline.values[number]) for outline in outlines]
        side = "m" if abs(math.sin(angle)) < 0.2 else "l" if math.sin(angle) > 0 else "r"
        wide = [draw.textlength(text, font=_font(13)) for text in values]
        total = sum(wide) + 10 * (len(values) - 1)
        top = y - 34 if math.cos(angle) > 0.8 else y if math.cos(angle) < -0.8 else y - 17
        draw.text((x, top), spoke, fill=INK, font=_font(14), anchor=f"{side}a")
        left = {"m": x - total / 2, "l": x, "r": x - total}[side]
        for text, width, color in zip(values, wide, COLORS, strict=False):
            draw.text((left, top + 18), text, fill=color, font=_font(13))
            left += width + 10
    for number, outline in enumerate(outlines):
        y = HEIGHT + 6 + 26 * number
        draw.rectangle([40, y + 2, 56, y + 14], fill=COLORS[number])
        draw.text((66, y), outline.name, fill=INK, font=_font(14))


def _percent(estimate: Estimate | None) -> str:
    return "–" if estimate is None or estimate.value is None else f"{100 * estimate.value:.0f} %"


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
