"""No capability probes: what an object can do is a protocol that `isinstance` asks for, never `hasattr` or `getattr`.

Run it as ``python tools/probes.py``. It reads the source and reports ``hasattr(x, …)``, ``getattr(x, "name"[, default])`` and
``except AttributeError`` in src/verbot, except in the functions that are listed here with a reason. It exits 1 on any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# path::function below src/verbot -> why it may look a name up.
EXCEPTIONS: dict[str, str] = {
    "data/importers/ros_messages.py::_entries": "classes of decoded messages are made at run time",
    "envs/rendering.py::_close": "an attribute of threading.local exists in some threads only",
    "envs/rendering.py::_context": "an attribute of threading.local exists in some threads only",
    "models/encoders/language/hf_language.py::_longest": "a model's configuration has the fields of its family",
    "models/lora.py::Adapted.__init__": "a mark on a tensor",
    "models/reward_models/huggingface.py::PretrainedRewardModel.__init__": "a model's configuration has the fields of its family",
    "data/storage/cached_rows.py::allocate": "os.posix_fallocate exists on some systems only",
    "folders.py::_renameat2": "renameat2 exists in the C library of some systems only",
    "parallel/workers.py::cores": "os.sched_getaffinity exists on some systems only",
    "rollout/results.py::read_results": "a line of JSON may hold anything",
    "yaml_values.py::_parsed": "PyYAML raises it for a value that its tag does not fit",
    "training/distributed/device.py::to_device": "a mark on a tensor",
    "training/distributed/flat_weights.py::rate_scale": "a mark on a tensor",
    "training/distributed/fsdp.py::Sharded.gathered": "a state dict holds tensors, some of them sharded",
    "training/distributed/fsdp.py::_blocks": "modules of other libraries name the blocks that must stay whole",
}
# Files whose look-ups are not yet replaced.
PENDING: tuple[str, ...] = ()


def probes(source: Path) -> Iterator[tuple[str, str]]:
    """(path::function, line and expression) of every look-up of an attribute by a literal name below `source`."""
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        for function, node in _nodes(ast.parse(path.read_text(), str(path))):
            if _is_probe(node):
                yield f"{name}::{function}", f"{name}:{getattr(node, 'lineno', 0)}: {_text(node)}"


def _nodes(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node with the dotted name of the class or function around it."""
    for node in ast.iter_child_nodes(tree):
        inside = function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{function}.{node.name}" if function else node.name
        yield inside, node
        yield from _nodes(node, inside)


def _is_probe(node: ast.AST) -> bool:
    if isinstance(node, ast.ExceptHandler):
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        return any(isinstance(kind, ast.Name) and kind.id == "AttributeError" for kind in caught)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    if node.func.id == "hasattr":
        return True
    return node.func.id == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant)


def _text(node: ast.AST) -> str:
    return "except AttributeError" if isinstance(node, ast.ExceptHandler) else ast.unparse(node)


def main(source: Path = ROOT / "src" / "verbot", exceptions: dict[str, str] = EXCEPTIONS) -> int:
    found = [(where, text) for where, text in probes(source) if where.partition("::")[0] not in PENDING]
    problems = [
        f"{text}; ask with isinstance for a protocol, or list {where!r} in tools/probes.py with its reason"
        for where, text in found
        if where not in exceptions
    ]
    stale = sorted(set(exceptions) - {where for where, _ in found})
    problems += [f"{where}: listed as an exception in tools/probes.py but without a probe; remove it there" for where in stale]
    for problem in problems:
        print(problem)
    print(f"probes: {len(found)} look-ups by a literal name, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
