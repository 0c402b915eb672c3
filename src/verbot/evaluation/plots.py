"""Pieces of the report's page: bars with intervals, films, tables. Everything inline, nothing fetched."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verbot.evaluation.intervals import Estimate


@dataclass(frozen=True)
class Bar:
    """A row of a bar plot; `color` is one of the page's: policy, good, bad, other."""

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


def movie(mp4: bytes, caption: str, outcome: str, note: str = "") -> str:
    """A looping film with a green or a red border, and what was said below it."""
    source = base64.b64encode(mp4).decode()
    why = f'<span class="why">{html.escape(note)}</span>' if note else ""
    return (
        f'<figure class="{outcome}"><video autoplay loop muted playsinline src="data:video/mp4;base64,{source}"></video>'
        f"<figcaption>{html.escape(caption)}{why}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """Cells are HTML already; `classes` gives each column's."""
    styles = [f' class="{name}"' if name else "" for name in (*classes, *[""] * len(head))]
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{cell}</td>" for cell, style in zip(row, styles, strict=False)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
