"""What commands share: what was typed, which options were given, how figures are shown."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from verbot.errors import ConfigError
from verbot.text import printable

if TYPE_CHECKING:
    from verbot.evaluation import Summary


def given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def typed() -> str:
    return printable(shlex.join(["verbot", *sys.argv[1:]]))


def show(summary: Summary) -> None:
    print(summary.table())
    for message in summary.error_messages:
        print(f"error: {message}", file=sys.stderr)


def refuse(reason: str, **options: object) -> None:
    """Raise `ConfigError` for the first of `options` that was given; none is ignored silently."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name.replace('_', '-')} does not apply: {reason}")
