"""Count the functions through which a whole `TrainConfig` passes: fewer is better, for each should take the record it needs.

Run it as ``python tools/config_path.py [SRC]``, on this checkout or on the ``src`` folder of another. A function counts when a
parameter is annotated with `TrainConfig`, or with a class that keeps one: a dataclass with such a field, or a class whose
``__init__`` stores such a parameter. Recipes, which hold the configurations of a run, are not counted as such classes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "TrainConfig"
CONTAINERS = {"Recipe", "RunConfig", "Imitation"}


def functions(source: Path) -> list[str]:
    """``file:line function`` of every function below `source` that receives a whole training configuration."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((source / "verbot").rglob("*.py"))}
    wanted = {CONFIG} | {name for tree in trees.values() for name in _keepers(tree)}
    return [
        f"{path.relative_to(source)}:{node.lineno} {node.name} ({', '.join(sorted(names))})"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (names := _annotated(node) & wanted)
    ]


def _keepers(tree: ast.Module) -> Iterator[str]:
    """Classes that keep a whole configuration."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or node.name in CONTAINERS:
            continue
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        if any(CONFIG in _names(item.annotation) for item in fields) or any(_stores(item) for item in node.body):
            yield node.name


def _stores(node: ast.stmt) -> bool:
    """Whether this is an ``__init__`` that assigns a parameter annotated `TrainConfig` to an attribute."""
    if not isinstance(node, ast.FunctionDef) or node.name != "__init__":
        return False
    given = {a.arg for a in _arguments(node) if a.annotation is not None and CONFIG in _names(a.annotation)}
    for item in ast.walk(node):
        if isinstance(item, ast.Assign):
            for target in item.targets:
                both = isinstance(target, ast.Tuple) and isinstance(item.value, ast.Tuple)
                pairs = zip(target.elts, item.value.elts, strict=False) if both else [(target, item.value)]  # type: ignore[attr-defined]
                if any(isinstance(to, ast.Attribute) and isinstance(of, ast.Name) and of.id in given for to, of in pairs):
                    return True
    return False


def _annotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Names in the annotations of a function's parameters."""
    return {name for a in _arguments(node) if a.annotation is not None for name in _names(a.annotation)}


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _names(annotation: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def main(source: Path = ROOT / "src") -> int:
    found = functions(source)
    print(*found, f"config_path: {len(found)} functions receive a whole {CONFIG}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*(Path(argument) for argument in sys.argv[1:])))
