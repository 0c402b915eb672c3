"""Registries map names to factories. A part registers itself on import; a registry imports all modules of its package."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from verbot.errors import ConfigError, UnknownNameError, VerbotDeprecationWarning

F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[F]):
    """The parts of one kind.

    Args:
        kind: name of the kind, for messages, e.g. ``"vision encoder"``.
        package: one or several packages. All their modules are imported on the first look-up, so that adding a part only
            requires a new file.
        group: entry-point group through which other distributions add parts, e.g. ``"verbot.heads"``.

    Example:
        >>> shapes = Registry("shape")
        >>> @shapes.register("square")
        ... def square(): return 4
        >>> shapes.get("square")()
        4
    """

    def __init__(self, kind: str, package: str | tuple[str, ...] | None = None, group: str | None = None):
        self.kind, self._group = kind, group
        self._packages = (package,) if isinstance(package, str) else package or ()
        self._factories: dict[str, F] = {}
        self._aliases: dict[str, str] = {}
        self._complete = package is None and group is None

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator. Raises `ConfigError` when the name is taken."""

        def add(factory: F) -> F:
            if name in self._factories and self._factories[name].__qualname__ != factory.__qualname__:
                raise ConfigError(f"the {self.kind} name {name!r} is taken by {self._factories[name].__qualname__}")
            self._factories[name] = factory
            return factory

        return add

    def alias(self, old: str, new: str) -> None:
        """Accept `old` for `new` for one version, with a `VerbotDeprecationWarning`. It is not listed by `names`."""
        self._aliases[old] = new

    def successor(self, name: str) -> str:
        """The present name of the part called `name`; warns if `name` is an old one."""
        self._discover()
        if name in self._factories or name not in self._aliases:
            return name
        new = self._aliases[name]
        warnings.warn(
            f"the {self.kind} {name!r} is now called {new!r}; the old name is read for one version", VerbotDeprecationWarning, 3
        )
        return new

    def get(self, name: str) -> F:
        """The factory called `name`. Raises `UnknownNameError` with the nearest name."""
        name = self.successor(name)
        if name not in self._factories:
            raise UnknownNameError(self.kind, name, self._factories)
        return self._factories[name]

    def names(self) -> tuple[str, ...]:
        self._discover()
        return tuple(sorted(self._factories))

    def _discover(self) -> None:
        if self._complete:
            return
        self._complete = True
        for name in self._packages:
            for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
                importlib.import_module(f"{name}.{module.name}")
        if self._group:
            for point in entry_points(group=self._group):
                self._factories.setdefault(point.name, point.load())
