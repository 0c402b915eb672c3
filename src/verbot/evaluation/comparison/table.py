"""A table of several policies on the same episodes, as ``table.json``, as Markdown and as lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from verbot.errors import ConfigError, CorruptFileError
from verbot.evaluation.comparison.paired import PairedRow, by_condition, results_of
from verbot.evaluation.comparison.ranking import CLEAR, holm, rank
from verbot.evaluation.comparison.rows import Figures, TableRow
from verbot.evaluation.protocol import metrics
from verbot.evaluation.protocol.intervals import NOTHING, Estimate
from verbot.evaluation.report.summary import format_estimate, versions
from verbot.evaluation.report.text import condition, p_value, plain
from verbot.files import read_record, write_atomic
from verbot.rollout.results import EpisodeResult

Verdict = Literal["base", "better", "worse", "same", "unpaired"]
MEASURES = {
    "success_rate": "success [95 %]",
    "strict_counterfactual": "strict counterfactual [95 %]",
    "paraphrase_retention": "paraphrase retention [95 %]",
}


@dataclass(frozen=True)
class Table:
    """All rows.

    Args:
        title: name of the evaluation, e.g. ``"tabletop-starter"``.
        base: name of the row with which the others are compared.
        about: common settings, for the page and the file: budget, data, seed, episodes.
        pending: names of rows that are not finished.
        command: the command line.
        out: the folder of the table.
    """

    title: str
    base: str
    rows: tuple[TableRow, ...]
    about: Mapping[str, Any]
    pending: tuple[str, ...] = ()
    command: str | None = None
    out: Path = Path()

    @property
    def exit_code(self) -> int:
        """1 if any row or any episode had an error, else 0."""
        return 1 if any(row.error or (row.figures and row.figures.errors) for row in self.rows) else 0

    def verdicts(self) -> dict[str, Verdict]:
        """Each row compared with the base, by McNemar's exact test at 5 %, corrected for the number of rows (Holm 1979)."""
        tested = [row for row in self.rows if row.against_base is not None and row.kind != "baseline"]
        found: dict[str, Verdict] = {row.name: "base" if row.name == self.base else "unpaired" for row in self.rows}
        for row, p in zip(tested, holm([row.against_base.p for row in tested if row.against_base]), strict=True):
            assert row.against_base is not None
            better = (row.against_base.difference.value or 0) > 0
            found[row.name] = "same" if p >= CLEAR else "better" if better else "worse"
        return found

    def to_json(self) -> dict[str, Any]:
        verdicts = self.verdicts()
        return {
            "title": self.title,
            "base": self.base,
            **self.about,
            "command": self.command,
            "versions": versions(),
            "pending": list(self.pending),
            "rows": [_record(row, verdicts[row.name], self.out) for row in self.rows],
        }

    def markdown(self) -> str:
        """Three tables (all rows, then success by task and by condition) and the ranking, as Markdown."""
        head, rows = _cells(self)
        parts = [f"# {self.title}", "", "; ".join(f"{plain(k)} {_inline(v)}" for k, v in self.about.items() if v is not None), ""]
        parts += _markdown(head, rows)
        for name, groups in (("task", "by_task"), ("condition", "conditions")):
            keys = groups_of(self.rows, groups)
            if len(keys) > 1:
                label = plain if name == "task" else condition
                parts += ["", f"## Success by {name}", ""]
                parts += _markdown(["", *map(label, keys)], [_by(row, groups, keys) for row in self.rows if row.measured])
        if ranking := rank(self.rows):
            parts += ["", "## Ranking", "", *(f"- {line}" for line in ranking.lines())]
        if faults := self.faults():
            parts += ["", "## Errors", "", *(f"- {line}" for line in faults)]
        return "\n".join(parts) + "\n"

    def text(self) -> str:
        """The table as aligned lines, for a terminal."""
        head, rows = _cells(self)
        kept = [i for i, name in enumerate(head) if name != "description"]
        lines = [[line[i] for i in kept] for line in [head, *rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*table, *(f"error: {line}" for line in self.faults())])

    def faults(self) -> list[str]:
        """One line for each row with an error."""
        found = {row.name: row.error or _faulty(row.figures) for row in self.rows}
        return [f"{name}: {fault}" for name, fault in found.items() if fault]

    def save(self) -> None:
        """Write ``table.json`` and ``table.md`` into `out`, each atomically."""
        content = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        for name, text in (("table.json", content), ("table.md", self.markdown())):
            write_atomic(self.out / name, text)


