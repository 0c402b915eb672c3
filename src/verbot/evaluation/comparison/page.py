"""The page of a `verbot.evaluation.comparison.table.Table`: success, latency and significance of every entry."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import quote

from verbot.evaluation.comparison.ranking import rank
from verbot.evaluation.comparison.rows import TableRow
from verbot.evaluation.comparison.table import Table, Verdict, groups_of, millions, number, relative
from verbot.evaluation.protocol.intervals import NOTHING, Estimate
from verbot.evaluation.report import text as wording
from verbot.evaluation.report.plots import Bar, Dot, bars, interval, percent, scatter, table
from verbot.evaluation.report.summary import format_estimate, versions
from verbot.files import write_atomic

COLORS: dict[Verdict, str] = {"base": "policy", "better": "good", "worse": "bad", "same": "other", "unpaired": "other"}
VERDICTS: dict[Verdict, str] = {
    "base": "the base",
    "better": "significantly better than the base",
    "worse": "significantly worse",
    "same": "not significant",
    "unpaired": "not paired with the base",
}
PLOT = (
    "Higher is better, left is faster: the median of single predictions on one core. Lines are 95 % intervals in both directions."
)
ENTRIES = "Click a column's head to sort by it. A name links to the report of that entry."
SIGNIFICANCE = (
    "All entries played the same episodes, so each is compared with the base episode by episode (McNemar's exact test). "
    "With {count} comparisons, “significant” means that p is below 0.05 after Holm's correction."
)
RANKING = "Significance on the same scenes: McNemar's exact test with Holm's correction."
GROUPS = "Success rate in percent; hover over a cell for its interval and n."
LEADERS = 5
BUDGETS = ("samples", "minutes", "steps")


def write_comparison_page(found: Table, path: Path) -> Path:
    """Write the page to `path` atomically."""
    style = (
        files("verbot.evaluation.report")
        .joinpath("page.html")
        .read_text(encoding="utf-8")
        .split("<style>")[1]
        .split("</style>")[0]
    )
    ranked = sorted(found.rows, key=lambda row: -row.value)
    best = next((row for row in ranked if row.kind != "baseline" and row.measured), None)
    success = best.metric("success_rate") if best else NOTHING
    page = Template(files("verbot.evaluation.comparison").joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(found.title),
        style=style,
        kicker=html.escape(_kicker(found)),
        headline=html.escape(_headline(found, best)),
        figure="–" if success.value is None else f"{100 * success.value:.1f}<small>%</small>",
        range=html.escape(f"{best.name}: {wording.confidence(success)}" if best else ""),
        leaders=bars(_leaders(found, ranked)),
        alarm=_alarm(found),
        sections="\n".join(_sections(found, ranked)),
        footer=html.escape(f"verbot {versions().get('verbot', '')}. Intervals are 95 %."),
    )
    write_atomic(path, page)
    return path


def _kicker(found: Table) -> str:
    about = found.about
    parts = [found.title, *(f"{number(about[name])} {name} of training each" for name in BUDGETS if name in about)]
    parts += [f"{about['episodes']} episodes, seed {about['seed']}"] if "episodes" in about else []
    return " · ".join([*parts, *([f"{len(found.pending)} pending"] if found.pending else [])])


def _headline(found: Table, best: TableRow | None) -> str:
    if best is None:
        return "No results yet."
    rows = [row for row in found.rows if row.kind != "baseline" and row.measured]
    success, equals = best.metric("success_rate"), sum(row.value == best.value for row in rows) - 1
    names = f"{best.name} and {equals} more" if equals else best.name
    done = f"{names} succeeded in {round(best.value * success.n)} of {success.n} unseen scenes"
    return f"{done}, the most of {len(rows)} entries." if len(rows) > 1 else f"{done}."


def _leaders(found: Table, ranked: Sequence[TableRow]) -> Iterator[Bar]:
    verdicts = found.verdicts()
    measured = [row for row in ranked if row.measured]
    entries = [row for row in measured if row.kind != "baseline"]
    shown = entries[:LEADERS] + [row for row in entries[LEADERS:] if row.name == found.base]
    for row in shown:
        yield Bar(row.name, row.metric("success_rate"), COLORS[verdicts[row.name]])
    for row in measured:
        if row.kind == "baseline":
            yield Bar(wording.AGENTS.get(row.name, row.name), row.metric("success_rate"), "other")


def _alarm(found: Table) -> str:
    faults = found.faults()
    count = f"{len(faults)} of {len(found.rows)} entries had errors, which count neither as success nor as failure."
    listed = "".join(f"<li><code>{html.escape(line)}</code></li>" for line in faults)
    return f'<div class="alarm"><b>{count}</b><ul>{listed}</ul></div>' if faults else ""


def _sections(found: Table, ranked: Sequence[TableRow]) -> Iterator[str]:
    verdicts = found.verdicts()
    if plot := scatter([_dot(row, verdicts[row.name]) for row in found.rows], "milliseconds of one prediction", "success"):
        yield _section("Success against latency", PLOT, plot + _key(found))
    if ranking := rank(found.rows):
        yield _section("Ranking", RANKING, f"<ul>{''.join(_list_item(line) for line in ranking.lines())}</ul>")
    counted = Counter(verdicts[row.name] for row in found.rows if row.kind != "baseline" and row.measured)
    tested = sum(counted[name] for name in ("better", "worse", "same"))
    lead = SIGNIFICANCE.format(count=tested) if tested else ""
    yield _section("All entries", f"{lead} {ENTRIES}".strip(), f'<div class="entries">{_entries(found, ranked)}</div>')
    if heat := _heat(found, ranked):
        yield _section("By task and by condition", GROUPS, heat)
    yield _section("Reproduction", wording.REPEAT, _repeat(found))


def _list_item(line: str) -> str:
    """A line of Markdown as an HTML list item."""
    return "<li>" + re.sub(r"[*]{2}(.+?)[*]{2}", r"<b>\1</b>", html.escape(line)) + "</li>"


def _section(title: str, lead: str, body: str) -> str:
    return f'<section><h2>{html.escape(title)}</h2><p class="lead">{html.escape(lead)}</p>{body}</section>'


def _dot(row: TableRow, verdict: Verdict) -> Dot:
    x, y = row.metric("latency_p50_ms"), row.metric("success_rate")
    latency = format_estimate("latency_p50_ms", x)
    note = f"{row.name}: {percent(y.value, 1)}, {interval(y)} (n = {y.n}); {latency}; {VERDICTS[verdict]}"
    return Dot(row.name, x, y, COLORS[verdict], note)


def _key(found: Table) -> str:
    verdicts = found.verdicts()
    present = {verdicts[row.name] for row in found.rows if row.metric("latency_p50_ms").value and row.metric("success_rate").n}
    order = [verdict for verdict in VERDICTS if verdict in present]
    marks = (f'<span style="--color: var(--{COLORS[verdict]})"><i></i>{VERDICTS[verdict]}</span>' for verdict in order)
    return f'<div class="key">{"".join(marks)}</div>'


def _entries(found: Table, ranked: Sequence[TableRow]) -> str:
    verdicts = found.verdicts()
    head = ("", "success", "strict counterfactual", "paraphrase retention", f"against {found.base}", "parameters", "p50, ms")
    rows = (_row(row, verdicts[row.name], found.out) for row in ranked)
    return table((*head, "training"), rows, ("wide", "bar", *["number"] * 6))


def _row(row: TableRow, verdict: Verdict, out: Path) -> list[str]:
    report = None if row.folder is None else row.folder / "report.html"
    name = f'<span class="name" data-row="{html.escape(row.name)}">{html.escape(row.name)}</span>'
    if report is not None and report.is_file():
        name = f'<a href="{quote(relative(report, out), safe="/=+")}">{name}</a>'
    cost, p50 = row.cost, row.metric("latency_p50_ms").value
    trained = f'<br><span class="interval">{number(cost.samples)} in {number(cost.seconds)} s</span>' if cost.samples else ""
    speed = "–" if cost.samples_per_s is None else f"{number(cost.samples_per_s)} samples/s"
    costs = [(cost.parameters, millions(cost.parameters)), (p50, number(p50, 2)), (cost.samples_per_s, speed + trained)]
    return [
        f'{name}<span class="about">{html.escape(row.about)}</span>',
        '<span data-value="-1">error</span>' if row.error else _success(row.metric("success_rate"), COLORS[verdict]),
        *(_share(row.metric(name)) for name in ("strict_counterfactual", "paraphrase_retention")),
        _against(row, verdict),
        *(f'<span data-value="{"" if value is None else value}">{text}</span>' for value, text in costs),
    ]


def _success(success: Estimate, color: str) -> str:
    text = f'<b>{percent(success.value, 1)}</b><span class="interval">{interval(success)}, n = {success.n}</span>'
    return f'<span data-value="{-1 if success.value is None else success.value}">{text}</span>{bars([Bar("", success, color)])}'


def _share(estimate: Estimate) -> str:
    if estimate.value is None:
        return '<span data-value="">–</span>'
    limits = f'<span class="interval">{interval(estimate)}</span>'
    return f'<span data-value="{estimate.value}">{percent(estimate.value, 1)}</span><br>{limits}'


def _against(row: TableRow, verdict: Verdict) -> str:
    if row.against_base is None or row.kind == "baseline":
        return f'<span data-value="">{"the base" if verdict == "base" else "–"}</span>'
    value, label = row.against_base.difference.value or 0.0, VERDICTS[verdict].removesuffix(" than the base")
    points = f"{100 * value:+.1f} points, p {wording.p_value(row.against_base.p)}".replace("-", "−")
    mark = f'<span class="verdict" style="--color: var(--{COLORS[verdict]})"><i></i>{label}</span>'
    return f'<span data-value="{value}">{mark}</span><br><span class="interval">{points}</span>'


def _heat(found: Table, ranked: Sequence[TableRow]) -> str:
    columns = [("by_task", key, wording.plain(key)) for key in groups_of(found.rows, "by_task")]
    columns += [("conditions", key, wording.condition(key)) for key in groups_of(found.rows, "conditions")]
    if len(columns) < 3:
        return ""
    first = next((i for i, column in enumerate(columns) if column[0] == "conditions"), 0)
    gap = [" gap" if i == first else "" for i in range(len(columns))]
    head = "".join(f'<th class="cell{g}">{html.escape(label)}</th>' for (_, _, label), g in zip(columns, gap, strict=True))
    body = ""
    for row in ranked:
        if row.measured:
            cells = ((getattr(row.figures, group).get(key, NOTHING), f"{row.name}, {label}") for group, key, label in columns)
            marks = "".join(_cell(estimate, place, g) for (estimate, place), g in zip(cells, gap, strict=True))
            body += f"<tr><td>{html.escape(row.name)}</td>{marks}</tr>"
    return f'<div class="scroll heat"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(estimate: Estimate, place: str, gap: str) -> str:
    if estimate.value is None:
        return f'<td class="{gap}"></td>'
    title = html.escape(f"{place}: {format_estimate('success_rate', estimate)}, n = {estimate.n}")
    return f'<td class="cell{gap}" style="--share: {estimate.value:.3f}" title="{title}">{100 * estimate.value:.0f}</td>'


def _repeat(found: Table) -> str:
    command = f"<pre>{html.escape(found.command)}</pre>" if found.command else ""
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    rows = [{"name": r.name, "recipe": r.recipe, "settings": dict(r.settings)} for r in found.rows if r.recipe]
    settings = html.escape(json.dumps({**found.about, "base": found.base, "entries": rows}, indent=2, ensure_ascii=False))
    return (
        f"{command}<p>{html.escape(made)}. The figures as data: <code>table.json</code> in the same folder.</p>"
        f"<details><summary>Settings of every entry</summary><pre>{settings}</pre></details>"
    )
