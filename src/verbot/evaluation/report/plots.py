"""Parts of the report page: bars with intervals, videos, tables. All content is inline."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from verbot.evaluation.protocol.intervals import Estimate


@dataclass(frozen=True)
class Bar:
    """A row of a bar plot. `color` is a color of the page: policy, good, bad or other."""

    label: str
    estimate: Estimate
    color: str = "policy"


def percent(value: float | None, digits: int = 0) -> str:
    """Example:
    >>> percent(0.925), percent(0.925, 1), percent(None)
    ('92 %', '92.5 %', '–')
    """
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(estimate: Estimate) -> str:
    """The interval of a proportion or a ratio, in percent."""
    if estimate.low is None or estimate.high is None:
        return "not measured"
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f} %"


def bars(rows: Iterable[Bar]) -> str:
    """Horizontal bars from 0 to 100 %, each with its 95 % interval as a whisker."""
    return f'<div class="bars">{"".join(_bar(row) for row in rows)}</div>'


def _bar(row: Bar) -> str:
    e = row.estimate
    value, low, high = (min(1.0, max(0.0, x or 0.0)) for x in (e.value, e.low, e.high))
    marks = f'<rect width="100" height="10" rx="1" class="track"/><rect width="{100 * value:.2f}" height="10" rx="1" '
    marks += f'style="fill: var(--{row.color})"/>'
    if e.n:
        marks += "".join(
            f'<line x1="{100 * x1:.2f}" x2="{100 * x2:.2f}" y1="{y1}" y2="{y2}" class="whisker"/>'
            for x1, x2, y1, y2 in ((low, high, 5, 5), (low, low, 2, 8), (high, high, 2, 8))
        )
    label = html.escape(row.label)
    words = f"{label}: {percent(e.value, 1)}, 95 % interval {interval(e)}, n = {e.n}"
    quiet = "" if row.color == "policy" else " quiet"
    return (
        f'<div class="label{quiet}">{label}</div>'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f"<title>{words}</title>{marks}</svg>"
        f'<div class="number">{percent(e.value, 1)}<span class="n">n = {e.n}</span></div>'
    )


def video(mp4: bytes, caption: str, outcome: str, note: str = "") -> str:
    """A looping video with a green or red border for its outcome, and a caption below."""
    source = base64.b64encode(mp4).decode()
    below = f'<span class="note">{html.escape(note)}</span>' if note else ""
    return (
        f'<figure class="{outcome}"><video autoplay loop muted playsinline src="data:video/mp4;base64,{source}"></video>'
        f"<figcaption>{html.escape(caption)}{below}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table. `rows` contain HTML; `classes` are the CSS classes of the columns."""
    styles = [f' class="{name}"' if name else "" for name in (*classes, *[""] * len(head))]
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{cell}</td>" for cell, style in zip(row, styles, strict=False)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


@dataclass(frozen=True)
class Dot:
    """A point of a `scatter`; `note` is its tooltip."""

    label: str
    x: Estimate
    y: Estimate
    color: str = "policy"
    note: str = ""


WIDTH, HEIGHT = 1000.0, 520.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 980.0, 14.0, 468.0
LETTER, LINE = 6.4, 15.0  # width of a letter and height of a label
Box = tuple[float, float, float, float]  # left, top, right, bottom


def scatter(dots: Sequence[Dot], x_label: str, y_label: str) -> str:
    """A plot of points with 95 % intervals of both coordinates: x logarithmic, y a proportion. Omits dots without values."""
    shown = [dot for dot in dots if dot.x.value and dot.y.value is not None]
    if not shown:
        return ""
    ends = [x for dot in shown for x in (dot.x.low, dot.x.value, dot.x.high) if x]
    low, high, floor = 0.85 * min(ends), 1.18 * max(ends), _floor(shown)

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(max(x, low) / low) / math.log(high / low)

    def up(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (min(1.0, max(floor, y)) - floor) / (1 - floor)

    rows = [(up(y), f"{100 * y:.0f} %") for i in range(11) if (y := i / 10) >= floor - 1e-9 and (floor > 0.4 or i % 2 == 0)]
    columns = [(across(x), f"{x:g}") for x in _ticks(low, high)]
    grid = "".join(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>' for y, _ in rows)
    grid += "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>' for x, _ in columns)
    ticks = "".join(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{words}</text>' for y, words in rows)
    ticks += "".join(f'<text x="{x:.1f}" y="{BOTTOM + 20}" text-anchor="middle">{words}</text>' for x, words in columns)
    ticks += f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>'
    places = [(across(dot.x.value or low), up(dot.y.value or 0.0)) for dot in shown]
    labels = place_labels(places, [dot.label for dot in shown])
    marks = "".join(_dot(dot, place, label, across, up) for dot, place, label in zip(shown, places, labels, strict=True))
    return (
        f'<div class="scroll"><svg class="scatter" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" '
        f'aria-label="{html.escape(f"{y_label} against {x_label}")}"><g class="grid">{grid}</g><g class="tick">{ticks}</g>'
        f"{marks}</svg></div>"
    )


def place_labels(places: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[Box | None]:
    """A free box for each label near its point; None if every box is taken."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    found: list[Box | None] = []
    for (x, y), label in zip(places, labels, strict=True):
        width = LETTER * len(label)
        inside = (box for box in _spots(x, y, width) if _inside(box))
        spot = next((box for box in inside if not any(_overlap(box, other) for other in taken)), None)
        if spot is not None:
            taken.append(spot)
        found.append(spot)
    return found


def _spots(x: float, y: float, width: float) -> Iterator[Box]:
    for distance in (0.0, 16.0, -16.0, 32.0, -32.0, 48.0, -48.0, 64.0, -64.0, 80.0, -80.0):
        for left in (x + 11, x - 11 - width, x - width / 2) if distance else (x + 11, x - 11 - width):
            yield left, y + distance - LINE / 2, left + width, y + distance + LINE / 2


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[1] >= TOP - 6 and box[2] <= RIGHT + 10 and box[3] <= BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _dot(
    dot: Dot, place: tuple[float, float], label: Box | None, across: Callable[[float], float], up: Callable[[float], float]
) -> str:
    x, y = place
    sides = [across(side) if side else x for side in (dot.x.low, dot.x.high)]
    ends = [y if end is None else up(end) for end in (dot.y.low, dot.y.high)]
    lines = f'<line x1="{sides[0]:.1f}" x2="{sides[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    lines += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>'
    words = ""
    if label is not None:
        left, top, right, bottom = label
        middle = (top + bottom) / 2
        if abs(middle - y) > 1:
            lines += f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{min(max(x, left), right):.1f}" y2="{middle:.1f}"/>'
        words = f'<text x="{left:.1f}" y="{middle + 4:.1f}" textLength="{right - left:.1f}">{html.escape(dot.label)}</text>'
    return (
        f'<g class="dot" data-row="{html.escape(dot.label)}" style="--color: var(--{dot.color})">'
        f'<title>{html.escape(dot.note)}</title>{lines}<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>{words}</g>'
    )


def _floor(dots: Sequence[Dot]) -> float:
    """The lower end of the y axis: 0, or slightly below the lowest interval if all values are high."""
    lowest = min(dot.y.low or 0.0 for dot in dots)
    return math.floor(10 * lowest) / 10 if lowest > 0.5 else 0.0


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within a logarithmic range: 1, 2 and 5 of each decade, and more if these are fewer than four."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + i / 10 for i in range(90))):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) >= 4:
            break
    return ticks
