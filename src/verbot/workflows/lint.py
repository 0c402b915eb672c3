"""``lint.html``, a self-contained page of what may spoil training on a dataset, and ``lint.json``."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from verbot.data.quality import LintConfig, LintFinding, LintReport, lint
from verbot.data.quality.episode import dimension_names
from verbot.data.quality.report import SEVERITIES, FramePlace, plural
from verbot.data.storage.features import FeatureMap
from verbot.data.storage.reader import Dataset, open_dataset
from verbot.errors import DataError
from verbot.evaluation.report.plots import table
from verbot.files import write_atomic
from verbot.spec import FloatArray, UInt8Array

PAGE, RECORD = "lint.html", "lint.json"
PICTURES = 40  # findings with pictures on a page; the rest have text and plots
SIDE_PX = 144  # of a thumbnail
DEPTH_M = 2.0  # shown white
COLORS = {"error": "var(--bad)", "warning": "var(--policy)", "info": "var(--other)"}
TITLES = {"error": "Errors", "warning": "Warnings", "info": "Good to know"}
LEADS = {
    "error": "These make training wrong.",
    "warning": "These probably cost performance. Look at the episodes, then mend, delete or keep them.",
    "info": "Properties of the dataset, and the declarations that they confirm or suggest.",
}
WIDTH, HEIGHT = 640, 90  # of a plot


def lint_dataset(
    path: Path,
    out: Path | None = None,
    config: LintConfig | None = None,
    *,
    features: FeatureMap | None = None,
    command: str = "",
    progress: bool = True,
) -> LintReport:
    """Lint a dataset; writes `PAGE` and `RECORD` into the folder `out`, if given. Raises as `lint` does."""
    dataset = open_dataset(path, features=features, depth=True)
    report = lint(dataset, config, progress=progress)
    if out is not None:
        write_atomic(out / RECORD, json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
        write_atomic(out / PAGE, lint_page(report, dataset, command))
    return report


def lint_page(report: LintReport, dataset: Dataset, command: str = "") -> str:
    """The page as HTML, with a plot and pictures of each finding's worst place."""
    template = Template(files("verbot.evaluation.report").joinpath("page.html").read_text(encoding="utf-8"))
    serious = report.counted("error") + report.counted("warning")
    counts = ", ".join(plural(report.counted(each), each) for each in SEVERITIES)
    return template.substitute(
        title=html.escape(f"Lint of {report.path}"),
        kicker=html.escape(f"{report.robot} · {report.rate_hz:g} Hz · {report.path}"),
        headline="Nothing to mend" if report.clean else f"{plural(serious, 'finding')} to look at",
        figure=f"{serious}",
        range=html.escape(counts),
        agents=_looked_at(report),
        alarm="",
        sections="\n".join(_sections(report, dataset, command)),
        footer="verbot. Ranges are those between the 1 % and the 99 % quantile.",
    )


def _looked_at(report: LintReport) -> str:
    step, some = report.config["picture_step"], "" if report.episodes == report.of_episodes else f" of {report.of_episodes}"
    return (
        f"<p>{report.episodes}{some} episodes, {report.frames} frames: every number was looked at.</p>"
        f"<p>{report.pictures} pictures: two successive ones of every {step} frames. "
        f"A fault of fewer frames may be missed; <code>--set picture_step=1</code> looks at all.</p>"
    )


def _sections(report: LintReport, dataset: Dataset, command: str) -> Iterator[str]:
    shown = 0
    for severity in SEVERITIES:
        cards = []
        for finding in report.findings:
            if finding.severity == severity:
                cards.append(_card(finding, report, dataset, pictures=shown < PICTURES))
                shown += 1
        if cards:
            yield _section(TITLES[severity], LEADS[severity], "".join(cards))
    yield _section("Reproduction", "", f"{f'<pre>{html.escape(command)}</pre>' if command else ''}{_thresholds(report)}")


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>{body}</section>'


def _thresholds(report: LintReport) -> str:
    rows = [(f"<code>{name}</code>", html.escape(f"{value}")) for name, value in report.config.items()]
    return f"<details><summary>Thresholds</summary>{table(('setting', 'value'), rows, ('', 'number'))}</details>"


def _card(finding: LintFinding, report: LintReport, dataset: Dataset, pictures: bool) -> str:
    place = finding.worst[0] if finding.worst else None
    try:
        plot, frames = _plot(finding, place, dataset), _pictures(finding, place, dataset) if pictures else ""
    except DataError:  # an episode that cannot be read is itself the finding
        plot = frames = ""
    style = f"border-left: 5px solid {COLORS[finding.severity]}; margin-top: 14px"
    head = f"<p><b>{html.escape(finding.check)}</b> &nbsp; {html.escape(finding.message)}</p>"
    return f'<div class="card" style="{style}">{head}{_places(finding, report)}{plot}{frames}{_details(finding)}</div>'


