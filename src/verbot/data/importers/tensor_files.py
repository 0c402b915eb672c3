"""Tensor files, of which rows are read without the rest: ``.safetensors``, ``.npz`` and ``.pt``. Nothing is unpickled."""

from __future__ import annotations

import functools
import itertools
import json
import math
import struct
import tokenize
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from verbot.data.importers import reading
from verbot.data.importers.limits import most_expanded, take
from verbot.errors import CorruptFileError, DataError

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
MOST, DEEPEST = 10_000, 16  # values of a .pt file; dictionaries in dictionaries
Reader = Callable[[np.ndarray], np.ndarray]  # row numbers in ascending order to rows
BROKEN_NPZ = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    NotImplementedError,
    MemoryError,
    OverflowError,
    RuntimeError,
    KeyError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a file by name.

    Args:
        readers: reads rows of a tensor.
        shapes, kinds: the shape of each tensor, and the kind of its type as in NumPy (``"f"``, ``"u"``, …).
        texts: sentences that are stored as text, by name.
        sizes: bytes of a number of each tensor.
    """

    path: Path
    readers: Mapping[str, Reader]
    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]
    texts: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def rows(self, key: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of a tensor. Raises `CorruptFileError` if they cannot be read."""
        place = f"{self.path}, {key}"
        if len(rows):
            spanned = int(rows[-1]) - int(rows[0]) + 1
            take(spanned * math.prod(self.shapes[key][1:]) * self.sizes.get(key, 1), place)
        with reading(place, *BROKEN_NPZ, TypeError):
            return self.readers[key](rows)


def open_tensors(path: Path, language: str) -> TensorFile:
    """Open a file by its suffix; `language` names what may be text. Raises `DataError` if it cannot be read."""
    if path.suffix == ".safetensors":
        return _safetensors(path, language)
    return _npz(path) if path.suffix == ".npz" else _torch(path)


def _between(read: Callable[[int, int], np.ndarray], empty: np.ndarray) -> Reader:
    """A reader that reads from the first to the last of the rows."""

    def rows(numbers: np.ndarray) -> np.ndarray:
        if not len(numbers):
            return empty
        start, stop = int(numbers[0]), int(numbers[-1]) + 1
        found = read(start, stop)
        return found if len(numbers) == stop - start else found[numbers - start]

    return rows


def _safetensors(path: Path, language: str) -> TensorFile:
    from safetensors import SafetensorError, safe_open

    broken = (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, OverflowError)
    with reading(path, *broken):
        handle = safe_open(str(path), framework="numpy")
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        kinds = {name: {"F": "f", "B": "f", "U": "u", "I": "i"}.get(part.get_dtype()[0], "b") for name, part in slices.items()}
        kinds |= {name: "b" for name, part in slices.items() if part.get_dtype() == "BOOL"}
        metadata = handle.metadata() or {}

    def reader(name: str) -> Reader:
        def read(start: int, stop: int) -> np.ndarray:
            with reading(f"{path}, {name}", *broken):
                return np.asarray(slices[name][start:stop])

        return _between(read, np.zeros((0, *shapes[name][1:])))

    text = metadata.get(language)
    with reading(f"{path}, metadata {language!r}", ValueError, RecursionError):
        sentences = None if text is None else json.loads(text)
    texts = {} if sentences is None else {language: [sentences] if isinstance(sentences, str) else sentences}
    sizes = {name: 8 if part.get_dtype()[-2:] == "64" else 4 for name, part in slices.items()}
    sizes |= {name: 1 for name, part in slices.items() if part.get_dtype() in ("U8", "I8", "BOOL")}
    return TensorFile(path, {name: reader(name) for name in slices}, shapes, kinds, texts, sizes)


def _npz(path: Path) -> TensorFile:
    with reading(path, *BROKEN_NPZ):
        archive = _archive(path)
        check_archive(archive, path)
        arrays = {name.removesuffix(".npy"): _Array(archive, name) for name in archive.namelist()}
        damaged = archive.testzip()  # reads every array once and compares its checksum
        if damaged is not None:
            raise CorruptFileError(path, f"cannot be read (the checksum of {damaged} differs)")
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind != "U"}
    for name, array in numbers.items():
        if array.dtype.kind not in "biuf":
            raise CorruptFileError(path, f"cannot be read ({name} is of type {array.dtype}, not of numbers)")
    with reading(path, *BROKEN_NPZ):
        texts = {name: arrays[name].all().reshape(-1).tolist() for name in arrays if name not in numbers}
    readers = {name: _between(array.rows, np.zeros((0, *array.shape[1:]))) for name, array in numbers.items()}
    shapes, kinds = ({name: get(a) for name, a in numbers.items()} for get in (lambda a: a.shape, lambda a: a.dtype.kind))
    return TensorFile(path, readers, shapes, kinds, texts, {name: array.dtype.itemsize for name, array in numbers.items()})


def check_archive(archive: zipfile.ZipFile, path: Path, compressed: bool = True) -> None:
    """Raise `CorruptFileError` for an archive that expands to much more than its size, or by methods whose streams have no bound.

    Args:
        compressed: whether its files may be compressed at all.
    """
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if compressed else (zipfile.ZIP_STORED,)
    odd = next((entry for entry in archive.infolist() if entry.compress_type not in methods), None)
    if odd is not None:
        known = "stored or deflated" if compressed else "stored without compression"
        raise CorruptFileError(path, f"has {odd.filename} compressed by method {odd.compress_type}; expected files {known}")
    held = path.stat().st_size
    if sum(entry.compress_size for entry in archive.infolist()) > held:
        raise CorruptFileError(path, "has files that share their bytes; expected each to have its own")
    expanded = sum(entry.file_size for entry in archive.infolist())
    if expanded > most_expanded(held):
        raise CorruptFileError(path, f"says that its {held} bytes expand to {expanded}; at most {most_expanded(held)} are read")


