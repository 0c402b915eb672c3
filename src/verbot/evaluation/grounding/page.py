"""``explain.html``, a self-contained page: a policy's heatmaps in an episode, and the effect of each word on them."""

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

from verbot.evaluation.grounding.metrics import GroundingMetrics
from verbot.evaluation.report.overlay import COLORS, FULL, LESS, MORE
from verbot.evaluation.report.plots import Bar, bars, percent, table
from verbot.files import write_atomic
from verbot.rollout.video import RGB
from verbot.spec import UInt8Array

METRICS_FILE, OLD_METRICS_FILE = "grounding.json", "looking.json"  # the old one is of version 0.1
EPISODE = (
    f"Each camera's image with the heatmaps of the vision encoder. Full color is {FULL:.0f} times the value of a uniform heatmap."
)
WORDS = (
    "The first image of the episode, once for each word: the change of each map when that word is omitted. "
    "Moved: the fraction of the first camera's map that moves elsewhere. Changed: the mean difference of the predicted "
    "actions, as a fraction of their range. Attention: the word's share of the attention that pools the sentence."
)
METRICS = (
    "First images of test scenes, compared with the simulator's segmentation. Lift: the map's share on the named object divided "
    "by the object's share of all pixels. Pointing game: the map's maximum lies on the object, within {tolerance:g} pixels. "
    "Other instruction: the same for the same object when the instruction names another. Occlusion: the change of the predicted "
    "actions when the named object is painted over, divided by the change when another object of equal size is."
)


@dataclass(frozen=True)
class Word:
    """The effect of one word, as described in `WORDS`; empty or None if the policy does not provide it.

    Args:
        moved: fraction moved, by map.
        pictures: images by name.
    """

    text: str
    moved: Mapping[str, float]
    changed: float
    attention: float | None
    pictures: Mapping[str, UInt8Array]


@dataclass(frozen=True)
class Page:
    """The content of `write_page`."""

    policy: str
    suite: str
    instruction: str
    success: bool
    mp4: bytes
    strip: UInt8Array
    words: list[Word]
    metrics: GroundingMetrics | None = None
    command: str | None = None


def write_page(page: Page, path: Path) -> Path:
    template = Template(files("verbot.evaluation.report").joinpath("page.html").read_text(encoding="utf-8"))
    first = next((row["pointing_game"] for row in page.metrics.rows.values()), None) if page.metrics else None
    text = template.substitute(
        title=html.escape(f"Grounding of {page.policy}"),
        kicker=html.escape(f"{page.policy} · {page.suite}"),
        headline=html.escape(f"Heatmaps for “{page.instruction}”"),
        figure="" if first is None else percent(first.value),
        range="" if first is None else "of first images: the target map points at the named object",
        agents=bars(_pointing(page.metrics)) if page.metrics else "",
        alarm="",
        sections="\n".join(_sections(page)),
        footer="verbot. Intervals are 95 %.",
    )
    write_atomic(path, text)
    return path


def figures(metrics: GroundingMetrics) -> str:
    """The section of grounding metrics, for this page and for a report."""
    rows = [(html.escape(place), f"<code>{key}</code>", html.escape(value), n) for place, key, value, n in metrics.lines()]
    p = "" if metrics.p is None else f"<p>Sign test of the occlusions: p = {metrics.p:.2g}.</p>"
    body = table(("place", "metric", "value [95 % interval]", "n"), rows, ("", "", "number", "number")) + p
    return _section("Grounding", METRICS.format(tolerance=metrics.tolerance_px), body)


def _pointing(metrics: GroundingMetrics) -> Iterator[Bar]:
    for name, row in metrics.rows.items():
        yield Bar(name, row["pointing_game"])
        if "pointing_game_other_instruction" in row:
            yield Bar(f"{name}, other instruction", row["pointing_game_other_instruction"], "other")


def _sections(page: Page) -> Iterator[str]:
    source = base64.b64encode(page.mp4).decode()
    video = f'<video autoplay loop muted playsinline style="width: 100%" src="data:video/mp4;base64,{source}"></video>'
    done = "The episode succeeded." if page.success else "The episode failed."
    yield _section("The episode", f"{EPISODE} {done}", f"<p>{_legend(COLORS)}</p>{video}{_picture(page.strip, 'moments')}")
    marks = {"more with the word": MORE, "more without it": LESS}
    if page.words:
        yield _section("Word by word", WORDS, f"<p>{_legend(marks)}</p>{_words(page.words)}")
    if page.metrics is not None:
        yield figures(page.metrics)
    if page.command:
        yield _section("Reproduction", "", f"<pre>{html.escape(page.command)}</pre>")


def _words(words: list[Word]) -> str:
    maps, kinds = list(words[0].moved), list(words[0].pictures)
    rows = []
    for word in words:
        attention = "–" if word.attention is None else f"{word.attention:.3f}"
        numbers = [*(f"{word.moved[name]:.3f}" for name in maps), f"{word.changed:.4f}", attention]
        rows.append((html.escape(word.text), *numbers, *(_picture(word.pictures[kind], word.text, 128) for kind in kinds)))
    head = ("word", *(f"{name} moved" for name in maps), "changed", "attention", *kinds)
    return table(head, rows, ("", *["number"] * (len(maps) + 2)))


def _picture(image: UInt8Array, label: str, width: int | None = None) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", optimize=True)
    style = "max-width: 100%" if width is None else f"width: {width}px; image-rendering: pixelated"
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(label)}" style="{style}" src="data:image/png;base64,{source}">'


def _legend(marks: Mapping[str, RGB]) -> str:
    patch = '<span style="display: inline-block; width: 12px; height: 12px; background: rgb{}"></span> {}'
    return " &nbsp; ".join(patch.format(color, html.escape(name)) for name, color in marks.items())


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>{body}</section>'
