"""Configurations are frozen dataclasses: strict YAML in, resolved YAML out."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from verbot.errors import ConfigError, VerbotDeprecationWarning
from verbot.files import write_atomic
from verbot.yaml_values import parse_value, read_yaml

C = TypeVar("C")
Record = Mapping[str, Any]
_OLD_NAMES: dict[type, dict[str, str]] = {}
_OLD_SHAPES: dict[type, Callable[[Record], Record]] = {}


def renamed(upgrade: Callable[[Record], Record] | None = None, /, **names: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: old field names of a dataclass, which are read for one version with a `VerbotDeprecationWarning`.

    Args:
        upgrade: makes today's record of one of an older shape; called before `names` are looked up.
        names: old name to the dotted path of its successor, seen from this dataclass.

    Example:
        >>> @renamed(pace="speed.mean")
        ... @dataclasses.dataclass(frozen=True)
        ... class Walk:
        ...     speed: dict[str, float]
        >>> old_names(Walk)
        {'pace': 'speed.mean'}
    """

    def note(kind: type[C]) -> type[C]:
        _OLD_NAMES[kind] = names
        if upgrade is not None:
            _OLD_SHAPES[kind] = upgrade
        return kind

    return note


def old_names(kind: type) -> Mapping[str, str]:
    """Old field names of a dataclass, each with the dotted path of its successor."""
    return _OLD_NAMES.get(kind, {})


def warn_renamed(what: str, old: str, new: str) -> None:
    """Warn that `old` is a former name of `new`."""
    warnings.warn(f"{what} {old} is now called {new}; the old name is read for one version", VerbotDeprecationWarning, 3)


