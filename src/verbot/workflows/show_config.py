"""`verbot config`: a recipe's complete configuration, and what each of its fields means."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docstring_parser

from verbot.configuration import field_types, record_type, written_yaml
from verbot.models.registries import Part
from verbot.recipes.config import Recipe, resolve


@dataclasses.dataclass(frozen=True)
class FieldHelp:
    """One field of a configuration: its full path, its type, its value, and its line of the docstring."""

    path: str
    type: str
    value: Any
    text: str


def config_text(recipe: str | Path | Recipe, settings: Mapping[str, Any] | None = None, seed: int | None = None) -> str:
    """The resolved recipe as YAML, which `verbot train` reads back.

    Args:
        recipe, settings, seed: as in `verbot.recipes.config.resolve`.

    Example:
        >>> print(config_text("tiny", {"vision": "vit"}).splitlines()[0])
        name: tiny
    """
    return written_yaml(resolve(recipe, settings, seed))


def field_help(config: object, path: str = "") -> Iterator[FieldHelp]:
    """Every field of a configuration, depth first, explained by the docstrings of its dataclasses."""
    explained = _explained(type(config))
    for name, hint in field_types(type(config)).items():
        value, where = getattr(config, name), f"{path}.{name}".lstrip(".")
        if dataclasses.is_dataclass(value) and not isinstance(value, Part):
            yield from field_help(value, where)
        elif isinstance(value, tuple) and value and all(dataclasses.is_dataclass(item) for item in value):
            for number, item in enumerate(value):
                yield from field_help(item, f"{where}.{number}")
        else:
            yield FieldHelp(where, _format_type(hint), value, explained.get(name, ""))
            if value is None and (kind := record_type(hint)) not in (None, Part):
                yield from _unset(kind, where)


def _unset(kind: type | None, path: str) -> Iterator[FieldHelp]:
    """The fields of a record that is not given."""
    assert kind is not None
    explained = _explained(kind)
    for name, hint in field_types(kind).items():
        yield FieldHelp(f"{path}.{name}", _format_type(hint), None, explained.get(name, ""))


def field_table(config: object) -> str:
    """The fields of a configuration as text: path, type and value on one line, the explanation below."""
    lines = []
    for found in field_help(config):
        value = f"{found.value.name} {dict(found.value.options)}" if isinstance(found.value, Part) else found.value
        lines += [f"{found.path} ({found.type}) = {value}", *([f"    {found.text}"] if found.text else [])]
    return "\n".join(lines)


def _explained(kind: type) -> dict[str, str]:
    """Field to explanation, from the docstring's section ``Args``; one entry may explain several fields."""
    parsed = docstring_parser.parse(inspect.cleandoc(kind.__doc__ or ""))
    texts = {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}
    return {name.strip("` "): text for names, text in texts.items() for name in names.split(",")}


def _format_type(hint: Any) -> str:
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return re.sub(r"\b(?:[a-z_]+\.)+", "", str(hint))
