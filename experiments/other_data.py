"""What verbot does with every input of ``tests/cases``: other people's data, as other software or a public bug report has it.

Run it as ``python experiments/other_data.py --out outputs/other_data.json``. A LeRobotDataset is checked and trained for four
steps; everything else is imported, first without options, then with a rate and a sentence if the import asks for them. The file
gets the exit code and the last lines of each command. ``--table BEFORE.json NOW.json`` prints two such files as one table.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

CASES = Path(__file__).resolve().parent.parent / "tests" / "cases"
TRAIN = ["--steps", "4", "--set", "validation.share=0", "network.chunk=4"]
LINE = 200


@dataclass(frozen=True)
class Arguments:
    """What to run.

    Args:
        out: gets the outcome of every input.
        only: names of inputs; all of them if empty.
        table: two files written before; print them side by side instead.
    """

    out: Path = Path("outputs/other_data.json")
    only: tuple[str, ...] = ()
    table: tuple[Path, Path] | None = None


def main() -> None:
    chosen = tyro.cli(Arguments)
    if chosen.table:
        print(table(*(json.loads(path.read_text()) for path in chosen.table)))
        return
    sys.path.insert(0, str(CASES))
    found = {}
    for path in sorted(CASES.glob("[a-z]*.py")):
        if not chosen.only or path.stem in chosen.only:
            found[path.stem] = outcome(path.stem)
            print(path.stem, *found[path.stem]["did"], sep="\n    ", flush=True)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(found, indent=1, ensure_ascii=False))


def outcome(name: str) -> dict[str, Any]:
    """The sentence that says what is right, and what each command did."""
    module = importlib.import_module(name)
    right = " ".join((module.__doc__ or "").partition("Right:")[2].split())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "case"
        module.make(root)
        return {"right": right, "did": list(_commands(root, Path(folder)))}


def _commands(root: Path, folder: Path) -> Iterator[str]:
    datasets = sorted(path.parent.parent for path in root.rglob("meta/info.json"))
    if datasets:
        for dataset in datasets:
            yield run(folder, "data", "check", dataset)
        yield run(folder, "train", "tiny", "--data", *datasets, "--out", folder / "run", *TRAIN)
        return
    parts = sorted(path for path in root.iterdir() if path.is_dir()) if len(list(root.glob("*/*.hdf5"))) > 2 else [root]
    imported = []
    for number, part in enumerate(parts):
        line = run(folder, "data", "import", part, folder / f"imported{number}")
        yield line
        if not line.startswith("0 "):
            more = ("--rate-hz", "10", "--instruction", "do it")
            line = run(folder, "data", "import", part, folder / f"again{number}", *more)
            yield f"with --rate-hz 10 --instruction: {line}"
            imported.append(folder / f"again{number}")
        else:
            imported.append(folder / f"imported{number}")
    if all((dataset / "meta/info.json").is_file() for dataset in imported):
        yield run(folder, "train", "tiny", "--data", *imported, "--out", folder / "run", *TRAIN)


def run(folder: Path, *arguments: object) -> str:
    """Exit code, command, and the end of the output of one command."""
    from verbot.cli import main as verbot

    output, code = io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            verbot([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            output.write(f"\nTRACEBACK {type(error).__name__}: {error}")
            code = 99
    text = re.sub(re.escape(str(folder)) + "/?", "", output.getvalue())
    text = re.sub(r"/\S*/site-packages/", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = " / ".join(lines[-3:]) if code else (lines[-1] if lines else "")
    return f"{code} {' '.join(map(str, arguments[:2]))}: {shown[:LINE]}"


def table(before: dict[str, Any], now: dict[str, Any]) -> str:
    rows = ["| input | right | before | now |", "|---|---|---|---|"]
    for name, entry in now.items():
        was = "<br>".join(before.get(name, {"did": ["not made"]})["did"])
        rows.append(" | ".join(["", f"`{name}`", entry["right"], was, "<br>".join(entry["did"]), ""]).strip())
    return "\n".join(rows)


if __name__ == "__main__":
    main()
