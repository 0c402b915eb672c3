"""Small files that promise much: each with the bytes that its metadata promise, and those that a decoder would find."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import _source_templates as templates
from _source_templates import EPISODES, LENGTH, RATE, SIDE, START, WORDS

MIB = 1 << 20


@dataclass(frozen=True)
class Bomb:
    """A source.

    Args:
        promised: bytes that the spec, the shapes or the headers of the good data promise.
        holds: bytes that it would decode to.
    """

    make: Callable[[Path], Any]
    options: tuple[str, ...]
    promised: int
    holds: int


BOMBS: dict[str, Bomb] = {}
PICTURES = EPISODES * LENGTH * SIDE * SIDE * 3


def bomb(
    name: str, holds: int, options: tuple[str, ...] = (*RATE, *WORDS), promised: int = PICTURES
) -> Callable[[Callable[[Path], Any]], None]:
    def add(make: Callable[[Path], Any]) -> None:
        BOMBS[name] = Bomb(make, options, promised, holds)

    return add


def zeros_png(side: int, mode: int = 2, bits: int = 8) -> bytes:
    """A PNG of zeros, line by line compressed, so that making it takes no memory."""
    line = b"\0" * (1 + side * (3 if mode == 2 else 1) * bits // 8)
    packer, body = zlib.compressobj(6), []
    for _ in range(side):
        body.append(packer.compress(line))
    body.append(packer.flush())

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, mode, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"".join(body)) + chunk(b"IEND", b"")


def zeros_gzip(size: int, head: bytes = b"", tail: bytes = b"") -> bytes:
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=6, mtime=0) as file:
        file.write(head)
        for _ in range(size // MIB):
            file.write(bytes(MIB))
        file.write(tail)
    return sink.getvalue()


def zeros_zstd(size: int, stated: bool) -> bytes:
    import zstandard

    sink = io.BytesIO()
    packer = zstandard.ZstdCompressor(write_content_size=stated)
    with packer.stream_writer(sink, size=size if stated else -1, closefd=False) as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
    return sink.getvalue()


for side in (7000, 12000, 30000):  # below Pillow's warning, at it, above it: an error

    @bomb(f"manifest, PNG of {side}×{side}", side * side * 3, RATE)
    def _(root: Path, side: int = side) -> None:
        templates.manifest(root)
        (root / "1_2.png").write_bytes(zeros_png(side))


for side in (7000, 12000):

    @bomb(f"rlds, PNG of {side}×{side}", side * side * 3 * LENGTH, RATE)
    def _(root: Path, side: int = side) -> None:
        import _formats

        records = [templates.record(number) for number in range(EPISODES)]
        records[1]["steps/observation/image"] = [zeros_png(side)] * LENGTH
        _formats.rlds(root, "toy", records, templates.features())

    @bomb(f"hdf5, encoded PNG of {side}×{side}", side * side * 3 * LENGTH)
    def _(root: Path, side: int = side) -> None:
        import h5py

        templates.aloha(root)
        for number, size in enumerate((SIDE, side, SIDE)):
            with h5py.File(root / f"episode_{number}.hdf5", "a") as file:
                del file["observations/images/cam_high"]
                content = np.frombuffer(zeros_png(size), np.uint8)
                file.create_dataset("observations/images/cam_high", data=np.stack([content] * LENGTH), compression="gzip")

    @bomb(f"mcap, PNG of {side}×{side}", side * side * 3 * LENGTH, RATE)
    def _(root: Path, side: int = side) -> None:
        import _ros

        for number, size in enumerate((SIDE, side, SIDE)):

            def body(events: list[Any], schemas: Any, writer: Any, size: int = size) -> None:
                for event in events:
                    if event[2] == "compressed":
                        event[3]["data"] = zeros_png(size)

            _ros.bag(root / f"log_{number}.mcap", seconds=0.4, joint_hz=10, camera="jpeg", t0=START + number * 10**10, body=body)


@bomb("manifest, one picture for a million actions", 7000 * 7000 * 3 * 10**6, RATE, 7000 * 7000 * 3)
def _(root: Path) -> None:
    (root / "a.png").write_bytes(zeros_png(7000))
    (root / "manifest.json").write_text(
        json.dumps([{"image_path": "a.png", "instruction": "", "action_sequence": [[1.0]] * 10**6}])
    )


@bomb("manifest, video of 16384×8704", 16384 * 8704 * 3 * LENGTH, RATE)
def _(root: Path) -> None:
    import av

    templates.manifest_of_videos(root)
    with av.open(str(root / "big.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 16384, 8704, "yuv420p"
        frame = av.VideoFrame(16384, 8704, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for _ in range(LENGTH):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    entries = json.loads((root / "manifest.json").read_text())
    entries[1]["image_path"] = "big.mp4"
    (root / "manifest.json").write_text(json.dumps(entries))


def shard(content: bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        templates.rlds_gzip(root)
        next(root.rglob("*-00001-of-*")).write_bytes(content)

    return make


def record_head(length: int) -> bytes:
    import _formats

    head = struct.pack("<Q", length)
    return head + struct.pack("<I", _formats.masked(head))


bomb("rlds, gzip of a record of 3 GiB", 3 << 30, RATE)(lambda root: shard(zeros_gzip(3 << 30, record_head(3 << 30)))(root))
bomb("rlds, gzip of a record of 900 MiB", 900 * MIB, RATE, 900 * MIB)(
    lambda root: shard(zeros_gzip(900 * MIB, record_head(900 * MIB)))(root)
)
bomb("rlds, gzip of a record of 2^60 bytes", 1 << 60, RATE)(lambda root: shard(zeros_gzip(2 << 30, record_head(1 << 60)))(root))


@bomb("rlds, gzip of ten million empty records", 160 << 20, RATE)
def _(root: Path) -> None:
    import _formats

    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=6, mtime=0) as file:
        piece = _formats.record(b"") * 65536
        for _ in range(160):
            file.write(piece)
    shard(sink.getvalue())(root)


@bomb("rlds, zlib tensors", 2 << 30, RATE)
def _(root: Path) -> None:
    import _formats

    records = [templates.record(number) for number in range(EPISODES)]
    described = {**templates.features(), "steps/action": {**_formats.tensor("float32", (3,))}}
    described["steps/action"]["tensor"]["encoding"] = "zlib"
    for record in records:
        record["steps/action"] = [zlib.compress(np.ones(3, "<f4").tobytes())] * LENGTH
    records[1]["steps/action"] = [zlib.compress(bytes(400 * MIB))] * LENGTH
    _formats.rlds(root, "toy", records, described)


def hdf5_dataset(path: str, **dataset: Any) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        import h5py

        templates.aloha(root)
        with h5py.File(root / "episode_1.hdf5", "a") as file:
            del file[path]
            file.create_dataset(path, **dataset)

    return make


gzipped = {"compression": "gzip", "fillvalue": 0}
bomb("hdf5, actions of 10^9 rows that are not there", 14 * 8 * 10**9)(
    hdf5_dataset("action", shape=(10**9, 14), dtype="f8", chunks=(1000, 14), **gzipped)
)
bomb("hdf5, pictures of 10^6 rows that are not there", 3 * 480 * 640 * 10**6)(
    hdf5_dataset("observations/images/cam_high", shape=(10**6, 480, 640, 3), dtype="u1", chunks=(1, 480, 640, 3), **gzipped)
)
bomb("hdf5, pictures of 30000×30000", 3 * 9 * 10**8 * LENGTH)(
    hdf5_dataset(
        "observations/images/cam_high", shape=(LENGTH, 30000, 30000, 3), dtype="u1", chunks=(1, 1000, 1000, 3), **gzipped
    )
)
bomb("hdf5, a row of 10^12 numbers", 10**13)(
    hdf5_dataset("observations/qpos", shape=(LENGTH, 10**12), dtype="u1", chunks=(1, 10**6), **gzipped)
)


@bomb("hdf5, a chunk that expands to 2 GiB", 2 << 30)
def _(root: Path) -> None:
    import h5py

    templates.aloha(root)
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        del file["action"]
        stored = file.create_dataset("action", shape=(LENGTH, 14), dtype="f8", chunks=(LENGTH, 14), compression="gzip")
        packer = zlib.compressobj(6)
        pieces = [packer.compress(bytes(MIB)) for _ in range(2048)]
        stored.id.write_direct_chunk((0, 0), b"".join([*pieces, packer.flush()]))


@bomb("hdf5, one text of 8 MiB for 10^5 rows", 8 * MIB * 10**5)
def _(root: Path) -> None:
    import h5py

    templates.aloha(root)
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        stored = file.create_dataset(
            "language_instruction", shape=(10**5,), dtype=h5py.string_dtype(), chunks=(1000,), compression="gzip"
        )
        stored[0] = "x" * (8 * MIB)
        mask, chunk = stored.id.read_direct_chunk((0,))
        one = zlib.decompress(chunk)[:16]
        for start in range(0, 10**5, 1000):
            stored.id.write_direct_chunk((start,), zlib.compress(one * 1000), mask)


def npz_member(size: int, method: int, header: dict[str, Any], fill: bytes = bytes(MIB)) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        templates.npz(root)
        with zipfile.ZipFile(root / "episode_1.npz", "w", method) as archive:
            for name, array in templates.arrays(1).items():
                if name != "actions":
                    with archive.open(f"{name}.npy", "w") as file:
                        np.lib.format.write_array(file, array)
            with archive.open("actions.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, **header})
                for _ in range(size // MIB):
                    file.write(fill)

    return make


bomb("npz, deflated actions of 3 GiB", 3 << 30, RATE)(npz_member(3 << 30, zipfile.ZIP_DEFLATED, {"shape": (LENGTH, 3)}))
bomb("npz, deflated actions of 3 GiB in one row", 3 << 30, RATE)(
    npz_member(3 << 30, zipfile.ZIP_DEFLATED, {"shape": (1, (3 << 30) // 4)})
)
bomb("npz, bzip2 actions of 3 GiB", 3 << 30, RATE)(npz_member(3 << 30, zipfile.ZIP_BZIP2, {"shape": (LENGTH, 3)}))
bomb("npz, a header of 10^15 numbers", 10**15, RATE)(npz_member(0, zipfile.ZIP_DEFLATED, {"shape": (10**15, 3)}))
bomb("npz, text of 10^9 characters", 4 * 10**9, RATE)(
    npz_member(0, zipfile.ZIP_DEFLATED, {"shape": (10**3,), "descr": "<U1000000"})
)


@bomb("npz, 2000 names of one deflated array", 2000 << 24, RATE)
def _(root: Path) -> None:
    templates.npz(root)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("actions.npy", "w") as file:
            np.lib.format.write_array(file, np.zeros((LENGTH, 1 << 20), np.float32))
        info = archive.infolist()[0]
        for number in range(2000):
            again = zipfile.ZipInfo(info.filename)
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "flag_bits"):
                setattr(again, name, getattr(info, name))
            again.filename = f"observations.x{number:05d}.npy"
            archive.filelist.append(again)
    (root / "episode_1.npz").write_bytes(sink.getvalue())


@bomb("pt, a tensor of 10^13 numbers over one", 4 * 10**13, RATE)
def _(root: Path) -> None:
    import torch

    templates.torch_file(root)
    torch.save({"actions": torch.ones(1).expand(10**10, 1000), "language": "x"}, root / "episode_1.pt")


@bomb("pt, pictures over one pixel", LENGTH * 3 << 26, RATE)
def _(root: Path) -> None:
    import torch

    templates.torch_file(root)
    content = {name: torch.from_numpy(array) for name, array in templates.arrays(1).items()}
    content["observations.front"] = torch.ones(1, dtype=torch.uint8).expand(LENGTH, 1 << 14, 1 << 15, 3)
    torch.save({**content, "language": "x"}, root / "episode_1.pt")


def mcap_chunk(size: int, stated: int, compression: str) -> Callable[[Path], None]:
    """A log whose only chunk expands to `size` zeros, and says that they are `stated`; its index says so too."""

    def make(root: Path) -> None:
        import lz4.frame
        from mcap.data_stream import RecordBuilder
        from mcap.records import Chunk, ChunkIndex, DataEnd, Footer, Header

        templates.mcap(root)
        if compression == "zstd":
            data = zeros_zstd(size, stated == size)
        else:
            with lz4.frame.LZ4FrameCompressor() as packer:
                data = packer.begin() + b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()
        magic, builder = b"\x89MCAP0\r\n", RecordBuilder()
        Header("", "x").write(builder)
        begin = len(magic) + builder.count
        Chunk(compression, data, START + 10**9, START, 0, stated).write(builder)
        length = len(magic) + builder.count - begin
        DataEnd(0).write(builder)
        summary = len(magic) + builder.count
        ChunkIndex(begin, length, compression, len(data), START + 10**9, 0, {}, START, stated).write(builder)
        Footer(summary, 0, 0).write(builder)
        (root / "log_1.mcap").write_bytes(magic + builder.end() + magic)

    return make


for compression in ("zstd", "lz4"):
    bomb(f"mcap, {compression} chunk of 2 GiB", 2 << 30, RATE)(mcap_chunk(2 << 30, 2 << 30, compression))
    bomb(f"mcap, {compression} chunk of 2 GiB that says 1 MiB", 2 << 30, RATE)(mcap_chunk(2 << 30, MIB, compression))


@bomb("mcap.zstd of 8 GiB", 8 << 30, RATE)
def _(root: Path) -> None:
    import zstandard

    templates.mcap(root)
    whole = (root / "log_1.mcap").read_bytes()
    (root / "log_1.mcap").unlink()
    head = zstandard.ZstdCompressor().compress(whole[:-100])
    (root / "log_1.mcap.zstd").write_bytes(head + zeros_zstd(8 << 30, False))


@bomb("db3.zstd of 8 GiB", 8 << 30, RATE)
def _(root: Path) -> None:
    templates.rosbag(root)
    path = next((root / "rec_1").glob("*.db3"))
    path.unlink()
    (root / "rec_1" / "metadata.yaml").unlink()
    (root / "rec_1" / "rec_1.db3.zstd").write_bytes(zeros_zstd(8 << 30, False))


@bomb("db3, messages that expand to 1 GiB", (1 << 30) * LENGTH, RATE)
def _(root: Path) -> None:
    import sqlite3

    templates.rosbag(root)
    folder = root / "rec_1"
    with sqlite3.connect(next(folder.glob("*.db3"))) as connection:
        connection.execute("UPDATE messages SET data = ?", (zeros_zstd(1 << 30, False),))
    connection.close()
    text = (folder / "metadata.yaml").read_text()
    text = text.replace("compression_format: ''", "compression_format: zstd").replace(
        "compression_mode: ''", "compression_mode: message"
    )
    (folder / "metadata.yaml").write_text(text)


@bomb("mcap, an array of 30 million numbers", 8 * 3 * 10**7, RATE, 8 * 3 * 10**7)
def _(root: Path) -> None:
    import _ros

    for number in range(EPISODES):

        def body(events: list[Any], schemas: Any, writer: Any, number: int = number) -> None:
            if number == 1:
                for event in [event for event in events if event[2] == "array"][:1]:
                    event[3]["data"] = np.zeros(3 * 10**7).tolist()

        _ros.bag(root / f"log_{number}.mcap", seconds=0.4, joint_hz=10, t0=START + number * 10**10, body=body)


def zarr_chunk(codec: str) -> Callable[[Path], None]:
    """A store one of whose chunks expands to 2 GiB, where its shape promises 80 bytes."""

    def make(root: Path) -> None:
        import bz2
        import lzma

        import numcodecs

        pack: dict[str, tuple[Any, Callable[[], bytes]]] = {
            "gzip": (numcodecs.GZip(), lambda: zeros_gzip(2 << 30)), "zlib": (numcodecs.Zlib(), lambda: zlib.compress(bytes(1 << 30))),
            "zstd": (numcodecs.Zstd(), lambda: zeros_zstd(2 << 30, True)), "bz2": (numcodecs.BZ2(), lambda: bz2.compress(bytes(512 * MIB))),
            "lzma": (numcodecs.LZMA(), lambda: lzma.compress(bytes(512 * MIB))), "lz4": (numcodecs.LZ4(), lambda: numcodecs.LZ4().encode(bytes(1 << 30))),
            "blosc": (numcodecs.Blosc("lz4"), lambda: numcodecs.Blosc("lz4").encode(bytes(1 << 30))),
        }  # fmt: skip
        compressor, content = pack[codec]
        templates.zarr(root, compressor=compressor)
        (root / "buffer.zarr" / "data" / "action" / "0.0").write_bytes(content())

    return make


for codec in ("gzip", "zlib", "zstd", "bz2", "lzma", "lz4", "blosc"):
    bomb(f"zarr, {codec} chunk of GiB", 1 << 30)(zarr_chunk(codec))


def zarr_shape(shape: list[int], chunks: list[int], ends: list[int], *more: str) -> None:
    def make(root: Path) -> None:
        import zarr

        templates.zarr(root)
        path = root / "buffer.zarr" / "data" / "img" / ".zarray"
        path.write_text(json.dumps({**json.loads(path.read_text()), "shape": shape, "chunks": chunks}))
        zarr.open_array(str(root / "buffer.zarr" / "meta" / "episode_ends"), mode="r+")[:] = ends

    bomb(f"zarr, pictures {shape} in {chunks}{' '.join(more)}", int(np.prod(shape)), (*RATE, *WORDS, *more))(make)


zarr_shape([15, 30000, 30000, 3], [1, 30000, 30000, 3], [5, 10, 15], "--set", "absent=fill")
zarr_shape([10**9, SIDE, SIDE, 3], [1, SIDE, SIDE, 3], [5, 10, 15], "--set", "absent=fill")
zarr_shape([15, SIDE, SIDE, 3], [10**6, 1000, 1000, 3], [5, 10, 15])


@bomb("zarr zip, metadata of 2 GiB", 2 << 30)
def _(root: Path) -> None:
    templates.zarr_zip(root)
    with (
        zipfile.ZipFile(root / "buffer.zarr.zip", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("data/x/.zarray", "w", force_zip64=True) as file,
    ):
        for _ in range(2048):
            file.write(b" " * MIB)
