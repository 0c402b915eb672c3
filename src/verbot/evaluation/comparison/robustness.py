"""Robustness: the success that a policy loses under each domain shift.

Without a robot the sim-to-real gap cannot be measured. The gap measured here lies between the nominal simulation and simulations
shifted along named axes, one at a time and all at once. Both use the same scenes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.errors import ConfigError
from verbot.evaluation.comparison.paired import by_condition, results_of
from verbot.evaluation.protocol.conditions import ALL, AXES
from verbot.evaluation.protocol.intervals import Estimate, difference, mcnemar
from verbot.evaluation.protocol.metrics import paired, retention, success_rate
from verbot.evaluation.report.radar import Outline, radar
from verbot.evaluation.report.summary import format_estimate
from verbot.evaluation.report.text import errors as errors_text
from verbot.evaluation.report.text import p_value, plain
from verbot.files import replacing, write_atomic

NOMINAL = "canonical"


@dataclass(frozen=True)
class Shift:
    """Success under a domain shift, compared with the nominal domain on the same scenes.

    Args:
        axes: strength of each shifted axis.
        success: success rate under the shift.
        gap: success rate in the nominal domain minus `success`, paired by scene.
        retention: `success` / success rate in the nominal domain, paired by scene.
        p: p-value of McNemar's exact test, two-sided, that both domains are equally hard.
    """

    axes: Mapping[str, int]
    success: Estimate
    gap: Estimate
    retention: Estimate
    p: float

    @property
    def label(self) -> str:
        return shift_label(self.axes)

    def to_json(self) -> dict[str, Any]:
        figures = {name: getattr(self, name).to_json() for name in ("success", "gap", "retention")}
        return {"axes": dict(self.axes), "label": self.label, **figures, "p": self.p}


@dataclass(frozen=True)
class RobustnessReport:
    """The success of one policy in the nominal domain and under each shift.

    Args:
        shifts: single axes first, in their order, then several at once; stronger ones last.
        errors: number of episodes that ended with an error; they are in no figure.
    """

    policy: str
    nominal: Estimate
    shifts: tuple[Shift, ...]
    errors: int = 0

    def to_json(self) -> dict[str, Any]:
        shifts = [shift.to_json() for shift in self.shifts]
        return {"policy": self.policy, "nominal": self.nominal.to_json(), "shifts": shifts, "errors": self.errors}


def shift_label(axes: Mapping[str, int]) -> str:
    """A short name of a domain shift.

    Example:
        >>> shift_label({"camera": 2}), shift_label(dict.fromkeys(AXES, 3))
        ('camera 2', 'all at once 3')
        >>> shift_label({"camera": 2, "lighting": 1})
        'camera 2, lighting 1'
    """
    strengths = set(axes.values())
    if len(strengths) == 1 and len(axes) >= len(AXES) - 2:
        left_out = " and ".join(plain(axis) for axis in AXES if axis not in axes)
        return f"{ALL} at once{f' but {left_out}' if left_out else ''} {strengths.pop()}"
    return ", ".join(f"{plain(axis)} {strength}" for axis, strength in axes.items())


def read_robustness(folder: str | Path, policy: str | None = None) -> RobustnessReport:
    """Read every domain shift from an evaluation folder, under canonical wording.

    Args:
        policy: name of the policy in tables and plots; the folder's name if None.

    Raises `ConfigError` if the nominal domain or every shifted one is missing.
    """
    results = results_of(Path(folder))
    groups = {name: [results[key] for key in keys] for name, keys in by_condition(results).items()}
    nominal = groups.get(NOMINAL, [])
    shifted = [found for name, found in groups.items() if name.startswith(f"{NOMINAL} ")]
    if not nominal or not shifted:
        raise ConfigError(
            f"{folder} holds no {'shifted' if nominal else 'nominal'} domain; `verbot robustness POLICY --out FOLDER` plays "
            f"both, and so does `verbot evaluate POLICY --axis {ALL}`"
        )
    shifts = []
    for found in shifted:
        pairs = paired(nominal, found)
        axes = {axis: found[0].axes[axis] for axis in AXES if found[0].axes.get(axis)}
        shifts.append(Shift(axes, success_rate(found), difference(pairs), retention(found, nominal), mcnemar(pairs)))
    shifts.sort(key=lambda shift: (max(shift.axes.values()), len(shift.axes), AXES.index(next(iter(shift.axes)))))
    errors = sum(result.outcome == "error" for found in (nominal, *shifted) for result in found)
    return RobustnessReport(policy or Path(folder).name, success_rate(nominal), tuple(shifts), errors)


def table(gaps: Sequence[RobustnessReport]) -> str:
    """The reports as lines of text, with a row for each policy and domain."""
    head = ("policy", "domain", "n", "success [95 %]", "gap [95 %]", "retention [95 %]", "p (McNemar)")
    rows = [head]
    for gap in gaps:
        rows.append((gap.policy, "nominal", str(gap.nominal.n), format_estimate("success_rate", gap.nominal), "", "", ""))
        for shift in gap.shifts:
            cells = (
                format_estimate("success_rate", shift.success),
                format_estimate("difference", shift.gap),
                format_estimate("retention_", shift.retention),
            )
            rows.append((gap.policy, shift.label, str(shift.success.n), *cells, p_value(shift.p)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"{gap.policy}: {errors_text(gap.errors)}" for gap in gaps if gap.errors)])


def write(gaps: Sequence[RobustnessReport], out: Path, command: str | None = None) -> Path:
    """Write ``robustness.json`` and, for at least three domains, ``robustness.png``, a radar chart. Returns the folder."""
    out.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "policies": [gap.to_json() for gap in gaps]}
    write_atomic(out / "robustness.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    labels = list(dict.fromkeys(shift.label for gap in gaps for shift in gap.shifts))
    outlines = []
    for gap in gaps:
        found = {shift.label: shift.success for shift in gap.shifts}
        title = f"{gap.policy}: nominal {format_estimate('success_rate', gap.nominal)}"
        outlines.append(Outline(title, [gap.nominal, *(found.get(label) for label in labels)]))
    if len(labels) > 1:
        with replacing(out / "robustness.png") as draft:
            radar(["nominal", *labels], outlines).quantize(128).save(draft, "png", optimize=True)
    return out
