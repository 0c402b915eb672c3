"""Registries map names to factories. A part registers itself on import; a registry finds the modules of its package.

Listing the names imports no part: names are read from the source. A module is imported when one of its names is looked up.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from verbot.errors import ConfigError, UnknownNameError, VerbotDeprecationWarning, missing

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Declaration:
    """One ``@registry.register("name", needs=(…))``, or ``registry.alias("old", "new")``, in the source of `module`.

    `registry` is the dotted path of the registry, or the package whose function `register` is called. `name` is None if it is
    known only after importing the module.
    """

    module: str
    registry: str
    name: str | None
    needs: tuple[str, ...] = ()
    alias_of: str | None = None


class Registry(Generic[F]):
    """The parts of one kind.

    Args:
        kind: name of the kind, for messages, e.g. ``"vision encoder"``.
        package: one or several packages. Their modules are searched for names on the first look-up, so that adding a part only
            requires a new file.
        group: entry-point group through which other distributions add parts, e.g. ``"verbot.heads"``.
        old_group: former name of `group`, which is read for one version, with a `VerbotDeprecationWarning`.
        needs: packages that every factory needs, by their import names, e.g. ``("torch",)``.

    Example:
        >>> shapes = Registry("shape")
        >>> @shapes.register("square")
        ... def square(): return 4
        >>> shapes.get("square")()
        4
    """

    def __init__(
        self,
        kind: str,
        package: str | tuple[str, ...] | None = None,
        group: str | None = None,
        needs: tuple[str, ...] = (),
        old_group: str | None = None,
    ):
        self.kind, self._group, self._old_group, self._needs = kind, group, old_group, needs
        self._packages = (package,) if isinstance(package, str) else package or ()
        self._factories: dict[str, F] = {}
        self._needed: dict[str, tuple[str, ...]] = {}
        self._modules: dict[str, str] = {}  # of names that are declared in the packages
        self._points: dict[str, EntryPoint] = {}
        self._aliases: dict[str, str] = {}
        self._complete = package is None and group is None

    def register(self, name: str, needs: tuple[str, ...] = ()) -> Callable[[F], F]:
        """Decorator. `needs` are packages in addition to the registry's own. Raises `ConfigError` if the name is taken."""

        def add(factory: F) -> F:
            if name in self._factories and self._factories[name].__qualname__ != factory.__qualname__:
                raise ConfigError(f"the {self.kind} name {name!r} is taken by {self._factories[name].__qualname__}")
            if self._modules.get(name, factory.__module__) != factory.__module__:
                raise ConfigError(f"the {self.kind} name {name!r} is taken by {self._modules[name]}")
            self._factories[name] = factory
            self._needed[name] = needs
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
        """The factory called `name`. Only its own module is imported.

        Raises:
            UnknownNameError: there is no such part; the message has the nearest name.
            MissingDependencyError: its module needs a package that is not installed.
        """
        name = self.successor(name)
        if name not in self._factories:
            try:
                if name in self._modules:
                    importlib.import_module(self._modules[name])
                elif name in self._points:
                    self._factories[name] = self._points[name].load()
            except ModuleNotFoundError as error:
                raise missing(error) from error
        if name not in self._factories:
            raise UnknownNameError(self.kind, name, self.names())
        return self._factories[name]

    def build(self, name: str, /, *given: Any, **options: Any) -> Any:
        """What the factory called `name` makes of the arguments `given` and of its options, by the names of `options_of`.

        Raises as `get` does, and as the factory does.
        """
        factory = self.get(name)
        return factory(*given, **with_records(factory, options))

    def names(self) -> tuple[str, ...]:
        self._discover()
        return tuple(sorted({*self._factories, *self._modules, *self._points}))

    def missing(self, name: str) -> tuple[str, ...]:
        """The packages that `name` needs and that are not installed, by their import names."""
        self._discover()
        needed = dict.fromkeys((*self._needs, *self._needed.get(name, ())))
        return tuple(package for package in needed if not installed(package))

    def _discover(self) -> None:
        if self._complete:
            return
        self._complete = True
        for package in self._packages:
            for declaration in _declarations(package):
                registry = _at(declaration.registry)
                if declaration.name is not None and declaration.alias_of is not None:
                    if registry is self:
                        self._aliases.setdefault(declaration.name, declaration.alias_of)
                elif declaration.name is not None and registry is self:
                    self._declare(declaration.name, declaration)
                elif declaration.name is None and (registry is self or declaration.registry in ("", package)):
                    importlib.import_module(declaration.module)
        if self._old_group and (old := entry_points(group=self._old_group)):
            warnings.warn(
                f"the entry-point group {self._old_group} is now called {self._group}; the old name is read for one version",
                VerbotDeprecationWarning,
                4,
            )
            self._points = {point.name: point for point in old}
        if self._group:
            self._points |= {point.name: point for point in entry_points(group=self._group)}

    def _declare(self, name: str, declaration: _Declaration) -> None:
        factory = self._factories.get(name)
        if factory is not None and factory.__module__ != declaration.module:
            raise ConfigError(f"the {self.kind} name {name!r} is taken by {factory.__qualname__}")
        self._modules[name] = declaration.module
        self._needed.setdefault(name, declaration.needs)


