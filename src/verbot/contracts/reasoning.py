"""Reasoning before acting, as text: embodied chain of thought, with motions in words.

After Zawalski et al. 2024, "Robotic Control via Embodied Chain-of-Thought Reasoning", and Belkhale et al. 2024, "RT-H".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from verbot.errors import ReasoningError, UnknownNameError

PARTS = ("task", "plan", "subtask", "move", "gripper", "objects")  # in the order of the text
GRID = 100  # image coordinates are whole numbers from 0 to 99, from the upper left corner
END = "ACTION:"
_LABEL = re.compile(rf"\b({'|'.join(part.upper() for part in PARTS)}|ACTION):")
_PLACE = re.compile(r"(\d{1,2}) (\d{1,2})")
_OBJECT = re.compile(r"(\S(?:.*\S)?) (\d{1,2}) (\d{1,2})")

GridPlace = tuple[int, int]


@dataclass(frozen=True)
class Reasoning:
    """What a policy considers before it acts. A part that is empty or None is left out of the text.

    Args:
        task: the plain instruction.
        plan: subtasks in order.
        subtask: the one at present.
        move: the next motion in words.
        gripper: image coordinates (x, y) of the end effector in the first camera, 0 to 99.
        objects: name, x and y of each object that the task names, where it is in the image.

    Raises `ReasoningError` for text that could not be read back, and a coordinate out of range.

    Example:
        >>> text = Reasoning(plan=("reach the red cube", "lift it"), gripper=(40, 7), objects=(("red cube", 12, 60),)).text()
        >>> text
        'PLAN: reach the red cube; lift it GRIPPER: 40 7 OBJECTS: red cube 12 60 ACTION:'
        >>> Reasoning.parse(text).objects
        (('red cube', 12, 60),)
    """

    task: str = ""
    plan: tuple[str, ...] = ()
    subtask: str = ""
    move: str = ""
    gripper: GridPlace | None = None
    objects: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        for name, text in (("task", self.task), ("subtask", self.subtask), ("move", self.move)):
            _check_text(name, text)
        for step in self.plan:
            _check_text("plan", step, ";")
        for name, *_ in self.objects:
            _check_text("objects", name, ",")
        for place in (*(() if self.gripper is None else (self.gripper,)), *(each[1:] for each in self.objects)):
            if not all(0 <= value < GRID for value in place):
                raise ReasoningError(f"image coordinates {place} are out of range; expected whole numbers from 0 to {GRID - 1}")

    def text(self, parts: Sequence[str] = PARTS) -> str:
        """These parts in the order of `PARTS`, and ``ACTION:``. Raises `UnknownNameError` for a part that does not exist."""
        check_parts(parts)
        return " ".join([*(f"{name.upper()}: {value}" for name, value in self._written() if value and name in parts), END])

    @staticmethod
    def parse(text: str) -> Reasoning:
        """Read text as `text` writes it. Text after ``ACTION:`` is not read.

        Raises `ReasoningError` for an unknown beginning, a part that is doubled, empty or out of order, and a place that is none.
        """
        pieces = _LABEL.split(text)
        if pieces[0].strip():
            raise ReasoningError(f"reasoning begins with {pieces[0].strip()[:40]!r}; expected one of {_labels()}")
        known: dict[str, str] = {}
        for label, value in zip(pieces[1::2], pieces[2::2], strict=True):
            if label == END[:-1]:
                return _read(known)
            name, value = label.lower(), " ".join(value.split())
            if name in known or any(PARTS.index(other) > PARTS.index(name) for other in known):
                raise ReasoningError(f"{label}: comes twice or out of order in reasoning; expected the order {_labels()}")
            if not value:
                raise ReasoningError(f"{label}: is empty in reasoning; expected words, or no {label}: at all")
            known[name] = value
        raise ReasoningError(f"reasoning has no {END} at its end: {text[-40:]!r}")

    def _written(self) -> Iterator[tuple[str, str]]:
        yield "task", self.task
        yield "plan", "; ".join(self.plan)
        yield "subtask", self.subtask
        yield "move", self.move
        yield "gripper", "" if self.gripper is None else f"{self.gripper[0]} {self.gripper[1]}"
        yield "objects", ", ".join(f"{name} {x} {y}" for name, x, y in self.objects)


def check_parts(parts: Sequence[str]) -> None:
    """Raise `UnknownNameError` for a part of reasoning that does not exist."""
    for part in parts:
        if part not in PARTS:
            raise UnknownNameError("part of reasoning", part, PARTS)


def grid_place(x: float, y: float) -> GridPlace:
    """The place on the grid of an image point in [-1, 1], x right and y down.

    Example:
        >>> grid_place(-1.0, 0.0), grid_place(1.0, 0.999)
        ((0, 50), (99, 99))
    """
    column, row = (min(GRID - 1, max(0, int((value + 1) / 2 * GRID))) for value in (x, y))
    return column, row


def _read(known: dict[str, str]) -> Reasoning:
    place = known.get("gripper")
    found = None if place is None else _PLACE.fullmatch(place)
    if place is not None and found is None:
        raise ReasoningError(
            f"GRIPPER: {place[:40]!r} is no place; expected two whole numbers from 0 to {GRID - 1}, such as 40 7"
        )
    objects = []
    for each in filter(None, known.get("objects", "").split(", ")):
        entry = _OBJECT.fullmatch(each)
        if entry is None:
            raise ReasoningError(f"OBJECTS: {each[:40]!r} is no name and place; expected such as 'red cube 12 60'")
        objects.append((entry[1], int(entry[2]), int(entry[3])))
    return Reasoning(
        task=known.get("task", ""),
        plan=tuple(step.strip() for step in known.get("plan", "").split(";") if step.strip()),
        subtask=known.get("subtask", ""),
        move=known.get("move", ""),
        gripper=None if found is None else (int(found[1]), int(found[2])),
        objects=tuple(objects),
    )


def _check_text(name: str, text: str, separator: str = "") -> None:
    if text != " ".join(text.split()) or _LABEL.search(text) or (separator and separator in text):
        raise ReasoningError(
            f"{name} is {text[:60]!r}; expected one line without {separator or 'labels'} and without labels ({_labels()})"
        )


def _labels() -> str:
    return ", ".join(f"{part.upper()}:" for part in PARTS)
