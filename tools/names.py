"""Each public name is defined once, so that it has one meaning in code, messages and docs.

Run it as ``python tools/names.py``. It reads the source and reports, with their places, names that several modules of src/verbot
define: public classes and type aliases (CamelCase), and what a package exports, which it lists in ``__all__`` or, where it has
none, imports in ``__init__.py``. Private names, other functions and constants may repeat. It exits 1 on any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "src" / "verbot"
CAMEL_CASE = re.compile(r"[A-Z]\w*[a-z]")


def definitions(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """(name, line, whether it is a class or a type alias) of everything that a module defines at its top level."""
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef):
            yield node.name, node.lineno, True
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, False
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node.lineno, CAMEL_CASE.match(target.id) is not None


def exports(tree: ast.Module, package: str) -> set[str]:
    """What the ``__init__.py`` of a package exports: its ``__all__``, or the names that it imports from `package`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return {
        alias.asname or alias.name
        for node in _statements(tree.body)
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == package)
        for alias in node.names
    }


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the top level, those below ``if`` and ``try`` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])


def repeated(root: Path) -> dict[str, list[str]]:
    """Public names that several modules below the package `root` define, each with ``file:line`` of all definitions."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    public: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        tree, file = ast.parse(path.read_text(), str(path)), path.relative_to(root).as_posix()
        lines: dict[str, int] = {}
        for name, line, is_type in definitions(tree):
            lines.setdefault(name, line)  # the branches of an `if` define the same name
            if is_type:
                public.add(name)
        for name, line in lines.items():
            places[name].append(f"{file}:{line}")
        if path.name == "__init__.py":
            public |= exports(tree, root.name)
    return {name: places[name] for name in sorted(public) if not name.startswith("_") and len(places[name]) > 1}


def main(root: Path = ROOT) -> int:
    found = repeated(root)
    for name, places in found.items():
        print(f"{name} is defined in {', '.join(places)}; rename all but one, or define it once and import it")
    print(f"names: {len(found)} public names are defined more than once")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
