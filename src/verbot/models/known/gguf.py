"""Reading GGUF, the file format of llama.cpp: metadata, and tensors that are dequantized one at a time.

Source: the format's specification, ``docs/gguf.md`` of ggml-org/ggml, version 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.errors import CorruptFileError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # types of values
STRING, ARRAY = 8, 9
MOST_AXES = 4
BLOCK = 32  # numbers that share a scale


def _plain(dtype: npt.DTypeLike) -> Callable[[Bytes], Floats]:
    return lambda rows: rows.view(dtype).astype(np.float32)


def _bfloat16(rows: Bytes) -> Floats:
    return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _half(blocks: Bytes, at: int) -> Floats:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(blocks: Bytes) -> Floats:
    """The 16 low halves, then the 16 high halves."""
    return np.concatenate([blocks & 15, blocks >> 4], 1).astype(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


@dataclass(frozen=True)
class TensorEncoding:
    """How numbers are stored: `block` of them in `size` bytes, which `read` turns from (n, size) uint8 to float32."""

    name: str
    block: int
    size: int
    read: Callable[[Bytes], Floats]


ENCODINGS = {
    0: TensorEncoding("F32", 1, 4, _plain("<f4")),
    1: TensorEncoding("F16", 1, 2, _plain("<f2")),
    2: TensorEncoding("Q4_0", BLOCK, 18, _q4_0),
    3: TensorEncoding("Q4_1", BLOCK, 20, _q4_1),
    8: TensorEncoding("Q8_0", BLOCK, 34, _q8_0),
    30: TensorEncoding("BF16", 1, 2, _bfloat16),
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in the file: its shape as numpy has it (the last axis is contiguous), and where its bytes are."""

    shape: tuple[int, ...]
    encoding: TensorEncoding
    offset: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) // self.encoding.block * self.encoding.size


class GGUFFile:
    """A memory-mapped file.

    Attributes:
        path: of the file.
        values: its metadata by name.
        tensors: where each tensor is, by name.

    Raises `CorruptFileError` for a file that is no GGUF, ends early, or stores tensors in a way that is not known.
    """

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            try:
                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise CorruptFileError(path, "is empty") from error
        self._at = 0
        if self._content[:4] != MAGIC:
            raise CorruptFileError(path, "is no GGUF file")
        self._at = 4
        if (version := self._number("I")) not in VERSIONS:
            raise CorruptFileError(path, f"is GGUF of version {version}; known: {', '.join(map(str, VERSIONS))}")
        tensors, values = self._number("Q"), self._number("Q")
        self.values: Mapping[str, Any] = {self._string(): self._value(self._number("I")) for _ in range(self._checked(values))}
        found = [self._tensor_info() for _ in range(self._checked(tensors))]
        step = self.values.get("general.alignment", 32)
        if not isinstance(step, int) or step < 1:
            raise CorruptFileError(path, f"has general.alignment {step!r}; expected a number of bytes")
        start = -(-self._at // step) * step
        self.tensors = {name: self._placed(name, info, start) for name, info in found}

    def read(self, name: str) -> Floats:
        """The tensor `name` as float32."""
        info = self.tensors[name]
        count = info.bytes // info.encoding.size
        rows = np.frombuffer(self._content, np.uint8, info.bytes, info.offset).reshape(count, info.encoding.size)
        return info.encoding.read(rows).reshape(info.shape)

    def value(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A value of the metadata. Raises `CorruptFileError` if it is missing without a default, or of another kind."""
        found = self.values.get(name, default)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is int):
            raise CorruptFileError(self.path, f"has {name} {found!r:.60}, which is not what a model needs there")
        return found

    def _tensor_info(self) -> tuple[str, TensorInfo]:
        name, axes = self._string(), self._number("I")
        if axes > MOST_AXES:
            raise CorruptFileError(self.path, f"its tensor {name:.60} has {axes} axes; expected at most {MOST_AXES}")
        shape = tuple(reversed([self._number("Q") for _ in range(axes)]))
        kind = self._number("I")
        if kind not in ENCODINGS:
            known = ", ".join(each.name for each in ENCODINGS.values())
            raise CorruptFileError(
                self.path, f"its tensor {name:.60} is stored as type {kind}, which is not read; known: {known}"
            )
        return name, TensorInfo(shape, ENCODINGS[kind], self._number("Q"))

    def _placed(self, name: str, info: TensorInfo, start: int) -> TensorInfo:
        """With the place in the file. Raises `CorruptFileError` if it does not lie in it."""
        block = info.encoding.block
        if not info.shape or info.shape[-1] % block or start + info.offset + info.bytes > len(self._content):
            raise CorruptFileError(
                self.path,
                f"its tensor {name:.60} of shape {info.shape} and {info.bytes} bytes does not fit; the file may end early",
            )
        return TensorInfo(info.shape, info.encoding, start + info.offset)

    def _number(self, kind: str) -> Any:
        try:
            (found,) = struct.unpack_from(f"<{kind}", self._content, self._at)
        except struct.error as error:
            raise CorruptFileError(self.path, "ends early") from error
        self._at += struct.calcsize(f"<{kind}")
        return found

    def _checked(self, count: int) -> int:
        """A number of values that each take at least a byte."""
        if count > len(self._content) - self._at:
            raise CorruptFileError(self.path, "ends early")
        return count

    def _string(self) -> str:
        length = self._checked(self._number("Q"))
        self._at += length
        try:
            return self._content[self._at - length : self._at].decode()
        except UnicodeDecodeError as error:
            raise CorruptFileError(self.path, f"holds text that is no UTF-8 ({error.reason})") from error

    def _value(self, kind: int, is_item: bool = False) -> Any:
        if kind == STRING:
            return self._string()
        if kind in NUMBERS:
            return self._number(NUMBERS[kind])
        if kind != ARRAY or is_item:
            raise CorruptFileError(self.path, f"holds a value of type {kind}, which is not known")
        items = self._number("I")
        return [self._value(items, True) for _ in range(self._checked(self._number("Q")))]
