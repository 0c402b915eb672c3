"""What is true of a scene at one instant, and what a language says of it: the source of text for co-training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from verbot.errors import DataError

PositionM = tuple[float, float, float]
SCENE_COLUMN = "scene"  # of a dataset: the JSON of each frame's `SceneTruth`
_MM = 1000.0


@dataclass(frozen=True)
class ObjectTruth:
    """One object of a scene.

    Args:
        id: unique in the scene, "red cube 2".
        name: what people call it, "red cube"; objects that look alike share it. Empty for what has no name, such as clutter.
        position_m: its center in the base frame.
        within: the id of the object that it lies in or on; None on the table and in the gripper.
    """

    id: str
    name: str
    position_m: PositionM
    within: str | None = None


@dataclass(frozen=True)
class SceneTruth:
    """What is true of a scene at one instant, in whole millimeters.

    Args:
        language: name of the `SceneLanguage` that speaks of it (see `verbot.envs.scene_languages`).
        right, near: unit vectors in the base frame: to the right, and toward the viewer, of a person who looks at the scene.
        tool_m: position of the end effector in the base frame.
        held: the id of the object that the gripper holds.
        objects: all objects.
        covered: whether colors are not visible at present.
        task: the plain instruction of the goal; empty if it is unknown.
        plan: the expert's subtasks for it, in order, and `subtask` the one at present, counted from 0.

    Example:
        >>> cube = ObjectTruth("red cube", "red cube", (0.5, 0.1, 0.024))
        >>> truth = SceneTruth("tabletop", (0, 1, 0), (1, 0, 0), (0.4, 0.0, 0.2), None, (cube,))
        >>> SceneTruth.from_json(truth.to_json()) == truth
        True
    """

    language: str
    right: PositionM
    near: PositionM
    tool_m: PositionM
    held: str | None
    objects: tuple[ObjectTruth, ...]
    covered: bool = False
    task: str = ""
    plan: tuple[str, ...] = ()
    subtask: int = 0

    def __post_init__(self) -> None:
        objects = tuple(ObjectTruth(each.id, each.name, _rounded(each.position_m), each.within) for each in self.objects)
        object.__setattr__(self, "objects", objects)
        for name in ("tool_m", "right", "near"):
            object.__setattr__(self, name, _rounded(getattr(self, name)))

    def object(self, number: str) -> ObjectTruth:
        """The object with this id. Raises `KeyError` if there is none."""
        for each in self.objects:
            if each.id == number:
                return each
        raise KeyError(number)

    def to_json(self) -> str:
        """One line of JSON, with lengths in whole millimeters."""
        record: dict[str, Any] = {
            "language": self.language, "right": _to_mm(self.right), "near": _to_mm(self.near), "tool": _to_mm(self.tool_m),
            "held": self.held, "objects": [[each.id, each.name, *_to_mm(each.position_m), each.within] for each in self.objects],
            "covered": self.covered, "task": self.task, "plan": list(self.plan), "subtask": self.subtask,
        }  # fmt: skip
        return json.dumps(record, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> SceneTruth:
        """Inverse of `to_json`. Raises `DataError` for other text."""
        try:
            record = json.loads(text)
            objects = tuple(ObjectTruth(str(o[0]), str(o[1]), _from_mm(o[2:5]), o[5]) for o in record["objects"])
            return SceneTruth(
                str(record["language"]), _from_mm(record["right"]), _from_mm(record["near"]), _from_mm(record["tool"]),
                record["held"], objects, bool(record["covered"]), str(record["task"]), tuple(map(str, record["plan"])),
                int(record["subtask"]),
            )  # fmt: skip
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"not the truth of a scene ({error!r}): {text[:80]!r}; expected what SceneTruth.to_json writes"
            ) from error


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Args:
        text: one sentence in lower case, with a question mark.
        answer: the one right answer, as `normalized` writes it.
        kind: one of the language's kinds.
    """

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class TextTask:
    """What a language model reads and should write in one sample.

    Args:
        prompt: the question, the instruction, or the request for a caption.
        answer: what follows it.
        kind: ``"question"``, ``"caption"``, ``"fact"`` or ``"reasoning"``.
        frame: number of the window whose images belong to it; None for text alone.
    """

    prompt: str
    answer: str
    kind: str
    frame: int | None = None


@runtime_checkable
class SceneLanguage(Protocol):
    """What can be asked and said of a scene. Everything drawn is a function of `rng`.

    `wording` is ``"seen"`` (to train on) or ``"unseen"`` (kept for testing). `composition` ``"seen"`` names only those pairs of
    color and shape that are asked of in training, ``"unseen"`` only questions with another one.
    """

    kinds: tuple[str, ...]

    def question(
        self,
        truth: SceneTruth,
        rng: np.random.Generator,
        wording: str = "seen",
        composition: str = "seen",
        kind: str | None = None,
    ) -> Question | None:
        """A question, of this kind if it is given; None if the scene admits none."""
        ...

    def caption(self, truth: SceneTruth, rng: np.random.Generator, wording: str = "seen") -> Question | None:
        """A request for a caption, and a short true caption; None if there is nothing to say."""
        ...

    def motion(self, moved_m: Sequence[float], turned_rad: float, gripper: str) -> str:
        """Words for a motion to the right, toward the viewer and up; `gripper` is ``"open"``, ``"close"`` or empty."""
        ...


@runtime_checkable
class JudgingLanguage(Protocol):
    """A `SceneLanguage` that also answers questions of other people, as far as it understands them."""

    def find(self, truth: SceneTruth, text: str) -> Question | None:
        """The question `text` with its answer in this scene; None if it is not understood, or has no one clear answer there."""
        ...


@runtime_checkable
class Surveyed(Protocol):
    """An env that reports the truth of its present scene, which no policy sees."""

    def scene_truth(self) -> SceneTruth: ...


def normalized(answer: str) -> str:
    """An answer for exact comparison: lower case, single spaces, without an article at its start and a period at its end.

    Example:
        >>> normalized(" The red  Cube. ")
        'red cube'
    """
    words = answer.lower().strip().rstrip(".!").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("the", "a", "an") else words)


def _rounded(point: Any) -> PositionM:
    return _from_mm(_to_mm(point))


def _to_mm(point: Any) -> list[int]:
    return [round(float(value) * _MM) for value in point]


def _from_mm(values: Any) -> PositionM:
    x, y, z = (int(value) / _MM for value in values)
    return (x, y, z)
