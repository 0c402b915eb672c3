"""What windows keep of an episode: its numbers, and a little of what was told of it, so that many episodes fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.data.samples.keypoints import handled_points, projections
from verbot.data.samples.labels import grasps, task_of
from verbot.data.storage.reader import Episode
from verbot.spec import FloatArray

POINTS = ("target", "receptacle", "reference")
Caption = tuple[str, str]  # true, false


@dataclass(frozen=True)
class Goals:
    """What else an episode's first state admits: points (g, 3, 3) in the base frame, and wordings of each."""

    points: npt.NDArray[np.float64]
    instructions: Sequence[Sequence[str]]


@dataclass(frozen=True)
class EpisodeArrays:
    """What windows need of an episode: its numbers, and of what was told of it a little."""

    states: FloatArray
    actions: FloatArray
    instructions: tuple[str, ...]
    matrices: npt.NDArray[np.floating]
    points: npt.NDArray[np.floating]
    goals: Goals
    first_contact: int
    unseen: int
    ended_well: bool
    visit: int
    request: Any
    task: str | None
    grasps: tuple[FloatArray, npt.NDArray[np.bool_]]
    captions: tuple[Caption, ...] = ()

    @staticmethod
    def of(
        episode: Episode, cameras: Sequence[str], keypoints: str, known: dict[str, str], captions: bool = False
    ) -> EpisodeArrays:
        """Args: as of `Windows`; `known` holds one copy of every sentence."""
        states, extras = episode.states, episode.extras
        return EpisodeArrays(
            states=states,
            actions=episode.actions,
            instructions=tuple(known.setdefault(words, words) for words in episode.instructions),
            matrices=projections(states, episode.dataset.spec, episode.calibration, cameras),
            points=_points(episode, keypoints),
            goals=_other_goals(episode, known),
            first_contact=_first_contact(episode),
            unseen=extras.get("unseen_frame", len(episode)),
            ended_well=_ended_well(episode),
            visit=extras.get("visit", 0),
            request=extras.get("request"),
            task=task_of(episode),
            grasps=grasps(states, episode.actions, episode.dataset.spec),
            captions=tuple((c["true"], c["false"]) for c in extras.get("captions") or ()) if captions else (),
        )


def _first_contact(episode: Episode) -> int:
    """How many frames at the start show the scene untouched; none where nobody noted it."""
    if "first_contact_frame" not in episode.extras:
        return 0
    frame = episode.extras["first_contact_frame"]
    return len(episode) if frame is None else int(frame)


def _ended_well(episode: Episode) -> bool:
    return episode.extras.get("success") is not False and not episode.extras.get("handed_back")


def _points(episode: Episode, kind: str) -> npt.NDArray[np.floating]:
    """Points (t, 3, 3) in the base frame; the hand never tells the reference, so it is known where it was recorded."""
    handled = handled_points(episode.states, episode.actions, episode.dataset.spec, episode.extras.get("first_contact_frame"))
    goals = episode.extras.get("grounding")
    told = goal_points(goals[0]) if goals else np.full((len(POINTS), 3), np.nan)
    points = np.concatenate([handled, np.broadcast_to(told[2:], (len(handled), 1, 3))], axis=1)
    if kind == "grounding" and goals:
        points[: _first_contact(episode)] = told
    if episode.extras.get("handed_back"):  # hindsight does not reach what a recording cut short was leading to
        points[_first_contact(episode) if kind == "grounding" and goals else 0 :] = np.nan
    return points


def goal_points(goal: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Target, receptacle and reference (3, 3) of an entry of ``grounding``, in the base frame; NaN where it has none."""
    places = [goal.get(f"{name}_base_m") for name in POINTS]
    return np.array([[np.nan] * 3 if place is None else place for place in places], float)


def _other_goals(episode: Episode, known: dict[str, str]) -> Goals:
    """Those after the first, which is the one pursued. `known` holds one copy of every sentence."""
    others = [goal for goal in (episode.extras.get("grounding") or [])[1:] if goal.get("instructions")]
    points = np.array([goal_points(goal) for goal in others]).reshape(-1, len(POINTS), 3)
    return Goals(points, [tuple(known.setdefault(words, words) for words in goal["instructions"]) for goal in others])
