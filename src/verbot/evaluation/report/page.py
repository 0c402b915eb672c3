"""``report.html``: one page without any external request, for a person who wants to know whether the robot obeys."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template

from verbot.evaluation.grounding.metrics import Looked
from verbot.evaluation.grounding.page import figures
from verbot.evaluation.protocol.intervals import Estimate
from verbot.evaluation.report import text
from verbot.evaluation.report.clips import Room, VideoClip
from verbot.evaluation.report.plots import Bar, bars, interval, movie, percent, table
from verbot.evaluation.report.summary import Summary, written
from verbot.rollout.results import EpisodeResult

Films = Sequence[tuple[VideoClip, bytes]]


def write_report(summary: Summary, films: Films, path: Path) -> Path:
    """Write the page.

    Args:
        films: exhibits with their mp4, see `exhibits.choose`.
    """
    template = Template(files("verbot.evaluation.report").joinpath("page.html").read_text(encoding="utf-8"))
    success = summary.metrics["success_rate"]
    page = template.substitute(
        title=html.escape(f"{summary.policy} on {summary.suite}"),
        kicker=html.escape(f"{summary.policy} · {summary.suite} · {text.condition(summary.condition)}"),
        headline=html.escape(text.headline(success)),
        figure=_figure(success),
        range=html.escape(text.confidence(success)),
        players=bars(_players(summary)),
        alarm=_alarm(summary),
        sections="\n".join([*_sections(summary, films), *_looked(summary, path.parent)]),
        footer=html.escape(f"verbot {summary.versions.get('verbot', '')}. Intervals are 95 %."),
    )
    path.write_text(page, encoding="utf-8")
    return path


def _sections(summary: Summary, films: Films) -> Iterator[str]:
    if cards := "".join(_card(name, summary.metrics[name]) for name in text.CARDS if name in summary.metrics):
        yield _section("Does it listen?", text.LISTENING, f'<div class="cards">{cards}</div>')
    if scenes := _scenes(films):
        yield _section("One scene, told different things", text.SCENES, f'<div class="scenes">{scenes}</div>')
    if done := _room(films, "successes"):
        yield _section("At work", text.WORK, f'<div class="films">{done}</div>')
    if failed := _room(films, "failures"):
        yield _section("Where it fails", text.FAILURES, f'<div class="films">{failed}</div>')
    yield _section("By task and by condition", text.PLOTS, _plots(summary))
    yield _section("All figures", text.FIGURES, _figures(summary) + _baselines(summary))
    yield _section("To repeat it", text.REPEAT, _repeat(summary))


def _looked(summary: Summary, folder: Path) -> Iterator[str]:
    """Where this policy looks, if `verbot look` has measured it into the same folder."""
    path = folder / "looking.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (record.get("policy"), record.get("suite")) == (summary.policy, summary.suite):
        yield figures(Looked.from_json(record))


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>{body}</section>'


def _figure(success: Estimate) -> str:
    if success.value is None:
        return "–"
    digits = 0 if round(1000 * success.value) % 10 == 0 else 1
    return f"{100 * success.value:.{digits}f}<small>%</small>"


def _players(summary: Summary) -> Iterator[Bar]:
    yield Bar("this policy", summary.metrics["success_rate"])
    for player in ("expert", "blind", "random"):
        if player in summary.baselines:
            yield Bar(text.PLAYERS[player], summary.baselines[player]["success_rate"], "other")


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


def _scenes(films: Films) -> str:
    told = [(exhibit.result, mp4) for exhibit, mp4 in films if exhibit.room == "counterfactual"]
    scenes = groupby(told, key=lambda pair: (pair[0].task, pair[0].index))
    return "".join(f'<div class="scene">{"".join(_movie(result, mp4) for result, mp4 in scene)}</div>' for _, scene in scenes)


def _room(films: Films, room: Room) -> str:
    return "".join(_movie(exhibit.result, mp4) for exhibit, mp4 in films if exhibit.room == room)


def _movie(result: EpisodeResult, mp4: bytes) -> str:
    return movie(mp4, result.instruction or "(nothing said)", result.outcome, text.reason(result))


def _plots(summary: Summary) -> str:
    tasks = bars(Bar(text.plain(task), estimate) for task, estimate in summary.by_task.items())
    conditions = bars(Bar(text.condition(name), estimate) for name, estimate in summary.conditions.items())
    return f'<div class="two"><div><h3>By task</h3>{tasks}</div><div><h3>By condition</h3>{conditions}</div></div>'


def _figures(summary: Summary) -> str:
    rows = (
        (f"<code>{name}</code>", html.escape(written(name, estimate)), str(estimate.n), html.escape(text.meaning(name)))
        for name, estimate in summary.metrics.items()
    )
    return table(("measure", "value [95 % interval]", "n", "meaning"), rows, ("", "number", "number", "meaning"))


def _baselines(summary: Summary) -> str:
    if not summary.baselines:
        return ""
    rows = []
    for player, found in summary.baselines.items():
        versus = summary.comparisons[player]
        cells = (written(name, found[name]) for name in ("success_rate", "language_following", "final_error_m"))
        advantage = f"{written('difference', versus['difference'])}, p {text.p_value(versus['p'])}"
        rows.append((text.PLAYERS[player], *map(html.escape, (*cells, str(found["success_rate"].n), advantage))))
    head = ("baseline", "success_rate", "language_following", "final_error_m", "n", "the policy's advantage (McNemar)")
    return "<h3>Baselines, on the same scenes</h3>" + table(head, rows, ("", *["number"] * 5))


def _repeat(summary: Summary) -> str:
    command = f"<pre>{html.escape(summary.command)}</pre>" if summary.command else ""
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    config = html.escape(json.dumps(summary.config, indent=2, ensure_ascii=False))
    clock = f"{summary.played} episodes played in {summary.seconds:.0f} s."
    return (
        f"{command}<p>Scenes of seed {summary.seed}. {html.escape(versions)}. {clock}</p>"
        f"<details><summary>Every setting</summary><pre>{config}</pre></details>"
    )
