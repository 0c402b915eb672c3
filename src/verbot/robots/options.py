"""Options of robots, leader arms and cameras, as people write them: ``name=value``, nested by dots."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from verbot.configuration import assignments, build, field_types, nested
from verbot.registry import Registry, options_of, records_of


def checked(what: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` as the signature of `factory` wants them.

    Raises `ConfigError` for an option that it does not have (with the nearest name), lacks, or wants of another type.
    """
    parameters = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(options)
    hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    if dataclasses.is_dataclass(factory):
        hints |= field_types(typing.cast(type, factory))
    for record in records_of(factory).values():
        hints |= field_types(type(record))
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    fields: list[Any] = [(name, _checkable(hints.get(name))) for name in needed]
    fields += [(name, _checkable(hints.get(name)), field(default=None)) for name in options_of(factory)]
    fitted: Any = build(dataclasses.make_dataclass(what, fields), options, what)
    return {name: getattr(fitted, name) for name in options}


def from_words(registry: Registry[Any], name: str, words: Sequence[str]) -> Any:
    """What `registry` has under `name`, built from options as ``["env=navigation", "options.image_size=32"]``.

    Raises `UnknownNameError` for the name, `ConfigError` for an option.

    Example:
        >>> from verbot.robots import robots
        >>> from_words(robots, "simulated", ["env=navigation", "request.task=go"]).spec.name
        'navigation-rover'
    """
    factory = registry.get(name)
    return registry.build(name, **checked(f"{registry.kind} {name!r}", factory, nested(assignments(words))))


def _checkable(hint: Any) -> Any:
    """An annotation that plain values can be held against; others are left to the factory."""
    plain = all(part in (int, float, bool, str, type(None)) for part in typing.get_args(hint) or (hint,))
    return hint if plain or typing.get_origin(hint) in (typing.Literal, tuple) else Any
