"""``report.html``: a self-contained page with the results of an evaluation; it makes no external request."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template

from verbot.errors import CorruptFileError
from verbot.evaluation.grounding.metrics import GroundingMetrics
from verbot.evaluation.grounding.page import METRICS_FILE, OLD_METRICS_FILE, figures
from verbot.evaluation.protocol.intervals import Estimate
from verbot.evaluation.report import text
from verbot.evaluation.report.clips import Section, VideoClip
from verbot.evaluation.report.plots import Bar, bars, interval, percent, table, video
from verbot.evaluation.report.summary import Summary, format_estimate
from verbot.files import read_record, write_atomic
from verbot.rollout.results import EpisodeResult

Videos = Sequence[tuple[VideoClip, bytes]]


def write_report(summary: Summary, videos: Videos, path: Path) -> Path:
    """Write the page.

    Args:
        videos: clips with their mp4; see `verbot.evaluation.report.clips.choose`.
    """
    template = Template(files("verbot.evaluation.report").joinpath("page.html").read_text(encoding="utf-8"))
    success = summary.metrics["success_rate"]
    page = template.substitute(
        title=html.escape(f"{summary.policy} on {summary.suite}"),
        kicker=html.escape(f"{summary.policy} · {summary.suite} · {text.condition(summary.condition)}"),
        headline=html.escape(text.headline(success)),
        figure=_figure(success),
        range=html.escape(text.confidence(success)),
        agents=bars(_agents(summary)),
        alarm=_alarm(summary),
        sections="\n".join([*_sections(summary, videos), *_grounding(summary, path.parent)]),
        footer=html.escape(f"verbot {summary.versions.get('verbot', '')}. Intervals are 95 %."),
    )
    write_atomic(path, page)
    return path


def _sections(summary: Summary, videos: Videos) -> Iterator[str]:
    if cards := "".join(_card(name, summary.metrics[name]) for name in text.CARDS if name in summary.metrics):
        yield _section("Language following", text.LISTENING, f'<div class="cards">{cards}</div>')
    if scenes := _scenes(videos):
        yield _section("One scene, different instructions", text.SCENES, f'<div class="scenes">{scenes}</div>')
    if done := _clips(videos, "successes"):
        yield _section("Successes", text.SUCCESSES, f'<div class="videos">{done}</div>')
    if failed := _clips(videos, "failures"):
        yield _section("Failures", text.FAILURES, f'<div class="videos">{failed}</div>')
    yield _section("By task and by condition", text.PLOTS, _plots(summary))
    yield _section("All metrics", text.METRICS, _metrics(summary) + _baselines(summary))
    yield _section("Reproduction", text.REPEAT, _repeat(summary))


def _grounding(summary: Summary, folder: Path) -> Iterator[str]:
    """The grounding metrics of this policy, if they were measured into the same folder."""
    paths = [folder / name for name in (METRICS_FILE, OLD_METRICS_FILE)]
    path = next((path for path in paths if path.is_file()), None)
    record = read_record(path) if path else {}
    if (record.get("policy"), record.get("suite")) == (summary.policy, summary.suite):
        try:
            metrics = GroundingMetrics.from_json(record)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(path or folder, f"holds no grounding metrics ({error!r})") from error
        yield figures(metrics)


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>{body}</section>'


def _figure(success: Estimate) -> str:
    if success.value is None:
        return "–"
    digits = 0 if round(1000 * success.value) % 10 == 0 else 1
    return f"{100 * success.value:.{digits}f}<small>%</small>"


def _agents(summary: Summary) -> Iterator[Bar]:
    yield Bar("this policy", summary.metrics["success_rate"])
    for agent in ("expert", "blind", "random"):
        if agent in summary.baselines:
            yield Bar(text.AGENTS[agent], summary.baselines[agent]["success_rate"], "other")


def _alarm(summary: Summary) -> str:
    if not summary.errors:
        return ""
    messages = "".join(f"<li><code>{html.escape(message)}</code></li>" for message in summary.error_messages)
    return f'<div class="alarm"><b>{text.errors(summary.errors)}</b><ul>{messages}</ul></div>'


def _card(name: str, estimate: Estimate) -> str:
    return (
        f'<div class="card"><div class="value">{percent(estimate.value)}</div>'
        f'<div class="range">{interval(estimate)}, n = {estimate.n}</div><p>{html.escape(text.CARDS[name])}</p></div>'
    )


def _scenes(videos: Videos) -> str:
    shown = [(clip.result, mp4) for clip, mp4 in videos if clip.section == "counterfactual"]
    scenes = groupby(shown, key=lambda pair: (pair[0].task, pair[0].index))
    return "".join(f'<div class="scene">{"".join(_video(result, mp4) for result, mp4 in scene)}</div>' for _, scene in scenes)


def _clips(videos: Videos, section: Section) -> str:
    return "".join(_video(clip.result, mp4) for clip, mp4 in videos if clip.section == section)


def _video(result: EpisodeResult, mp4: bytes) -> str:
    return video(mp4, result.instruction or "(no instruction)", result.outcome, text.reason(result))


def _plots(summary: Summary) -> str:
    tasks = bars(Bar(text.plain(task), estimate) for task, estimate in summary.by_task.items())
    conditions = bars(Bar(text.condition(name), estimate) for name, estimate in summary.conditions.items())
    return f'<div class="two"><div><h3>By task</h3>{tasks}</div><div><h3>By condition</h3>{conditions}</div></div>'


def _metrics(summary: Summary) -> str:
    rows = (
        (f"<code>{name}</code>", html.escape(format_estimate(name, estimate)), str(estimate.n), html.escape(text.meaning(name)))
        for name, estimate in summary.metrics.items()
    )
    return table(("metric", "value [95 % interval]", "n", "definition"), rows, ("", "number", "number", "definition"))


def _baselines(summary: Summary) -> str:
    if not summary.baselines:
        return ""
    rows = []
    for agent, found in summary.baselines.items():
        versus = summary.comparisons[agent]
        cells = (format_estimate(name, found[name]) for name in ("success_rate", "language_following", "final_error_m"))
        advantage = f"{format_estimate('difference', versus['difference'])}, p {text.p_value(versus['p'])}"
        rows.append((text.AGENTS[agent], *map(html.escape, (*cells, str(found["success_rate"].n), advantage))))
    head = ("baseline", "success_rate", "language_following", "final_error_m", "n", "the policy's advantage (McNemar)")
    return "<h3>Baselines, on the same scenes</h3>" + table(head, rows, ("", *["number"] * 5))


def _repeat(summary: Summary) -> str:
    command = f"<pre>{html.escape(summary.command)}</pre>" if summary.command else ""
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    config = html.escape(json.dumps(summary.config, indent=2, ensure_ascii=False))
    clock = f"{summary.played} episodes played in {summary.seconds:.0f} s."
    return (
        f"{command}<p>Scenes of seed {summary.seed}. {html.escape(versions)}. {clock}</p>"
        f"<details><summary>All settings</summary><pre>{config}</pre></details>"
    )
