"""The protocol of vla-eval's clients (vla-eval 0.8.0, protocol version 1): the client speaks first.

Every message is a msgpack map ``{"type", "payload", "seq", "timestamp"}`` with text as keys. Types and their answers:

- ``hello``: ``hello`` with what the robot's spec says of observations and actions
- ``episode_start`` and ``episode_end``: none, or ``error`` with ``episode_start_failed: …``
- ``observation``: ``action`` with the same ``seq`` and one action (a,), or ``error`` with ``observation_failed: …``; the
  connection stays open

Arrays are ``{"__ndarray__": True, "data", "dtype", "shape"}``, images ``{"__image__": True, "format": "png" | "jpeg" | "raw",
"data", "shape"[, "dtype"]}``. Only known formats and the pictures of the robot's cameras are decoded, of the size that they
declare.

Source: pypi.org/project/vla-eval, modules connection, protocol and model_servers.serve.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from verbot.deploy.exchanges import KeptMemory, Reply, RequestTiming, Served, line_of
from verbot.deploy.vla_eval_spec import about_robot
from verbot.errors import SpecError, VerbotError, WireError
from verbot.remote.codec import decode, read_array
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec, check_memory

VERSION = 1
TYPES = ("hello", "observation", "episode_start", "episode_end", "error")
MODES = ("sync", "live")
ARRAY_KEYS = frozenset({"__ndarray__", "data", "dtype", "shape"})
IMAGE_KEYS = frozenset({"__image__", "format", "data", "shape"})
FORMATS = {"png": "PNG", "jpeg": "JPEG"}  # with the names of Pillow's decoders


def usual_keys(spec: RobotSpec) -> dict[str, tuple[str, ...]]:
    """Keys of vla-eval's benchmarks for each part of an observation, as `ObservationMap.of` takes them."""
    state = {"state": ("state", "states")} if spec.state else {}
    return {
        **{f"images.{name}": (f"images/{name}",) for name in spec.camera_names},
        **state,
        "instruction": ("task_description",),
    }


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as it came, decoded where a camera needs it."""

    format: str
    data: bytes
    shape: tuple[int, ...]

    def decoded(self) -> Any:
        """The array. Raises `WireError` for a damaged picture, and one of another size than it declares."""
        from PIL import Image

        from verbot.data.storage.decoding import picture_errors

        try:
            with Image.open(io.BytesIO(self.data), formats=(FORMATS[self.format],)) as picture:
                if (picture.height, picture.width) != self.shape[:2]:
                    raise WireError(f"a {self.format} picture is {picture.height}×{picture.width}; it declares {self.shape}")
                array = np.asarray(picture)
        except picture_errors() as error:
            raise error if isinstance(error, VerbotError) else WireError(f"a {self.format} picture is damaged") from error
        if array.shape != self.shape or array.dtype != np.uint8:
            raise WireError(f"a {self.format} picture is {array.dtype} {array.shape}; it declares {self.shape}")
        return array


@dataclass(frozen=True)
class Unreadable:
    """A value that cannot be read, so that the message around it still says which one it is."""

    error: WireError


class VlaEvalExchange:
    """One of vla-eval's clients. It asks at every control step and gets one action; `Served.execute` of each chunk are used.

    Args:
        clock: seconds that never go back.
    """

    name = "vla-eval"

    def __init__(self, served: Served, clock: Callable[[], float] = time.monotonic):
        self._served, self._clock = served, clock
        self._map, self._kept, self._limits = served.observations[self.name], KeptMemory(served), served.foreign_limits()
        self._type, self._seq, self._answer = "", 0, Reply()
        self._in_episode, self._is_live, self._steps, self._start_s = False, False, 0, clock()
        self._planned: deque[FloatArray] = deque()

    def greeting(self) -> None:
        return None

    def read(self, data: bytes | str) -> list[Observation]:
        self._type, self._seq, self._answer = "observation", 0, Reply(counted=False)
        record = decode(data, self._limits, read_vla_eval_map)  # type: ignore[arg-type]
        kind, payload, seq = (record.get(name) for name in ("type", "payload", "seq"))
        if type(seq) is int:
            self._seq = seq
        if kind not in TYPES:
            raise WireError(f"a message has the type {str(kind)[:40]!r}; expected one of {', '.join(TYPES)}")
        self._type = kind
        if type(seq) is not int or not isinstance(payload, dict):
            raise WireError(f"a message of type {kind!r} needs a map as its payload and a whole number as its seq")
        if kind == "hello":
            self._answer = self._hello(payload)
        elif kind == "episode_start":
            self._start(payload)
        elif kind == "episode_end":
            self._end()
        return self._observations(payload) if kind == "observation" else []

    def reply(self, result: Sequence[ActionChunk] | Exception, timing: RequestTiming) -> Reply:
        try:
            if isinstance(result, Exception):
                raise result
            if not result:
                return self._answer
            self._kept.keep(result[0].memory)
            self._planned.extend(result[0].values[: 1 if self._is_live else self._served.execute])
            return self._act()
        except Exception as error:
            kind, line = line_of(error)
            return Reply(
                self._message("error", {"error": f"{self._type}_failed: {line}"}), kind, counted=self._type == "observation"
            )

    def _hello(self, payload: dict[str, Any]) -> Reply:
        if payload.get("protocol_version") != VERSION:
            raise WireError(f"protocol_version is {str(payload.get('protocol_version'))[:40]!r}; this server speaks {VERSION}")
        about = about_robot(self._served.spec, self._map)
        return Reply(self._message("hello", {"protocol_version": VERSION, **about}), counted=False)

    def _start(self, payload: dict[str, Any]) -> None:
        self._end()
        mode = payload.get("mode", MODES[0])
        if mode not in MODES:
            raise WireError(f"the mode is {str(mode)[:40]!r}; expected one of {', '.join(MODES)}")
        self._in_episode, self._is_live = True, mode == "live"

    def _end(self) -> None:
        self._in_episode, self._is_live, self._steps, self._start_s = False, False, 0, self._clock()
        self._planned.clear()
        self._kept.drop()

    def _observations(self, payload: dict[str, Any]) -> list[Observation]:
        if self._kept.is_needed and not self._in_episode:
            raise SpecError("this policy has a memory: send episode_start before the first observation of an episode")
        step_s = self._steps / self._served.spec.rate_hz
        observation = self._map.observation(
            payload, self._clock() - self._start_s if self._is_live else step_s, self._kept.memory, _decoded
        )
        observation.check(self._served.spec)
        check_memory(observation.memory)
        if self._planned:
            self._answer = self._act()
            return []
        return [observation]

    def _act(self) -> Reply:
        self._steps += 1
        return Reply(self._message("action", {"actions": self._planned.popleft()}))

    def _message(self, kind: str, payload: dict[str, Any]) -> bytes:
        record = {"type": kind, "payload": payload, "seq": self._seq, "timestamp": time.time()}
        return bytes(msgpack.packb(record, default=_packed, use_bin_type=True))


def read_vla_eval_map(record: dict[Any, Any], most: int) -> Any:
    """A map with text as keys, the array that it encodes, an `EncodedPicture`, or `Unreadable`. Raises `WireError` for others."""
    if not all(isinstance(key, str) for key in record):
        raise WireError("a map has a key that is not text")
    try:
        if "__image__" in record:
            return _picture(record, most)
        if "__ndarray__" not in record:
            return record
        if set(record) != ARRAY_KEYS:
            raise WireError(f"an array needs exactly the keys {sorted(ARRAY_KEYS)}; got {str(sorted(record))[:80]}")
        return read_array(record["data"], record["dtype"], record["shape"], most)
    except WireError as error:
        return Unreadable(error)


def _picture(record: dict[str, Any], most: int) -> Any:
    kind, shape = record.get("format"), record.get("shape")
    if kind == "raw" and set(record) == IMAGE_KEYS | {"dtype"}:
        return read_array(record["data"], record["dtype"], shape, most)
    if not isinstance(kind, str) or kind not in FORMATS or set(record) != IMAGE_KEYS or not isinstance(record["data"], bytes):
        raise WireError(f"a picture has the format {str(kind)[:40]!r} and {str(sorted(record))[:80]}; expected png, jpeg or raw")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and 0 < n < 2**15 for n in shape):
        raise WireError(f"a picture has the shape {str(shape)[:40]}; expected [height, width, colors]")
    if shape[0] * shape[1] * shape[2] > most:
        raise WireError(f"a picture of {shape} has {shape[0] * shape[1] * shape[2]} bytes; at most {most} are read")
    return EncodedPicture(kind, record["data"], tuple(shape))


def _decoded(value: Any) -> Any:
    if isinstance(value, Unreadable):
        raise value.error
    return value.decoded() if isinstance(value, EncodedPicture) else value


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return {"__ndarray__": True, "data": little.tobytes(), "dtype": little.dtype.str, "shape": list(little.shape)}
    raise TypeError(f"{type(value).__name__} cannot be sent")
