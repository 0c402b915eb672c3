"""The summary of an evaluation: metrics, baselines and settings, as ``summary.json`` and as a table."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from verbot.evaluation.protocol.intervals import Estimate
from verbot.files import write_atomic

PERCENT = frozenset(
    [
        *("success_rate", "execution_accuracy", "language_following", "engagement_rate", "language_understanding"),
        *("strict_counterfactual", "language_sensitivity", "difference"),
        *("paraphrase_retention", "longer_retention", "composition_retention"),
    ]
)


@dataclass(frozen=True)
class Summary:
    """The results of one evaluation.

    Args:
        policy: name of the evaluated policy.
        suite: the env's name.
        condition: the main condition, to which `metrics` refer unless their definition says otherwise.
        episodes: number of scenes of the main condition.
        seed: seed of the scenes.
        metrics: estimates by name; the definitions are in `verbot.evaluation.protocol.metrics`.
        conditions: `success_rate` under each condition.
        baselines: metrics of the random, expert and blind agents.
        comparisons: advantage of the policy over each baseline on the same scenes: ``difference`` and McNemar's ``p``.
        by_task: `success_rate` of the policy by task.
        errors: number of episodes that ended with an error; they are in no metric.
        error_messages: the first error messages.
        seconds: wall-clock time of all episodes that were run in this call.
        played: number of episodes that were run in this call, without those of an earlier interrupted run.
        out: the folder with ``results.jsonl``, ``summary.json`` and ``report.html``.
    """

    policy: str
    suite: str
    condition: str
    episodes: int
    seed: int
    metrics: Mapping[str, Estimate]
    conditions: Mapping[str, Estimate]
    baselines: Mapping[str, Mapping[str, Estimate]]
    comparisons: Mapping[str, Mapping[str, Any]]
    by_task: Mapping[str, Estimate]
    errors: int
    error_messages: tuple[str, ...]
    config: Mapping[str, Any]
    command: str | None
    seconds: float
    played: int
    out: str
    versions: Mapping[str, str] = field(default_factory=lambda: versions())

    @property
    def exit_code(self) -> int:
        """1 if any episode had an error, else 0."""
        return 1 if self.errors else 0

    def to_json(self) -> dict[str, Any]:
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "out"}
        return {name: _plain(value) for name, value in record.items()}

    def save(self) -> Path:
        path = Path(self.out) / "summary.json"
        write_atomic(path, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        return path

    def table(self) -> str:
        """The metrics as lines of text."""
        rows = [(name, format_estimate(name, estimate), f"n = {estimate.n}") for name, estimate in self.metrics.items()]
        rows += [
            (f"{agent} success_rate", format_estimate("success_rate", found["success_rate"]), f"n = {found['success_rate'].n}")
            for agent, found in self.baselines.items()
        ]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = f"{self.policy} on {self.suite}, {self.condition}, {self.episodes} scenes, seed {self.seed}"
        return "\n".join([head, *lines, f"errors  {self.errors}"])


def format_estimate(name: str, estimate: Estimate) -> str:
    """An estimate as text, in the unit that its name implies.

    Example:
        >>> format_estimate("success_rate", Estimate(0.9, 0.85, 0.93, 200))
        '90.0 % [85.0, 93.0]'
        >>> format_estimate("final_error_m", Estimate(0.013, 0.01, 0.02, 9))
        '1.3 cm [1.0, 2.0]'
    """
    scale, unit, digits = 1.0, "", 3
    if name in PERCENT or name.startswith("retention_"):
        scale, unit, digits = 100.0, " %", 1
    elif name.endswith("_m"):
        scale, unit, digits = 100.0, " cm", 1
    elif name.endswith("_ms"):
        scale, unit, digits = 1.0, " ms", 1
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "not measured"
    value, low, high = (f"{scale * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value}{unit} [{low}, {high}]"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results; absent packages are left out."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("verbot", "numpy", "torch", "mujoco"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
