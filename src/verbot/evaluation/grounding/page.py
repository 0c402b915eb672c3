"""``look.html``, one page without any external request: where a policy looks, and which word makes it look there."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from verbot.evaluation.grounding.metrics import Looked
from verbot.evaluation.report.overlay import COLORS, FULL, LESS, MORE, RGB
from verbot.evaluation.report.plots import Bar, bars, percent, table
from verbot.spec import UInt8Array

FILM = (
    "Each camera's picture, and over it what the vision encoder looks for. "
    f"Full color is {FULL:.0f} times what an even look would have there."
)
WORDS = (
    "The first picture of the episode, once for each word: what changes in each map when that word is left out of the sentence. "
    "Moved is the share of the first camera's map that then lies elsewhere; changed is the mean difference of the predicted "
    "actions, as a share of their range; read is the share of the pooled sentence's attention."
)
FIGURES = (
    "First pictures of test scenes, held against what the simulator knows each pixel to show. Lift: the map's share on the named "
    "thing over that thing's share of all pixels. Pointing game: the map's maximum lies on it, within {tolerance:g} pixels. "
    "Told otherwise: the same thing, when told of another. Occlusion: the change of the predicted actions when the named thing "
    "is painted over, over that when another of equal size is."
)


@dataclass(frozen=True)
class Word:
    """One word's part: see `WORDS`. What a policy does not show is empty or None.

    Args:
        moved: by map.
        pictures: by what they show.
    """

    text: str
    moved: Mapping[str, float]
    changed: float
    read: float | None
    pictures: Mapping[str, UInt8Array]


@dataclass(frozen=True)
class Page:
    """What `write_page` shows."""

    policy: str
    suite: str
    instruction: str
    success: bool
    mp4: bytes
    strip: UInt8Array
    words: list[Word]
    looked: Looked | None = None
    command: str | None = None


def write_page(page: Page, path: Path) -> Path:
    template = Template(files("verbot.evaluation.report").joinpath("page.html").read_text(encoding="utf-8"))
    first = next((row["pointing_game"] for row in page.looked.rows.values()), None) if page.looked else None
    text = template.substitute(
        title=html.escape(f"Where {page.policy} looks"),
        kicker=html.escape(f"{page.policy} · {page.suite}"),
        headline=html.escape(f"Where it looks when told “{page.instruction}”"),
        figure="" if first is None else percent(first.value),
        range="" if first is None else "of first pictures: its target map points at the named thing",
        players=bars(_pointing(page.looked)) if page.looked else "",
        alarm="",
        sections="\n".join(_sections(page)),
        footer="verbot. Intervals are 95 %.",
    )
    path.write_text(text, encoding="utf-8")
    return path


def figures(looked: Looked) -> str:
    """The section of figures, for this page and for a report."""
    rows = [(html.escape(where), f"<code>{key}</code>", html.escape(value), n) for where, key, value, n in looked.lines()]
    p = "" if looked.p is None else f"<p>Sign test of the occlusions: p = {looked.p:.2g}.</p>"
    body = table(("where", "figure", "value [95 % interval]", "n"), rows, ("", "", "number", "number")) + p
    return _section("Does it look at what is named?", FIGURES.format(tolerance=looked.tolerance_px), body)


def _pointing(looked: Looked) -> Iterator[Bar]:
    for name, row in looked.rows.items():
        yield Bar(name, row["pointing_game"])
        if "pointing_game_told_otherwise" in row:
            yield Bar(f"{name}, told otherwise", row["pointing_game_told_otherwise"], "other")


def _sections(page: Page) -> Iterator[str]:
    source = base64.b64encode(page.mp4).decode()
    video = f'<video autoplay loop muted playsinline style="width: 100%" src="data:video/mp4;base64,{source}"></video>'
    done = "Obeyed." if page.success else "Not obeyed in time."
    yield _section("The episode", f"{FILM} {done}", f"<p>{_legend(COLORS)}</p>{video}{_picture(page.strip, 'moments')}")
    marks = {"more with the word": MORE, "more without it": LESS}
    if page.words:
        yield _section("Word by word", WORDS, f"<p>{_legend(marks)}</p>{_words(page.words)}")
    if page.looked is not None:
        yield figures(page.looked)
    if page.command:
        yield _section("To repeat it", "", f"<pre>{html.escape(page.command)}</pre>")


def _words(words: list[Word]) -> str:
    maps, kinds = list(words[0].moved), list(words[0].pictures)
    rows = []
    for word in words:
        read = "–" if word.read is None else f"{word.read:.3f}"
        numbers = [*(f"{word.moved[name]:.3f}" for name in maps), f"{word.changed:.4f}", read]
        rows.append((html.escape(word.text), *numbers, *(_picture(word.pictures[kind], word.text, 128) for kind in kinds)))
    head = ("word", *(f"{name} moved" for name in maps), "changed", "read", *kinds)
    return table(head, rows, ("", *["number"] * (len(maps) + 2)))


def _picture(image: UInt8Array, words: str, width: int | None = None) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", optimize=True)
    style = "max-width: 100%" if width is None else f"width: {width}px; image-rendering: pixelated"
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(words)}" style="{style}" src="data:image/png;base64,{source}">'


def _legend(marks: Mapping[str, RGB]) -> str:
    patch = '<span style="display: inline-block; width: 12px; height: 12px; background: rgb{}"></span> {}'
    return " &nbsp; ".join(patch.format(color, html.escape(name)) for name, color in marks.items())


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>{body}</section>'