def records_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The records among a factory's parameters, each with its default: those whose default is a dataclass."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if dataclasses.is_dataclass(p.default) and not isinstance(p.default, type)}


def options_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """A factory's options by name, each with its default: its parameters that have one, and in the place of a record its fields.

    So options that belong together can be one argument in the source, and each keeps a name of its own where people write it.

    Example:
        >>> @dataclass(frozen=True)
        ... class Grid:
        ...     rows: int = 2
        ...     columns: int = 3
        >>> def draw(color, grid=Grid(), filled=True): return f"{color} {grid.rows}×{grid.columns}"
        >>> options_of(draw)
        {'rows': 2, 'columns': 3, 'filled': True}
    """
    records, found = records_of(factory), dict[str, Any]()
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.name in records:
            record = records[parameter.name]
            found |= {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        elif parameter.default is not parameter.empty:
            found[parameter.name] = parameter.default
    return found


def with_records(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `factory` for options by the names of `options_of`; other names are left as they are.

    Example:
        >>> @dataclass(frozen=True)
        ... class Grid:
        ...     rows: int = 2
        ...     columns: int = 3
        >>> def draw(color, grid=Grid(), filled=True): return f"{color} {grid.rows}×{grid.columns}"
        >>> draw("red", **with_records(draw, {"rows": 5, "filled": False}))
        'red 5×3'
    """
    found = dict(options)
    for name, record in records_of(factory).items():
        own = {field.name: found.pop(field.name) for field in dataclasses.fields(record) if field.name in found}
        if own:
            found[name] = dataclasses.replace(found.get(name, record), **own)
    return found


def installed(package: str) -> bool:
    """Whether the top-level package can be imported. Nothing is imported."""
    try:
        return package in sys.modules or importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _at(path: str) -> Any:
    """The object at a dotted path, or None if its module has not been imported."""
    module, _, attribute = path.rpartition(".")
    return getattr(sys.modules.get(module), attribute, None)


def _declarations(package: str) -> tuple[_Declaration, ...]:
    return _read(package, tuple(importlib.import_module(package).__path__))


@functools.cache
def _read(package: str, folders: tuple[str, ...]) -> tuple[_Declaration, ...]:
    found: list[_Declaration] = []
    for info in pkgutil.iter_modules(folders):
        module = f"{package}.{info.name}"
        spec = info.module_finder.find_spec(module, None)
        source = spec.loader.get_source(module) if spec and isinstance(spec.loader, InspectLoader) else None
        found += [_Declaration(module, "", None)] if source is None else _calls(module, ast.parse(source))
    return tuple(found)


def _calls(module: str, tree: ast.Module) -> Iterator[_Declaration]:
    """Calls of `register`: of a registry with a constant name, or in any other way, such as in a loop or in a function."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                bound[alias.asname or root] = alias.name if alias.asname else root
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        path = _path(node.func, bound, module)
        owner, _, called = path.rpartition(".")
        constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if called == "alias" and len(constants) == 2:
            yield _Declaration(module, owner, str(constants[0]), alias_of=str(constants[1]))
        if called != "register":
            continue
        name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        needs = [ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg == "needs"]
        yield _Declaration(module, owner, str(name) if name is not None else None, *needs)


def _path(node: ast.expr, bound: dict[str, str], module: str) -> str:
    """The dotted path of ``name`` or ``name.attribute``; a name that is not imported belongs to the module."""
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value, bound, module)}.{node.attr}"
    return bound.get(node.id, f"{module}.{node.id}") if isinstance(node, ast.Name) else ""
