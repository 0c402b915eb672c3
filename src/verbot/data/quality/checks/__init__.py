"""Checks of a dataset's quality, one file per subject.

A check is a class that is registered by name; another package registers one with `lint_checks.register`, or by an entry point of
the group ``verbot.lint_checks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from verbot.registry import Registry

if TYPE_CHECKING:
    from verbot.data.quality.config import LintConfig
    from verbot.data.quality.episode import DatasetOverview, EpisodeData
    from verbot.data.quality.report import LintFinding


class LintCheck(Protocol):
    """Looks at one episode after another, then judges the dataset. It has no state, so that memory is that of one episode."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> Any:
        """A small summary of one episode, a pure function of its arrays; None if there is nothing to say about it."""
        ...

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterable[LintFinding]:
        """The findings. `measured` holds the number of each episode and its summary, where that is not None."""
        ...


lint_checks: Registry[Callable[[], LintCheck]] = Registry(
    "lint check", package="verbot.data.quality.checks", group="verbot.lint_checks"
)
