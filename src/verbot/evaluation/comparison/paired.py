"""Compares two policies on the same episodes: the paired difference in success rate and its significance."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import former_names
from verbot.errors import ConfigError, CorruptFileError
from verbot.evaluation.protocol.conditions import WORDINGS, axes_suffix
from verbot.evaluation.protocol.intervals import Estimate, difference, mcnemar, proportion
from verbot.evaluation.report.summary import format_estimate
from verbot.evaluation.report.text import condition, p_value, plain
from verbot.files import read_record, write_atomic
from verbot.rollout.results import EpisodeResult, read_results

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, compare="compare_evaluations")


@dataclass(frozen=True)
class PairedRow:
    """One group of episodes that both policies ran.

    Args:
        first, second: success rate of each.
        difference: first minus second, with the paired interval.
        only_first, only_second: number of episodes that only one of them solved.
        p: p-value of McNemar's exact test, two-sided.
    """

    group: str
    first: Estimate
    second: Estimate
    difference: Estimate
    only_first: int
    only_second: int
    p: float

    def to_json(self) -> dict[str, Any]:
        estimates = {name: getattr(self, name).to_json() for name in ("first", "second", "difference")}
        return {**estimates, "only_first": self.only_first, "only_second": self.only_second, "p": self.p}


@dataclass(frozen=True)
class Comparison:
    """Rows by condition, and by task within the first condition.

    Args:
        unmatched: number of episodes that only one policy ran, or in which one of them had an error.
    """

    first: str
    second: str
    conditions: tuple[PairedRow, ...]
    tasks: tuple[PairedRow, ...]
    unmatched: int

    def to_json(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "conditions": {row.group: row.to_json() for row in self.conditions},
            "by_task": {row.group: row.to_json() for row in self.tasks},
            "unmatched": self.unmatched,
        }

    def save(self, path: Path) -> Path:
        write_atomic(path, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        return path

    def table(self) -> str:
        """The comparison as lines of text."""
        head = ("", "n", "A", "B", "A − B [95 %]", "only A", "only B", "p (McNemar)")
        rows = [head, *(_cells(row, condition(row.group)) for row in self.conditions)]
        rows += [_cells(row, plain(row.group)) for row in self.tasks if len(self.tasks) > 1]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        left = [f"{self.unmatched} episodes could not be paired"] if self.unmatched else []
        return "\n".join([f"A = {self.first}", f"B = {self.second}", *lines, *left])


def compare_evaluations(first: str | Path, second: str | Path, agent: str = "policy") -> Comparison:
    """Compare two evaluation folders, episode by episode.

    Args:
        agent: the agent whose episodes are compared, in both folders.

    Raises:
        ConfigError: a folder holds no results, or the two have no episode in common.
    """
    a, b = (results_of(Path(folder), agent) for folder in (first, second))
    shared = [key for key in a if key in b and "error" not in (a[key].outcome, b[key].outcome)]
    if not shared:
        raise ConfigError(
            f"{first} and {second} have no episode in common: evaluate both on the same suite, with the same seed and mode"
        )
    groups = by_condition({key: a[key] for key in shared})
    main = groups.get("canonical") or next(iter(groups.values()))
    tasks: dict[str, list[str]] = defaultdict(list)
    for key in main:
        tasks[a[key].task].append(key)
    return Comparison(
        _name(Path(first)),
        _name(Path(second)),
        tuple(_row(group, [(a[key].success, b[key].success) for key in keys]) for group, keys in groups.items()),
        tuple(_row(task, [(a[key].success, b[key].success) for key in keys]) for task, keys in tasks.items()),
        len(a.keys() | b.keys()) - len(shared),
    )


def _row(group: str, pairs: Sequence[tuple[bool, bool]]) -> PairedRow:
    return PairedRow(
        group,
        proportion([x for x, _ in pairs]),
        proportion([y for _, y in pairs]),
        difference(pairs),
        sum(x and not y for x, y in pairs),
        sum(y and not x for x, y in pairs),
        mcnemar(pairs),
    )


def _cells(row: PairedRow, label: str) -> tuple[str, ...]:
    first, second = (f"{100 * (e.value or 0):.1f} %" for e in (row.first, row.second))
    versus = format_estimate("difference", row.difference)
    return label, str(row.first.n), first, second, versus, str(row.only_first), str(row.only_second), p_value(row.p)


def results_of(folder: Path, agent: str = "policy") -> Mapping[str, EpisodeResult]:
    """The episodes of an evaluation by key, without the agent in the key. Raises `ConfigError` if there are no results."""
    path = folder / "results.jsonl"
    if not path.is_file():
        raise ConfigError(f"{folder} holds no results.jsonl; `verbot evaluate POLICY --out {folder}` writes one")
    # The evaluated agent counts as the policy, even if it is the expert itself.
    tested = _tested(folder) if agent == "policy" else agent
    results = [result for result in read_results(path) if result.agent == tested]
    return {result.key.split("/", 1)[-1]: result for result in results}


def _tested(folder: Path) -> str:
    name = _name(folder)
    return name if name in ("expert", "random") else "policy"


def _name(folder: Path) -> str:
    path = folder / "run.json"
    if not path.is_file():
        return folder.name
    if "policy" not in (record := read_record(path)):
        raise CorruptFileError(path, "names no policy")
    return str(record["policy"])


def by_condition(results: Mapping[str, EpisodeResult]) -> dict[str, list[str]]:
    """The keys (without their agent) of the episodes of each condition.

    The first goal of a scene under canonical wording also counts for the counterfactual condition if another goal was played.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for key, result in results.items():
        groups[condition_of(key, result)].append(key)
    if "counterfactual" in groups:
        states = {(results[key].task, results[key].index) for key in groups["counterfactual"]}
        groups["counterfactual"] += [k for k in groups.get("canonical", ()) if (results[k].task, results[k].index) in states]
    return dict(groups)


def condition_of(key: str, result: EpisodeResult) -> str:
    """The condition of an episode, given its key without the agent."""
    _, _, _, goal, wording, composition, *_ = key.split("/")
    axes = axes_suffix(result.axes)
    if composition == "unseen":
        return "composition" + axes
    if goal != "goal0":
        return "counterfactual" + axes
    modes = {wording: mode for mode, wording in WORDINGS.items()}
    return modes.get(wording, "canonical") + axes
