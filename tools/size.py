"""The tail of file and function lengths: nothing over 400 and 60 lines but what is listed here with its reason.

Run it as ``python tools/size.py``. It prints the longest ones and exits 1 when one over its limit is not listed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "tools", "examples", "experiments", "profiling")
FILE_LIMIT, FUNCTION_LIMIT, TAIL = 400, 60, 5

# path or path::function -> why it may be long
EXCEPTIONS: dict[str, str] = {}


def lengths(root: Path) -> Iterator[tuple[str, int, int]]:
    """(name, lines, limit) of every Python file and function below `root`."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            name, text = path.relative_to(root).as_posix(), path.read_text()
            yield name, text.count("\n"), FILE_LIMIT
            for node in ast.walk(ast.parse(text, name)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{name}::{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, FUNCTION_LIMIT


def main(root: Path = ROOT, exceptions: dict[str, str] = EXCEPTIONS) -> int:
    rows = sorted(lengths(root), key=lambda row: -row[1])
    for title, limit in (("files", FILE_LIMIT), ("functions", FUNCTION_LIMIT)):
        kind = [row for row in rows if row[2] == limit]
        tail = ", ".join(f"{name} {lines}" for name, lines, _ in kind[:TAIL])
        print(f"size: {len(kind)} {title}, the longest: {tail}")
    long = [(name, lines, limit) for name, lines, limit in rows if lines > limit]
    unlisted = [row for row in long if row[0] not in exceptions]
    stale = set(exceptions) - {name for name, _, _ in long}
    for name, lines, limit in unlisted:
        print(f"{name}: {lines} lines, limit {limit}; shorten it, or list it in tools/size.py with its reason")
    for name, lines, limit in long:
        if name in exceptions:
            print(f"{name}: {lines} lines, limit {limit}: {exceptions[name]}")
    for name in sorted(stale):
        print(f"{name}: listed as an exception in tools/size.py but not over its limit; remove it there")
    return 1 if unlisted or stale else 0


if __name__ == "__main__":
    sys.exit(main())
