"""Fields, numbers, sentences and stamps of decoded ROS 2 messages (objects), and of JSON messages (dictionaries)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from verbot.errors import DataError

MOST = 1 << 16  # numbers of one message
JOINT_FIELDS = ("position", "velocity", "effort")
PLAIN = (bool, int, float, str, bytes, bytearray, memoryview)


def topic_of(name: str) -> str:
    """The topic of ``topic:field``."""
    return name.partition(":")[0]


def field_of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def chosen(name: str, value: Any) -> Any:
    """The field of a message that ``topic:field.inner`` names. Raises `DataError` if the message lacks it."""
    for word in filter(None, name.partition(":")[2].split(".")):
        inner = field_of(value, word)
        if inner is None:
            raise DataError(f"{name}: a message has no {word!r}; it has {fields_of(value)}")
        value = inner
    return value


def fields_of(value: Any) -> str:
    return ", ".join(str(key) for key, _ in _entries(value)) or "no fields"


def text_of(value: Any) -> str:
    """The sentence of a message: its `data` or `text`, or the message itself."""
    if isinstance(value, bool):
        return str(value).lower()
    inner = value if isinstance(value, str | int | float) or value is None else field_of(value, "data")
    inner = field_of(value, "text") if inner is None and value is not None else inner
    return "" if inner is None else str(inner).lower() if isinstance(inner, bool) else str(inner)


def stamp_ns(value: Any) -> int | None:
    """The time of a message by its own header (or `timestamp`) in ns: 0 if it was not set, None if it has none."""
    header = field_of(value, "header")
    for owner, name in ((header, "stamp"), (value, "timestamp"), (value, "stamp")):
        stamp = None if owner is None else field_of(owner, name)
        if stamp is None:
            continue
        seconds = field_of(stamp, "sec")
        parts = [field_of(stamp, "nanosec"), field_of(stamp, "nsec")]
        nanoseconds = next((part for part in parts if part is not None), 0)
        if isinstance(seconds, int | np.integer) and isinstance(nanoseconds, int | np.integer):
            return int(seconds) * 10**9 + int(nanoseconds)
    return None


def is_joints(name: str, value: Any) -> bool:
    """Whether `name` chooses values by joint: those of a JointState, or one of its fields."""
    names = field_of(_owner(name, value)[0], "name")
    return isinstance(names, list | tuple) and len(names) > 0


def numbers(name: str, value: Any) -> dict[str, float]:
    """As `_named_numbers` has them. Raises `DataError` for more than `MOST` of them, too, which are no state and no action."""
    found: dict[str, float] = {}
    for label, number in _named_numbers(name, value):
        found[label] = number
        if len(found) > MOST:
            raise DataError(f"{name}: a message has more than {MOST} numbers; name a field of it, as {topic_of(name)}:FIELD")
    return found


def _named_numbers(name: str, value: Any) -> Iterable[tuple[str, float]]:
    """The numbers of a message, or of the field of it that `name` chooses, by their names.

    Those of a JointState are the positions by joint, of ``topic:velocity`` the velocities; others are `data`, or all numbers
    except the header. Raises `DataError` if names and values of joints differ in number.
    """
    if is_joints(name, value):
        owner, label = _owner(name, value)
        joints, values = [str(joint) for joint in field_of(owner, "name")], field_of(owner, label)
        found = [number for _, number in itertools.islice(_numbers(values), MOST + 1)] if values is not None else []
        if len(found) != len(joints):
            others = [other for other in JOINT_FIELDS if len(joints) == _length(field_of(owner, other))]
            hint = "".join(f"; {topic_of(name)}:{other} has as many" for other in others)
            raise DataError(
                f"{name}: a message has {len(joints)} joints ({', '.join(joints)}) and {len(found)} of {label!r}{hint}"
            )
        if len(set(joints)) != len(joints):
            raise DataError(f"{name}: a message has a joint twice: {', '.join(joints)}")
        return zip(joints, found, strict=True)
    value = chosen(name, value)
    position, data = field_of(value, "position"), field_of(value, "data")
    if position is not None and isinstance(field_of(value, "name"), list | tuple):  # a JointState without names
        return _numbers(position)
    return _numbers(value if data is None else data)


def filled_joint_fields(value: Any) -> list[str]:
    """The fields of a JointState that have values; none of another message."""
    named = isinstance(field_of(value, "name"), list | tuple)
    return [label for label in JOINT_FIELDS if named and _length(field_of(value, label)) > 0]


def _owner(name: str, value: Any) -> tuple[Any, str]:
    """The part of the message that has names of joints, if it is a JointState, and which of its values are meant."""
    path = [word for word in name.partition(":")[2].split(".") if word]
    label = path.pop() if path and path[-1] in JOINT_FIELDS else "position"
    owner = chosen(f"{topic_of(name)}:{'.'.join(path)}", value) if path else value
    known = owner is not None and field_of(owner, "position") is not None
    return (owner if known else None), label


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | np.ndarray) else -1


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, PLAIN) or value is None:
        return []
    return [(name, getattr(value, name)) for name in getattr(value, "__slots__", ())]


def _numbers(value: Any, stem: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) of every number in a message, except its header."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        try:
            yield stem, float(value)
        except OverflowError as error:
            raise DataError(f"{stem or 'a number'} is too large: {str(value)[:20]}…") from error
    elif isinstance(value, list | tuple | np.ndarray):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{stem}.{number}" if stem else str(number))
    else:
        for name, inner in _entries(value):
            if name not in ("header", "layout", "stamp"):
                yield from _numbers(inner, f"{stem}.{name}" if stem else str(name))