def _places(finding: LintFinding, report: LintReport) -> str:
    if finding.first is None:
        return ""
    ranked = list(enumerate(finding.worst, 1))
    named = [("first", finding.first), *((f"worst {i}", place) for i, place in ranked if place != finding.first)]
    rows = [
        (word, f"{p.episode}", f"{p.frame}", f"{p.frame / report.rate_hz:.1f} s", f"{p.size:.4g}",
         f"<code>{html.escape(report.view_command(p))}</code>")
        for word, p in named
    ]  # fmt: skip
    kept = f"<summary>{plural(finding.count, 'place')}; the first and the worst ones</summary>"
    head = ("", "episode", "frame", "time", "size", "look")
    body = table(head, rows, ("", "number", "number", "number", "number"))
    return f"<details open>{kept}{body}</details>" if len(finding.worst) < 3 else f"<details>{kept}{body}</details>"


def _details(finding: LintFinding) -> str:
    if not finding.details:
        return ""
    text = html.escape(json.dumps(finding.details, indent=1, ensure_ascii=False))
    return f"<details><summary>Figures</summary><pre>{text}</pre></details>"


def _plot(finding: LintFinding, place: FramePlace | None, dataset: Dataset) -> str:
    """The dimension over the worst episode, or over the first one where no episode stands out."""
    if finding.signal is None or not len(dataset):
        return ""
    vector, dim = finding.signal
    episode = dataset[place.episode if place else 0]
    values = (episode.states if vector == "state" else episode.actions)[:, dim]
    name = dimension_names(dataset.spec, vector)[dim]
    marks = [place.frame for place in finding.worst if place.episode == episode.index]
    return f"<p class='range'>{vector} {html.escape(name)}, episode {episode.index}</p>{_line(values, marks)}"


def _line(values: FloatArray, marks: list[int]) -> str:
    good = values[np.isfinite(values)]
    low, high = (float(good.min()), float(good.max())) if len(good) else (0.0, 1.0)
    span, last = max(high - low, 1e-9), max(len(values) - 1, 1)

    def at(frame: int, value: float) -> str:
        return f"{60 + (WIDTH - 70) * frame / last:.1f},{HEIGHT - 8 - (HEIGHT - 16) * (value - low) / span:.1f}"

    points = " ".join(at(i, float(v)) for i, v in enumerate(values) if np.isfinite(v))
    lines = "".join(
        f'<line x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}" style="stroke: var(--bad); stroke-dasharray: 3 3"/>'
        for x in (60 + (WIDTH - 70) * frame / last for frame in marks)
    )
    labels = "".join(
        f'<text x="54" y="{y}" text-anchor="end" style="font-size: 11px; fill: var(--soft)">{value:.3g}</text>'
        for value, y in ((high, 12), (low, HEIGHT - 4))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width: 100%; max-width: {WIDTH}px; display: block" role="img">'
        f'{lines}{labels}<polyline points="{points}" style="fill: none; stroke: var(--ink); stroke-width: 1.2"/></svg>'
    )


def _pictures(finding: LintFinding, place: FramePlace | None, dataset: Dataset) -> str:
    """The frames before, at and after the worst place, of the finding's camera, otherwise of the first two."""
    if place is None or finding.check == "reading":
        return ""
    episode = dataset[place.episode]
    rows = [frame for frame in (place.frame - 1, place.frame, place.frame + 1) if 0 <= frame < len(episode)]
    cameras = [finding.camera] if finding.camera else dataset.camera_names[:2]
    shown = "".join(
        f'<figure><img alt="{html.escape(f"{camera}, frame {row}")}" src="{_png(image)}">'
        f'<figcaption><span class="note">{html.escape(camera)}, frame {row}</span></figcaption></figure>'
        for camera in cameras
        for row, image in zip(rows, episode.images(camera, rows), strict=True)
    )
    return f'<div style="display: flex; flex-wrap: wrap; gap: 10px; margin-top: 10px">{shown}</div>'


def _png(image: UInt8Array | FloatArray) -> str:
    if image.ndim == 2:
        image = (255 * np.clip(image / DEPTH_M, 0, 1)).astype(np.uint8)
    picture = Image.fromarray(image)
    scale = SIDE_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    sink = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX).save(sink, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