def former_names(module: str, **names: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of `module` that reads its former names for one version, with a `VerbotDeprecationWarning`.

    Args:
        names: former name to the name of today, in `module` or with the path of another.
    """

    def read(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path, _, today = names[name].rpartition(".")
        warn_renamed("the name", f"{module}.{name}", f"{path or module}.{today}")
        return getattr(importlib.import_module(path or module), today)

    return read


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
    hints = field_types(kind)
    if not isinstance(record, Mapping):
        raise ConfigError(f"{where or kind.__name__} is {record!r}; expected a mapping of {kind.__name__}'s fields")
    record = _upgraded(kind, record, fields)
    for name in record:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where or kind.__name__} has no field {name!r}.{hint} Fields: {', '.join(fields)}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in record:
            raise ConfigError(f"{where or kind.__name__} lacks the field {name!r}, a {_words(hints[name])}")
    fitted = {name: _fit(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in record.items()}
    try:
        return kind(**fitted)
    except ConfigError as error:
        named = re.match(r"(\w+)(?:[.\[]\S+)? is ", str(error))  # a record names its field, not where it is
        if not where or named is None or named[1] not in fields or type(error) is not ConfigError:
            raise
        raise ConfigError(f"{where}.{error}") from error


def field_types(kind: type) -> dict[str, Any]:
    """Field name to type of a dataclass."""
    hints = _type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


@functools.cache
def _type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def record_type(hint: Any, value: Any = None) -> type | None:
    """The dataclass that a field of type `hint` holds, or None if it holds no record.

    Args:
        value: plain value of the field; it decides between several dataclasses.
    """
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    records = [choice for choice in choices if isinstance(choice, type) and dataclasses.is_dataclass(choice)]
    if len(records) < 2 or not isinstance(value, Mapping):
        return records[0] if records else None
    return max(records, key=lambda kind: len(set(value) & {*field_types(kind), *old_names(kind)}))


def _upgraded(kind: type, record: Record, fields: Mapping[str, Any]) -> Record:
    """`record` with the successors of old field names in their places."""
    if kind in _OLD_SHAPES:
        record = _OLD_SHAPES[kind](record)
    old = {name: path for name, path in old_names(kind).items() if name in record and name not in fields}
    if not old:
        return record
    moved: dict[str, Any] = to_plain({name: value for name, value in record.items() if name not in old})
    for name, path in old.items():
        *outer, last = path.split(".")
        inner = moved
        for part in outer:
            before = inner.get(part)  # a name may stand for a record
            inner[part] = {"name": before} if isinstance(before, str) else before or {}
            inner = inner[part]
        if last in inner:
            raise ConfigError(f"{kind.__name__} is given {path} and also {name}, which is its old name")
        inner[last] = record[name]
    moves = ", ".join(f"{name} → {path}" for name, path in old.items())
    warnings.warn(f"{kind.__name__} has renamed fields: {moves}; old names are read for one version", VerbotDeprecationWarning, 4)
    return moved


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


def differences(one: object, other: object, path: str = "") -> list[str]:
    """Dotted paths of the fields in which two configurations of one type differ; a part or a list counts as one field.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Walk:
        ...     steps: int
        >>> differences(Walk(3), Walk(4))
        ['steps']
    """
    found: list[str] = []
    for field in dataclasses.fields(one):  # type: ignore[arg-type]
        ours, theirs, where = getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}".lstrip(".")
        if to_plain(ours) == to_plain(theirs):
            continue
        nested = dataclasses.is_dataclass(ours) and type(ours) is type(theirs) and "options" not in field_types(type(ours))
        found += differences(ours, theirs, where) if nested else [where]
    return found


def load_yaml(kind: type[C], path: str | Path) -> C:
    """The configuration in a YAML file. Raises `ConfigError` naming the file and the field."""
    record = read_yaml(path)
    try:
        return build(kind, record)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def dump_yaml(config: object, path: str | Path) -> None:
    """Write every field, defaults too, so that the file alone repeats the run."""
    write_atomic(Path(path), written_yaml(config))


def written_yaml(config: object) -> str:
    """Every field of a configuration as YAML."""
    import yaml

    return yaml.safe_dump(to_plain(config), sort_keys=False, width=120, allow_unicode=True)


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """Settings as a person types them: dotted path to value (see `parse_value`). Raises `ConfigError` for another form.

    Example:
        >>> assignments(["augment.relabel=0.5", "keep=best", "vision=vit", "vision.depth=3"])
        {'augment.relabel': 0.5, 'keep': 'best', 'vision': 'vit', 'vision.depth': 3}
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"{word!r} is not of the form name=value")
        if name in settings:
            raise ConfigError(f"{name} is set twice")
        settings[name] = parse_value(value)
    return settings


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths as nested dictionaries. Raises `ConfigError` if a path leads through a value.

    Example:
        >>> nested({"a.b": 1, "a.c": 2, "d": 3})
        {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    found: dict[str, Any] = {}
    for path, value in settings.items():
        *outer, last = path.split(".")
        inner = found
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{path!r}: {part} has a value already")
        inner[last] = value
    return found


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
        kind = typing.cast(type, hint)
        return value if isinstance(value, kind) else build(kind, {"name": value} if _is_name(kind, value) else value, where)
    if origin is tuple:
        return _fit_tuple(hint, arguments, value, where)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, Any]):
        if not isinstance(value, Mapping):
            _refuse(hint, value, where)
        return {str(key): _fit(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) <= sys.float_info.max else _refuse(hint, value, where)
    if hint is int and isinstance(value, bool):
        _refuse(hint, value, where)
    return value if isinstance(hint, type) and isinstance(value, hint) else _refuse(hint, value, where)


def _is_name(kind: type, value: Any) -> bool:
    """Whether a string stands for a record with this `name` and defaults else."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    others = (field for name, field in fields.items() if name != "name")
    return (
        isinstance(value, str)
        and "name" in fields
        and all(field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING for field in others)
    )


def _fit_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    if isinstance(value, Mapping) and (kind := record_type(Union[choices], value)) is not None:  # noqa: UP007  # of a tuple
        return _fit(kind, value, where)
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
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    raise ConfigError(f"{where} is {text if len(text) <= 200 else text[:199] + '…'}; expected {_words(hint)}")


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