def read_figures(folder: Path) -> Figures:
    """The figures of an evaluation, which may be interrupted. Raises `ConfigError` for a folder without results."""
    path = folder / "summary.json"
    if not path.is_file():
        results = results_of(folder)
        if not results:
            raise ConfigError(f"{folder} holds no episodes yet")
        return _measure(results)
    record = read_record(path)
    try:
        metric, conditions, by_task = (
            {key: Estimate(**value) for key, value in dict(record[name]).items()} for name in ("metrics", "conditions", "by_task")
        )
        return Figures(record["condition"], metric, conditions, by_task, int(record["errors"]), *record["error_messages"][:1])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(path, f"is no summary of an evaluation ({error!r}); evaluate again to write it anew") from error


def groups_of(rows: Sequence[TableRow], name: str) -> list[str]:
    """The tasks or the conditions of all rows, in order of appearance."""
    return list(dict.fromkeys(key for row in rows if row.figures for key in getattr(row.figures, name)))


def millions(count: int | None) -> str:
    """Example:
    >>> millions(1_134_000), millions(None)
    ('1.13 M', '–')
    """
    return "–" if count is None else f"{count / 1e6:.2f} M"


def number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def _measure(results: Mapping[str, EpisodeResult]) -> Figures:
    """The figures computed from the episodes."""
    found = {name: [results[key] for key in keys] for name, keys in by_condition(results).items()}
    main = "canonical" if "canonical" in found else next(iter(found))
    ordered = {main: found[main], **found}
    return Figures(
        main,
        metrics.policy_metrics(ordered, ()),
        {name: metrics.success_rate(group) for name, group in ordered.items()},
        metrics.by_task(ordered[main]),
        sum(result.outcome == "error" for result in results.values()),
        next((f"{result.key}: {result.error}" for result in results.values() if result.outcome == "error"), ""),
    )


def _faulty(figures: Figures | None) -> str:
    return f"{figures.errors} episodes had errors; the first: {figures.fault}" if figures and figures.errors else ""


def _record(row: TableRow, verdict: Verdict, out: Path) -> dict[str, Any]:
    figures = {name: getattr(row.figures, name) if row.figures else {} for name in ("metrics", "conditions", "by_task")}
    return {
        "name": row.name,
        "kind": row.kind,
        "about": row.about,
        "recipe": row.recipe,
        "settings": dict(row.settings),
        "error": row.error,
        **{name: {key: estimate.to_json() for key, estimate in group.items()} for name, group in figures.items()},
        "errors": row.figures.errors if row.figures else 0,
        "against_base": _pair(row.against_base),
        "conditions_against_base": {name: _pair(paired) for name, paired in row.conditions_against_base.items()},
        "verdict": verdict,
        "parameters": row.cost.parameters,
        "samples": row.cost.samples,
        "seconds": row.cost.seconds,
        "samples_per_s": row.cost.samples_per_s,
        "evaluation": None if row.folder is None else relative(row.folder, out),
    }


def _pair(paired: PairedRow | None) -> dict[str, Any] | None:
    if paired is None:
        return None
    solved = {"only_this": paired.only_first, "only_base": paired.only_second}
    return {"n": paired.first.n, "difference": paired.difference.to_json(), **solved, "p": paired.p}


def relative(folder: Path, out: Path) -> str:
    """`folder` relative to the table's folder `out` if it lies there, otherwise absolute."""
    return folder.relative_to(out).as_posix() if folder.is_relative_to(out) else str(folder.resolve())


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the main table."""
    head = ["entry", "description", *MEASURES.values(), "n", "p against the base", "parameters", "latency p50, ms"]
    head += ["samples/s", "samples", "seconds"]
    return head, [_line(row, row.name == table.base) for row in table.rows]


def _line(row: TableRow, base: bool) -> list[str]:
    cost, p50 = row.cost, row.metric("latency_p50_ms").value
    found = ["error" if row.error else _estimate(name, row.metric(name)) for name in MEASURES]
    p = (
        "base"
        if base
        else "–"
        if row.against_base is None or row.kind == "baseline"
        else p_value(row.against_base.p).removeprefix("= ")
    )
    ends = [millions(cost.parameters), number(p50, 2), number(cost.samples_per_s), number(cost.samples), number(cost.seconds)]
    return [row.name, row.about, *found, str(row.metric("success_rate").n or "–"), p, *ends]


def _estimate(name: str, estimate: Estimate) -> str:
    return "–" if estimate.value is None else format_estimate(name, estimate)


def _by(row: TableRow, name: str, keys: Sequence[str]) -> list[str]:
    found: Mapping[str, Estimate] = getattr(row.figures, name)
    tested = row.conditions_against_base if name == "conditions" and row.kind != "baseline" else {}
    p = {key: f", p {p_value(paired.p)}" for key, paired in tested.items()}
    return [row.name, *(_estimate("success_rate", found.get(key, NOTHING)) + p.get(key, "") for key in keys)]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _inline(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
