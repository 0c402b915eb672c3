"""Which entry of another client's observation is what the robot's spec calls it. Nothing is guessed: each key is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.errors import ConfigError, SpecError, UnknownNameError
from verbot.remote.codec import MAX_INSTRUCTION
from verbot.spec import Camera, FloatArray, Memory, Observation, RobotSpec
from verbot.transforms import FitImage

STATE, INSTRUCTION, GOAL, IGNORED, IMAGES = "state", "instruction", "goal_image", "ignored", "images."
MOST_DEPTH = 8  # of maps in maps
SHOWN = 24  # keys in a message


@dataclass(frozen=True)
class ObservationMap:
    """Makes the observations of other clients verbot's. Maps in maps are named by a path, such as ``images/front``.

    Args:
        spec: the robot that the policy is for.
        keys: for each target the keys that may hold it, exactly one of which an observation has. Targets are ``images.CAMERA``,
            ``state`` or ``state.COMPONENT``, ``instruction``, and ``goal_image``, which may be missing.
        ignored: keys that are not read.
        fit: images of other sizes are resized as in training, without changing their aspect ratio; otherwise they are refused.
    """

    spec: RobotSpec
    keys: Mapping[str, tuple[str, ...]]
    ignored: frozenset[str] = frozenset()
    fit: bool = False

    @staticmethod
    def of(spec: RobotSpec, usual: Mapping[str, tuple[str, ...]], given: Sequence[str] = (), fit: bool = False) -> ObservationMap:
        """The keys of `usual`, but for targets that are `given` as ``TARGET=KEY``; ``ignored=KEY`` is not read.

        Raises `ConfigError` for another form and for a key of two targets, and `UnknownNameError` for a target that the robot
        does not have.
        """
        own: dict[str, list[str]] = {}
        for text in given:
            target, equals, key = text.partition("=")
            if not (equals and target and key):
                raise ConfigError(f"{text!r} maps nothing; expected TARGET=KEY, e.g. images.front=observation/image")
            own.setdefault(target, []).append(key)
        targets = [*usual, *(f"{STATE}.{part.name}" for part in spec.state), GOAL, IGNORED]
        for target in own:
            if target not in targets:
                raise UnknownNameError(f"target of robot {spec.name!r}", target, targets)
        parts = {target for target in own if target.startswith(f"{STATE}.")}
        if parts and STATE in own:
            raise ConfigError(f"both state and {', '.join(sorted(parts))} are mapped; expected the whole state or its components")
        kept = {target: keys for target, keys in usual.items() if not (parts and target == STATE)}
        if parts:
            kept |= {f"{STATE}.{part.name}": (f"{STATE}/{part.name}",) for part in spec.state}
        ignored = frozenset(own.pop(IGNORED, ()))
        found = {**kept, **{target: tuple(keys) for target, keys in own.items()}}
        for target, keys in own.items():
            for other in found:
                if other != target and (same := set(keys) & set(found[other])):
                    raise ConfigError(
                        f"the key {min(same)!r} is both {target} and {other}; expected one meaning: map {other} too"
                    )
        return ObservationMap(spec, found, ignored, fit)

    def observation(
        self,
        record: Mapping[str, Any],
        time_s: float,
        memory: Memory | None = None,
        decoded: Callable[[Any], Any] = lambda value: value,
    ) -> Observation:
        """The observation in `record`. Raises `SpecError` that names what is missing, unknown, given twice or of another shape.

        It is not compared with the spec yet: see `Observation.check`.

        Args:
            decoded: makes an array of a value that is encoded.
        """
        found: dict[str, Any] = {}
        for key, value in _flat(record):
            if key in found:
                raise SpecError(f"the observation has {key[:80]!r} twice, by its path and in a map; expected it once")
            found[key] = value
        values = {target: decoded(self._only(target, keys, found)) for target, keys in self.keys.items()}
        known = {key for keys in self.keys.values() for key in keys} | self.ignored
        unknown = sorted(found.keys() - known)
        if unknown:
            raise SpecError(f"the observation has {_listed(unknown)}, which means nothing here; expected {self.expected()}")
        images = {camera.name: self._image(camera, values[IMAGES + camera.name]) for camera in self.spec.cameras}
        state = self._state(values)
        instruction = values[INSTRUCTION]
        if not isinstance(instruction, str) or len(instruction) > MAX_INSTRUCTION:
            raise SpecError(f"the instruction is {_shown(instruction)}; expected text of at most {MAX_INSTRUCTION} characters")
        goal = values.get(GOAL)
        return Observation(images, state, instruction, None if goal is None else _uint8("the goal image", goal), time_s, memory)

    def expected(self) -> str:
        """The keys, for a message to people."""
        return ", ".join(f"{' or '.join(keys)} ({target})" for target, keys in self.keys.items())

    def _only(self, target: str, keys: Sequence[str], found: Mapping[str, Any]) -> Any:
        there = [key for key in keys if key in found]
        if len(there) > 1:
            raise SpecError(f"the observation has {_listed(there)}, which are all {target}; expected one of them")
        if not there and target != GOAL:
            has = _listed(sorted(found)) if found else "nothing"
            raise SpecError(f"the observation has no {' or '.join(keys)} ({target}); it has {has}; expected {self.expected()}")
        return found[there[0]] if there else None

    def _image(self, camera: Camera, value: Any) -> Any:
        if camera.kind == "depth":
            if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f":
                raise SpecError(f"depth camera {camera.name!r} has {_shown(value)}; expected floating point (h, w) in meters")
            return value.astype(np.float32)
        image, size = _uint8(f"camera {camera.name!r}", value), (camera.height, camera.width)
        if self.fit and image.shape[:2] != size and min(image.shape[:2]) > 0:
            return FitImage((image.shape[0], image.shape[1]), size, "letterbox").forward(image)
        return image

    def _state(self, values: Mapping[str, Any]) -> FloatArray:
        if STATE in values:
            return _vector("the state", values[STATE])
        parts = [_vector(f"state component {part.name!r}", values[f"{STATE}.{part.name}"]) for part in self.spec.state]
        for part, vector in zip(self.spec.state, parts, strict=True):
            if vector.shape != (part.size,):
                raise SpecError(f"state component {part.name!r} has shape {vector.shape}; expected ({part.size},)")
        return np.concatenate([*parts, np.zeros(0, np.float32)])


def _vector(label: str, value: Any) -> FloatArray:
    """A number, a list of numbers or an array (s,) as float32."""
    if isinstance(value, bool | int | float) or (isinstance(value, list) and all(type(n) in (int, float) for n in value)):
        value = np.atleast_1d(np.array(value, np.float64))
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.ndim > 1:
        raise SpecError(f"{label} is {_shown(value)}; expected numbers (s,)")
    with np.errstate(over="ignore"):  # too large a number is infinite, which `Observation.check` finds
        return np.atleast_1d(value).astype(np.float32)


def _uint8(label: str, value: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[-1] != 3:
        hint = ""
        if isinstance(value, np.ndarray) and value.ndim == 3 and value.shape[0] == 3:
            hint = "; the colors come last: np.moveaxis(image, 0, -1)"
        raise SpecError(f"{label} has {_shown(value)}; expected uint8 (h, w, 3){hint}")
    return value


def _flat(record: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > MOST_DEPTH:
        raise SpecError(f"the observation has more than {MOST_DEPTH} maps in maps")
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(repr(key)[:80] for key in keys[:SHOWN]) + more


def _shown(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"{type(value).__name__}"
