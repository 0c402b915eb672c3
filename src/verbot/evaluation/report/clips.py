"""Selects the episodes whose videos a report shows: successes, failures, and scenes with several instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from verbot.rollout.results import EpisodeResult, Job

Section = Literal["successes", "failures", "counterfactual"]


@dataclass(frozen=True)
class VideoClip:
    """An episode to record, and the section of the report that shows it."""

    section: Section
    job: Job
    result: EpisodeResult


def choose(
    main: Sequence[tuple[Job, EpisodeResult]], counterfactual: Sequence[tuple[Job, EpisodeResult]], count: int
) -> list[VideoClip]:
    """Select about `count` clips: a third each of successes, failures and counterfactual scenes; tasks alternate.

    If there are too few failures, successes take their places. The selection is not by appearance: the first ones are taken.
    """
    scenes = _whole_scenes(counterfactual, count // 3)
    failures = _alternating([(j, r) for j, r in main if r.outcome == "failure"])[: count // 3]
    left = max(0, count - len(failures) - len(scenes))
    successes = _alternating([(j, r) for j, r in main if r.outcome == "success"])[:left]
    return [
        *(VideoClip("successes", job, result) for job, result in successes),
        *(VideoClip("failures", job, result) for job, result in failures),
        *(VideoClip("counterfactual", job, result) for job, result in scenes),
    ]


def _alternating(pairs: Sequence[tuple[Job, EpisodeResult]]) -> list[tuple[Job, EpisodeResult]]:
    """The first of every task, then the second of every task, and so on."""
    groups: dict[str, list[tuple[Job, EpisodeResult]]] = defaultdict(list)
    for job, result in pairs:
        groups[result.task].append((job, result))
    ranked = [(rank, pair) for group in groups.values() for rank, pair in enumerate(group)]
    return [pair for _, pair in sorted(ranked, key=lambda item: item[0])]


def _whole_scenes(pairs: Sequence[tuple[Job, EpisodeResult]], count: int) -> list[tuple[Job, EpisodeResult]]:
    """Scenes with all their goals, at most `count` episodes in total. Scenes with an error are left out."""
    scenes: dict[tuple[str, int], list[tuple[Job, EpisodeResult]]] = defaultdict(list)
    for job, result in pairs:
        scenes[result.task, result.index].append((job, result))
    chosen: list[tuple[Job, EpisodeResult]] = []
    for scene in scenes.values():
        whole = all(result.outcome != "error" for _, result in scene)
        if whole and len(chosen) + len(scene) <= count:
            chosen += scene
    return chosen
