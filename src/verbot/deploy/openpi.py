"""The protocol of openpi's clients (openpi-client 0.1.2): the server speaks first; each observation gets actions or an error.

- server, once: a map; here verbot's own greeting with the key ``"openpi"``, which says what the server expects
- client: the observation, a map; arrays as in `verbot.remote.codec`, NumPy's scalars as ``{b"__npgeneric__": True, b"data": 1.0,
  b"dtype": "<f8"}``. Decoding follows known types only; openpi's own decoder takes any dtype that a message names
- server: ``{"actions" (k, a), "server_timing", "policy_timing"}``, or a text message and a closed connection (1011)

The protocol does not say when an episode begins. For a policy with a memory each observation needs the further key ``"reset"``:
True in the first one of an episode, otherwise False. ``"time_s"``, seconds since the episode began, may replace the server's
clock.

Source: github.com/Physical-Intelligence/openpi, packages/openpi-client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from verbot.deploy.exchanges import Exchange, KeptMemory, Reply, RequestTiming, Served, VerbotExchange, finite, line_of
from verbot.errors import SpecError, WireError
from verbot.remote.codec import DTYPES, decode, encode, read_verbot_map
from verbot.spec import ActionChunk, Observation, RobotSpec, check_memory

INTERNAL_ERROR = 1011
SCALAR_KEYS = frozenset({b"__npgeneric__", b"data", b"dtype"})


def usual_keys(spec: RobotSpec) -> dict[str, tuple[str, ...]]:
    """Keys of openpi's clients for each part of an observation, as `ObservationMap.of` takes them."""
    only = ("observation/image",) if len(spec.cameras) == 1 else ()
    cameras = {
        f"images.{name}": (
            *only,
            f"observation/{name}",
            f"observation/{name}_image",
            f"observation/images/{name}",
            f"images/{name}",
        )
        for name in spec.camera_names
    }
    state = {"state": ("observation/state", "state")} if spec.state else {}
    return {**{target: tuple(dict.fromkeys(keys)) for target, keys in cameras.items()}, **state, "instruction": ("prompt",)}


class OpenpiExchange:
    """One of openpi's clients.

    Args:
        clock: seconds that never go back.
    """

    name = "openpi"

    def __init__(self, served: Served, clock: Callable[[], float] = time.monotonic):
        self._served, self._clock, self._start_s = served, clock, clock()
        self._map, self._kept = served.observations["openpi"], KeptMemory(served)
        self._limits, self._is_new = served.foreign_limits(), True

    def greeting(self) -> bytes:
        spec = self._served.spec
        about = {
            "observation": {target: list(keys) for target, keys in self._map.keys.items()},
            "images": {camera.name: [camera.height, camera.width, 3] for camera in spec.color_cameras},
            "state": spec.state_size,
            "actions": spec.action_size,
            "reset": bool(self._served.remembers),
        }
        return encode({**self._served.greeting, "openpi": about})

    def read(self, data: bytes | str) -> list[Observation]:
        return self.read_record(decode(data, self._limits, read_openpi_map))  # type: ignore[arg-type]

    def read_record(self, record: dict[str, Any]) -> list[Observation]:
        """The observation of a message that was decoded."""
        record = dict(record)
        begins, time_s = record.pop("reset", None), record.pop("time_s", None)
        if type(begins) is not bool and (begins is not None or self._kept.is_needed):
            raise SpecError(
                "this policy has a memory, and openpi's protocol does not say when an episode begins: send 'reset': True in the "
                "first observation of each, and False in the others"
                if begins is None
                else f"'reset' is {str(begins)[:40]!r}; expected True in the first observation of an episode, otherwise False"
            )
        if begins or self._is_new:
            self._start_s, self._is_new = self._clock(), False
            self._kept.drop()
        now_s = self._clock() - self._start_s if time_s is None else finite(time_s, "'time_s'")
        observation = self._map.observation(record, now_s, self._kept.memory)
        observation.check(self._served.spec)
        check_memory(observation.memory)
        return [observation]

    def reply(self, result: Sequence[ActionChunk] | Exception, timing: RequestTiming) -> Reply:
        try:
            if isinstance(result, Exception):
                raise result
            self._kept.keep(result[0].memory)
            server = {"infer_ms": 1000 * timing.total_s}
            if timing.previous_s is not None:
                server["prev_total_ms"] = 1000 * timing.previous_s
            policy = {"infer_ms": 1000 * timing.predict_s}
            return Reply(encode({"actions": result[0].values, "server_timing": server, "policy_timing": policy}))
        except Exception as error:
            kind, line = line_of(error)
            return Reply(line, kind, INTERNAL_ERROR)


class RootExchange:
    """A client at ``/``: one of openpi's, or a `RemotePolicy` of a former version, whose requests have a number (``id``)."""

    def __init__(self, served: Served, clock: Callable[[], float] = time.monotonic):
        self._openpi, self._verbot = OpenpiExchange(served, clock), VerbotExchange(served)
        self._limits, self._current = served.foreign_limits(), self._openpi

    _current: Exchange

    @property
    def name(self) -> str:
        return self._current.name

    def greeting(self) -> bytes:
        return self._openpi.greeting()

    def read(self, data: bytes | str) -> list[Observation]:
        self._current = self._openpi
        record = decode(data, self._limits, read_openpi_map)  # type: ignore[arg-type]
        if record.keys() >= {"id", "observations"}:
            self._current = self._verbot
            return self._verbot.read_record(record)
        return self._openpi.read_record(record)

    def reply(self, result: Sequence[ActionChunk] | Exception, timing: RequestTiming) -> Reply:
        return self._current.reply(result, timing)


def read_openpi_map(record: dict[Any, Any], most: int) -> Any:
    """A map with text as keys, or the array or scalar of NumPy that it encodes. Raises `WireError` for any other."""
    if b"__npgeneric__" not in record:
        return read_verbot_map(record, most)
    if set(record) != SCALAR_KEYS:
        raise WireError(
            f"a scalar of NumPy needs exactly the keys {sorted(SCALAR_KEYS)}; got {str(sorted(map(str, record)))[:80]}"
        )
    dtype, value = record[b"dtype"], record[b"data"]
    if not isinstance(dtype, str) or dtype not in DTYPES or type(value) not in (bool, int, float):
        raise WireError(f"a scalar has dtype {str(dtype)[:40]!r} and a {type(value).__name__}; expected a plain number")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.dtype(dtype).type(value).item()
    except (OverflowError, ValueError) as error:
        raise WireError(f"a scalar of dtype {dtype} cannot be {value!r:.40}") from error
