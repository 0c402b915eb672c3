"""Hostile metadata of datasets: every command works, or ends in one line.

Kinds of cases: `fields` (every field of every metadata file, replaced by what it cannot be), `files` (whole files of other
content, parquet of other types, videos that are none), `flips` (bytes of the metadata of a dataset that verbot wrote: an error or
exactly the same data) and `bombs` (small files that claim or unpack to much: peak memory is measured).

Example:
    python experiments/reliability/metadata.py --kind fields --cases 600 --seed 0 --out outputs/metadata_fields.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import itertools
import json
import math
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isolated import forked
from metadata_bases import make_bases
from metadata_files import Case, at, bomb_cases, file_cases

DELETED, DOUBLED = object(), object()
VALUES: tuple[Any, ...] = (
    *(DELETED, DOUBLED, None),
    True,
    -1,
    0,
    1,
    3,
    0.5,
    10**9,
    10**18,
    2**70,
    -(2**63),
    math.nan,
    math.inf,
    1e9,
    1e-300,
    "",
    "text",
    "7",
    "../../etc/passwd",
    "/etc/passwd",
    "{x}",
    "{0}",
    "{video_key.__class__}",
    "{chunk_index:>999999999d}",
    "{chunk_index!r}",
    "\ud800",
    "a\nb",
    "\x1b[2J",
    [],
    [1],
    [[1, 2], [3]],
    ["a"],
    [math.nan],
    {},
    {"a": 1},
    [10**9],
    [10**5, 10**5, 3],
    [-1],
    [0],
)
MOST = 100e6  # bytes of memory that a case may take
COMMANDS = ("info", "check", "view", "lint", "edit", "export", "windows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("fields", "files", "flips", "bombs"), default="fields")
    parser.add_argument("--cases", type=int, default=600, help="of fields and flips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="of files and bombs, take only every so many cases")
    parser.add_argument("--out", type=Path, help="a JSON file for the record")
    parser.add_argument("--show", action="store_true", help="print each fault")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), arguments)
    print(json.dumps(record))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    kind, cases, seed, show = arguments.kind, arguments.cases, arguments.seed, arguments.show
    bases = make_bases(folder)
    plan: dict[str, Callable[[], Iterator[Case]]] = {
        "fields": lambda: field_cases(bases, cases, seed),
        "files": file_cases,
        "bombs": bomb_cases,
        "flips": lambda: flip_cases(bases, cases, seed),
    }
    expected = forked(lambda: ("content", digest(bases["ours"])))[1]
    warm(bases["ours"], folder)
    found: Counter[str] = Counter()
    faults, peak, uses = [], 0, 0
    for number, (name, base, change) in enumerate(itertools.islice(plan[kind](), 0, None, arguments.every)):
        root = folder / "case" / "dataset"
        shutil.rmtree(root.parent, ignore_errors=True)
        shutil.copytree(bases[base], root, symlinks=True)
        change(root)
        turns = (
            COMMANDS
            if kind in ("files", "bombs")
            else ("read", COMMANDS[number % len(COMMANDS)])
            if kind == "fields"
            else ("same",)
        )
        for use in turns:
            outcome, detail, used = forked(partial(run, use, root, root.parent, expected))
            uses += 1
            found[outcome] += 1
            peak = max(peak, used)
            if outcome not in ("worked", "refused"):
                faults.append(f"{base}: {name}: {use}: {outcome}: {detail}")
            elif used > MOST:
                faults.append(f"{base}: {name}: {use}: {outcome} with {used / 1e6:.0f} MB: {detail}")
            else:
                continue
            if show:
                print(faults[-1], flush=True)
    return {
        "test": f"metadata, {kind}",
        "count": number + 1,
        "uses": uses,
        "seed": seed,
        "worked": found["worked"],
        "refused": found["refused"],
        "tracebacks": found["untyped"],
        "hangs": found["hang"],
        "aborts": found["abort"],
        "not_one_line": found["lines"],
        "silent_changes": found["changed"],
        "peak_mb": round(peak / 1e6),
        "faults": faults[:20],
    }


def warm(root: Path, folder: Path) -> None:
    """Import what a case needs, in the process that is forked."""
    for use in COMMANDS:
        outcome, said = run(use, root, folder)
        assert outcome == "worked", (use, said)


def run(use: str, root: Path, folder: Path, expected: str = "") -> tuple[str, str]:
    from verbot.errors import VerbotError

    try:
        with np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            if use in ("read", "same"):
                found = digest(root)
                return ("changed", "other data") if use == "same" and found != expected else ("worked", found)
            if use == "windows":
                windows(root, folder / "cache")
                return "worked", ""
            return commanded(use, root, folder)
    except VerbotError as error:
        return ("lines", str(error)) if "\n" in str(error) else ("refused", str(error))


def commanded(use: str, root: Path, folder: Path) -> tuple[str, str]:
    """One command of `verbot data`, as a person types it."""
    from verbot.cli import main as command

    out = folder / f"out-{use}"
    shutil.rmtree(out, ignore_errors=True)
    words = {
        "info": (),
        "check": (),
        "view": ("--out", f"{out}.mp4"),
        "lint": ("--json",),
        "edit": ("--out", str(out), "--delete", "0"),
        "export": (f"{out}.hdf5",),
    }
    Path(f"{out}.hdf5").unlink(missing_ok=True)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command(["data", use, str(root), *words[use]])
    except SystemExit as end:
        lines = [line for line in said.getvalue().splitlines() if line.startswith("verbot: ")]
        if end.code == 2 and (not lines or "Traceback" in said.getvalue()):
            return "lines", said.getvalue()[-400:]
        return ("refused", lines[-1]) if end.code == 2 else ("worked", "")
    return "worked", ""


def windows(root: Path, cache: Path) -> None:
    """What training reads."""
    from verbot.data import FrameCache, WindowConfig, Windows, open_dataset

    shutil.rmtree(cache, ignore_errors=True)
    dataset = open_dataset(root)
    found = Windows(dataset, WindowConfig(chunk=4, cameras=("front",)), cache=FrameCache(dataset, ["front"], folder=cache))
    if len(found):
        found.batch(np.arange(min(4, len(found))), np.random.default_rng(0))
    if len(dataset):
        dataset.statistics()


def digest(root: Path) -> str:
    """A hash of everything that the dataset holds."""
    from verbot.data import open_dataset

    dataset, content = open_dataset(root, depth=True), hashlib.sha256()
    content.update(json.dumps(dataset.spec.to_json()).encode())
    for episode in dataset:
        for values in (episode.states, episode.actions, *(episode.columns[name] for name in sorted(episode.columns))):
            content.update(values.tobytes() if values.dtype != object else repr(values.tolist()).encode())
        for camera in dataset.camera_names:
            content.update(episode.images(camera).tobytes())
        segments = [(s.start, s.stop, s.wordings) for s in episode.segments]
        content.update(repr((episode.tasks, segments, episode.identity[:0], episode.timestamps.tolist())).encode())
        content.update(json.dumps([episode.extras, episode.calibration], sort_keys=True, default=str).encode())
    if len(dataset):
        content.update(repr(dataset.statistics().to_json()).encode())
    return content.hexdigest()


def field_cases(bases: dict[str, Path], cases: int, seed: int) -> Iterator[Case]:
    rng = random.Random(seed)
    places = [(base, *place) for base, root in bases.items() for place in targets(root)]
    weights = [4 if name == "meta/info.json" else 1 for _, name, _ in places]
    for _ in range(cases):
        base, name, keys = rng.choices(places, weights)[0]
        value = rng.choice(VALUES)
        shown = "deleted" if value is DELETED else "doubled" if value is DOUBLED else repr(value)[:40]
        yield (
            f"{name} {'.'.join(map(str, keys))} = {shown}",
            base,
            at(name, mutate, keys, value),
        )


def targets(root: Path) -> list[tuple[str, tuple[Any, ...]]]:
    """Every metadata field: its file, and the keys that lead to it."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".json":
            found += [(name, keys) for keys in fields(json.loads(path.read_text()))]
        elif path.suffix == ".jsonl":
            found += [(name, keys) for keys in fields(lines(path))]
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            found += [
                (name, (row, each)) for each in table.column_names if not each.startswith("stats/") for row in (0, len(table) - 1)
            ]
    return found


