"""Files of datasets that are not what they should be, or unpack to far more than they are."""

from __future__ import annotations

import io
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from metadata_bases import film

NUMBERS, TEXT = 4 * 10**7, 2**28  # of a bomb: 160 MB as float32, and 256 MB
Case = tuple[str, str, Callable[[Path], object]]  # its name, the dataset that it changes, and the change


def file_cases() -> Iterator[Case]:
    """Whole files of other content."""
    for base, names in (
        ("ours", ("meta/info.json", "meta/stats.json", "meta/tasks.parquet")),
        (
            "foreign",
            (
                "meta/info.json",
                "meta/stats.json",
                "meta/tasks.parquet",
                "meta/episodes/chunk-000/file-000.parquet",
                "data/chunk-000/file-000.parquet",
            ),
        ),
        (
            "old",
            (
                "meta/info.json",
                "meta/tasks.jsonl",
                "meta/episodes.jsonl",
                "meta/episodes_stats.jsonl",
                "data/chunk-000/episode_000000.parquet",
            ),
        ),
    ):
        for name in names:
            for label, content in contents().items():
                yield f"{name} is {label}", base, at(name, Path.write_bytes, content)
            yield f"{name} is a pipe", base, at(name, pipe)
            yield f"{name} is a folder", base, at(name, folder_in_place)
            yield f"{name} is a link to a device", base, at(name, link, "/dev/zero")
            yield f"{name} is missing", base, at(name, Path.unlink)
            if name.endswith("info.json"):
                for what in (b"\xef\xbb\xbf", b'{"fps": 1,'):
                    yield f"{name} begins with {what!r}", base, at(name, prefixed, what)
    for label, change in parquet_changes().items():
        for base, name in (
            ("foreign", "data/chunk-000/file-000.parquet"),
            ("foreign", "meta/episodes/chunk-000/file-000.parquet"),
            ("old", "data/chunk-000/episode_000000.parquet"),
        ):
            yield f"{name}: {label}", base, at(name, retyped, change)
    for base, name in (
        ("foreign", "videos/observation.images.front/chunk-000/file-000.mp4"),
        ("old", "videos/chunk-000/observation.images.front/episode_000000.mp4"),
    ):
        for label, change in video_changes().items():
            yield f"the video {label}", base, at(name, change)


def contents() -> dict[str, bytes]:
    return {
        "empty": b"",
        "binary": random.Random(0).randbytes(3000),
        "deep": b"[" * 200_000,
        "a deep table": b'{"a":' * 100_000,
        "a number of 10^6 digits": b'{"total_frames": ' + b"9" * 10**6 + b"}",
        "UTF-16": '{"fps": 1}'.encode("utf-16"),
        "null": b"null",
        "a list": b"[1, 2]",
        "a text": b'"text"',
        "a parquet that is cut": b"PAR1" + bytes(100) + b"PAR1",
        "zeros": bytes(4096),
        "lines of nothing": b"\n" * 10**5,
        "a surrogate": b'{"a": "\\ud800"}',
        "twice the same key": b'{"fps": 1, "fps": 2}',
    }


def parquet_changes() -> dict[str, Callable[[pa.Table], pa.Table]]:
    def each(make: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
        def change(table: pa.Table) -> pa.Table:
            return pa.table({name: make(table.column(name)) for name in table.column_names})

        return change

    def uneven(column: pa.ChunkedArray) -> Any:
        return pa.array([[1.0] * (row % 3) for row in range(len(column))])

    return {
        "no rows": lambda table: table.slice(0, 0),
        "no columns": lambda table: table.select([]),
        "nulls": each(lambda c: pa.nulls(len(c), c.type)),
        "null type": each(lambda c: pa.nulls(len(c))),
        "texts": each(lambda c: pa.array(["7"] * len(c))),
        "dictionaries": each(lambda c: pa.array(["7"] * len(c)).dictionary_encode()),
        "uneven lists": each(uneven),
        "structs": each(lambda c: pa.array([{"a": 1}] * len(c))),
        "decimals": each(lambda c: pa.array([1] * len(c)).cast(pa.decimal128(22, 2))),
        "times": each(lambda c: pa.array([1] * len(c), pa.timestamp("ns"))),
        "booleans": each(lambda c: pa.array([True] * len(c))),
        "nan": each(lambda c: pa.array([math.nan] * len(c))),
        "bytes": each(lambda c: pa.array([b"\xff"] * len(c))),
        "maps": each(lambda c: pa.array([[("a", 1)]] * len(c), pa.map_(pa.string(), pa.int64()))),
        "large lists": each(lambda c: pa.array([[1.0] * 3] * len(c), pa.large_list(pa.float64()))),
        "deep lists": each(lambda c: pa.array([[[[[1.0]]]]] * len(c))),
        "durations": each(lambda c: pa.array([1] * len(c), pa.duration("s"))),
        "int64 extremes": each(lambda c: pa.array([2**63 - 1, -(2**63)] * len(c))[: len(c)]),
        "uint64": each(lambda c: pa.array([2**64 - 1] * len(c), pa.uint64())),
        "half": each(lambda c: pa.array(np.ones(len(c), np.float16))),
        "twice": lambda table: pa.table([*table.columns, *table.columns], names=[*table.column_names, *table.column_names]),
        "a million rows": lambda table: pa.table({name: pa.array(np.zeros(10**6)) for name in table.column_names}),
    }


def video_changes() -> dict[str, Callable[[Path], object]]:
    frames = np.random.default_rng(0).integers(0, 256, (11, 16, 32, 3), np.uint8)
    return {
        "is empty": lambda path: path.write_bytes(b""),
        "is binary": lambda path: path.write_bytes(random.Random(1).randbytes(5000)),
        "is cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "is missing": lambda path: path.unlink(),
        "is a pipe": pipe,
        "is a device": lambda path: link(path, "/dev/zero"),
        "is a folder": folder_in_place,
        "is of another codec": lambda path: film(path, frames, "mpeg4"),
        "is an AVI": lambda path: film(path, frames, "mjpeg", "avi"),
        "has large frames": lambda path: film(path, np.zeros((11, 1080, 1920, 3), np.uint8)),
        "has one frame": lambda path: film(path, frames[:1]),
        "is only sound": sound,
        "is a playlist": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
        "is HLS": lambda path: path.write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
        ),
        "is a picture": lambda path: film(path, frames[:1], "mjpeg", "mjpeg"),
        "changes its size": two_sizes,
    }


def sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


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
    large = np.zeros((2, 4096, 4096, 3), np.uint8)
    listed: dict[str, Callable[[Path], object]] = {
        "a video of 4096×4096": at(video, film, large),
        "a video that grows": at(video, two_sizes),
        "pictures of 13000×13000": at(data, pictures, "observation.images.wrist", (13000, 13000), "RGB"),
        "depth of 13000×13000": at(data, pictures, "observation.images.depth", (13000, 13000), "I;16"),
        f"a text of {TEXT >> 20} MB": at(data, column, "note", texts),
        f"a further vector of {NUMBERS} numbers": at(data, column, "next.reward", lists),
        f"a state of {NUMBERS} numbers": at(data, column, "observation.state", lists),
        f"an index of {NUMBERS} numbers": at(data, column, "index", lists),
        f"sentences of {TEXT >> 20} MB": at("meta/tasks.parquet", column, "__index_level_0__", texts),
        f"tasks of {TEXT >> 20} MB": at(episodes, column, "tasks", many_texts),
        f"a place of {NUMBERS} numbers": at(episodes, column, "data/file_index", lists),
        f"{NUMBERS} episodes": at(episodes, many_rows, NUMBERS),
        f"{NUMBERS} rows of frames": at(data, many_rows, NUMBERS),
        "counts of 10^12": at(".", counted, 10**12),
        "an episode of 10^9 frames": at(episodes, column, "length", ages),
        "a shape of 10^7": at(".", shaped, "action", [10**7]),
        "a shape of 10^3 × 10^4": at(".", shaped, "next.reward", [10**3, 10**4]),
        "a camera of 32768×32768": at(".", shaped, "observation.images.front", [32768, 32768, 3]),
        "a picture camera of 32768×32768": at(".", shaped, "observation.images.wrist", [32768, 32768, 3]),
    }
    yield from ((name, "foreign", change) for name, change in listed.items())
    lines_of = [json.dumps({"episode_index": number, "length": 10**9, "tasks": ["a"]}) for number in range(2)]
    yield "episodes of 10^9 frames", "old", at("meta/episodes.jsonl", Path.write_text, "\n".join(lines_of))


def texts(rows: int) -> pa.Array:
    return pa.array(["x" * (TEXT // rows)] * rows)


def many_texts(rows: int) -> pa.Array:
    return pa.array([["x" * (TEXT // rows)]] * rows)


def ages(rows: int) -> pa.Array:
    return pa.array([10**9] * rows)


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


def lists(rows: int) -> pa.Array:
    size = NUMBERS // rows
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * size, np.float32)), size).cast(pa.list_(pa.float32()))


def many_rows(path: Path, count: int) -> None:
    table = pq.read_table(path)
    kept = [name for name in table.column_names if pa.types.is_integer(table.schema.field(name).type)]
    block = pa.table({name: pa.array(np.zeros(10**6, np.int64)) for name in kept})
    with pq.ParquetWriter(path, block.schema, compression="zstd") as writer:
        for _ in range(count // 10**6):
            writer.write_table(block)


def counted(root: Path, count: int) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"total_episodes": count, "total_frames": count}))


def shaped(root: Path, key: str, shape: list[int]) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][key] |= {"shape": shape, "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))


def retyped(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def prefixed(path: Path, what: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(what + (content[1:] if what.endswith(b",") else content))


def at(name: str, function: Callable[..., object], *arguments: Any) -> Callable[[Path], object]:
    return lambda root: function(root / name, *arguments)


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)
