"""Ranks the rows of a table: those not significantly worse than the best, and the cheapest of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from verbot.errors import ConfigError
from verbot.evaluation.comparison.paired import PairedRow, compare_evaluations
from verbot.evaluation.comparison.rows import TableRow
from verbot.evaluation.report.summary import format_estimate
from verbot.evaluation.report.text import plain

CLEAR = 0.05


@dataclass(frozen=True)
class Ranking:
    """The best rows of a table.

    Args:
        best: the row with the highest success rate; the fastest of them in a tie.
        equals: the rows of the same scenes that are not significantly worse, by success rate, including `best`. The
            test is McNemar's exact test at 5 %, corrected for the number of rows (Holm 1979).
        front: the Pareto front of latency and success rate, the fastest first.
    """

    best: TableRow
    equals: tuple[TableRow, ...]
    front: tuple[TableRow, ...]

    def lines(self) -> Iterator[str]:
        """The ranking as sentences in Markdown."""
        others = [row.name for row in self.equals if row is not self.best]
        highest = format_estimate("success_rate", self.best.metric("success_rate"))
        yield f"**{self.best.name}** has the highest success rate: {highest}."
        if others:
            yield f"Not significantly worse on the same scenes: {', '.join(others)}."
            for claim, unit, cost in COSTS:
                costs = [(value, row) for row in self.equals if (value := cost(row)) is not None]
                if len(costs) > 1:
                    value, row = min(costs, key=lambda pair: pair[0])
                    yield f"Of these, **{row.name}** {claim}: {unit(abs(value))}."
        else:
            yield "All others are significantly worse on the same scenes."
        if len(self.front) > 1:
            steps = (f"{row.name} ({latency(row):.2f} ms, {100 * row.value:.1f} %)" for row in self.front)
            yield f"No other row is both faster and better than: {', '.join(steps)}."
        for task, names in self._by_task().items():
            yield f"Best at {plain(task)}: {', '.join(names)}."

    def _by_task(self) -> dict[str, list[str]]:
        """The best rows of each task in which `best` is not the best."""
        found = {}
        for task, own in self.best.figures.by_task.items() if self.best.figures else ():
            values = {row.name: row.figures.by_task[task].value or 0.0 for row in self.front + self.equals if row.figures}
            if (own.value or 0.0) < max(values.values()):
                found[task] = [name for name, value in values.items() if value == max(values.values())]
        return found


def rank(rows: Sequence[TableRow]) -> Ranking | None:
    """The ranking of `rows`; None if fewer than two of them were measured."""
    rows = [row for row in rows if row.kind != "baseline" and row.measured]
    if len(rows) < 2:
        return None
    ranked = sorted(rows, key=lambda row: (-row.value, latency(row) or 0.0))
    best, *others = ranked
    main = best.figures.main if best.figures else ""
    pairs = [versus(row.folder, best.folder).get(main) if row.folder and best.folder else None for row in others]
    paired = [(row, pair) for row, pair in zip(others, pairs, strict=True) if pair is not None]
    adjusted = holm([pair.p for _, pair in paired])
    equals = (best, *(row for (row, _), p in zip(paired, adjusted, strict=True) if p >= CLEAR))
    front: list[TableRow] = []
    for row in sorted((row for row in ranked if latency(row)), key=lambda row: latency(row) or 0.0):
        if not front or row.value > front[-1].value:
            front.append(row)
    return Ranking(best, equals, tuple(front))


def versus(folder: Path, base: Path) -> dict[str, PairedRow]:
    """`folder` compared with `base` under every condition in which they share an episode."""
    try:
        return {row.group: row for row in compare_evaluations(folder, base).conditions}
    except ConfigError:
        return {}


def holm(ps: Sequence[float]) -> list[float]:
    """P-values adjusted for multiple comparisons (Holm 1979).

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def latency(row: TableRow) -> float | None:
    """The median time of a single prediction in milliseconds."""
    return row.metric("latency_p50_ms").value


COSTS: tuple[tuple[str, Callable[[float], str], Callable[[TableRow], float | None]], ...] = (
    ("predicts fastest", lambda value: f"{value:.2f} ms", latency),
    ("is smallest", lambda value: f"{value / 1e6:.2f} M parameters", lambda row: row.cost.parameters),
    (
        "trained fastest",
        lambda value: f"{value:.0f} samples/s",
        lambda row: None if row.cost.samples_per_s is None else -row.cost.samples_per_s,
    ),
)
