"""A row of a comparison table: the compared policy, its figures and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verbot.evaluation.comparison.paired import PairedRow
from verbot.evaluation.protocol.intervals import NOTHING, Estimate

Kind = Literal["recipe", "policy", "baseline"]


@dataclass(frozen=True)
class Figures:
    """The figures of an evaluation folder.

    Args:
        main: the condition of ``success_rate`` and `by_task`.
        metrics, conditions, by_task: as in `verbot.evaluation.Summary`.
        errors: number of episodes that ended with an error; they are in no figure.
        fault: the message of the first error.
    """

    main: str
    metrics: Mapping[str, Estimate]
    conditions: Mapping[str, Estimate]
    by_task: Mapping[str, Estimate]
    errors: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Cost:
    """The cost of a policy: the number of `parameters`, and the number of training `samples` and `seconds`."""

    parameters: int | None = None
    samples: int | None = None
    seconds: float | None = None

    @property
    def samples_per_s(self) -> float | None:
        return self.samples / max(self.seconds, 1e-9) if self.samples is not None and self.seconds is not None else None


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        kind: ``"recipe"`` was trained for the table, ``"policy"`` existed before, ``"baseline"`` is a reference agent.
        settings: the changes to the recipe.
        folder: the evaluation folder, if any.
        error: the reason for missing figures; None without an error.
        conditions_against_base: each condition compared with the base; empty for the base, or without common episodes.
    """

    name: str
    kind: Kind
    about: str = ""
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    figures: Figures | None = None
    cost: Cost = field(default_factory=Cost)
    error: str | None = None
    conditions_against_base: Mapping[str, PairedRow] = field(default_factory=dict)

    @property
    def against_base(self) -> PairedRow | None:
        """The main condition compared with the base."""
        return self.conditions_against_base.get(self.figures.main) if self.figures else None

    def metric(self, name: str) -> Estimate:
        return self.figures.metrics.get(name, NOTHING) if self.figures else NOTHING

    @property
    def measured(self) -> bool:
        return self.metric("success_rate").n > 0

    @property
    def value(self) -> float:
        """Success, and less than none for a row without figures: what rows are ranked by."""
        value = self.metric("success_rate").value
        return -1.0 if value is None else value
