"""Conditions on episodes, such as ``success=false``, ``length<10`` and ``task=pick``."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verbot.data.samples.episode_arrays import task_of
from verbot.data.storage.reader import Episode
from verbot.errors import ConfigError, UnknownNameError

_FORM = re.compile(r"([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.*)", re.DOTALL)
_AND = re.compile(r"\s+and\s+(?=[\w.]+\s*[!<>=])")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
COMPUTED = ("length", "seconds", "task", "instruction")


@dataclass(frozen=True)
class Condition:
    """One comparison of a value of an episode.

    Args:
        name: ``length`` (frames), ``seconds``, ``task`` (the one requested, or the verb of the goal; the instructions if neither
            was recorded), ``instruction`` (any of the episode's), or a value of ``extras`` by its path, such as ``success``.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.
        value: number, bool, None or text.
    """

    name: str
    operator: str
    value: Any

    @staticmethod
    def parse_all(text: str) -> tuple[Condition, ...]:
        """Read ``success=false and length<10``, all of which have to hold. Raises `ConfigError` for another form."""
        return tuple(map(Condition.parse, _AND.split(text)))

    @staticmethod
    def parse(text: str) -> Condition:
        """Read ``success=false``. Raises `ConfigError` for another form."""
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"the condition {text!r} is none: expected NAME=VALUE, or with !=, <, <=, > or >=, as in length<10")
        name, sign, written = found.groups()
        try:
            value = json.loads(written)
        except ValueError:
            value = {"True": True, "False": False, "None": None}.get(written, written)
        if sign in _ORDER and not _is_number(value):
            raise ConfigError(f"the condition {text!r} compares with {written!r}; expected a number after {sign}")
        return Condition(name, sign, value)

    def holds(self, episode: Episode) -> bool:
        """Whether the episode satisfies it; one that lacks the value satisfies only ``!=``."""
        found = values_of(episode).get(self.name, ())
        if self.operator in _ORDER:
            return any(_is_number(value) and _ORDER[self.operator](value, self.value) for value in found)
        equal = any(value == self.value and isinstance(value, bool) == isinstance(self.value, bool) for value in found)
        return equal == (self.operator == "=")

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else json.dumps(self.value)
        return f"{self.name}{self.operator}{value}"


def check_known(conditions: Sequence[Condition], episodes: Iterable[Episode]) -> None:
    """Raise `UnknownNameError` for a condition whose value none of `episodes` has; it lists those that exist."""
    missing, known = {condition.name for condition in conditions} - set(COMPUTED), set(COMPUTED)
    for episode in episodes if missing else ():
        found = values_of(episode).keys()
        known, missing = known | found, missing - found
        if not missing:
            return
    for name in sorted(missing):
        raise UnknownNameError("value of an episode", name, known)


def values_of(episode: Episode) -> dict[str, tuple[Any, ...]]:
    """Everything that a condition can compare, by name; several values where any of them may satisfy it."""
    values = {name: (value,) for name, value in _paths(episode.extras)}
    task = task_of(episode)
    sentences = tuple(words for segment in episode.segments for words in segment.wordings)
    length = len(episode)
    return values | {
        "length": (length,),
        "seconds": (length / episode.dataset.spec.rate_hz,),
        "task": sentences if task is None else (task,),  # LeRobot's task is the sentence
        "instruction": sentences,
    }


def _paths(record: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
