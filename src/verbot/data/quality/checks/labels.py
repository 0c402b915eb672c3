"""How often each task is shown, and episodes without an instruction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData
from verbot.data.quality.report import FramePlace, LintFinding

SHOWN = 20  # most and least frequent tasks in the details


@lint_checks.register("label_balance")
class LabelBalance:
    """The number of episodes of each task (of each instruction, where no task was recorded), and missing instructions."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> tuple[str, int | None]:
        empty = next((segment.start for segment in episode.segments if not segment.wordings[0].strip()), None)
        return episode.task, empty

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        empty = [FramePlace(number, frame) for number, (_, frame) in measured if frame is not None]
        if len(empty) == len(measured):
            yield LintFinding("info", "label_balance", "no episode has an instruction")
        elif empty:
            text = f"{len(empty)} of {len(measured)} episodes have frames without an instruction"
            yield LintFinding("warning", "label_balance", text).at(empty, config.places)
        tasks = Counter(task for _, (task, _) in measured if task.strip())
        if len(tasks) < 2 or 2 * len(tasks) > len(measured):  # most sentences occur once: wordings, not tasks
            return
        ranked = tasks.most_common()
        (most, many), (least, few) = ranked[0], ranked[-1]
        uneven = many > config.imbalance * few
        text = f"{len(tasks)} tasks: from {few} episodes ({least!r}) to {many} ({most!r})"
        first = next(number for number, (task, _) in measured if task == least)
        finding = LintFinding(
            "warning" if uneven else "info", "label_balance", text, details={"episodes": dict(ranked[:SHOWN] + ranked[-SHOWN:])}
        )
        yield finding.at([FramePlace(first, 0)], 1, few) if uneven else finding
