"""Looks for what in a dataset may spoil training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verbot.configuration import to_plain
from verbot.data.quality.checks import LintCheck, lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, episode_data, scales_of, spread
from verbot.data.quality.report import SEVERITIES, FramePlace, LintFinding, LintReport, plural
from verbot.data.storage.reader import Dataset, open_dataset
from verbot.errors import DataError
from verbot.parallel.progress import Progress


def lint(dataset: Dataset | str | Path, config: LintConfig | None = None, *, progress: bool = False) -> LintReport:
    """Run the checks of `verbot.data.quality.checks` on every episode.

    Episodes are read one after another. Numbers are looked at in every frame, pictures in two successive ones of every
    `LintConfig.picture_step`. An episode that cannot be read is a finding.

    Raises `DataError` for something that is no dataset or cannot be opened, `UnknownNameError` for an unknown check.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = lint(example_dataset(folder))
        >>> report.episodes, report.clean
        (2, True)
    """
    config = config or LintConfig()
    dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset, depth=True)
    checks = {name: lint_checks.get(name)() for name in config.checks or lint_checks.names()}
    every = np.arange(len(dataset.lengths))  # which the files have been compared with
    numbers = (every[spread(len(every), config.episodes)] if config.episodes else every).tolist()
    broken: dict[FramePlace, str] = {}
    scales = scales_of(dataset, numbers, config)
    measured: dict[str, list[tuple[int, Any]]] = {name: [] for name in checks}
    lengths: dict[int, int] = {}
    pictures = 0
    with Progress("lint", len(numbers), "episodes", enabled=progress) as bar:
        for done, number in enumerate(numbers, 1):
            try:
                episode = episode_data(dataset[number], scales, config)
            except DataError as error:
                broken[FramePlace(number, 0)] = str(error)
                continue
            lengths[number] = len(episode)
            pictures += sum(len(shown.rows) for shown in episode.pictures.values())
            for name, check in checks.items():
                if (found := check.measure(episode, config)) is not None:
                    measured[name].append((number, found))
            bar.update(done)
    overview = DatasetOverview(
        dataset.spec, scales, np.array(list(lengths.values()), np.int64), np.array(list(lengths), np.int64), dataset.camera_names
    )
    findings = [*_broken(broken, config), *_judged(checks, measured, overview, config)]
    return LintReport(
        path=str(dataset.root),
        robot=dataset.spec.name,
        rate_hz=dataset.spec.rate_hz,
        episodes=len(lengths),
        of_episodes=len(dataset),
        frames=overview.frames,
        pictures=pictures,
        findings=tuple(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), -finding.count))),
        config=to_plain(config),
    )


def _judged(
    checks: dict[str, LintCheck], measured: dict[str, list[tuple[int, Any]]], overview: DatasetOverview, config: LintConfig
) -> list[LintFinding]:
    if not len(overview.lengths):
        return []
    return [finding for name, check in checks.items() for finding in check.judge(measured[name], overview, config)]


def _broken(reasons: Mapping[FramePlace, str], config: LintConfig) -> list[LintFinding]:
    """A finding about the episodes that cannot be read."""
    if not reasons:
        return []
    places = sorted(reasons)
    text = f"{plural(len(places), 'episode')} cannot be read; the first: {reasons[places[0]]}"
    details = {"reasons": {str(place.episode): reasons[place] for place in places}}
    return [LintFinding("error", "reading", text, details=details).at(places, config.places)]
