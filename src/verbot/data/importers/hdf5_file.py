"""Reads HDF5 files: which datasets a group holds, of what kind each is, and the pictures and sentences in them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import reading
from verbot.data.importers.hdf5_links import refuse_other_files
from verbot.data.importers.images import decode_all, decode_plane, frames_of, stack
from verbot.data.importers.limits import TEXT_BYTES, check_chunk, check_inflated, check_item, take
from verbot.errors import CorruptFileError, DataError
from verbot.files import regular_file
from verbot.spec import FloatArray, Int64Array, UInt8Array

# Errors that h5py and numpy raise for damaged files.
BROKEN = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, EOFError)
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")  # JPEG, PNG, WebP, BMP
DEEPEST, SMALLEST = 8, 8  # nested groups that are followed; pixels of the shorter side of a picture
MOST = 100_000  # datasets and groups below one group; links may make them endless
DEFLATE, CHECKSUM, PLAIN_FILTERS = 1, 3, (2, 3, 5, 6)  # codes of HDF5's filters; the last do not expand much
SUSPECT = 256 << 10  # bytes of a compressed chunk, below which it cannot expand to much


@dataclass(frozen=True)
class Entry:
    """A dataset of a file.

    Args:
        kind: ``"numbers"`` (t, …), ``"color"`` pictures, ``"gray"`` ones (t, h, w), ``"encoded"`` pictures, ``"depth"``,
            ``"labels"`` of pixels, ``"text"``, or ``"other"``.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path} {self.dtype} ({', '.join(map(str, self.shape))})"

    @property
    def length(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def width(self) -> int:
        """Numbers per frame."""
        return int(np.prod(self.shape[1:], dtype=int))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file, open for reading. Raises `CorruptFileError` if it cannot be opened, or takes content from other files."""
    import h5py

    with reading(path, *BROKEN):
        file = h5py.File(regular_file(path), "r")
    with file:
        with reading(path, *BROKEN):
            refuse_other_files(file, path)
        yield file


def entries(group: Any) -> dict[str, Entry]:
    """Every dataset below `group` by its path in it, in the order of names; links to other files are not followed."""
    return {path: _entry(path, dataset) for path, dataset in _datasets(group, "", (), itertools.count(1))}


def _datasets(group: Any, prefix: str, around: tuple[Any, ...], count: Iterator[int]) -> Iterator[tuple[str, Any]]:
    """Every dataset below `group`, which lies in the groups `around`: links to one of those are not followed."""
    import h5py

    for name in group if len(around) < DEEPEST else ():
        if next(count) > MOST:
            raise CorruptFileError(group.file.filename, f"has more than {MOST} groups and datasets in one episode")
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            continue
        found = group.get(name)
        if isinstance(found, h5py.Dataset):
            yield prefix + name, found
        elif isinstance(found, h5py.Group) and found not in (*around, group):
            yield from _datasets(found, f"{prefix}{name}/", (*around, group), count)


def _entry(path: str, dataset: Any) -> Entry:
    shape = dataset.shape or ()
    return Entry(path, shape, str(dataset.dtype), _kind(path.lower(), shape, dataset))


def _kind(path: str, shape: tuple[int, ...], dataset: Any) -> str:
    import h5py

    name, dtype = path.rpartition("/")[2], dataset.dtype
    if dtype.kind in "OS" or (dtype == np.uint8 and len(shape) == 2):
        if len(shape) == (1 if dtype.kind in "OS" else 2) and shape[0] and _begins(dataset).startswith(MAGIC):
            return "depth" if "depth" in path else "encoded"
        if dtype.kind in "OS":
            return "text" if h5py.check_string_dtype(dtype) is not None and len(shape) < 2 else "other"
    if dtype.kind not in "biuf":
        return "other"
    if len(shape) < 3 or min(shape[1:3]) < SMALLEST:
        return "numbers" if shape else "other"
    if "depth" in path:
        return "depth"
    if "segmentation" in name:
        return "labels"
    wide = dtype.kind in "iu" and dtype.itemsize > 1
    if len(shape) == 4 and (shape[-1] in (3, 4) or (shape[-1] == 1 and not wide) or shape[1] in (1, 3, 4)):
        return "color"
    if len(shape) == 4 and shape[-1] == 1:
        return "depth"
    return {np.dtype(np.uint8): "gray", np.dtype(np.uint16): "depth"}.get(dtype, "numbers") if len(shape) == 3 else "numbers"


def _begins(dataset: Any) -> bytes:
    """The first row of a dataset, or as much of it as shows whether it is a picture."""
    if dataset.dtype.kind == "O":
        return _bytes(dataset[0])
    _check_chunks(dataset, range(1))
    if dataset.dtype.kind == "S":
        check_item(dataset.dtype.itemsize, _named(dataset), "a text")
        return _bytes(dataset[0])
    return _bytes(dataset[0, :64])


def stored(dataset: Any, place: object) -> np.ndarray:
    """All values of a dataset. Raises `DataError` if they are more than an episode may hold.

    Texts and lists are read in blocks: many rows may refer to one long text, of which the file holds one copy.
    """
    if dataset.dtype.kind != "O":
        _check_chunks(dataset, range(len(dataset) if dataset.shape else 0))
        take(int(np.prod(dataset.shape or (0,), dtype=object)) * dataset.dtype.itemsize, place)
        return np.asarray(dataset[()])
    take(8 * int(np.prod(dataset.shape or (0,), dtype=object)), place)
    if not dataset.shape:
        return np.asarray(dataset[()])
    out = np.empty(dataset.shape, object)
    wide = os.path.getsize(dataset.file.filename) * int(
        np.prod(dataset.shape[1:], dtype=object)
    )  # a row has at most so many bytes
    block, size = max(1, TEXT_BYTES // max(1, wide)), 0
    for start in range(0, len(out), block):
        out[start : start + block] = dataset[start : start + block]
        found = out[start : start + block].reshape(-1)
        size += sum(len(value) for value in found if isinstance(value, str | bytes | np.ndarray))
        check_item(size, place, "texts", TEXT_BYTES)
    return out


def _check_chunks(dataset: Any, rows: range | list[int]) -> None:
    """Raise `DataError` if the chunks of `rows` are too large by their shape, expand to more than that, or are damaged.

    Args:
        rows: some rows, or the first ones as a range, of which there may be any number.
    """
    if dataset.chunks is None:
        return
    place = _named(dataset)
    size = check_chunk(dataset.shape, dataset.chunks, dataset.dtype.itemsize, place)
    deflate = _deflate(dataset, place)
    if deflate is None:
        return
    high = dataset.chunks[0]
    starts: Container[int] = {row // high * high for row in rows} if isinstance(rows, list) else range(0, len(rows), high)
    found: list[tuple[int, ...]] = []

    def suspect(chunk: Any) -> None:
        if chunk.size > SUSPECT and not chunk.filter_mask >> deflate & 1 and chunk.chunk_offset[0] in starts:
            found.append(chunk.chunk_offset)

    dataset.id.chunk_iter(suspect)
    for offset in found:
        check_inflated(dataset.id.read_direct_chunk(offset)[1], place, 2 * size)


def _deflate(dataset: Any, place: str) -> int | None:
    """The place of deflate among the filters of a dataset, None if it is not compressed by it.

    Raises `CorruptFileError` for several compressors, of which only the last could be held against the size of a chunk.
    """
    listed = dataset.id.get_create_plist()
    filters = [listed.get_filter(number)[0] for number in range(listed.get_nfilters())]
    packing = [number for number, code in enumerate(filters) if code not in PLAIN_FILTERS]
    after = [filters[number] for number in range(packing[0] + 1, len(filters))] if packing else []
    if any(code != CHECKSUM for code in after):
        raise CorruptFileError(place, f"has the filters {filters}; expected one compressor, and at most a checksum after it")
    return packing[0] if packing and filters[packing[0]] == DEFLATE else None


def _named(dataset: Any) -> str:
    return f"{dataset.file.filename}, {dataset.name.strip('/')}"


def _bytes(row: Any) -> bytes:
    return row if isinstance(row, bytes) else row.encode(errors="replace") if isinstance(row, str) else _raw(row)


def _raw(row: Any) -> bytes:
    return np.asarray(row, np.uint8).tobytes()


@dataclass(frozen=True)
class Hdf5Pictures:
    """How the pictures of one camera are read from `name` in the file at `path`.

    Args:
        rows: the stored pictures that are the frames, in this order; all if None.
        floats: as for `verbot.data.importers.images.frames_of`.
    """

    path: Path
    name: str
    flip: bool = False
    bgr: bool = False
    floats: str = "auto"
    rows: Int64Array | None = None

    def color(self) -> UInt8Array:
        """uint8 RGB (t, h, w, 3)."""
        place = f"{self.path}, {self.name}"
        with opened(self.path) as file, reading(place, *BROKEN):
            found = file[self.name]
            if found.dtype.kind in "OS" or found.ndim == 2:
                frames = decode_all(_contents(found, self.rows), place)
            else:
                frames = frames_of(_chosen(stored(found, place), self.rows), place, self.floats)
        frames = frames[:, ::-1] if self.flip else frames
        return frames[..., ::-1] if self.bgr else frames

    def stored(self) -> np.ndarray:
        """The whole array. Raises `CorruptFileError` if it is absent or cannot be read."""
        with opened(self.path) as file, reading(f"{self.path}, {self.name}", *BROKEN):
            return stored(file[self.name], f"{self.path}, {self.name}")

    def depth(self, unit: float) -> FloatArray:
        """float32 (t, h, w) in meters, of values in `unit` meters."""
        place = f"{self.path}, {self.name}"
        with opened(self.path) as file, reading(place, *BROKEN):
            found = file[self.name]
            if found.dtype.kind in "OS" or found.ndim == 2:
                contents = enumerate(_contents(found, self.rows))
                values = stack((decode_plane(content, f"{place}, frame {number}") for number, content in contents), place)
            else:
                values = _chosen(stored(found, place), self.rows)
        values = values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values
        if values.ndim != 3 or values.dtype.kind not in "iuf":
            raise DataError(f"{place} has {values.dtype} {values.shape}; expected depth (t, h, w)")
        values = values[:, ::-1] if self.flip else values
        return (values.astype(np.float64) * unit).astype(np.float32)


def _contents(dataset: Any, rows: Int64Array | None) -> Iterator[bytes]:
    """The encoded pictures, one at a time."""
    if dataset.dtype.kind != "O":
        _check_chunks(dataset, range(len(dataset)) if rows is None else rows.tolist())
        check_item(int(np.prod(dataset.shape[1:], dtype=object)) * dataset.dtype.itemsize, _named(dataset), "a row")
    return (_bytes(dataset[int(row)]) for row in (range(len(dataset)) if rows is None else rows))


def _chosen(values: np.ndarray, rows: Int64Array | None) -> np.ndarray:
    return values if rows is None else values[rows]


def attribute(attributes: Mapping[str, Any], name: str) -> str:
    """An attribute as text; empty if it is absent."""
    value = attributes.get(name, "")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def record_of(attributes: Mapping[str, Any], name: str, place: object) -> dict[str, Any]:
    """The JSON object in an attribute; empty if it is absent. Raises `CorruptFileError` if it holds anything else."""
    text = attribute(attributes, name)
    try:
        record = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(place, f"attribute {name} is no JSON ({error})") from error
    if not isinstance(record, dict):
        raise CorruptFileError(place, f"attribute {name} holds {type(record).__name__}; expected a JSON object")
    return record


def whole_number(attributes: Mapping[str, Any], name: str, place: object) -> int | None:
    """A count in an attribute; None if it is absent. Raises `CorruptFileError` if it is none."""
    if name not in attributes:
        return None
    text = attribute(attributes, name)
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not number.is_integer():
        raise CorruptFileError(place, f"attribute {name} is {text[:60]!r}; expected a count")
    return int(number)


def texts(value: Any) -> list[str]:
    """The sentences in the value of an attribute or of a text dataset."""
    flat: Iterable[Any] = np.atleast_1d(np.asarray(value, dtype=object)).reshape(-1).tolist()
    return [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in flat]