def fields(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from ((key, *rest) for rest in fields(value[key]))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(value: Any, keys: tuple[Any, ...], change: Any) -> Any:
    if not keys:
        return [value, value] if change is DOUBLED else {} if change is DELETED else change
    value = copy.copy(value)
    if len(keys) == 1 and change is DELETED:
        del value[keys[0]]
    elif len(keys) == 1 and change is DOUBLED:
        value[keys[0]] = [value[keys[0]]] * 2
    else:
        value[keys[0]] = changed(value[keys[0]], keys[1:], change)
    return value


def mutate(path: Path, keys: tuple[Any, ...], change: Any) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(changed(json.loads(path.read_text()), keys, change)))
    elif path.suffix == ".jsonl":
        record = changed(lines(path), keys, change)
        path.write_text("\n".join(json.dumps(each) for each in record) if isinstance(record, list) else json.dumps(record))
    else:
        row, column = keys
        pq.write_table(changed_table(pq.read_table(path), row, column, change), path)


def changed_table(table: pa.Table, row: int, column: str, change: Any) -> pa.Table:
    if change is DELETED:
        return table.drop_columns([column]) if row == 0 else table.slice(0, row)
    if change is DOUBLED:
        return table.append_column(column, table.column(column)) if row == 0 else pa.concat_tables([table, table.slice(row)])
    values = [*table.column(column).to_pylist()]
    values[row] = change
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        array = pa.array([str(value).encode("utf-8", "replace").decode() for value in values])
    return table.set_column(table.schema.get_field_index(column), column, array)


def flip_cases(bases: dict[str, Path], cases: int, seed: int) -> Iterator[Case]:
    rng = random.Random(seed)
    names = sorted(path.relative_to(bases["ours"]).as_posix() for path in (bases["ours"] / "meta").rglob("*") if path.is_file())
    for _ in range(cases):
        name = rng.choices(names, [4 if each == "meta/info.json" else 1 for each in names])[0]
        content = bytearray((bases["ours"] / name).read_bytes())
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8) if rng.random() < 0.7 else rng.randrange(1, 256)
        yield f"{name} byte {place}", "ours", at(name, Path.write_bytes, bytes(content))


if __name__ == "__main__":
    main()
