"""What a control loop reports while it runs and at its end: bounded in memory, in bytes a second and in lines."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.agents.guard_events import RULES, GuardEvent
from verbot.files import LineLog

LOG = "run.jsonl"
LONGEST_LINE = 4096  # characters
EVENTS_A_LINE = 8
LINES_A_SECOND = 10  # about single steps
_SMALLEST_S, _RATIO, _BINS = 1e-6, 1.02, 1024  # up to 640 s


class LatencyHistogram:
    """Quantiles of durations in constant memory: bins that widen by 2 %, so that each quantile is right within 1 %.

    Example:
        >>> histogram = LatencyHistogram()
        >>> for milliseconds in range(1, 101):
        ...     histogram.add(milliseconds / 1000)
        >>> round(histogram.quantile(0.5), 3), histogram.largest_s
        (0.05, 0.1)
    """

    def __init__(self) -> None:
        self._counts, self.largest_s, self.count = np.zeros(_BINS, np.int64), 0.0, 0

    def add(self, seconds: float) -> None:
        bin_ = int(math.log(max(seconds, _SMALLEST_S) / _SMALLEST_S) / _LOG_RATIO)
        self._counts[min(bin_, _BINS - 1)] += 1
        self.count += 1
        self.largest_s = max(self.largest_s, seconds)

    def quantile(self, share: float) -> float:
        """In seconds; NaN of nothing."""
        if not self.count:
            return math.nan
        bin_ = int(np.searchsorted(np.cumsum(self._counts), share * self.count))
        return float(min(_SMALLEST_S * _RATIO ** (bin_ + 0.5), self.largest_s))

    def to_json(self) -> dict[str, float | None]:
        """Milliseconds; None of nothing."""
        found = {f"p{round(100 * share)}": self.quantile(share) for share in (0.5, 0.95, 0.99)} | {"max": self.largest_s}
        return {name: round(1e3 * value, 3) if math.isfinite(value) else None for name, value in found.items()}


_LOG_RATIO = math.log(_RATIO)
DURATIONS = ("period", "late", "age", "observe", "act", "step")


@dataclass(frozen=True)
class LoopStep:
    """One control step.

    Args:
        number: of the control period since the beginning.
        period_s: since the step before; None of the first.
        late_s: how long after its due time the step began.
        age_s: of the oldest part of the observation, when the action was commanded.
        observe_s, act_s: how long the robot took to observe, and the agent with its guard to act.
        step_s: from the beginning of the step to its command.
        skipped: control periods that passed without a step after this one, because it took too long.
        held: why the guard held the robot, or ``""``; `waits` why the agent did.
        events: of the guard.
    """

    number: int
    period_s: float | None
    late_s: float
    age_s: float
    observe_s: float
    act_s: float
    step_s: float
    skipped: int = 0
    held: str = ""
    waits: str = ""
    events: Sequence[GuardEvent] = ()


@dataclass
class LoopSummary:
    """The figures of a run.

    Args:
        rate_hz: the rate that was asked for.
        steps: control steps that were executed; `misses` of them ended after their period, and `skipped` periods had none.
        changed: steps whose action the guard changed; `held` those in which it held the robot.
        waited: steps in which the agent held it, because the policy did not answer.
        rules: events of the guard by their rule.
        ended: why the run ended: ``"time"``, ``"finished"``, ``"signal"`` or ``"fault"``; `fault` and `signal` say which.
        durations: quantiles in ms, by `DURATIONS`.
    """

    rate_hz: float
    steps: int = 0
    misses: int = 0
    skipped: int = 0
    changed: int = 0
    held: int = 0
    waited: int = 0
    latched: str = ""
    rules: dict[str, int] = field(default_factory=dict)
    ended: str = ""
    fault: str = ""
    signal: int = 0
    seconds: float = 0.0
    durations: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """For people."""
        lines = [
            f"{self.steps} control steps in {self.seconds:.1f} s at {self.rate_hz:g} Hz; ended by {self.ended or '?'}",
            f"deadlines missed: {self.misses}, periods skipped: {self.skipped}",
            f"guard: {self.changed} actions changed, {self.held} steps held"
            + (f" ({', '.join(f'{rule} {count}' for rule, count in self.rules.items())})" if self.rules else ""),
            f"policy: {self.waited} steps without an answer in time",
            *([f"latched: {self.latched}"] if self.latched else []),
            f"{'ms':<10}{'p50':>10}{'p95':>10}{'p99':>10}{'max':>10}",
        ]
        for name, row in self.durations.items():
            lines.append(f"{name:<10}" + "".join(f"{'–' if value is None else f'{value:.2f}':>10}" for value in row.values()))
        return "\n".join(lines)


class LoopReport:
    """Counts steps, writes ``run.jsonl`` below `folder`, and sums up.

    The log has a line when the run begins, one for each `interval_s` with its figures, one for each step with guard events, a
    hold that begins or ends, or a missed deadline (at most `LINES_A_SECOND` of these; others are counted), and the summary.
    Each line is in the file when the step ends, and has at most `LONGEST_LINE` characters: a killed process leaves whole lines.

    Args:
        folder: None writes nothing.
        about: what the first line says of the run.
    """

    def __init__(self, rate_hz: float, folder: Path | None, about: Mapping[str, Any], interval_s: float = 1.0):
        self.summary = LoopSummary(rate_hz)
        self._log = None if folder is None else LineLog(folder / LOG)
        self._interval_s, self._next_s = interval_s, interval_s
        self._all = {name: LatencyHistogram() for name in DURATIONS}
        self._rules: Counter[str] = Counter()
        self._before, self._lines, self._hidden = ("", ""), 0, 0
        self._counted = (0, 0, 0, 0)
        self.latest_event = ""
        self._write({"kind": "begin", "rate_hz": rate_hz, **about})

    def add(self, step: LoopStep, time_s: float) -> None:
        """Count a step that ended `time_s` after the beginning."""
        summary, held = self.summary, (step.held, step.waits)
        summary.steps += 1
        summary.misses += step.skipped > 0
        summary.skipped += step.skipped
        summary.changed += bool(step.events) and not step.held
        summary.held += bool(step.held)
        summary.waited += bool(step.waits)
        summary.seconds = time_s
        for name in DURATIONS:
            value = getattr(step, f"{name}_s")
            if value is not None:
                self._all[name].add(value)
        self._rules.update(event.rule for event in step.events)
        if step.events:
            self.latest_event = str(step.events[0])
        if step.events or step.skipped or held != self._before:
            self._step_line(step, time_s)
        self._before = held
        if time_s >= self._next_s:
            self._interval_line(time_s)

    def instructed(self, instruction: str, time_s: float) -> None:
        """Another instruction came in the run."""
        self._write({"kind": "instruction", "time_s": round(time_s, 4), "instruction": instruction[:1000]})

    def note(self) -> str:
        """One short line for people, of now."""
        summary, held = self.summary, self._before[0] or self._before[1]
        parts = [
            f"{summary.misses} late",
            f"act p99 {1e3 * self._all['act'].quantile(0.99):.1f} ms",
            f"period p99 {1e3 * self._all['period'].quantile(0.99):.1f} ms",
            f"age {1e3 * self._all['age'].quantile(0.5):.0f} ms",
            f"{summary.changed} changed",
        ]
        if held:
            parts.append(f"HELD: {held[:60]}")
        elif self.latest_event:
            parts.append(self.latest_event[:60])
        return ", ".join(parts)

    def finish(self, ended: str, fault: str = "", latched: str = "") -> LoopSummary:
        """Write the summary, on disk when this returns."""
        summary = self.summary
        summary.ended, summary.fault, summary.latched = ended, fault[:1000], latched
        summary.rules = {rule: self._rules[rule] for rule in RULES if self._rules[rule]}
        summary.durations = {name: histogram.to_json() for name, histogram in self._all.items()}
        self._write({"kind": "end", **summary.to_json()}, sync=True)
        if self._log is not None:
            self._log.close()
        return summary

    def _step_line(self, step: LoopStep, time_s: float) -> None:
        if self._lines >= LINES_A_SECOND * self._interval_s:
            self._hidden += 1
            return
        self._lines += 1
        record = {"kind": "step", "time_s": round(time_s, 4), "number": step.number, "act_ms": round(1e3 * step.act_s, 3)}
        record |= {name: value[:200] for name in ("held", "waits") if (value := getattr(step, name))}
        record |= {"skipped": step.skipped} if step.skipped else {}
        record |= {"events": [_shortened(event) for event in step.events[:EVENTS_A_LINE]]} if step.events else {}
        self._write(record)

    def _interval_line(self, time_s: float) -> None:
        summary = self.summary
        counts = (summary.steps, summary.misses, summary.changed, summary.held + summary.waited)
        names = ("steps", "misses", "changed", "held")
        since = dict(zip(names, (now - then for now, then in zip(counts, self._counted, strict=True)), strict=True))
        self._write({"kind": "interval", "time_s": round(time_s, 4), **since, "hidden": self._hidden})
        self._counted, self._lines, self._hidden = counts, 0, 0
        self._next_s = time_s - math.fmod(time_s, self._interval_s) + self._interval_s

    def _write(self, record: Mapping[str, Any], sync: bool = False) -> None:
        if self._log is not None:
            line = json.dumps(record, ensure_ascii=True)
            if len(line) > LONGEST_LINE:
                line = json.dumps({"kind": record["kind"], "cut": line[: LONGEST_LINE // 4]})
            self._log.append(line, sync=sync)


def _shortened(event: GuardEvent) -> dict[str, Any]:
    return {key: value[:80] if isinstance(value, str) else value for key, value in event.to_json().items()}
