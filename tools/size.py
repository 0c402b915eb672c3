"""The tail of file and function sizes: nothing over 400 lines, 60 lines and 8 parameters but what is listed with its reason.

Run it as ``python tools/size.py``. It prints the largest ones and exits 1 when one over its limit is not listed, or when more are
listed than `MOST`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "tools", "examples", "experiments", "profiling")
FILE_LIMIT, FUNCTION_LIMIT, PARAMETERS = 400, 60, 8
TAIL, MOST = 5, 5
Function = ast.FunctionDef | ast.AsyncFunctionDef

# path or path::function (path::Class.method) -> why it may be over a limit; at most MOST
EXCEPTIONS: dict[str, str] = {}
GENERATORS = "tests/cases"  # dense generators of odd input files, not code that is maintained


@dataclass(frozen=True)
class Size:
    """How much there is of a `unit` in the file or function called `name`, and how much there may be."""

    name: str
    unit: str
    value: int
    limit: int


def sizes(root: Path) -> Iterator[Size]:
    """Those of every Python file and function below `root`."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if path.is_relative_to(root / GENERATORS):
                continue
            name, text = path.relative_to(root).as_posix(), path.read_text()
            yield Size(name, "lines", text.count("\n"), FILE_LIMIT)
            for function, node, is_method in functions(ast.parse(text, name)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield Size(f"{name}::{function}", "lines", lines, FUNCTION_LIMIT)
                yield Size(f"{name}::{function}", "parameters", parameters(node, is_method), PARAMETERS)


def functions(node: ast.AST, inside: str = "", of_class: bool = False) -> Iterator[tuple[str, Function, bool]]:
    """Every function below `node`, at any depth: its name as of ``__qualname__``, and whether it belongs to a class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{inside}{child.name}", child, of_class
            yield from functions(child, f"{inside}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{inside}{child.name}.", of_class=True)
        else:
            yield from functions(child, inside, of_class)


def parameters(function: Function, is_method: bool) -> int:
    """How many a caller can give: without ``self`` and ``cls``; ``*args`` and ``**kwargs`` are one each."""
    given = function.args
    count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) + bool(given.vararg) + bool(given.kwarg)
    static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.decorator_list)
    return count - (is_method and not static)


def main(root: Path = ROOT, exceptions: dict[str, str] = EXCEPTIONS) -> int:
    found = sorted(sizes(root), key=lambda size: -size.value)
    titles = {
        FILE_LIMIT: "files, the longest",
        FUNCTION_LIMIT: "functions, the longest",
        PARAMETERS: "functions, the most parameters",
    }
    for limit, title in titles.items():
        kind = [size for size in found if size.limit == limit]
        print(f"size: {len(kind)} {title}: {', '.join(f'{size.name} {size.value}' for size in kind[:TAIL])}")
    over = [size for size in found if size.value > size.limit]
    unlisted = [size for size in over if size.name not in exceptions]
    stale = set(exceptions) - {size.name for size in over}
    for size in unlisted:
        remedy = "make a record of some" if size.unit == "parameters" else "shorten it"
        print(f"{size.name}: {size.value} {size.unit}, limit {size.limit}; {remedy}, or list it in tools/size.py with its reason")
    for size in over:
        if size.name in exceptions:
            print(f"{size.name}: {size.value} {size.unit}, limit {size.limit}: {exceptions[size.name]}")
    for name in sorted(stale):
        print(f"{name}: listed as an exception in tools/size.py but not over its limit; remove it there")
    if len(exceptions) > MOST:
        print(f"{len(exceptions)} exceptions are listed in tools/size.py; at most {MOST} may be")
    return 1 if unlisted or stale or len(exceptions) > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
