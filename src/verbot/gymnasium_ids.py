"""The names of verbot's envs in Gymnasium: ``gymnasium.make("verbot/Tabletop-v0")`` works after ``import verbot``.

`import verbot` does not import Gymnasium, which robot computers do without: where it is imported later, a finder registers the
names then. Nothing here imports a simulator.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

IDS = {
    "verbot/Tabletop-v0": "verbot.envs.tabletop.env:make",
    "verbot/Navigation-v0": "verbot.envs.navigation.env:make",
}


def register() -> None:
    """Register what is not registered yet. Imports Gymnasium."""
    import gymnasium

    for name, entry in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry)


def register_when_imported() -> None:
    """`register` now where Gymnasium is imported already, otherwise as soon as it is."""
    if "gymnasium" in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Loads Gymnasium by its own loader, gives that back to it, and registers the names."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        self._loader.exec_module(module)
        register()
