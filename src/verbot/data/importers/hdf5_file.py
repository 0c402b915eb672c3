"""Reads HDF5 files: which datasets a group holds, of what kind each is, and the pictures and sentences in them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import reading
from verbot.data.importers.hdf5_links import refuse_other_files
from verbot.data.importers.images import decode_all, decode_plane, frames_of
from verbot.errors import CorruptFileError, DataError
from verbot.files import regular_file
from verbot.spec import FloatArray, Int64Array, UInt8Array

# Errors that h5py and numpy raise for damaged files.
BROKEN = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, EOFError)
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")  # JPEG, PNG, WebP, BMP
DEEPEST, SMALLEST = 8, 8  # nested groups that are followed; pixels of the shorter side of a picture


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
    return {path: _entry(path, dataset) for path, dataset in _datasets(group, "", DEEPEST)}


def _datasets(group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    import h5py

    for name in group if depth else ():
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            continue
        found = group.get(name)
        if isinstance(found, h5py.Dataset):
            yield prefix + name, found
        elif isinstance(found, h5py.Group):
            yield from _datasets(found, f"{prefix}{name}/", depth - 1)


def _entry(path: str, dataset: Any) -> Entry:
    shape = dataset.shape or ()
    return Entry(path, shape, str(dataset.dtype), _kind(path.lower(), shape, dataset))


def _kind(path: str, shape: tuple[int, ...], dataset: Any) -> str:
    import h5py

    name, dtype = path.rpartition("/")[2], dataset.dtype
    if dtype.kind in "OS" or (dtype == np.uint8 and len(shape) == 2):
        if len(shape) == (1 if dtype.kind in "OS" else 2) and shape[0] and _bytes(dataset[0]).startswith(MAGIC):
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
            stored = file[self.name]
            encoded = stored.dtype.kind in "OS" or stored.ndim == 2
            contents = _contents(stored, self.rows) if encoded else []
            values = None if encoded else stored[()]
        frames = decode_all(contents, place) if values is None else frames_of(_chosen(values, self.rows), place, self.floats)
        frames = frames[:, ::-1] if self.flip else frames
        return frames[..., ::-1] if self.bgr else frames

    def stored(self) -> np.ndarray:
        """The whole array. Raises `CorruptFileError` if it is absent or cannot be read."""
        with opened(self.path) as file, reading(f"{self.path}, {self.name}", *BROKEN):
            return np.asarray(file[self.name][()])

    def depth(self, unit: float) -> FloatArray:
        """float32 (t, h, w) in meters, of values in `unit` meters."""
        place = f"{self.path}, {self.name}"
        with opened(self.path) as file, reading(place, *BROKEN):
            stored = file[self.name]
            encoded = stored.dtype.kind in "OS" or stored.ndim == 2
            contents = _contents(stored, self.rows) if encoded else []
            images = [decode_plane(content, f"{place}, frame {number}") for number, content in enumerate(contents)]
            values = np.stack(images) if encoded else _chosen(stored[()], self.rows)
        values = values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values
        if values.ndim != 3 or values.dtype.kind not in "iuf":
            raise DataError(f"{place} has {values.dtype} {values.shape}; expected depth (t, h, w)")
        values = values[:, ::-1] if self.flip else values
        return (values.astype(np.float64) * unit).astype(np.float32)


def _contents(stored: Any, rows: Int64Array | None) -> list[bytes]:
    return [_bytes(stored[int(row)]) for row in rows] if rows is not None else [_bytes(row) for row in stored]


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
    except (json.JSONDecodeError, RecursionError) as error:
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
