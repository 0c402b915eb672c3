"""Which episodes a person should see: successes of every task, the failures, and one scene told different things."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from verbot.rollout.results import EpisodeResult, Job

Room = Literal["successes", "failures", "counterfactual"]


@dataclass(frozen=True)
class VideoClip:
    """An episode to film, and the part of the report it belongs to."""

    room: Room
    job: Job
    result: EpisodeResult


def choose(
    main: Sequence[tuple[Job, EpisodeResult]], counterfactual: Sequence[tuple[Job, EpisodeResult]], count: int
) -> list[VideoClip]:
    """About `count` exhibits: a third each of successes, failures and counterfactual scenes; tasks take turns.

    Successes fill up what there are too few failures for. Nothing is chosen by how it looks: the first ones are taken.
    """
    told = _told_apart(counterfactual, count // 3)
    failures = _turns([(j, r) for j, r in main if r.outcome == "failure"])[: count // 3]
    room = max(0, count - len(failures) - len(told))
    successes = _turns([(j, r) for j, r in main if r.outcome == "success"])[:room]
    return [
        *(VideoClip("successes", job, result) for job, result in successes),
        *(VideoClip("failures", job, result) for job, result in failures),
        *(VideoClip("counterfactual", job, result) for job, result in told),
    ]


def _turns(pairs: Sequence[tuple[Job, EpisodeResult]]) -> list[tuple[Job, EpisodeResult]]:
    """The first of every task, then the second of every task, and so on."""
    groups: dict[str, list[tuple[Job, EpisodeResult]]] = defaultdict(list)
    for job, result in pairs:
        groups[result.task].append((job, result))
    ranked = [(rank, pair) for group in groups.values() for rank, pair in enumerate(group)]
    return [pair for _, pair in sorted(ranked, key=lambda item: item[0])]


def _told_apart(pairs: Sequence[tuple[Job, EpisodeResult]], count: int) -> list[tuple[Job, EpisodeResult]]:
    """Whole scenes with all their goals, about `count` episodes of them."""
    scenes: dict[tuple[str, int], list[tuple[Job, EpisodeResult]]] = defaultdict(list)
    for job, result in pairs:
        scenes[result.task, result.index].append((job, result))
    chosen: list[tuple[Job, EpisodeResult]] = []
    for scene in scenes.values():
        whole = all(result.outcome != "error" for _, result in scene)
        if whole and len(chosen) + len(scene) <= count:
            chosen += scene
    return chosen