def _archive(path: Path) -> zipfile.ZipFile:
    """An open archive, whose file is closed with it, even if streams of it are open."""
    file = open(path, "rb")  # noqa: SIM115  # closed below
    try:
        archive = zipfile.ZipFile(file)
    except BaseException:
        file.close()
        raise
    weakref.finalize(archive, file.close)
    return archive


class _Array:
    """One array of an ``.npz``: a stream that is read forward, and begun again to go back."""

    def __init__(self, archive: zipfile.ZipFile, name: str):
        self._archive, self._name = archive, name
        with archive.open(name) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._fortran, self.dtype = read(stream)
            self._head = stream.tell()
        if self.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which are not read")
        stated, held = math.prod(self.shape) * self.dtype.itemsize, archive.getinfo(name).file_size - self._head
        if stated != held:
            raise ValueError(f"{name} holds {held} bytes; its header says {stated}")
        self._stream: IO[bytes] | None = None
        self._place = 0

    def all(self) -> np.ndarray:
        """The whole array."""
        take(math.prod(self.shape) * self.dtype.itemsize, self._name)
        return self._all()

    def _all(self) -> np.ndarray:
        values = np.frombuffer(self._bytes(0, math.prod(self.shape) * self.dtype.itemsize), self.dtype)
        return values.reshape(self.shape, order="F" if self._fortran else "C")

    def rows(self, start: int, stop: int) -> np.ndarray:
        if self._fortran and len(self.shape) > 1:
            size = math.prod(self.shape[1:]) * self.dtype.itemsize
            take((self.shape[0] - stop + start) * size, self._name)  # the rows themselves are counted already
            return self._all()[start:stop]
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        return np.frombuffer(self._bytes(start * size, (stop - start) * size), self.dtype).reshape(-1, *self.shape[1:])

    def _bytes(self, start: int, count: int) -> bytes:
        if self._stream is None or start < self._place:
            self._stream, self._place = self._archive.open(self._name), -self._head
        while self._place < start:
            skipped = self._stream.read(min(start - self._place, 1 << 20))
            if not skipped:
                break
            self._place += len(skipped)
        content = self._stream.read(count)
        self._place += len(content)
        if len(content) != count:
            raise ValueError(f"{self._name} ends after {self._place} bytes")
        return content


def _torch(path: Path) -> TensorFile:
    from pickle import UnpicklingError  # torch raises it for unsafe files; nothing here unpickles

    import torch

    broken: tuple[type[Exception], ...] = (*BROKEN_NPZ, UnpicklingError, TypeError, IndexError, AttributeError)
    broken = (*broken, AssertionError, struct.error)
    with reading(path, *broken):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_archive(archive, path, compressed=False)
        load = functools.partial(torch.load, str(path), map_location="cpu", weights_only=True)  # only tensors and plain values
        content = load(mmap=True) if zipfile.is_zipfile(path) else load()  # the older format cannot be mapped
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}; expected a dictionary of tensors")
    flat = dict(itertools.islice(_flat(content), MOST + 1))
    if len(flat) > MOST:
        raise DataError(f"{path} has more than {MOST} values in dictionaries of dictionaries")
    tensors = {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}
    texts = {name: value for name, value in flat.items() if name not in tensors and _is_text(value)}
    other = [name for name in flat if name not in tensors and name not in texts]
    if other:
        raise DataError(f"{path}: {', '.join(other)} are not tensors")
    odd = [name for name, tensor in tensors.items() if not _is_plain(tensor)]
    if odd:
        raise DataError(f"{path}: {', '.join(odd)} are not tensors of plain numbers")
    repeated = [name for name, t in tensors.items() if t.numel() * t.element_size() > t.untyped_storage().nbytes()]
    if repeated:
        raise DataError(
            f"{path}: {', '.join(repeated)} repeat the numbers that are stored (expand); save them after .contiguous()"
        )

    def reader(tensor: Any) -> Reader:
        def read(start: int, stop: int) -> np.ndarray:
            rows = tensor.detach()[start:stop].resolve_neg()
            short = rows.is_floating_point() and rows.dtype not in (torch.float16, torch.float32, torch.float64)
            return np.asarray((rows.float() if short else rows).numpy())  # NumPy has no bfloat16 and no float8

        return _between(read, np.zeros((0, *tensor.shape[1:])))

    kinds = {
        name: "f" if t.is_floating_point() else "b" if t.dtype is torch.bool else "u" if t.dtype is torch.uint8 else "i"
        for name, t in tensors.items()
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    readers = {name: reader(tensor) for name, tensor in tensors.items()}
    listed = {name: [value] if isinstance(value, str) else value for name, value in texts.items()}
    return TensorFile(path, readers, shapes, kinds, listed, {name: max(4, t.element_size()) for name, t in tensors.items()})


def _is_plain(tensor: Any) -> bool:
    """Whether a tensor of torch holds numbers in memory, one beside the other."""
    import torch

    strided = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested
    return strided and not tensor.is_meta and not tensor.is_complex()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(text, str) for text in value))


def _flat(content: Mapping[Any, Any], stem: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every value of nested dictionaries by its joined names. Raises `DataError` where they are nested deeply."""
    if depth > DEEPEST:
        raise DataError(f"{stem[:40]}… is in more than {DEEPEST} dictionaries of dictionaries")
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{stem}{name}.", depth + 1)
        else:
            yield f"{stem}{name}", value
