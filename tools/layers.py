"""The import rule: a module imports strictly lower levels; units on one level are blind to each other; no import circles.

And the rule of the episode loop: ``env.step`` stands in `verbot.rollout` alone; scripts and examples use its loop too.

Run it as ``python tools/layers.py``. It reads the source (imports inside functions count), prints violations and exits 1 on any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "verbot"

# A unit is a module or a package directly under verbot/.
LEVELS = {
    "errors": 0,
    "spec": 0,
    "text": 0,
    "contracts": 1,
    "gymnasium_ids": 0,
    "drafts": 0,
    "files": 1,
    "folders": 2,
    "model_store": 2,
    "yaml_values": 0,
    "ranges": 1,
    "registry": 1,
    "configuration": 1,
    "parallel": 1,
    "transforms": 2,
    "statistics": 2,
    "data": 3,
    "envs": 3,
    "models": 3,
    "remote": 3,
    "speech": 3,
    "policy": 4,
    "agents": 4,
    "rollout": 5,
    "robots": 6,
    "training": 6,
    "evaluation": 6,
    "teleop": 6,
    "deploy": 6,
    "console": 6,
    "recipes": 7,
    "workflows": 8,
    "cli": 9,
}
# The public API and `python -m verbot` stand above everything; both import lazily.
TOP = {"__init__", "__main__"}
# Neighbors that may see each other, each with its reason.
ALLOWED = {
    ("spec", "errors"): "the spec raises typed errors",
    ("configuration", "files"): "a configuration is written whole or not at all",
    ("text", "errors"): "text that cannot be stored is a typed error",
    ("spec", "text"): "names of a spec become parts of paths",
    ("yaml_values", "errors"): "text that is no YAML is a typed error",
    ("transforms", "statistics"): "a transform is made from statistics",
}
# Units that know policies only through contracts.
BLIND_TO_POLICIES = {"rollout", "evaluation", "deploy", "teleop"}
POLICY_UNITS = {"policy", "models"}
# Who may step an env, and the folders beside the source in which nobody may.
LOOP = "rollout"
SCRIPTS = ("examples", "experiments", "profiling")
ENV = re.compile(r"(^|_)envs?$")


@dataclass(frozen=True)
class Import:
    """`importer` and `imported` are units; `where` is ``file:line`` for messages."""

    importer: str
    imported: str
    where: str


def imports(source: Path) -> Iterator[Import]:
    """Every import of one unit by another below `source` (the folder that holds the package)."""
    package = source / PACKAGE
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            for target in _targets(node, (PACKAGE, *parts)):
                imported = _unit(target, package)
                if imported != parts[0]:
                    yield Import(parts[0], imported, f"{path.relative_to(source)}:{getattr(node, 'lineno', 0)}")


def violation(item: Import) -> str | None:
    """Why this import is not allowed, or None."""
    importer, imported = item.importer, item.imported
    if importer in TOP or (importer, imported) in ALLOWED:
        return None
    for unit in (importer, imported):
        if unit not in LEVELS and unit not in TOP:
            return f"{item.where}: unit {unit!r} has no level; give it one in tools/layers.py"
    if imported in TOP:
        return f"{item.where}: {importer} imports the public API of {PACKAGE}; import the module that defines the name"
    if importer in BLIND_TO_POLICIES and imported in POLICY_UNITS:
        return f"{item.where}: {importer} imports {imported}; it may know policies only through contracts"
    if LEVELS[imported] >= LEVELS[importer]:
        return f"{item.where}: {importer} (level {LEVELS[importer]}) imports {imported} (level {LEVELS[imported]})"
    return None


def steps(source: Path) -> list[str]:
    """Every place outside the loop that steps an env: ``.step`` of something whose name is, or ends in, ``env``."""
    package = source / PACKAGE
    paths = [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] != LOOP]
    paths += [path for name in SCRIPTS for path in sorted((source.parent / name).rglob("*.py"))]
    return [
        f"{path.relative_to(source if path.is_relative_to(source) else source.parent)}:{node.lineno}: steps an env; "
        f"use {PACKAGE}.{LOOP}.episode, which alone does"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.Attribute) and node.attr == "step" and _is_env(node.value)
    ]


def _is_env(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return _is_env(node.value)
    if isinstance(node, ast.Call):
        return _is_env(node.func)
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return ENV.search(name) is not None


def graph(source: Path) -> dict[str, set[str]]:
    """Dotted module to the modules of the package that it imports, anywhere in its file, also for type checking only."""
    package = source / PACKAGE
    modules = {".".join((PACKAGE, *_parts(path, package))): path for path in sorted(package.rglob("*.py"))}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        inside = name if path.stem == "__init__" else name.rpartition(".")[0]
        targets = {
            next((".".join(target[:n]) for n in range(len(target), 0, -1) if ".".join(target[:n]) in modules), PACKAGE)
            for node in ast.walk(ast.parse(path.read_text(), str(path)))
            for target in _targets(node, (*inside.split("."), "_"))
        }
        found[name] = targets - {name}
    return found


def circles(imported: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which imports every other, directly or not."""

    def reachable(start: str) -> set[str]:
        seen, waiting = set[str](), [start]
        while waiting:
            for name in imported.get(waiting.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return seen

    reach = {name: reachable(name) for name in imported}
    groups = {tuple(sorted(m for m in reach[name] if name in reach.get(m, ()))) for name in imported if name in reach[name]}
    return [list(group) for group in sorted(groups)]


def _parts(path: Path, package: Path) -> tuple[str, ...]:
    parts = path.relative_to(package).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _targets(node: ast.AST, module: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Dotted names under the package that this node imports, e.g. ``("verbot", "data", "store")``."""
    if isinstance(node, ast.Import):
        names = [tuple(alias.name.split(".")) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = module[: -node.level] if node.level else ()
        stem = base + tuple((node.module or "").split(".") if node.module else ())
        names = [(*stem, alias.name) for alias in node.names]
    elif isinstance(node, ast.Call) and _is_import_module(node):
        argument = node.args[0] if node.args else None
        text = argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""
        names = [tuple(text.split("."))]
    else:
        return []
    return [name for name in names if name[0] == PACKAGE]


def _is_import_module(node: ast.Call) -> bool:
    return getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module"


def _unit(target: tuple[str, ...], package: Path) -> str:
    name = target[1] if len(target) > 1 else "__init__"
    exists = (package / name).is_dir() or (package / f"{name}.py").is_file()
    return name if exists or name in LEVELS else "__init__"


def main(source: Path = ROOT / "src") -> int:
    found = list(imports(source))
    problems = [problem for item in found if (problem := violation(item))]
    rings = circles({name: targets for name, targets in graph(source).items() if name != PACKAGE})
    problems += [f"import circle: {', '.join(ring)}" for ring in rings]
    problems += steps(source)
    for problem in problems:
        print(problem)
    print(f"layers: {len(found)} imports between units, {len(problems)} against the rule, {len(rings)} import circles")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
