"""What ``features.json`` of TensorFlow Datasets says of the fields of an RLDS dataset."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import reading
from verbot.data.importers.limits import DOCUMENT_BYTES, ITEM_BYTES, room_left, take, unzlib
from verbot.data.importers.tfrecord import Feature
from verbot.errors import CorruptFileError

STEPS, OBSERVATION, METADATA = "steps/", "observation/", "episode_metadata/"
PICTURE = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")
CHANNELS = (1, 3, 4)
MALFORMED = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Field:
    """A field as described in ``features.json``. `shape` is of one step, with None for a dimension that varies."""

    kind: str  # "image", "text" or "tensor"
    dtype: str = ""
    shape: tuple[int | None, ...] = ()
    encoding: str = "none"

    @property
    def size(self) -> int | None:
        """Numbers per step; None if it varies."""
        fixed = [length for length in self.shape if length is not None]
        return math.prod(fixed) if len(fixed) == len(self.shape) else None

    @property
    def is_depth(self) -> bool:
        """Whether it is a picture of one channel of more than 8 bits."""
        flat = len(self.shape) == 2 or (len(self.shape) == 3 and self.shape[-1] == 1)
        wide = self.dtype in ("uint16", "int32", "float16", "float32", "float64")
        return flat and wide and (self.kind == "image" or min(length or 0 for length in self.shape[:2]) > 4)

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture of 8 bits: encoded, or stored as a tensor."""
        if self.kind == "image":
            return not self.is_depth
        return self.kind == "tensor" and self.dtype == "uint8" and len(self.shape) == 3 and self.shape[-1] in CHANNELS


def read_fields(path: Path) -> dict[str, Field]:
    """The fields in ``features.json`` by flat name (``steps/observation/image``); none if there is no such file.

    Raises `CorruptFileError` if it holds anything else.
    """
    content = read_object(path)
    with reading(path, *MALFORMED):
        return {name: _described(node) for name, node in _flattened(content)}


def read_object(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; an empty one if there is no file. Raises `CorruptFileError` for anything else."""
    if not path.is_file():
        return {}
    if path.stat().st_size > DOCUMENT_BYTES:
        raise CorruptFileError(path, f"has {path.stat().st_size} bytes; at most {DOCUMENT_BYTES} are read")
    with reading(path, OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise CorruptFileError(path, f"holds {type(content).__name__}; expected an object")
    return content


def kind_of(field: Field | None, value: Feature) -> str:
    """``"picture"``, ``"depth"``, ``"text"`` or ``"numbers"``: what a field holds, by its description or else by its bytes."""
    if field is not None and field.kind != "text":
        if field.is_depth:
            return "depth"
        if field.is_picture:
            return "picture"
        if not isinstance(value, list) or field.encoding != "none":
            return "numbers"
    if not isinstance(value, list):
        return "numbers"
    if field is None and value and value[0].startswith(PICTURE):
        return "depth" if _is_deep(value[0]) else "picture"
    return "text"


def unpacked(contents: Sequence[bytes], field: Field, name: str) -> np.ndarray:
    """Numbers stored as bytes, one tensor each (TensorFlow Datasets' encodings ``bytes`` and ``zlib``): one dimension."""
    with reading(name, zlib.error, ValueError, TypeError):
        dtype = np.dtype(field.dtype).newbyteorder("<")
        if dtype.kind not in "biuf":
            raise ValueError(f"its type is {field.dtype}, which is not of numbers")
        most = ITEM_BYTES if field.size is None else field.size * dtype.itemsize
        joined, known = bytearray(), field.encoding == "zlib" and field.size is not None
        for content in contents:
            take(min(most, ITEM_BYTES) if known else 0, name)
            if field.encoding == "zlib":
                content = unzlib(content, name, min(most, ITEM_BYTES) if known else min(ITEM_BYTES, room_left()))
            take(0 if known else len(content), name)
            joined += content
        return np.frombuffer(joined, dtype)


def _is_deep(content: bytes) -> bool:
    """Whether it is a PNG of one channel of 16 bits."""
    return content.startswith(b"\x89PNG") and content[24:26] == b"\x10\x00"


def _flattened(node: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(flat name, description) of every field in ``features.json``."""
    if "featuresDict" in node:
        for key, inner in node["featuresDict"]["features"].items():
            yield from _flattened(inner, f"{stem}/{key}" if stem else key)
    elif "sequence" in node:
        yield from _flattened(node["sequence"]["feature"], stem)
    elif node:
        yield stem, node


def _described(node: Mapping[str, Any]) -> Field:
    for kind in ("image", "text", "tensor"):
        if kind in node:
            inner = node[kind]
            sizes = inner.get("shape", {}).get("dimensions", ())
            shape = tuple(None if int(n) < 0 else int(n) for n in sizes)
            return Field(kind, str(inner.get("dtype", "")), shape, str(inner.get("encoding", "none")))
    return Field("tensor")
