"""The override grammar: one way to change a configuration, for ``--set``, ``RECIPE+field=value``, lists in YAML and keywords.

A setting is a dotted path and a value. A field of the training, of its network, or one whose name occurs once may be given
without what stands before it. The name of a part stands for the part with its default options, and options stand directly
below the part: ``vision=vit``, ``vision.depth=3``, ``augment.relabel=0.5``, ``learning_rate=1e-3``. The number of an objective is
its weight, its options stand below it, and null leaves it out: ``objectives.value=0.1``, ``objectives.value.discount=0.9``,
``objectives.keypoints=null``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from verbot.configuration import build, field_types, old_names, record_type, to_plain, warn_renamed
from verbot.errors import ConfigError
from verbot.models import registries
from verbot.models.registries import Objective, Part
from verbot.registry import Registry, options_of, records_of

C = TypeVar("C")
Path = tuple[str, ...]
# Of these fields of one record, setting one unsets the others.
EXCLUSIVE = ("steps", "samples", "minutes")


@dataclass(frozen=True)
class ShortPathRoot:
    """A record whose fields are settings without a prefix.

    Args:
        path: path of the record in the configuration.
        names: only these of its fields; None takes all.
    """

    path: Path = ()
    names: frozenset[str] | None = None


SHORT_PATH_ROOTS = (ShortPathRoot(), ShortPathRoot(("network",)))


def override(config: C, settings: Mapping[str, Any], short_path_roots: Sequence[ShortPathRoot] = SHORT_PATH_ROOTS) -> C:
    """A copy of a frozen dataclass with other values.

    Args:
        settings: dotted path to value (see the module's docstring); a mapping for a record changes the fields that it names.
        short_path_roots: the records whose fields need no prefix.

    Raises `ConfigError` for a path that does not exist, with the nearest, or that could be several, and as
    `verbot.configuration.build` does.

    Example:
        >>> from verbot.models.network import NetworkConfig
        >>> network = override(NetworkConfig(), {"vision": "vit", "vision.depth": 3, "width": 32})
        >>> network.vision, network.width
        (Part(name='vit', options={'depth': 3}), 32)
    """
    return apply(config, locate(config, settings, short_path_roots))


def locate(
    config: object, settings: Mapping[str, Any], short_path_roots: Sequence[ShortPathRoot] = SHORT_PATH_ROOTS
) -> dict[Path, Any]:
    """Each setting with its full path; records among the values are taken apart. Raises `ConfigError` as `override` does."""
    found: dict[Path, Any] = {}
    for name, value in settings.items():
        short = tuple(str(name).split("."))
        for path, leaf in _leaves(type(config), config, _full(config, short, short_path_roots), value):
            if path in found and found[path] != leaf:
                raise ConfigError(f"{'.'.join(path)} is set twice")
            found[path] = leaf
    return found


def apply(config: C, located: Mapping[Path, Any]) -> C:
    """`config` with the values at these full paths (see `locate`)."""
    plain = to_plain(config)
    for path, value in sorted(located.items(), key=lambda item: len(item[0])):  # a part's name comes before its options
        plain = _assign(type(config), plain, path, value, ())
        _unset_others(plain, path, value, located)
    return build(type(config), plain)


def _unset_others(plain: Any, path: Path, value: Any, located: Mapping[Path, Any]) -> None:
    if path[-1] not in EXCLUSIVE or value is None:
        return
    for step in path[:-1]:
        plain = plain[int(step)] if isinstance(plain, list) else plain[step]
    if set(EXCLUSIVE) <= set(plain):
        plain |= {name: None for name in EXCLUSIVE if (*path[:-1], name) not in located}


def _full(config: object, short: Path, short_path_roots: Sequence[ShortPathRoot]) -> Path:
    """The full path of a setting that may lack what stands before it."""
    head, rest = short[0], short[1:]
    for names in (_fields, _old_fields):
        found = {(*root.path, *path) for root in short_path_roots for path in names(config, root, head)}
        if len(found) == 1:
            return (*found.pop(), *rest)
        if found:
            raise _ambiguous(".".join(short), found, rest)
    inner = {(*path, head) for path, kind in _records(config, short_path_roots) if head in field_types(kind)}
    if len(inner) == 1:
        return (*inner.pop(), *rest)
    raise _ambiguous(".".join(short), inner, rest) if inner else _unknown(config, ".".join(short), short_path_roots)


def _fields(config: object, root: ShortPathRoot, head: str) -> list[Path]:
    return [(head,)] if head in _names(config, root) else []


def _names(config: object, root: ShortPathRoot) -> list[str]:
    record = _at(config, root.path)
    return [] if record is None else [n for n in field_types(type(record)) if root.names is None or n in root.names]


def _old_fields(config: object, root: ShortPathRoot, head: str) -> list[Path]:
    record = _at(config, root.path)
    successor = old_names(type(record)).get(head)
    if record is None or root.names is not None or successor is None:
        return []
    if successor.rpartition(".")[2] != head:  # else it is a short path
        warn_renamed("the setting", head, successor)
    return [tuple(successor.split("."))]


def _at(config: object, path: Path) -> Any:
    for step in path:
        if isinstance(config, tuple):
            config = config[int(step)] if step.isdecimal() and int(step) < len(config) else None
        else:
            config = config.get(step) if isinstance(config, Mapping) else getattr(config, step, None)
    return config


def _records(config: object, short_path_roots: Sequence[ShortPathRoot]) -> Iterator[tuple[Path, type]]:
    """Every record of a configuration with its path, but for parts, and for those in lists."""
    seen: set[Path] = set()
    waiting = [(root.path, type(_at(config, root.path))) for root in short_path_roots] + [((), type(config))]
    while waiting:
        path, kind = waiting.pop()
        if path not in seen and kind is not Part and dataclasses.is_dataclass(kind):
            seen.add(path)
            yield path, kind
            for name, hint in field_types(kind).items():
                if (inner := record_type(hint)) is not None:
                    waiting.append(((*path, name), inner))


def _leaves(kind: type, config: object, path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    """A setting, taken apart if its value is a mapping of a record's fields."""
    hint = _hint(kind, config, path)
    record = None if hint is None else record_type(hint, value)
    if record in (None, Part, Objective) or not isinstance(value, Mapping):
        yield path, value
        return
    for name, inner in value.items():
        yield from _leaves(kind, config, (*path, *str(name).split(".")), inner)


def _hint(kind: type, config: object, path: Path) -> Any:
    """The type of the field at `path`; None below a part, and if there is none."""
    hint: Any = kind
    for number, step in enumerate(path):
        found = _at(config, path[:number])
        record = type(found) if dataclasses.is_dataclass(found) else record_type(hint)
        if record is Part:
            return None
        if record is not None:
            step = _successor(record, step, warn=False)[0]
            hint = field_types(record).get(step)
        else:
            hint = _item(hint)
        if hint is None:
            return None
    return hint


def _item(hint: Any) -> Any:
    """The type of what a list or a mapping of type `hint` holds."""
    for choice in (hint, *typing.get_args(hint)):
        if typing.get_origin(choice) is tuple:
            return typing.get_args(choice)[0]
        if typing.get_args(choice) and record_type(typing.get_args(choice)[-1]) is not None:
            return typing.get_args(choice)[-1]
    return None


def _successor(kind: type, name: str, warn: bool = True) -> Path:
    """The path of a field, which `name` may be the old name of."""
    successor = old_names(kind).get(name)
    if successor is None or name in field_types(kind):
        return (name,)
    if warn and successor.rpartition(".")[2] != name:
        warn_renamed(f"the field of {kind.__name__}", name, successor)
    return tuple(successor.split("."))


def _assign(hint: Any, plain: Any, path: Path, value: Any, where: Path) -> Any:
    """The plain value `plain` of a field of type `hint` with another value at `path`."""
    kind = record_type(hint, plain)
    if kind is Part:
        return _part(hint, plain, path, value, where)
    if kind is Objective:
        return _objective(plain, path, value, where)
    if not path:
        return _whole(hint, kind, plain, value, where)
    if kind is not None:
        head, *rest = *_successor(kind, path[0]), *path[1:]
        known = field_types(kind)
        if head not in known:
            raise _no_field(kind, head, where)
        record = dict(plain or {})
        return {**record, head: _assign(known[head], record.get(head), tuple(rest), value, (*where, head))}
    return _in_container(hint, plain, path, value, where)


def _in_container(hint: Any, plain: Any, path: Path, value: Any, where: Path) -> Any:
    head, rest, item = path[0], path[1:], _item(hint)
    if isinstance(plain, list):
        if not head.isdecimal() or int(head) >= len(plain):
            raise ConfigError(f"{_shown(where)} has no item {head!r}; it has {len(plain)}, counted from 0")
        number = int(head)
        return [*plain[:number], _assign(item, plain[number], rest, value, (*where, head)), *plain[number + 1 :]]
    if isinstance(plain, dict) and (item is not None or not rest):
        if value is None and not rest and item is not None:
            return {name: kept for name, kept in plain.items() if name != head}
        return {**plain, head: _assign(item, plain.get(head), rest, value, (*where, head))}
    raise ConfigError(f"there is no setting {_shown((*where, *path))!r}: {_shown(where)} has no fields")


def _whole(hint: Any, kind: type | None, plain: Any, value: Any, where: Path) -> Any:
    if kind is None or value is None or isinstance(value, Mapping) or dataclasses.is_dataclass(value):
        return to_plain(value)
    if isinstance(value, str) and "name" in field_types(kind):
        return {**(plain or {}), "name": value}
    inner = ", ".join(field_types(kind))
    name = _shown(where)
    raise ConfigError(f"{name} is a record, so it cannot be {value!r}; set its fields, as {name}.FIELD=VALUE: {inner}")


def _part(hint: Any, plain: Any, path: Path, value: Any, where: Path) -> dict[str, Any] | None:
    """A part as plain values, its name and options checked against what is registered."""
    name, registry = where[-1], registry_of(where[-1])
    option = path[1:] if path[:1] == ("options",) else path
    if path == ("name",) or not path:
        chosen = to_plain(value)
        if chosen is None and type(None) in typing.get_args(hint):
            return None
        if isinstance(chosen, Mapping) and "name" not in chosen and plain:
            chosen = {**plain, "options": {**plain["options"], **chosen.get("options", chosen)}}
        part = None if chosen is None else build(Part, {"name": chosen} if isinstance(chosen, str) else chosen, name)
    elif option and plain is not None:
        part = Part(plain["name"], {**plain["options"], ".".join(option): to_plain(value)})
    elif plain is not None:
        part = Part(plain["name"], to_plain(value))
    else:
        part = None
    if part is None:
        known = registry.names() if registry else ("NAME",)
        wanted = f" to set {'.'.join(option)} of" if option and path != ("name",) else ""
        raise ConfigError(f"there is no {name}{wanted}; name one of {', '.join(known)}, as in {name}={known[0]}")
    options = fit_options(part, registry, name) if registry else part.options
    return {"name": registry.successor(part.name) if registry else part.name, "options": options}


def _objective(plain: Any, path: Path, value: Any, where: Path) -> dict[str, Any]:
    """An objective as plain values: its weight, or one of its options, which stand directly below it."""
    name, record = where[-1], {"weight": 1.0, "options": {}, **(plain or {})}
    registries.objectives.get(name)  # raises if there is none
    option = path[1:] if path[:1] == ("options",) else path
    if not path:
        record = {**record, **value} if isinstance(value, Mapping) else {**record, "weight": value}
    elif path == ("weight",):
        record["weight"] = value
    else:
        record["options"] = {**record["options"], ".".join(option): value} if option else to_plain(value)
    options = fit_options(Part(name, record["options"]), registries.objectives, f"objectives.{name}")
    return {**record, "options": options}


def registry_of(name: str) -> Registry[Any] | None:
    """A field is called as its registry's kind begins: ``vision`` is a vision encoder, ``objectives`` are objectives."""
    known = (found for found in vars(registries).values() if isinstance(found, Registry))
    return next((r for r in known if r.kind.split()[0] in (name, name.removesuffix("s"))), None)


def fit_options(part: Part, registry: Registry[Any], kind: str) -> dict[str, Any]:
    """A part's options as its factory's signature wants them. Raises `ConfigError` naming an option that does not fit."""
    factory = registry.get(part.name)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values()):
        return dict(part.options)
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    for record in records_of(factory).values():
        hints |= field_types(type(record))
    fields = [(name, _checkable(hints.get(name)), field(default=None)) for name in options_of(factory)]
    fitted: Any = build(dataclasses.make_dataclass("Options", fields), part.options, f"{kind}={part.name}")
    return {option: to_plain(getattr(fitted, option)) for option in part.options}


