"""The arrays of a zarr store, by their metadata, and rows of them. zarr itself is needed only to read rows."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import links_out, natural, reading
from verbot.data.importers.limits import DOCUMENT_BYTES, ITEM_BYTES, check_chunk, check_item, take
from verbot.data.importers.tensor_files import check_archive
from verbot.data.importers.zarr_pieces import check_piece, codec_of
from verbot.errors import CorruptFileError, MissingDependencyError
from verbot.files import below, regular_file

IMAGE_CODECS = "imagecodecs_"  # codecs of the package imagecodecs
DEEPEST, MOST_PIECES = 16, 10_000_000  # folders in folders; pieces of the rows of one episode
SLACK, SMALL_PIECE = 2, 1 << 20  # a piece may expand to so many times its size in metadata, or to so many bytes more
SMALLEST = 8  # pixels of the shorter side of a picture
DOCUMENTS = (".zarray", "zarr.json")  # of format 2 and 3


@dataclass(frozen=True)
class StoredArray:
    """An array by its metadata alone, so that an unknown codec matters only where the array is read.

    Args:
        letter, itemsize: numpy's letter for the kind of its dtype, and the bytes of a number.
        pieces: the shape of the pieces in which it is stored.
        prefix, separator: the name of piece (i, j) in the array's folder is prefix + i + separator + j.
    """

    shape: tuple[int, ...]
    dtype: str
    letter: str
    codecs: tuple[str, ...]
    format: int
    pieces: tuple[int, ...]
    prefix: str = ""
    separator: str = "."
    itemsize: int = 8

    @property
    def kind(self) -> str:
        """``"pictures"``, ``"numbers"`` or ``"other"``."""
        if self.letter not in "biuf" or not self.shape:
            return "other"
        pictured = len(self.shape) == 4 and min(self.shape[1:3]) >= SMALLEST
        return "pictures" if pictured and (self.shape[-1] in (1, 3, 4) or self.shape[1] in (1, 3, 4)) else "numbers"

    @property
    def width(self) -> int:
        """Numbers per row."""
        return int(np.prod(self.shape[1:], dtype=int))

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"

    def grid(self, start: int, end: int) -> list[int]:
        """The number of pieces along each dimension that hold rows `start` to `end`."""
        return [len(span) for span in self._spans(start, end)]

    def _spans(self, start: int, end: int) -> list[range]:
        spans = [range(start // self.pieces[0], -(-end // self.pieces[0]))]
        return spans + [range(-(-size // piece)) for size, piece in zip(self.shape[1:], self.pieces[1:], strict=True)]

    def names(self, start: int, end: int) -> Iterator[str]:
        """The names of the pieces that hold rows `start` to `end`."""
        spans = self._spans(start, end)
        for place in itertools.product(*spans):
            yield self.prefix + self.separator.join(map(str, place))


BROKEN_ARCHIVE = (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error)


class ZarrStore:
    """A store at `path`, a folder or a ``.zip``.

    Raises `CorruptFileError` for broken metadata, `DataError` if they, or a folder, are a link out of the store.

    Attributes:
        arrays: every array by its name, in natural order.
    """

    def __init__(self, path: Path):
        self.path, self._open, self._links = path, dict[str, Any](), frozenset(links_out(path))
        for link in sorted(self._links):
            if Path(link).name.startswith((".z", "zarr.")) or (path / link).is_dir():
                below(path, link)
        with reading(path, *BROKEN_ARCHIVE):
            if path.is_file():
                with zipfile.ZipFile(regular_file(path)) as archive:
                    check_archive(archive, path)
            documents = dict(_zipped(path) if path.is_file() else _in_folders(path, path))
            self._files = set(_names(path)) if path.is_file() else None
        self.arrays: dict[str, StoredArray] = {}
        for name, content in sorted(documents.items(), key=lambda pair: natural(pair[0])):
            with reading(f"{path}, {name}", ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
                check_item(len(content), path, f"metadata of {name}", DOCUMENT_BYTES)
                record = json.loads(content)
                if record.get("node_type", "array") == "array":
                    self.arrays[name] = _array(record)

    def rows(self, name: str, start: int, end: int, fill: bool = True) -> np.ndarray:
        """Rows `start` to `end` of an array.

        Args:
            fill: take the array's fill value for pieces that are absent, instead of an error.

        Raises `CorruptFileError` if it has fewer rows or cannot be read, `DataError` for a piece that is a link out of the
        store, `MissingDependencyError` for a codec that is not installed.
        """
        place, array = f"{self.path}, {name}", self.arrays[name]
        if not array.shape or array.shape[0] < end:
            raise CorruptFileError(place, f"is {array}; the episode is rows {start} to {end}")
        check_chunk(array.shape, array.pieces, array.itemsize, place)
        take(array.itemsize * math.prod((end - start, *array.shape[1:])), place)
        if math.prod(array.grid(start, end)) > MOST_PIECES:
            raise CorruptFileError(place, f"has more than {MOST_PIECES} pieces in rows {start} to {end}")
        for piece in array.names(start, end) if self._links else ():
            if f"{name}/{piece}" in self._links:
                below(self.path, f"{name}/{piece}")
        absent = [] if fill else [piece for piece in array.names(start, end) if not self._has(f"{name}/{piece}")]
        if absent:
            text = f"{len(absent)} pieces of rows {start} to {end} are absent, {absent[0]} first"
            raise CorruptFileError(place, f"{text}. If they hold the fill value alone, add --set absent=fill; else copy it again")
        _register(place, array.codecs)
        self._check_pieces(name, start, end)
        with reading(place, Exception):
            return np.asarray(self._array(name)[start:end])

    def _check_pieces(self, name: str, start: int, end: int) -> None:
        """Raise `DataError` for a piece that cannot be read, or would expand to more than the array's metadata say."""
        array = self.arrays[name]
        codec = codec_of(array.codecs, f"{self.path}, {name}")
        most = SLACK * array.itemsize * math.prod(array.pieces) + SMALL_PIECE
        held = max(ITEM_BYTES, most)
        for piece in array.names(start, end):
            path = self.path / name / piece
            if self._files is not None:
                if f"{name}/{piece}" in self._files:
                    with zipfile.ZipFile(self.path) as archive:
                        check_item(archive.getinfo(f"{name}/{piece}").file_size, path, "a compressed piece", held)
                        with reading(path, *BROKEN_ARCHIVE):
                            content = archive.read(f"{name}/{piece}")
                        check_piece(codec, content, path, most)
            elif path.exists():
                check_item(regular_file(path).stat().st_size, path, "a compressed piece", held)
                check_piece(codec, path.read_bytes(), path, most)
        for document in (".zattrs", ".zgroup", "zarr.json", ".zarray"):
            place = self.path / name / document
            if self._files is None and place.exists():
                regular_file(place)

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file() if self._files is None else name in self._files

    def _array(self, name: str) -> Any:
        import zarr

        if name not in self._open:
            if "" not in self._open:
                zipped = self._files is not None
                self._open[""] = zarr.storage.ZipStore(self.path, mode="r") if zipped else zarr.storage.LocalStore(self.path)
            form = self.arrays[name].format
            self._open[name] = zarr.open_array(self._open[""], path=name, mode="r", zarr_format=form)
        return self._open[name]


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            folder, _, file = name.rpartition("/")
            if file in DOCUMENTS:
                check_item(archive.getinfo(name).file_size, name, "metadata", DOCUMENT_BYTES)
                yield folder, archive.read(name)


