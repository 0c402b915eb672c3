"""Configurations are frozen dataclasses: strict YAML in, resolved YAML out."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from verbot.errors import ConfigError

C = TypeVar("C")


def build(kind: type[C], record: Mapping[str, Any], where: str = "") -> C:
    """A frozen dataclass from plain values: nested ones too, every field named and typed.

    Args:
        kind: the dataclass to make.
        record: field name to plain value (what YAML or JSON holds).
        where: the path of this record, for messages.

    Raises `ConfigError` on an unknown field (with the nearest name), a missing field or a value of another type.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Walk:
        ...     steps: int
        ...     pace: float = 1.0
        >>> build(Walk, {"steps": 3, "pace": 2})
        Walk(steps=3, pace=2.0)
        >>> build(Walk, {"step": 3})
        Traceback (most recent call last):
        ...
        verbot.errors.ConfigError: Walk has no field 'step'. Did you mean 'steps'? Fields: steps, pace
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    if not isinstance(record, Mapping):
        raise ConfigError(f"{where or kind.__name__} is {record!r}; expected a mapping of {kind.__name__}'s fields")
    for name in record:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where or kind.__name__} has no field {name!r}.{hint} Fields: {', '.join(fields)}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in record:
            raise ConfigError(f"{where or kind.__name__} lacks the field {name!r}, a {_words(hints[name])}")
    return kind(**{name: _fit(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in record.items()})


def replace(config: C, changes: Mapping[str, Any]) -> C:
    """A copy with some fields changed; a mapping given for a nested dataclass changes that one's fields only.

    Raises `ConfigError` as `build` does.
    """
    return build(type(config), _merge(to_plain(config), changes, config))


def to_plain(value: Any) -> Any:
    """Dataclasses to dictionaries and tuples to lists, all the way down: what YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def load_yaml(kind: type[C], path: str | Path) -> C:
    """The configuration in a YAML file. Raises `ConfigError` naming the file and the field."""
    import yaml

    try:
        record = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    try:
        return build(kind, record)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def dump_yaml(config: object, path: str | Path) -> None:
    """Write every field, defaults too, so that the file alone repeats the run."""
    import yaml

    Path(path).write_text(yaml.safe_dump(to_plain(config), sort_keys=False, width=120))


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """Settings as a person types them; values are YAML.

    Example:
        >>> assignments(["augment.relabel=0.5", "keep=best"])
        {'augment': {'relabel': 0.5}, 'keep': 'best'}
    """
    import yaml

    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"{word!r} is not of the form name=value")
        *outer, last = name.split(".")
        inner = settings
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{word!r}: {part} has a value already")
        inner[last] = yaml.safe_load(value)
    return settings


def _merge(record: dict[str, Any], changes: Mapping[str, Any], config: Any) -> dict[str, Any]:
    merged = dict(record)
    for name, value in changes.items():
        current = getattr(config, str(name), None)
        nested = dataclasses.is_dataclass(current) and isinstance(value, Mapping)
        merged[name] = _merge(record[name], value, current) if nested else to_plain(value)
    return merged


def _fit(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `hint` wants it, or `ConfigError`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _fit_union(arguments, value, where)
    if hint is Any or hint is object:
        return value
    if origin is Literal:
        return value if value in arguments else _refuse(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else build(typing.cast(type, hint), value, where)
    if origin is tuple:
        return _fit_tuple(hint, arguments, value, where)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, Any]):
        if not isinstance(value, Mapping):
            _refuse(hint, value, where)
        return {str(key): _fit(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else _refuse(hint, value, where)
    if hint is int and isinstance(value, bool):
        _refuse(hint, value, where)
    return value if isinstance(hint, type) and isinstance(value, hint) else _refuse(hint, value, where)


def _fit_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    first: ConfigError | None = None
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _fit(choice, value, where)
        except ConfigError as error:
            first = first or error
    raise first or ConfigError(f"{where} cannot be {value!r}")


def _fit_tuple(hint: Any, arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        _refuse(hint, value, where)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_fit(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        _refuse(hint, value, where)
    return tuple(_fit(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))


def _refuse(hint: Any, value: Any, where: str) -> Any:
    raise ConfigError(f"{where} is {value!r}; expected {_words(hint)}")


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
