"""The wire format: msgpack with openpi's encoding of arrays. The decoder validates every field.

An array is the map ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [k, a]}``. Three messages exist:

- server, once, on connection: ``{"verbot": 1, "spec": RobotSpec.to_json(), "identity": str, "limits": {"observations": n,
  "message_bytes": n}, "continuation": str}``; ``"identity"`` says which policy it is (`verbot.contracts.IdentifiedPolicy`),
  ``""`` if unknown, ``"limits"`` what one request may hold, and ``"continuation"`` how the policy continues planned actions
  (`verbot.contracts.ContinuingPolicy`). A server that does not say it ignores ``"planned"`` and ``"committed"``
- client: ``{"id": n, "observations": [{"images", "state", "instruction", "goal_image", "time_s",
  "memory", "sample_seed" if any, "planned" and "committed" if any, "previous_state" if any}, …]}``
- server: ``{"id": n, "chunks": [{"values", "time_s", "extras", "memory", "value"}, …]}`` or
  ``{"id": n, "error": {"kind", "message"}}``
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from verbot.errors import WireError
from verbot.spec import ActionChunk, Memory, Observation, RobotSpec

VERSION = 1
MAX_BYTES = 64 * 2**20
MAX_DIMENSIONS = 8
REMEMBERED_FRAMES, REMEMBERED_PIXELS = 128, 224 * 224  # of a memory, where the policy does not say its size
MAX_INSTRUCTION = 4096  # characters
MAX_PLANNED = 256  # rows of planned actions; what comes after them is not sent
MAX_SHOWN = 80  # characters of a foreign value in a message
# Plain numbers only. With an object dtype one message could crash the reader or execute code.
DTYPES = frozenset({"|b1", "|u1", "|i1", "<u2", "<u4", "<u8", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"})
ARRAY_KEYS = frozenset({b"__ndarray__", b"data", b"dtype", b"shape"})
# Makes a value of a map of the message; the number is the most bytes that an array may have. It may raise `WireError`.
MapReader = Callable[[dict[Any, Any], int], Any]


@dataclass(frozen=True)
class WireLimits:
    """What one message may hold, so that reading it takes time and memory in proportion to what a peer may ask for.

    Args:
        message_bytes: of the whole message.
        array_bytes: of one array.
        items: entries of one list or map.
        containers: maps and lists, those of arrays included.
        text_bytes: of one text.
        observations: of one request.
    """

    message_bytes: int
    array_bytes: int
    items: int = 2**16
    containers: int = 2**17
    text_bytes: int = 2**20
    observations: int = 64

    @staticmethod
    def of_requests(spec: RobotSpec, observations: int = 64, memory_bytes: int | None = None) -> WireLimits:
        """Those of requests to a policy of `spec`: images, state, goal image and memory, 64 MiB at most.

        Args:
            memory_bytes: of the memory of one observation; by default that of 128 frames of 224×224 pixels, or of the robot's
                cameras where they are larger, and 1 MiB.
        """
        sizes = [camera.height * camera.width * (4 if camera.kind == "depth" else 3) for camera in spec.cameras]
        frame = sum(sizes) + max(sizes, default=0) + 4 * spec.state_size
        planned = 4 * MAX_PLANNED * spec.action_size
        remembered = sum(max(size, REMEMBERED_PIXELS * 4) for size in sizes) + 4 * spec.state_size
        memory = min(MAX_BYTES, REMEMBERED_FRAMES * remembered + 2**20 if memory_bytes is None else memory_bytes)
        return WireLimits(
            message_bytes=min(MAX_BYTES, observations * (2 * frame + 2**15 + planned + memory)),
            array_bytes=max(2 * frame, planned, memory),
            items=max(64, observations),
            containers=64 + observations * (48 + 2 * len(spec.cameras)),
            text_bytes=4 * MAX_INSTRUCTION,
            observations=observations,
        )


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


def decode(data: bytes, limits: WireLimits | None = None, read_map: MapReader | None = None) -> dict[str, Any]:
    """Inverse of `encode`. Raises `WireError`, and no other error, for invalid data and for more than `limits` allow.

    Args:
        read_map: reads the maps of another format than verbot's; by default `read_verbot_map`.
    """
    limits = limits or WireLimits(MAX_BYTES, MAX_BYTES)
    if not isinstance(data, bytes):
        raise WireError(f"expected a binary message; got {type(data).__name__}")
    if len(data) > limits.message_bytes:
        raise WireError(f"the message has {len(data)} bytes; at most {limits.message_bytes} are read")
    reader = _Reader(limits, read_map or read_verbot_map)
    try:
        message = msgpack.unpackb(
            data, object_hook=reader.map, list_hook=reader.list, strict_map_key=True, max_str_len=limits.text_bytes,
            max_array_len=limits.items, max_map_len=limits.items, max_ext_len=0,
            ext_hook=_refuse_extension,
        )  # fmt: skip
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not a msgpack message: {str(error)[:200] or type(error).__name__}") from error
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
        **_plan_to_wire(observation),
        **({} if observation.previous_state is None else {"previous_state": observation.previous_state}),
    }


def observation_from_wire(record: Any) -> Observation:
    """Inverse of `observation_to_wire`. Raises `WireError` if a field has the wrong type."""
    images = _field(record, "images", dict)
    for name, image in images.items():
        if not _is_depth(image):
            _check_image(f"image {_shown(name)}", image)
    goal_image = record.get("goal_image")
    if goal_image is not None:
        _check_image("the goal image", goal_image)
    state = _array(record, "state", 1)
    instruction = _field(record, "instruction", str)
    if len(instruction) > MAX_INSTRUCTION:
        raise WireError(f"the instruction has {len(instruction)} characters; at most {MAX_INSTRUCTION} are read")
    time_s = _field(record, "time_s", float)
    if not math.isfinite(time_s):
        raise WireError(f"field 'time_s' is {time_s}; expected seconds since the episode began")
    seed = None if record.get("sample_seed") is None else _field(record, "sample_seed", int)
    if seed is not None and (seed is True or seed is False or not 0 <= seed < 2**63):
        raise WireError(f"field 'sample_seed' is {seed}; expected a whole number from 0 to 2**63 - 1")
    previous = None if record.get("previous_state") is None else _array(record, "previous_state", 1)
    plan = _plan_from_wire(record)
    return Observation(images, state, instruction, goal_image, time_s, _memory(record), seed, *plan, previous)


def chunk_to_wire(chunk: ActionChunk) -> dict[str, Any]:
    return {
        "values": chunk.values,
        "time_s": float(chunk.time_s),
        "extras": dict(chunk.extras),
        "memory": None if chunk.memory is None else dict(chunk.memory),
        "value": None if chunk.value is None else float(chunk.value),
    }


def chunk_from_wire(record: Any) -> ActionChunk:
    """Inverse of `chunk_to_wire`. Raises `WireError` if a field has the wrong type."""
    values, time_s = _array(record, "values", 2), float(_field(record, "time_s", float))
    value = None if record.get("value") is None else _field(record, "value", float)
    return ActionChunk(values, time_s, _field(record, "extras", dict), _memory(record), value)


def _plan_to_wire(observation: Observation) -> dict[str, Any]:
    if observation.planned is None:
        return {}
    planned = np.asarray(observation.planned[:MAX_PLANNED], np.float32)
    return {"planned": planned, "committed": min(int(observation.committed), len(planned))}


def _plan_from_wire(record: Any) -> tuple[Any, int]:
    """The planned actions and how many are committed. The policy checks their size and that they are finite."""
    if record.get("planned") is None:
        return None, 0
    planned, committed = _array(record, "planned", 2), record.get("committed", 0)
    if len(planned) > MAX_PLANNED:
        raise WireError(f"field 'planned' has {len(planned)} rows; at most {MAX_PLANNED} are read")
    if type(committed) is not int or not 0 <= committed <= len(planned):
        raise WireError(f"field 'committed' is {_shown(committed)}; expected 0 to {len(planned)}, the planned rows")
    return planned, committed


def _memory(record: Any) -> Memory | None:
    if record.get("memory") is None:
        return None
    memory = _field(record, "memory", dict)
    for name, value in memory.items():
        if not isinstance(value, np.ndarray):
            raise WireError(f"memory {_shown(name)} is {type(value).__name__}; expected an array")
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


class _Reader:
    """Reads the maps and lists of one message, and counts them."""

    def __init__(self, limits: WireLimits, read_map: MapReader):
        self._limits, self._read_map, self._containers = limits, read_map, 0

    def list(self, items: list[Any]) -> list[Any]:
        self._count()
        return items

    def map(self, record: dict[Any, Any]) -> Any:
        self._count()
        return self._read_map(record, self._limits.array_bytes)

    def _count(self) -> None:
        self._containers += 1
        if self._containers > self._limits.containers:
            raise WireError(f"a message has more than {self._limits.containers} maps and lists")


def _refuse_extension(code: int, data: bytes) -> Any:
    raise WireError(f"a message has a value of msgpack's extension type {code}; expected plain values and arrays")


def read_verbot_map(record: dict[Any, Any], most: int) -> Any:
    """A map with text as keys, or the array that it encodes, of at most `most` bytes. Raises `WireError` for any other."""
    if b"__ndarray__" not in record:
        if all(isinstance(key, str) for key in record):
            return record
        raise WireError("a map has a key that is not text")
    if set(record) != ARRAY_KEYS:
        raise WireError(f"an array needs exactly the keys {sorted(ARRAY_KEYS)}; got {_shown(list(record))}")
    return read_array(record[b"data"], record[b"dtype"], record[b"shape"], most)


def read_array(data: Any, dtype: Any, shape: Any, most: int) -> Any:
    """A copy of an encoded array of plain numbers. Raises `WireError` unless all fit, and for more than `most` bytes."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"an array has dtype {_shown(dtype)}; expected one of {', '.join(sorted(DTYPES))}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError(f"an array has shape {_shown(shape)}; expected at most {MAX_DIMENSIONS} whole numbers")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if expected > most:
        raise WireError(f"an array of {dtype} {shape} has {expected} bytes; at most {most} are read")
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


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _is_depth(image: Any) -> bool:
    """Whether it is a depth image, float32 (h, w) in meters; the policy checks its values."""
    return isinstance(image, np.ndarray) and image.dtype == np.float32 and image.ndim == 2


def _check_image(label: str, image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        shown = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise WireError(f"{label} is {shown}; expected uint8 (h, w, 3), or for depth float32 (h, w)")