def _in_folders(root: Path, folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in DOCUMENTS:
        if (folder / name).is_file():
            check_item((folder / name).stat().st_size, folder / name, "metadata", DOCUMENT_BYTES)
            content = (folder / name).read_bytes()
            yield folder.relative_to(root).as_posix(), content
            if name == ".zarray" or b'"array"' in content:
                return  # its folders hold pieces of the array
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and len(folder.relative_to(root).parts) < DEEPEST:
            yield from _in_folders(root, entry)


def _array(record: Mapping[str, Any]) -> StoredArray:
    """Raises `ValueError`, `TypeError` or `KeyError` for metadata that describe no array."""
    shape = tuple(int(size) for size in record["shape"])
    if record.get("zarr_format") == 3:
        dtype, codecs = _dtype(record["data_type"]), tuple(str(codec["name"]) for codec in record["codecs"])
        grid, encoding = record["chunk_grid"]["configuration"]["chunk_shape"], record["chunk_key_encoding"]
        plain = encoding["name"] == "v2"
        separator = str(encoding.get("configuration", {}).get("separator", "." if plain else "/"))
        prefix = "" if plain else f"c{separator}"
    else:
        filters = (*(record.get("filters") or ()), record.get("compressor"))
        dtype, codecs = _dtype(record["dtype"]), tuple(str(codec["id"]) for codec in filters if codec is not None)
        grid, prefix, separator = record["chunks"], "", str(record.get("dimension_separator", "."))
    if separator not in (".", "/"):
        raise ValueError(f"pieces are named with {separator!r}")
    pieces = tuple(int(size) for size in grid)
    if min(shape, default=1) < 0 or min(pieces, default=1) < 1 or len(pieces) != len(shape):
        raise ValueError(f"shape {shape} in pieces of {pieces}")
    known = 3 if record.get("zarr_format") == 3 else 2
    return StoredArray(
        shape, str(dtype or record.get("data_type")), dtype.kind if dtype else "O", codecs, known, pieces, prefix, separator,
        dtype.itemsize if dtype else 8,
    )  # fmt: skip


def _dtype(name: Any) -> np.dtype[Any] | None:
    """numpy's dtype of a name; None for a record or a type that numpy does not have, such as zarr's strings."""
    try:
        return np.dtype(name) if isinstance(name, str) else None
    except TypeError:
        return None


def _register(place: str, codecs: tuple[str, ...]) -> None:
    """Make the codecs known to zarr. Raises `MissingDependencyError` naming the codec whose package is not installed."""
    foreign = [codec for codec in codecs if codec.startswith(IMAGE_CODECS)]
    if not foreign:
        return
    try:
        importlib.import_module("imagecodecs.numcodecs").register_codecs(verbose=False)
    except ImportError as error:
        text = f"{place} is compressed with {foreign[0]}, which needs imagecodecs: pip install imagecodecs"
        raise MissingDependencyError(text) from error
