"""Training samples: for each recorded frame its past, its future actions and what was to be done, as plain arrays."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.data.samples.episode_arrays import POINTS, Caption, EpisodeArrays
from verbot.data.samples.keypoints import project
from verbot.data.samples.labels import task_numbers
from verbot.data.storage.frame_cache import FeatureCache, Features, FrameCache
from verbot.data.storage.reader import Dataset
from verbot.errors import ConfigError, DataError, UnknownNameError
from verbot.spec import FloatArray, UInt8Array

BoolArray = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
DRAWS = 3  # random numbers a window needs: which wording, whether another goal, which one
KEYPOINTS = ("hindsight", "grounding")
_LISTS = ("instructions", "questions", "captions")  # of a batch; its other fields are arrays


@dataclass(frozen=True)
class WindowBatch:
    """`b` windows, in the robot's own units.

    Args:
        images: uint8 (b, t, v, h, w, 3) RGB, the latest frame last; before an episode's start its first frame, masked. Without
            channels, (b, t, v, h, w, 0), where features stand for them.
        images_mask: bool (b, t, v); False for padding and for a camera that the dataset lacks.
        state: float32 (b, t, s), with `state_mask` bool (b, t).
        actions: float32 (b, k, a), from the latest frame on; after an episode's end its last action, masked.
        actions_mask: bool (b, k); all False for a window told another goal than the one that was pursued.
        instructions: one per window.
        keypoints: float32 (b, v, 3, 2): target, receptacle and reference in the latest frame of each view, x right and y down
            in [-1, 1].
        keypoints_mask: bool (b, v, 3); False where a point is unknown, out of the picture, or covered.
        recall_mask: bool (b, v, 3); as `keypoints_mask`, and True where a point is known though what is there is covered.
        questions: other goals that the same scene admits, at most `m` for a window, each to be pointed at; their keypoints
            float32 (b, m, v, 3, 2) and masks bool (b, m, v, 3) follow their order.
        captions: pairs of what is true of the picture and what is not, at most so many for a window as were asked for.
        index: int64 (b,), the windows' own numbers.
        goal: uint8 (b, h, w, 3), how the first camera saw the end of the episode; of no size where goals were not asked for.
        goal_mask: bool (b,); False where there is none.
        acted: float32 (b, a), the recorded action of the frame before the latest; a is 0 where nobody asked for it. Of an expert
            whose executed actions were disturbed it is the undisturbed one, as `actions` are.
        acted_mask: bool (b,); False at an episode's start.
        steps_left: int64 (b,), control steps from the latest frame to the episode's last; −1 where it is known to have failed.
        task: int64 (b,), which of the tasks that were asked about the episode was recorded for; −1 for none of them.
        grasp: float32 (b, s), the state in which the hand next takes hold (`verbot.data.samples.labels.grasps`), with
            `grasp_mask` (b,).
        features: float16 (b, t, v, p, d), what a frozen encoder made of the images; p and d are 0 where nobody asked for them.
    """

    images: UInt8Array
    images_mask: BoolArray
    state: FloatArray
    state_mask: BoolArray
    actions: FloatArray
    actions_mask: BoolArray
    instructions: list[str]
    keypoints: FloatArray
    keypoints_mask: BoolArray
    recall_mask: BoolArray
    questions: list[tuple[str, ...]]
    question_keypoints: FloatArray
    question_mask: BoolArray
    index: Indices
    goal: UInt8Array
    goal_mask: BoolArray
    acted: FloatArray
    acted_mask: BoolArray
    steps_left: Indices
    task: Indices
    grasp: FloatArray
    grasp_mask: BoolArray
    features: Features
    captions: list[tuple[Caption, ...]]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, order: Indices) -> WindowBatch:
        """The windows at these places, in this order."""
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in fields.items():
            fields[name] = [value[i] for i in order] if name in _LISTS else value[order]
        return WindowBatch(**fields)

    @staticmethod
    def concatenate(parts: Sequence[WindowBatch]) -> WindowBatch:
        """All windows of `parts`, one after another."""
        fields: dict[str, Any] = {f.name: [getattr(part, f.name) for part in parts] for f in dataclasses.fields(WindowBatch)}
        for name, values in fields.items():
            fields[name] = [item for value in values for item in value] if name in _LISTS else np.concatenate(values)
        return WindowBatch(**fields)


class Windows:
    """Every frame of a dataset as a training sample.

    Args:
        source: an open dataset. What is saved later is seen by opening it again.
        history: frames of the past in a window, the present one included.
        chunk: actions in a window, from the present frame on.
        stride: control steps from one frame of the past to the next.
        sequence: windows given out together for each one asked for: those of its own past, `stride` apart, oldest first. One
            from before the episode's start is masked throughout. Where the scene was visited before (``extras["visit"]``), the
            older half are those with which the visit before began.
        goals: whether the ends of episodes are shown.
        acted: whether each window is told the action before its latest frame.
        cameras: views, in order; the dataset's own if None. One that it lacks is zero and masked.
        episodes: numbers of the episodes to draw from; all if None.
        keypoints: ``"hindsight"`` (where the gripper closed and opened) or ``"grounding"`` (``extras["grounding"]``: where the
            objects were at first; used until the episode's ``first_contact_frame``, hindsight from then on).
        relabel: the chance that a window from before anything was engaged is told another goal that its scene admits,
            with that goal's keypoints and no actions to imitate.
        questions: m, how many of its scene's other goals come with such a window beside its own.
        tasks: names of tasks; a window's `task` is the number of its episode's among them.
        captions: how many of its scene's captions, each with a foil (``extras["captions"]``).
        cache: the decoded frames; opened (and filled, if need be) if None.
        features: of these frames, given out in place of images.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.reader import open_dataset
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     windows = Windows(open_dataset(example_dataset(folder)), history=2, chunk=5)
        ...     batch = windows.batch(np.array([0, 11]), np.random.default_rng(0))
        >>> batch.images.shape, batch.images_mask[:, :, 0].tolist(), batch.actions_mask.sum(axis=1).tolist()
        ((2, 2, 1, 32, 32, 3), [[False, True], [True, True]], [5, 1])
    """

    def __init__(
        self,
        source: Dataset,
        history: int = 1,
        chunk: int = 10,
        *,
        stride: int = 1,
        sequence: int = 1,
        goals: bool = False,
        acted: bool = False,
        cameras: Sequence[str] | None = None,
        episodes: Sequence[int] | None = None,
        keypoints: str = "hindsight",
        relabel: float = 0.0,
        questions: int = 0,
        tasks: Sequence[str] = (),
        captions: int = 0,
        cache: FrameCache | None = None,
        features: FeatureCache | None = None,
    ):
        counts = {"history": history, "chunk": chunk, "stride": stride, "sequence": sequence}
        _check(counts, keypoints, relabel, questions, captions)
        self.spec, self.history, self.chunk, self.stride, self.sequence = source.spec, history, chunk, stride, sequence
        self.goals, self.acted, self.relabel, self.questions = goals, acted, relabel, questions
        self.captions = captions
        self.cameras = tuple(source.camera_names if cameras is None else cameras)
        if not len(source):
            raise DataError(f"{source.root} has no episodes yet")
        known: dict[str, str] = {}  # a sentence that is told of many episodes is kept once
        recorded = [EpisodeArrays.of(episode, self.cameras, keypoints, known, captions > 0) for episode in source]
        self._ends = ends = np.cumsum([0, *(len(told.states) for told in recorded)])
        self._index = self._frames_of(range(len(recorded)) if episodes is None else episodes)
        self._first, self._end = (np.repeat(bound, np.diff(ends)) for bound in (ends[:-1], ends[1:]))
        self._episode = np.repeat(np.arange(len(recorded)), np.diff(ends))
        self._visit_before = np.repeat(_visits_before(recorded, ends), np.diff(ends))
        self._states = np.concatenate([told.states for told in recorded])
        self._actions = np.concatenate([told.actions for told in recorded])
        self._tasks = task_numbers([told.task for told in recorded], tasks)
        self._grasps, self._grasps_mask = (np.concatenate(p) for p in zip(*(told.grasps for told in recorded), strict=True))
        self._words = [told.instructions for told in recorded]
        self._word_counts = np.array([len(words) for words in self._words])
        present = [camera for camera in self.cameras if camera in source.camera_names]
        cache = cache or FrameCache(source, present)
        self._frames = {camera: cache.frames(camera) for camera in present}
        self._features = {camera: features.features(camera) for camera in present} if features else {}
        self._size = self._image_size()
        self._matrices = np.concatenate([told.matrices for told in recorded])
        self._keypoints, self._keypoints_mask = project(self._matrices, np.concatenate([told.points for told in recorded]))
        self._goals = [told.goals for told in recorded]
        self._captions = [told.captions for told in recorded]
        self._goal_counts = np.array([len(goals.points) for goals in self._goals])
        first_contact, unseen = (np.array([getattr(told, name) for told in recorded]) for name in ("first_contact", "unseen"))
        ended_well = np.array([told.ended_well for told in recorded])
        self._steps_left = np.where(ended_well[self._episode], self._end - 1 - np.arange(ends[-1]), -1)
        frame, self._recall_mask = np.arange(ends[-1]) - self._first, self._keypoints_mask.copy()
        self._keypoints_mask[(frame >= unseen[self._episode]) & (frame < first_contact[self._episode])] = False
        self._untouched = frame < np.minimum(first_contact, unseen)[self._episode]

    def __len__(self) -> int:
        return len(self._index)

    def choosing(self, episodes: Sequence[int], relabel: float = 0.0, questions: int = 0) -> Windows:
        """Windows of other episodes of the same recording, which is in memory but once; arguments as of the class."""
        other = copy.copy(self)
        other._index, other.relabel, other.questions = self._frames_of(episodes), relabel, questions
        return other

    def _frames_of(self, episodes: Sequence[int]) -> Indices:
        frames = [np.arange(self._ends[e], self._ends[e + 1]) for e in episodes]
        return np.concatenate(frames) if frames else np.empty(0, np.int64)

    @property
    def shape(self) -> tuple[object, ...]:
        """What sources of one mixture must have in common."""
        ours = (self.history, self.chunk, self.stride, self.sequence, self.goals, self.questions, self.acted, self.cameras)
        return (*ours, self.captions, *self._size, self.spec.state_size, self.spec.action_size)

    def batch(self, indices: npt.ArrayLike, rng: np.random.Generator) -> WindowBatch:
        """The windows with these numbers; `rng` draws their wording and, with `relabel`, their goal."""
        chosen = np.asarray(indices, np.int64)
        return self.gather(chosen, rng.random((len(chosen), DRAWS)))

    def gather(self, indices: Indices, draws: npt.NDArray[np.float64]) -> WindowBatch:
        """As `batch`, with random numbers (b, `DRAWS`) in [0, 1) given: the same numbers, the same windows."""
        now = self._index[indices]
        if self.sequence == 1:
            return self._gather(indices, now, draws)
        rows = now[:, None] - self.stride * np.arange(self.sequence - 1, -1, -1)  # (b, q)
        first, last = (np.repeat(bound[now, None], self.sequence, 1) for bound in (self._first, self._end - 1))
        again, half = np.flatnonzero(self._visit_before[now] >= 0), self.sequence // 2
        before = self._visit_before[now[again], None]
        rows[again, :half] = before + self.stride * np.arange(half)
        first[again, :half], last[again, :half] = before, self._end[before] - 1
        absent, rows = (rows < first) | (rows > last), np.clip(rows, first, last)
        repeated = np.repeat(indices, self.sequence), rows.ravel(), np.repeat(draws, self.sequence, 0)
        return _without(self._gather(*repeated), absent.ravel())

    def _gather(self, indices: Indices, now: Indices, draws: npt.NDArray[np.float64]) -> WindowBatch:
        past = now[:, None] + self.stride * np.arange(1 - self.history, 1)  # (b, t)
        future = now[:, None] + np.arange(self.chunk)  # (b, k)
        past_mask = past >= self._first[now, None]
        past = np.maximum(past, self._first[now, None])
        future_mask = future < self._end[now, None]
        future = np.minimum(future, self._end[now, None] - 1)
        images, features, images_mask = self._images(past, past_mask)
        episode = self._episode[now]
        wording = (draws[:, 0] * self._word_counts[episode]).astype(np.int64)
        instructions = [self._words[e][w] for e, w in zip(episode.tolist(), wording.tolist(), strict=True)]
        keypoints, keypoints_mask, recall_mask = self._keypoints[now], self._keypoints_mask[now], self._recall_mask[now]
        others = np.flatnonzero((draws[:, 1] < self.relabel) & self._untouched[now] & (self._goal_counts[episode] > 0))
        if len(others):
            told = (draws[others, 2] * self._goal_counts[episode[others]]).astype(np.int64)
            points = np.empty((len(others), len(POINTS), 3))
            for i, (row, goal) in enumerate(zip(others.tolist(), told.tolist(), strict=True)):
                goals = self._goals[episode[row]]
                points[i], words = goals.points[goal], goals.instructions[goal]
                instructions[row] = words[int(draws[row, 0] * len(words))]
            keypoints[others], keypoints_mask[others] = project(self._matrices[now[others]], points)
            recall_mask[others] = keypoints_mask[others]
            future_mask[others] = False
        pursued = future_mask[:, 0]  # what is told is what was done
        questions, asked, asked_mask = self._ask(now, draws)
        first = self._first[now]
        return WindowBatch(
            images=images,
            images_mask=images_mask,
            state=self._states[past],
            state_mask=past_mask,
            actions=self._actions[future],
            actions_mask=future_mask,
            instructions=instructions,
            keypoints=keypoints,
            keypoints_mask=keypoints_mask,
            recall_mask=recall_mask,
            questions=questions,
            question_keypoints=asked,
            question_mask=asked_mask,
            index=np.asarray(indices, np.int64),
            goal=self._frames[self.cameras[0]][self._end[now] - 1] if self.goals else np.empty((len(now), 0, 0, 3), np.uint8),
            goal_mask=np.full(len(now), self.goals),
            acted=self._actions[np.maximum(now - 1, first)] if self.acted else np.empty((len(now), 0), np.float32),
            acted_mask=(now > first) & self.acted,
            steps_left=self._steps_left[now],
            task=np.where(pursued, self._tasks[episode], -1),
            grasp=self._grasps[now],
            grasp_mask=self._grasps_mask[now] & pursued,
            features=features,
            captions=self._name(now, draws),
        )

    def _name(self, now: Indices, draws: npt.NDArray[np.float64]) -> list[tuple[Caption, ...]]:
        """Captions that follow one another in the order of the recording; none once something was engaged."""
        said: list[tuple[Caption, ...]] = [()] * len(now)
        for row in np.flatnonzero(self._untouched[now]) if self.captions else ():
            known = self._captions[self._episode[now[row]]]
            first = int(draws[row, 2] * len(known))
            said[row] = tuple(known[(first + i) % len(known)] for i in range(min(self.captions, len(known))))
        return said

    def _ask(self, now: Indices, draws: npt.NDArray[np.float64]) -> tuple[list[tuple[str, ...]], FloatArray, BoolArray]:
        """Goals that follow one another in the order of the recording, in which neighbors name different things."""
        episode, views = self._episode[now], len(self.cameras)
        points = np.full((len(now), self.questions, len(POINTS), 3), np.nan)
        questions: list[tuple[str, ...]] = [()] * len(now)
        for row in np.flatnonzero(self._untouched[now] & (self._goal_counts[episode] > 0)) if self.questions else ():
            goals, words = self._goals[episode[row]], []
            count = len(goals.points)
            for place in range(min(self.questions, count)):
                goal = (int(draws[row, 2] * count) + place) % count
                points[row, place] = goals.points[goal]
                said = goals.instructions[goal]
                words.append(said[int(draws[row, 1] * len(said))])
            questions[row] = tuple(words)
        flat = points.reshape(len(now), -1, 3)
        keypoints, mask = project(self._matrices[now], flat)  # (b, v, m·3, 2)
        keypoints = keypoints.reshape(len(now), views, self.questions, len(POINTS), 2)
        return questions, keypoints.swapaxes(1, 2), mask.reshape(keypoints.shape[:-1]).swapaxes(1, 2)

    def _images(self, past: Indices, mask: BoolArray) -> tuple[UInt8Array, Features, BoolArray]:
        """Images, or the features that stand for them, and where there are some."""
        shape = (*past.shape, len(self.cameras))
        places = next(iter(self._features.values())).shape[1:] if self._features else (0, 0)
        images = np.zeros((*shape, *self._size, 0 if self._features else 3), np.uint8)
        features, images_mask = np.zeros((*shape, *places), np.float16), np.zeros(shape, bool)
        for view, camera in enumerate(self.cameras):
            if camera in self._frames:
                seen = (features, self._features) if self._features else (images, self._frames)
                seen[0][:, :, view] = seen[1][camera][past]
                images_mask[:, :, view] = mask
        return images, features, images_mask

    def _image_size(self) -> tuple[int, int]:
        sizes = {camera: frames.shape[1:3] for camera, frames in self._frames.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the cameras of one batch need one image size; they have {sizes}")
        height, width = next(iter(sizes.values()), (1, 1))
        return height, width


def _check(counts: Mapping[str, int], keypoints: str, relabel: float, questions: int, captions: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"windows need a {name} of at least 1; got {count}")
    if keypoints not in KEYPOINTS:
        raise UnknownNameError("kind of keypoints", keypoints, KEYPOINTS)
    if not 0 <= relabel <= 1:
        raise ConfigError(f"relabel is a probability; got {relabel}")
    if questions < 0 or captions < 0:
        raise ConfigError(f"questions and captions are numbers of them; got {questions} and {captions}")


def _without(batch: WindowBatch, absent: BoolArray) -> WindowBatch:
    """The same, with nothing to see and nothing to learn in the rows that are `absent`."""
    masks = (
        "images_mask", "state_mask", "actions_mask", "keypoints_mask", "recall_mask", "question_mask", "acted_mask", "grasp_mask",
    )  # fmt: skip
    for name in masks:
        getattr(batch, name)[absent] = False
    questions = [() if gone else asked for gone, asked in zip(absent.tolist(), batch.questions, strict=True)]
    captions = [() if gone else said for gone, said in zip(absent.tolist(), batch.captions, strict=True)]
    return dataclasses.replace(batch, questions=questions, captions=captions, goal_mask=batch.goal_mask & ~absent)


def _visits_before(recorded: Sequence[EpisodeArrays], ends: Indices) -> Indices:
    """For each episode the row where the one before began, if both are of one scene; else -1."""
    rows = np.full(len(recorded), -1)
    for number, (before, episode) in enumerate(itertools.pairwise(recorded), start=1):
        if episode.visit and episode.request == before.request:
            rows[number] = ends[number - 1]
    return rows
