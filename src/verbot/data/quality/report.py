"""The result of linting a dataset: findings with the places that show them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, order=True)
class FramePlace:
    """A frame of an episode; `size` says how bad it is, in the unit of its check."""

    episode: int
    frame: int
    size: float = 0.0


@dataclass(frozen=True)
class LintFinding:
    """Something about a dataset that a person should look at.

    Args:
        severity: ``"error"`` makes training wrong; ``"warning"`` probably costs performance; ``"info"`` is good to know.
        check: the check that found it.
        message: one sentence, with figures.
        count: number of places, of which `worst` holds a few.
        first: the first place in the dataset; None for a finding about the whole dataset.
        worst: the worst places, worst first.
        signal: the vector, ``"state"`` or ``"action"``, and its dimension, to plot; or None.
        camera: the camera whose pictures show it; ``""`` for none.
        details: figures behind the message; JSON.
    """

    severity: Severity
    check: str
    message: str
    count: int = 0
    first: FramePlace | None = None
    worst: tuple[FramePlace, ...] = ()
    signal: tuple[str, int] | None = None
    camera: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def at(self, places: Sequence[FramePlace], keep: int, count: int | None = None) -> LintFinding:
        """This finding with its places, of which the `keep` largest are kept; `count` if there are more than are known."""
        worst = tuple(sorted(places, key=lambda place: (-place.size, place.episode, place.frame))[:keep])
        known = len(places) if count is None else count
        return dataclasses.replace(self, count=known, first=min(places, default=None), worst=worst)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class LintReport:
    """What `verbot.data.quality.lint` found in a dataset, the worst first.

    Args:
        episodes, frames: how many were linted, of `of_episodes`.
        pictures: how many pictures were looked at.
        config: the thresholds.
    """

    path: str
    robot: str
    rate_hz: float
    episodes: int
    of_episodes: int
    frames: int
    pictures: int
    findings: tuple[LintFinding, ...]
    config: Mapping[str, Any]

    def counted(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def clean(self) -> bool:
        """Whether there is no error and no warning."""
        return not (self.counted("error") or self.counted("warning"))

    def view_command(self, place: FramePlace) -> str:
        """The command that shows the episode of a place."""
        return f"verbot data view {self.path} --episode {place.episode}"

    def lines(self) -> list[str]:
        """The report as text: a line for each finding, with its first and its worst place."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.severity:<7}  {finding.check}: {finding.message}")
            if finding.first is not None:
                first, worst = finding.first, finding.worst[0]
                also = "" if worst.episode == first.episode else f", worst in episode {worst.episode} at frame {worst.frame}"
                lines.append(
                    f"         first in episode {first.episode} at frame {first.frame}{also}: {self.view_command(worst)}"
                )
        return [*lines, self.summary()]

    def summary(self) -> str:
        """One line: what was linted, and the number of findings by severity."""
        some = "" if self.episodes == self.of_episodes else f" of {self.of_episodes}"
        counts = ", ".join(plural(self.counted(each), each) for each in SEVERITIES)
        return (
            f"{self.path}: {counts} in {self.episodes}{some} episodes, {self.frames} frames; "
            f"{self.pictures} pictures were looked at, two of every {self.config['picture_step']} frames"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        record = dataclasses.asdict(self)
        return record | {"findings": [finding.to_json() for finding in self.findings]}


def plural(count: int, word: str) -> str:
    """Example:
    >>> plural(1, "error"), plural(2, "error"), plural(2, "info")
    ('1 error', '2 errors', '2 info')
    """
    return f"{count} {word}" if count == 1 or word == "info" else f"{count} {word}s"


def listed(names: Sequence[str], at_most: int = 6) -> str:
    """Example:
    >>> listed(["x", "y", "z"], 2)
    'x, … z (3 dimensions)'
    """
    if len(names) <= at_most:
        return ", ".join(names)
    return f"{', '.join(names[: at_most - 1])}, … {names[-1]} ({len(names)} dimensions)"