def _checkable(hint: Any) -> Any:
    """An annotation that plain values can be held against; others are left to the factory."""
    plain = set(typing.get_args(hint) or (hint,)) <= {int, float, bool, str, type(None)}
    return hint if plain or typing.get_origin(hint) is typing.Literal else Any


def _shown(path: Path) -> str:
    """A full path as messages say it: without the stage that it is in."""
    return ".".join(path[3:] if path[:1] == ("stages",) and len(path) > 3 else path)


def _ambiguous(short: str, found: set[Path], rest: Path) -> ConfigError:
    longer = sorted(".".join((*path, *rest)) for path in found)
    return ConfigError(f"{short!r} could be {', '.join(longer)}; give the longer path")


def _no_field(kind: type, name: str, where: Path) -> ConfigError:
    known = list(field_types(kind))
    return ConfigError(f"{_shown(where)} has no field {name!r}.{_nearest(name, known)} Fields: {', '.join(known)}")


def _unknown(config: object, short: str, short_path_roots: Sequence[ShortPathRoot]) -> ConfigError:
    near = {name: name for root in short_path_roots for name in _names(config, root)}
    inner: dict[str, list[str]] = {}
    for path, kind in _records(config, short_path_roots):
        for name in field_types(kind):
            inner.setdefault(name, []).append(".".join((*path, name)))
    near |= {name: name if len(paths) == 1 else paths[0] for name, paths in inner.items() if name not in near}
    near |= {path: path for paths in inner.values() for path in paths}
    named = [(root.path[-1], _names(config, root)) for root in short_path_roots if root.path and not root.path[-1].isdecimal()]
    known = "; ".join(f"of {name}: {', '.join(names)}" for name, names in named if names)
    return ConfigError(f"there is no setting {short!r}.{_nearest(short, near)} Settings {known or ', '.join(near)}")


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
