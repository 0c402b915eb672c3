"""Tensors in the msgpack files of flax and orbax, read without either: arrays in tables of tables, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from torch import Tensor

from verbot.errors import CorruptFileError
from verbot.models.trunks.weights import TensorFiles

ARRAY, SCALAR = 1, 3  # codes of extensions; 2 is a complex number, which no network has
CHUNKED, CHUNKS = "__msgpack_chunked_array__", "chunks"  # how arrays over 1 GiB are written
PLACEHOLDER = "PLACEHOLDER://"  # of orbax, for an array in a folder of its own
DEEPEST, DIMENSIONS, LONGEST = 40, 16, 512  # of tables, of arrays, and of a name
MOST_BYTES, MOST_ARRAYS = 2**34, 100_000
BFLOAT16 = "bfloat16"  # which NumPy does not have
DTYPES = {
    name: np.dtype(name) for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
} | {BFLOAT16: np.dtype("uint16")}
FlaxLayout = Callable[[str, Tensor], Tensor]  # a tensor by its name -> the same as a weight of torch


@dataclass(frozen=True)
class FlaxFiles(TensorFiles):
    """The tensors of one msgpack file, called by their path, such as ``heads_action/Dense_0/kernel``.

    Args:
        tensors: by name, in torch's layout.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path, path: Path, layout: FlaxLayout) -> FlaxFiles:
        """Those of `path`, which is in `folder`. Raises `CorruptFileError` for a file that is anything else."""
        tensors = {name: layout(name, tensor) for name, tensor in read_msgpack(path).items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return FlaxFiles(folder, dict.fromkeys(tensors, path), shapes, tensors)

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, self.tensors[name]


def read_msgpack(path: Path) -> dict[str, Tensor]:
    """The arrays of a file by their path, joined with slashes.

    Raises `CorruptFileError` that names what is not understood: a file over 16 GiB, or anything in it but tables, arrays and
    numbers with sound shapes, dtypes and lengths.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CorruptFileError(path, f"has {path.stat().st_size} bytes; expected at most {MOST_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read ({error.strerror})") from error
    limit = len(content)
    try:
        tree = msgpack.unpackb(
            content, raw=False, strict_map_key=True, object_pairs_hook=_table, ext_hook=_extension, max_str_len=LONGEST,
            max_bin_len=0, max_array_len=0, max_map_len=MOST_ARRAYS, max_ext_len=limit,
        )  # fmt: skip
    except _NotUnderstoodError as error:
        raise CorruptFileError(path, str(error)) from error
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError) as error:
        raise CorruptFileError(path, f"is no msgpack of flax: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(tree, dict):
        raise CorruptFileError(path, f"holds a {type(tree).__name__}; expected a table of arrays")
    found = dict[str, Tensor]()
    for name, value in _leaves(path, tree, "", 0):
        if len(found) == MOST_ARRAYS:
            raise CorruptFileError(path, f"holds more than {MOST_ARRAYS} arrays")
        found[name] = value
    return found


class _NotUnderstoodError(Exception):
    pass


def _table(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise _NotUnderstoodError(f"holds {next(name for name in names if names.count(name) > 1)!r:.80} twice in one table")
    return table


def _leaves(path: Path, table: Mapping[Any, Any], before: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if depth > DEEPEST:
        raise CorruptFileError(path, f"nests tables deeper than {DEEPEST}")
    for key, value in table.items():
        name = f"{before}{key}"
        if not isinstance(key, str) or "/" in key or not key:
            raise CorruptFileError(
                path, f"has the name {key!r:.80} in {before or 'its first table'}; expected text without a slash"
            )
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict) and CHUNKED in value:
            yield name, _joined(path, name, value)
        elif isinstance(value, dict):
            yield from _leaves(path, value, f"{name}/", depth + 1)
        elif isinstance(value, str) and value.startswith(PLACEHOLDER):
            raise CorruptFileError(path, f"has {name} in a folder of its own (Zarr), which is not read; expected all in one file")
        else:
            raise CorruptFileError(path, f"holds {name}, a {type(value).__name__}; expected an array or a table")


def _joined(path: Path, name: str, record: Mapping[str, Any]) -> Tensor:
    """An array that was written in parts."""
    shape, chunks = record.get("shape"), record.get(CHUNKS)
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or not chunks:
        raise CorruptFileError(path, f"holds {name} in parts without shape or {CHUNKS}")
    stated = [shape.get(str(i)) for i in range(len(shape))]
    size = [n for n in stated if type(n) is int and n >= 0]
    parts = [chunks.get(str(i)) for i in range(len(chunks))]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.ndim == 1]
    sound = len(size) == len(stated) and len(tensors) == len(parts)
    if not sound or len({part.dtype for part in tensors}) != 1 or math.prod(size) != sum(part.numel() for part in tensors):
        raise CorruptFileError(path, f"holds {name} in parts that do not make an array of shape {stated}")
    return torch.cat(tensors).reshape(size)


def _extension(code: int, data: bytes) -> Tensor:
    if code not in (ARRAY, SCALAR):
        raise _NotUnderstoodError(f"holds an extension of type {code}; expected arrays ({ARRAY}) and numbers ({SCALAR})")
    try:
        found = msgpack.unpackb(data, raw=True, max_array_len=DIMENSIONS, max_bin_len=len(data), max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise _NotUnderstoodError(f"holds an array that is torn: {str(error)[:80]}") from error
    if not (isinstance(found, list) and len(found) == 3 and isinstance(found[0], list) and isinstance(found[2], bytes)):
        raise _NotUnderstoodError("holds an array that is not its shape, its dtype and its bytes")
    shape, name, content = found
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
    if text not in DTYPES:
        raise _NotUnderstoodError(f"holds an array of dtype {text!r:.40}; expected one of {', '.join(DTYPES)}")
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * DTYPES[text].itemsize != len(content):
        raise _NotUnderstoodError(f"holds an array of shape {str(shape)[:80]} and dtype {text} with {len(content)} bytes")
    tensor = torch.from_numpy(np.frombuffer(content, DTYPES[text]).reshape(shape).copy())
    return tensor.view(torch.bfloat16) if text == BFLOAT16 else tensor
