"""The wire format: msgpack with openpi's encoding of arrays. The decoder validates every field.

An array is the map ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [k, a]}``. Three messages exist:

- server, once, on connection: ``{"verbot": 1, "spec": RobotSpec.to_json()}``
- client: ``{"id": n, "observations": [{"images", "state", "instruction", "goal_image", "time_s",
  "memory", "sample_seed" if any}, …]}``
- server: ``{"id": n, "chunks": [{"values", "time_s", "extras", "memory", "value"}, …]}`` or
  ``{"id": n, "error": {"kind", "message"}}``
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from verbot.errors import WireError
from verbot.spec import ActionChunk, Memory, Observation

VERSION = 1
MAX_BYTES = 64 * 2**20
MAX_DIMENSIONS = 8
# Plain numbers only. With an object dtype one message could crash the reader or execute code.
DTYPES = frozenset({"|b1", "|u1", "|i1", "<u2", "<u4", "<u8", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"})
ARRAY_KEYS = frozenset({b"__ndarray__", b"data", b"dtype", b"shape"})


def encode(message: Mapping[str, Any]) -> bytes:
    """Encode a message of maps, lists, strings, numbers, None and arrays. Raises `WireError` for any other type.

    Example:
        >>> decode(encode({"state": np.zeros(2, np.float32)}))
        {'state': array([0., 0.], dtype=float32)}
    """
    try:
        data = msgpack.packb(message, default=_pack_array)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"the message cannot be sent: {error}") from error
    if len(data) > MAX_BYTES:
        raise WireError(f"the message has {len(data)} bytes; at most {MAX_BYTES} can be sent")
    return bytes(data)


def decode(data: bytes) -> dict[str, Any]:
    """Inverse of `encode`. Raises `WireError`, and no other error, for invalid data."""
    if not isinstance(data, bytes):
        raise WireError(f"expected a binary message; got {type(data).__name__}")
    if len(data) > MAX_BYTES:
        raise WireError(f"the message has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        message = msgpack.unpackb(data, object_hook=_unpack_array, strict_map_key=True)
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not a msgpack message: {error or type(error).__name__}") from error
    if not isinstance(message, dict):
        raise WireError(f"expected a map at the top of the message; got {type(message).__name__}")
    return message


def observation_to_wire(observation: Observation) -> dict[str, Any]:
    return {
        "images": dict(observation.images),
        "state": observation.state,
        "instruction": observation.instruction,
        "goal_image": observation.goal_image,
        "time_s": float(observation.time_s),
        "memory": None if observation.memory is None else dict(observation.memory),
        **({} if observation.sample_seed is None else {"sample_seed": int(observation.sample_seed)}),
    }


def observation_from_wire(record: Any) -> Observation:
    """Inverse of `observation_to_wire`. Raises `WireError` if a field has the wrong type."""
    images = _field(record, "images", dict)
    for name, image in images.items():
        if not _is_depth(image):
            _check_image(f"image {name!r}", image)
    goal_image = record.get("goal_image")
    if goal_image is not None:
        _check_image("the goal image", goal_image)
    state = _array(record, "state", 1)
    instruction = _field(record, "instruction", str)
    time_s = float(_field(record, "time_s", float))
    seed = None if record.get("sample_seed") is None else _field(record, "sample_seed", int)
    return Observation(images, state, instruction, goal_image, time_s, _memory(record), seed)


def chunk_to_wire(chunk: ActionChunk) -> dict[str, Any]:
    memory = None if chunk.memory is None else dict(chunk.memory)
    value = None if chunk.value is None else float(chunk.value)
    return {
        "values": chunk.values, "time_s": float(chunk.time_s), "extras": dict(chunk.extras), "memory": memory, "value": value,
    }  # fmt: skip


def chunk_from_wire(record: Any) -> ActionChunk:
    """Inverse of `chunk_to_wire`. Raises `WireError` if a field has the wrong type."""
    values, time_s = _array(record, "values", 2), float(_field(record, "time_s", float))
    value = None if record.get("value") is None else _field(record, "value", float)
    return ActionChunk(values, time_s, _field(record, "extras", dict), _memory(record), value)


def _memory(record: Any) -> Memory | None:
    if record.get("memory") is None:
        return None
    memory = _field(record, "memory", dict)
    for name, value in memory.items():
        if not isinstance(value, np.ndarray):
            raise WireError(f"memory {name!r} is {type(value).__name__}; expected an array")
    return memory


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        if little.dtype.str not in DTYPES:
            raise TypeError(f"arrays of {value.dtype} are not plain numbers")
        return {b"__ndarray__": True, b"data": little.tobytes(), b"dtype": little.dtype.str, b"shape": list(little.shape)}
    raise TypeError(f"{type(value).__name__} is not a map, list, string, number, None or array")


def _unpack_array(record: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in record:
        if all(isinstance(key, str) for key in record):
            return record
        raise WireError("a map has a key that is not text")
    if set(record) != ARRAY_KEYS:
        raise WireError(f"an array needs exactly the keys {sorted(ARRAY_KEYS)}; got {sorted(map(repr, record))}")
    data, dtype, shape = record[b"data"], record[b"dtype"], record[b"shape"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"an array has dtype {dtype!r}; expected one of {', '.join(sorted(DTYPES))}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError(f"an array has shape {shape!r}; expected at most {MAX_DIMENSIONS} whole numbers")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if not isinstance(data, bytes) or len(data) != expected:
        raise WireError(f"an array of {dtype} {shape} needs {expected} bytes; got {len(data) if data else 0}")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _field(record: Any, name: str, kind: type) -> Any:
    if not isinstance(record, dict):
        raise WireError(f"expected a map with {name!r}; got {type(record).__name__}")
    value = record.get(name)
    if not isinstance(value, kind):
        raise WireError(f"field {name!r} must be {kind.__name__}; got {type(value).__name__}")
    return value


def _array(record: Any, name: str, dimensions: int) -> Any:
    value = _field(record, name, np.ndarray)
    if value.dtype != np.float32 or value.ndim != dimensions:
        raise WireError(f"field {name!r} is {value.dtype} {value.shape}; expected float32 with {dimensions} dimension(s)")
    return value


def _is_depth(image: Any) -> bool:
    """Whether it is a depth image, float32 (h, w) in meters; the policy checks its values."""
    return isinstance(image, np.ndarray) and image.dtype == np.float32 and image.ndim == 2


def _check_image(label: str, image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        shown = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise WireError(f"{label} is {shown}; expected uint8 (h, w, 3), or for depth float32 (h, w)")
