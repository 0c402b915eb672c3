"""A row of a comparison: what was compared, its figures and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verbot.evaluation.comparison.paired import Row as Paired
from verbot.evaluation.protocol.intervals import NOTHING, Estimate

Kind = Literal["recipe", "policy", "baseline"]


@dataclass(frozen=True)
class Figures:
    """What an evaluation's folder says of whom it tested.

    Args:
        main: the condition that ``success_rate`` and `by_task` are about.
        metrics, conditions, by_task: as of `verbot.evaluation.Summary`.
        errors: episodes that a fault ended; they are in no figure. `fault` is what ended the first of them.
    """

    main: str
    metrics: Mapping[str, Estimate]
    conditions: Mapping[str, Estimate]
    by_task: Mapping[str, Estimate]
    errors: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Cost:
    """What a policy is and took: its `parameters`, and the `samples` it saw in `seconds` of training."""

    parameters: int | None = None
    samples: int | None = None
    seconds: float | None = None

    @property
    def samples_per_s(self) -> float | None:
        return self.samples / max(self.seconds, 1e-9) if self.samples is not None and self.seconds is not None else None


@dataclass(frozen=True)
class TableRow:
    """One candidate.

    Args:
        kind: a recipe was trained for the table, a policy was there before, a baseline stands beside both.
        settings: what is changed in the recipe.
        folder: its evaluation, None where it has none.
        error: why it has no figures; None where all went well.
        beside: each condition beside the base's; none of the base itself and where no episode is shared.
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
    beside: Mapping[str, Paired] = field(default_factory=dict)

    @property
    def against(self) -> Paired | None:
        """The main condition beside the base's."""
        return self.beside.get(self.figures.main) if self.figures else None

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
