"""Hostile metadata of datasets: every command works, or ends in one line.

Kinds of cases: `fields` (every field of every metadata file, replaced by what it cannot be), `files` (whole files of other content,
parquet of other types, videos that are none), `flips` (bytes of the metadata of a dataset that verbot wrote: an error or exactly the
same data) and `bombs` (small files that claim or unpack to much: peak memory is measured).

Example:
    python experiments/reliability/metadata.py --kind fields --cases 600 --seed 0 --out outputs/metadata_fields.json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import math
import os
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isolated import forked

DELETED, DOUBLED = object(), object()
VALUES: tuple[Any, ...] = (
    DELETED, DOUBLED, None, True, -1, 0, 1, 3, 0.5, 10**9, 10**18, 2**70, -(2**63), math.nan, math.inf, 1e9, 1e-300, "", "text", "7",
    "../../etc/passwd", "/etc/passwd", "{x}", "{0}", "{video_key.__class__}", "{chunk_index:>999999999d}", "{chunk_index!r}", "\ud800",
    "a\nb", "\x1b[2J", [], [1], [[1, 2], [3]], ["a"], [math.nan], {}, {"a": 1}, [10**9], [10**5, 10**5, 3], [-1], [0],
)  # fmt: skip
COMMANDS = ("info", "check", "view", "lint", "edit", "export", "windows")
Case = tuple[str, str, Callable[[Path], object]]  # its name, the dataset that it changes, and the change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("fields", "files", "flips", "bombs"), default="fields")
    parser.add_argument("--cases", type=int, default=600, help="of fields and flips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the record")
    parser.add_argument("--show", action="store_true", help="print each fault")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), arguments.kind, arguments.cases, arguments.seed, arguments.show)
    print(json.dumps(record))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1))


def measure(folder: Path, kind: str, cases: int, seed: int, show: bool) -> dict[str, Any]:
    bases = make_bases(folder)
    plan: dict[str, Callable[[], Iterator[Case]]] = {
        "fields": lambda: field_cases(bases, cases, seed), "files": file_cases, "bombs": bomb_cases,
        "flips": lambda: flip_cases(bases, cases, seed),
    }  # fmt: skip
    expected = forked(lambda: ("content", digest(bases["ours"])))[1]
    warm(bases["ours"], folder)
    found: Counter[str] = Counter()
    faults, peak, uses = [], 0, 0
    for number, (name, base, change) in enumerate(plan[kind]()):
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
            outcome, detail, used = forked(lambda use=use: run(use, root, root.parent, expected))
            uses += 1
            found[outcome] += 1
            peak = max(peak, used)
            if outcome not in ("worked", "refused"):
                faults.append(f"{base}: {name}: {use}: {outcome}: {detail}")
            elif used > 300e6:
                faults.append(f"{base}: {name}: {use}: {outcome} with {used / 1e6:.0f} MB: {detail}")
            else:
                continue
            if show:
                print(faults[-1], flush=True)
    return {
        "test": f"metadata, {kind}", "count": number + 1, "uses": uses, "seed": seed, "worked": found["worked"],
        "refused": found["refused"], "tracebacks": found["untyped"], "hangs": found["hang"], "aborts": found["abort"],
        "not_one_line": found["lines"], "silent_changes": found["changed"], "peak_mb": round(peak / 1e6), "faults": faults[:20],
    }  # fmt: skip


def make_bases(folder: Path) -> dict[str, Path]:
    """A dataset of verbot with a video, pictures, depth and a further column; what other software makes of it; one of version 2.1."""
    from verbot.data import DatasetWriter, EpisodeRecord
    from verbot.spec import Camera, Component, RobotSpec

    state = (Component("ee_position", "position", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3),)
    action = (Component("position_delta", "position_delta", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3),)
    cameras = (Camera("front", 16, 32), Camera("wrist", 16, 16), Camera("depth", 8, 8, kind="depth"))
    spec, rng, ours = RobotSpec("toy", 10.0, cameras, state, action), np.random.default_rng(0), folder / "ours"
    with DatasetWriter(ours, spec, images={"wrist": "image"}) as writer:
        for number, length in enumerate((6, 5)):
            images = {c.name: rng.integers(0, 256, (length, c.height, c.width, 3), np.uint8) for c in cameras[:2]}
            images["depth"] = rng.uniform(0.1, 2.0, (length, 8, 8)).astype(np.float32)
            states, actions = (rng.uniform(-0.9, 0.9, (length, 3)).astype(np.float32) for _ in range(2))
            columns = {"next.reward": np.zeros(length, np.float32), "note": np.array(["word"] * length, object)}
            extras = {"goal": {"object": "cube"}, "instructions": [f"touch cube {number}", f"reach cube {number}"]}
            writer.save_episode(EpisodeRecord(f"touch cube {number}", states, actions, images, columns=columns, extras=extras))
    foreign = folder / "foreign"
    shutil.copytree(ours, foreign)
    shutil.rmtree(foreign / "meta/verbot")
    info = json.loads((foreign / "meta/info.json").read_text())
    del info["verbot"]
    (foreign / "meta/info.json").write_text(json.dumps(info))
    return {"ours": ours, "foreign": foreign, "old": older(ours, folder / "old")}


def older(source: Path, root: Path) -> Path:
    """The dataset in version 2.1: files of each episode, and lines of JSON."""
    from verbot.data import open_dataset

    info = json.loads((source / "meta/info.json").read_text())
    del info["verbot"]
    for key in ("observation.images.wrist", "observation.images.depth", "note"):
        del info["features"][key]
    info |= {
        "codebase_version": "v2.1", "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }  # fmt: skip
    table = pq.read_table(source / "data/chunk-000/file-000.parquet")
    kept = [name for name in table.column_names if name in info["features"]]
    dataset = open_dataset(source)
    for folder in ("meta", "data/chunk-000", "videos/chunk-000/observation.images.front"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    start, episodes = 0, []
    for number, episode in enumerate(dataset):
        part = table.select(kept).slice(start, len(episode))
        pq.write_table(part, root / f"data/chunk-000/episode_{number:06d}.parquet")
        start += len(episode)
        film(root / f"videos/chunk-000/observation.images.front/episode_{number:06d}.mp4", episode.images("front"))
        episodes.append(json.dumps({"episode_index": number, "tasks": [episode.instruction], "length": len(episode)}))
    (root / "meta/episodes.jsonl").write_text("\n".join(episodes))
    tasks = [json.dumps({"task_index": i, "task": f"touch cube {i}"}) for i in range(2)]
    (root / "meta/tasks.jsonl").write_text("\n".join(tasks))
    stats = {"action": {"min": [-1.0] * 3, "max": [1.0] * 3}, "observation.state": {"min": [-1.0] * 3, "max": [1.0] * 3}}
    (root / "meta/episodes_stats.jsonl").write_text("\n".join(json.dumps({"episode_index": i, "stats": stats}) for i in range(2)))
    return root


def film(path: Path, frames: np.ndarray, codec: str = "libx264", kind: str = "mp4") -> None:
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"  # type: ignore[attr-defined]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]


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
        "info": (), "check": (), "view": ("--out", f"{out}.mp4"), "lint": ("--json",), "edit": ("--out", str(out), "--delete", "0"),
        "export": (f"{out}.hdf5",),
    }  # fmt: skip
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
            lambda root, name=name, keys=keys, value=value: mutate(root / name, keys, value),
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
        yield f"{name} byte {place}", "ours", lambda root, name=name, content=bytes(content): (root / name).write_bytes(content)


def file_cases() -> Iterator[Case]:
    """Whole files of other content."""
    for base, names in (
        ("ours", ("meta/info.json", "meta/stats.json", "meta/tasks.parquet")),
        ("foreign", ("meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet")),
        ("old", ("meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl", "meta/episodes_stats.jsonl", "data/chunk-000/episode_000000.parquet")),
    ):  # fmt: skip
        for name in names:
            for label, content in contents().items():
                yield f"{name} is {label}", base, lambda root, name=name, content=content: (root / name).write_bytes(content)
            yield f"{name} is a pipe", base, lambda root, name=name: pipe(root / name)
            yield f"{name} is a folder", base, lambda root, name=name: ((root / name).unlink(), (root / name).mkdir())
            yield f"{name} is a link to a device", base, lambda root, name=name: link(root / name, "/dev/zero")
            yield f"{name} is missing", base, lambda root, name=name: (root / name).unlink()
            if name.endswith("info.json"):
                for what in (b"\xef\xbb\xbf", b'{"fps": 1,'):
                    yield f"{name} begins with {what!r}", base, lambda root, name=name, what=what: prefixed(root / name, what)
    for label, change in parquet_changes().items():
        for base, name in (("foreign", "data/chunk-000/file-000.parquet"), ("foreign", "meta/episodes/chunk-000/file-000.parquet"),
                           ("old", "data/chunk-000/episode_000000.parquet")):  # fmt: skip
            yield f"{name}: {label}", base, lambda root, name=name, change=change: retyped(root / name, change)
    for base, name in (("foreign", "videos/observation.images.front/chunk-000/file-000.mp4"), ("old", "videos/chunk-000/observation.images.front/episode_000000.mp4")):  # fmt: skip
        for label, change in video_changes().items():
            yield f"the video {label}", base, lambda root, name=name, change=change: change(root / name)


def contents() -> dict[str, bytes]:
    return {
        "empty": b"", "binary": random.Random(0).randbytes(3000), "deep": b"[" * 200_000, "a deep table": b'{"a":' * 100_000,
        "a number of 10^6 digits": b'{"total_frames": ' + b"9" * 10**6 + b"}", "UTF-16": '{"fps": 1}'.encode("utf-16"), "null": b"null",
        "a list": b"[1, 2]", "a text": b'"text"', "a parquet that is cut": b"PAR1" + bytes(100) + b"PAR1", "zeros": bytes(4096),
        "lines of nothing": b"\n" * 10**5, "a surrogate": b'{"a": "\\ud800"}', "twice the same key": b'{"fps": 1, "fps": 2}',
    }  # fmt: skip


def parquet_changes() -> dict[str, Callable[[pa.Table], pa.Table]]:
    def each(make: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
        def change(table: pa.Table) -> pa.Table:
            return pa.table({name: make(table.column(name)) for name in table.column_names})

        return change

    def uneven(column: pa.ChunkedArray) -> Any:
        return pa.array([[1.0] * (row % 3) for row in range(len(column))])

    return {
        "no rows": lambda table: table.slice(0, 0), "no columns": lambda table: table.select([]), "nulls": each(lambda c: pa.nulls(len(c), c.type)),
        "null type": each(lambda c: pa.nulls(len(c))), "texts": each(lambda c: pa.array(["7"] * len(c))), "dictionaries": each(lambda c: pa.array(["7"] * len(c)).dictionary_encode()),
        "uneven lists": each(uneven), "structs": each(lambda c: pa.array([{"a": 1}] * len(c))), "decimals": each(lambda c: pa.array([1] * len(c)).cast(pa.decimal128(20, 2))),
        "times": each(lambda c: pa.array([1] * len(c), pa.timestamp("ns"))), "booleans": each(lambda c: pa.array([True] * len(c))), "nan": each(lambda c: pa.array([math.nan] * len(c))),
        "bytes": each(lambda c: pa.array([b"\xff"] * len(c))), "maps": each(lambda c: pa.array([[("a", 1)]] * len(c), pa.map_(pa.string(), pa.int64()))),
        "large lists": each(lambda c: pa.array([[1.0] * 3] * len(c), pa.large_list(pa.float64()))), "deep lists": each(lambda c: pa.array([[[[[1.0]]]]] * len(c))),
        "durations": each(lambda c: pa.array([1] * len(c), pa.duration("s"))), "int64 extremes": each(lambda c: pa.array([2**63 - 1, -(2**63)] * len(c))[: len(c)]),
        "uint64": each(lambda c: pa.array([2**64 - 1] * len(c), pa.uint64())), "half": each(lambda c: pa.array(np.ones(len(c), np.float16))),
        "twice": lambda table: pa.table([*table.columns, *table.columns], names=[*table.column_names, *table.column_names]),
        "a million rows": lambda table: pa.table({name: pa.array(np.zeros(10**6)) for name in table.column_names}),
    }  # fmt: skip


def video_changes() -> dict[str, Callable[[Path], object]]:
    frames = np.random.default_rng(0).integers(0, 256, (11, 16, 32, 3), np.uint8)
    return {
        "is empty": lambda path: path.write_bytes(b""), "is binary": lambda path: path.write_bytes(random.Random(1).randbytes(5000)),
        "is cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is missing": lambda path: path.unlink(),
        "is a pipe": pipe, "is a device": lambda path: link(path, "/dev/zero"), "is a folder": lambda path: (path.unlink(), path.mkdir()),
        "is of another codec": lambda path: film(path, frames, "mpeg4"), "is an AVI": lambda path: film(path, frames, "mjpeg", "avi"),
        "has large frames": lambda path: film(path, np.zeros((11, 1080, 1920, 3), np.uint8)), "has one frame": lambda path: film(path, frames[:1]),
        "is only sound": sound, "is a playlist": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
        "is HLS": lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        "is a picture": lambda path: film(path, frames[:1], "mjpeg", "mjpeg"), "changes its size": two_sizes,
    }  # fmt: skip


def sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]


def two_sizes(path: Path) -> None:
    """A stream whose pictures grow: two elementary streams, one after the other."""
    parts = []
    for height, width in ((16, 32), (1080, 1920)):
        film(path, np.zeros((6, height, width, 3), np.uint8), "libx264", "h264")
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))


def bomb_cases() -> Iterator[Case]:
    """Small files that claim, or unpack to, far more than the declared data."""
    video = "videos/observation.images.front/chunk-000/file-000.mp4"
    data, episodes = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
    yield "a video of 8192×8192", "foreign", lambda root: film(root / video, np.zeros((11, 8192, 8192, 3), np.uint8)[:2])
    yield "a video that grows", "foreign", lambda root: two_sizes(root / video)
    yield (
        "pictures of 20000×20000",
        "foreign",
        lambda root: pictures(root / data, "observation.images.wrist", (20000, 20000), "RGB"),
    )
    yield (
        "depth of 20000×20000",
        "foreign",
        lambda root: pictures(root / data, "observation.images.depth", (20000, 20000), "I;16"),
    )
    yield "a text of 1 GB", "foreign", lambda root: column(root / data, "note", lambda n: pa.array(["x" * (10**9 // n)] * n))
    yield (
        "a further vector of 10^8 numbers a row",
        "foreign",
        lambda root: column(root / data, "next.reward", lambda n: lists(n, 10**8 // n)),
    )
    yield (
        "a state of 10^8 numbers a row",
        "foreign",
        lambda root: column(root / data, "observation.state", lambda n: lists(n, 10**8 // n)),
    )
    yield "an index of 10^8 numbers", "foreign", lambda root: column(root / data, "index", lambda n: lists(n, 10**8 // n))
    yield (
        "sentences of 1 GB",
        "foreign",
        lambda root: column(root / "meta/tasks.parquet", "__index_level_0__", lambda n: pa.array(["x" * (10**9 // n)] * n)),
    )
    yield (
        "tasks of an episode of 1 GB",
        "foreign",
        lambda root: column(root / episodes, "tasks", lambda n: pa.array([["x" * (10**9 // n)]] * n)),
    )
    yield (
        "a place of 10^8 numbers",
        "foreign",
        lambda root: column(root / episodes, "data/file_index", lambda n: lists(n, 10**8 // n)),
    )
    yield "10^8 episodes", "foreign", lambda root: (many_rows(root / episodes, 10**8), counted(root, total_episodes=10**8))
    yield "10^8 rows of frames", "foreign", lambda root: many_rows(root / data, 10**8)
    yield "counts of 10^12", "foreign", lambda root: counted(root, total_episodes=10**12, total_frames=10**12)
    yield "an episode of 10^9 frames", "foreign", lambda root: column(root / episodes, "length", lambda n: pa.array([10**9] * n))
    yield (
        "an episode of 10^9 frames, old",
        "old",
        lambda root: (root / "meta/episodes.jsonl").write_text(
            json.dumps({"episode_index": 0, "length": 10**9, "tasks": ["a"]})
            + "\n"
            + json.dumps({"episode_index": 1, "length": 10**9, "tasks": ["a"]})
        ),
    )
    yield "a shape of 10^7", "foreign", lambda root: shaped(root, "action", [10**7])
    yield "a shape of 10^3 × 10^4", "foreign", lambda root: shaped(root, "next.reward", [10**3, 10**4])
    yield "a camera of 32768×32768", "foreign", lambda root: shaped(root, "observation.images.front", [32768, 32768, 3])
    yield "a picture camera of 32768×32768", "foreign", lambda root: shaped(root, "observation.images.wrist", [32768, 32768, 3])


def pictures(path: Path, key: str, size: tuple[int, int], mode: str) -> None:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    sink = io.BytesIO()
    Image.new(mode, size).save(sink, "PNG", compress_level=9)
    Image.MAX_IMAGE_PIXELS = 89478485
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column(path, key, lambda n: pa.array([{"bytes": sink.getvalue(), "path": None}] * n, kind))


def column(path: Path, name: str, make: Callable[[int], Any]) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, make(len(table))), path, compression="zstd")


def lists(rows: int, size: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * size, np.float32)), size).cast(pa.list_(pa.float32()))


def many_rows(path: Path, count: int) -> None:
    table = pq.read_table(path)
    kept = [name for name in table.column_names if pa.types.is_integer(table.schema.field(name).type)]
    block = pa.table({name: pa.array(np.zeros(10**6, np.int64)) for name in kept})
    with pq.ParquetWriter(path, block.schema, compression="zstd") as writer:
        for _ in range(count // 10**6):
            writer.write_table(block)


def counted(root: Path, **counts: int) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | counts))


def shaped(root: Path, key: str, shape: list[int]) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][key] |= {"shape": shape, "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))


def retyped(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def prefixed(path: Path, what: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(what + (content[1:] if what.endswith(b",") else content))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


if __name__ == "__main__":
    main()
