"""The arrays and metadata of an episode that samples need, small enough for many episodes in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.contracts import POINTS
from verbot.contracts.scenes import SCENE_COLUMN
from verbot.data.samples.keypoints import handled_points, projections
from verbot.data.samples.matching import MatchedEpisode
from verbot.data.samples.window_config import WindowConfig
from verbot.data.storage.reader import Episode
from verbot.data.storage.segments import InstructionSegment, check_segments
from verbot.spec import FloatArray, RobotSpec

Caption = tuple[str, str]  # true, false
AnyEpisode = Episode | MatchedEpisode


@dataclass(frozen=True)
class Goals:
    """The other goals that an episode's first state admits: points (g, 3, 3) in the base frame, and instructions of each."""

    points: npt.NDArray[np.float64]
    instructions: Sequence[Sequence[str]]


@dataclass(frozen=True)
class EpisodeArrays:
    """The data of an episode with `t` frames that samples and labels use.

    Args:
        spec: the robot.
        states, actions: float32 (t, s) and (t, a).
        segments: which instruction holds for which frames, with its wordings.
        matrices: (t, v, 3, 4) from the base frame to each view (see `verbot.data.samples.keypoints.projections`).
        points: (t, 3, 3) target, receptacle and reference in the base frame; NaN where unknown.
        goals: the other goals that the scene admits.
        first_contact: number of frames before the first contact.
        unseen: the first frame that no longer shows what the instruction refers to.
        ended_well: False if the episode was recorded as a failure.
        visit: number of earlier visits to the scene.
        request: the request for which the episode was recorded.
        task_number: the episode's task among `WindowConfig.tasks`, −1 for none of them.
        captions: pairs of a true and a false sentence about the first image.
        extras: all other recorded data of the episode, for labels.
        scenes: the JSON of each frame's `verbot.contracts.SceneTruth`, (t,); empty where it was not recorded, or no label asks.
    """

    spec: RobotSpec
    states: FloatArray
    actions: FloatArray
    segments: tuple[InstructionSegment, ...]
    matrices: npt.NDArray[np.floating]
    points: npt.NDArray[np.floating]
    goals: Goals
    first_contact: int
    unseen: int
    ended_well: bool
    visit: int
    request: Any
    task_number: int
    captions: tuple[Caption, ...]
    extras: Mapping[str, Any]
    scenes: Sequence[str]

    @property
    def instructions(self) -> tuple[str, ...]:
        """Every sentence of the episode, once."""
        return tuple(dict.fromkeys(words for segment in self.segments for words in segment.wordings))

    @staticmethod
    def of(episode: AnyEpisode, config: WindowConfig, cameras: Sequence[str], known: dict[str, str]) -> EpisodeArrays:
        """Args: `cameras` are the views, in order; `known` holds one copy of every sentence."""
        states, extras, spec = episode.states, episode.extras, episode.dataset.spec
        captions = extras.get("captions") or () if config.captions else ()
        return EpisodeArrays(
            spec=spec,
            states=states,
            actions=episode.actions,
            segments=_segments(episode, known),
            matrices=projections(states, spec, episode.calibration, cameras),
            points=_points(episode, config.keypoints),
            goals=_other_goals(episode, known),
            first_contact=_first_contact(episode),
            unseen=extras.get("unseen_frame", len(episode)),
            ended_well=_ended_well(episode),
            visit=extras.get("visit", 0),
            request=extras.get("request"),
            task_number=task_number(task_of(episode), config.tasks),
            captions=tuple((c["true"], c["false"]) for c in captions),
            extras=extras,
            scenes=scenes_of(episode) if any(name.startswith(SCENE_COLUMN) for name in config.labels) else (),
        )


def _segments(episode: AnyEpisode, known: dict[str, str]) -> tuple[InstructionSegment, ...]:
    """Those of the episode, with sentences that are held but once."""
    check_segments(episode.segments, len(episode))
    return tuple(
        dataclasses.replace(segment, wordings=tuple(known.setdefault(words, words) for words in segment.wordings))
        for segment in episode.segments
    )


def scenes_of(episode: AnyEpisode) -> Sequence[str]:
    """The recorded truth of every frame; empty if there is none."""
    columns = episode.columns
    return tuple(map(str, columns[SCENE_COLUMN])) if SCENE_COLUMN in columns else ()


def task_of(episode: AnyEpisode) -> str | None:
    """The task of the recorder's request, or the verb of its goal; None if neither was recorded."""
    recorded = ((episode.extras.get(name), key) for name, key in (("request", "task"), ("goal", "verb")))
    found = next((table[key] for table, key in recorded if isinstance(table, Mapping) and table.get(key)), None)
    return None if found is None else str(found)


def task_number(task: str | None, names: Sequence[str]) -> int:
    """Which of `names` the task is; −1 where it is none of them, or unknown."""
    return -1 if task is None or task not in names else list(names).index(task)


def goal_points(goal: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Target, receptacle and reference (3, 3) of an entry of ``grounding``, in the base frame; NaN where it has none."""
    places = [goal.get(f"{name}_base_m") for name in POINTS]
    return np.array([[np.nan] * 3 if place is None else place for place in places], float)


def _first_contact(episode: AnyEpisode) -> int:
    """How many frames at the start show the scene untouched; none where the recorder did not say."""
    if "first_contact_frame" not in episode.extras:
        return 0
    frame = episode.extras["first_contact_frame"]
    return len(episode) if frame is None else int(frame)


def _ended_well(episode: AnyEpisode) -> bool:
    return episode.extras.get("success") is not False and not episode.extras.get("handed_back")


def _points(episode: AnyEpisode, kind: str) -> npt.NDArray[np.floating]:
    """Points (t, 3, 3) in the base frame. Hindsight cannot find the reference, so it is known only where it was recorded."""
    handled = handled_points(episode.states, episode.actions, episode.dataset.spec, episode.extras.get("first_contact_frame"))
    goals = episode.extras.get("grounding")
    recorded = goal_points(goals[0]) if goals else np.full((len(POINTS), 3), np.nan)
    points = np.concatenate([handled, np.broadcast_to(recorded[2:], (len(handled), 1, 3))], axis=1)
    if kind == "grounding" and goals:
        points[: _first_contact(episode)] = recorded
    if episode.extras.get("handed_back"):  # hindsight cannot know what a recording that was cut short led to
        points[_first_contact(episode) if kind == "grounding" and goals else 0 :] = np.nan
    return points


def _other_goals(episode: AnyEpisode, known: dict[str, str]) -> Goals:
    """Those after the first, which is the one pursued. `known` holds one copy of every sentence."""
    others = [goal for goal in (episode.extras.get("grounding") or [])[1:] if goal.get("instructions")]
    points = np.array([goal_points(goal) for goal in others]).reshape(-1, len(POINTS), 3)
    return Goals(points, [tuple(known.setdefault(words, words) for words in goal["instructions"]) for goal in others])
