"""The robot of a published policy: what its files say of it, and what a person adds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import ConfigError, SpecError
from verbot.files import read_record
from verbot.spec import Camera, Component, FloatArray, Observation, RobotSpec

ROBOT = "robot.json"  # in the folder of a checkpoint, written by a person
UNKNOWN = "unknown"  # the unit and the frame of numbers whose meaning the files do not say
WIDEST = 1e6  # the range of a number of which no limit is known
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


def generic_spec(
    robot: str,
    cameras: Mapping[str, tuple[int, int]],
    state: int,
    action: int,
    rate_hz: float = 10.0,
    ranges: tuple[Sequence[float], Sequence[float]] | None = None,
) -> RobotSpec:
    """A spec whose numbers have no meaning but their place: components of kind ``"other"`` with the unit ``"unknown"``.

    Such a robot has no limits, so `verbot.agents.guard` refuses to move it until a person says what the numbers are (`RobotMap`).

    Args:
        cameras: height and width by name.
        state, action: how many numbers; 0 for no state.
        ranges: the least and the largest actions (a,), where the files say them.
    """
    low, high = ranges or ([-WIDEST] * action, [WIDEST] * action)
    seen = tuple(Camera(clean_name(name), *size) for name, size in cameras.items())
    measured = (_numbers("state", [-WIDEST] * state, [WIDEST] * state),) if state else ()
    return RobotSpec(robot, rate_hz, seen, measured, (_numbers("action", low, high),))


def _numbers(name: str, low: Sequence[float], high: Sequence[float]) -> Component:
    axes = tuple(str(i) for i in range(len(low)))
    return Component(name, "other", axes, UNKNOWN, UNKNOWN, tuple(map(float, low)), tuple(map(float, high)))


def clean_name(name: str) -> str:
    """A camera's published name, such as ``observation.images.top``, as a name of a spec: ``top``."""
    return NOT_IN_NAMES.sub("_", name.removeprefix("observation.images.").removeprefix("observation."))


@dataclass(frozen=True)
class RobotMap:
    """The robot that a published policy acts on, as a person states it.

    Args:
        spec: the robot, e.g. that of an env, with its units and limits.
        cameras: which camera of the robot each camera of the policy is: {the policy's name: the robot's}. One that is left out is
            missing, which only some families can do without.
        state: components of the robot's state, in the order in which the policy reads them; None for all.
        action: components of the robot's action, in the order in which the policy answers them; None for all.

    Raises `ConfigError` for names that the robot does not have, and for an action that is not answered in full.
    """

    spec: RobotSpec
    cameras: Mapping[str, str]
    state: tuple[str, ...] | None = None
    action: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for camera in self.cameras.values():
            if camera not in self.spec.camera_names:
                raise ConfigError(
                    f"robot {self.spec.name!r} has no camera {camera!r}; it has {', '.join(self.spec.camera_names)}"
                )
        for what, given, parts in (("state", self.state, self.spec.state), ("action", self.action, self.spec.action)):
            known = [part.name for part in parts]
            if wrong := [name for name in given or () if name not in known]:
                raise ConfigError(
                    f"the {what} of robot {self.spec.name!r} has no component {wrong[0]!r}; it has {', '.join(known)}"
                )
        if self.action is not None and sorted(self.action) != sorted(part.name for part in self.spec.action):
            raise ConfigError(
                f"the map answers {', '.join(self.action)}; robot {self.spec.name!r} needs each of "
                f"{', '.join(part.name for part in self.spec.action)} once"
            )

    def check(self, own: RobotSpec) -> None:
        """Raise `ConfigError` unless the numbers of the policy, whose spec is `own`, are as many as the robot's."""
        if unknown := sorted(set(self.cameras) - set(own.camera_names)):
            raise ConfigError(f"the policy has no camera {unknown[0]!r}; it has {', '.join(own.camera_names) or 'none'}")
        for what, needed, given in (
            ("state", own.state_size, len(self.state_places())), ("action", own.action_size, len(self.action_places())),
        ):  # fmt: skip
            if needed != given and (what == "action" or needed):
                raise ConfigError(
                    f"the {what} of the policy has {needed} numbers; the components that the map names have {given}"
                )

    def state_places(self) -> list[int]:
        slices = self.spec.state_slices()
        return [i for name in self.state or slices for i in range(slices[name].start, slices[name].stop)]

    def action_places(self) -> list[int]:
        slices = self.spec.action_slices()
        return [i for name in self.action or slices for i in range(slices[name].start, slices[name].stop)]

    def seen(self, observation: Observation, own: RobotSpec) -> Observation:
        """An observation of the robot as one of the policy's own spec."""
        images = {name: observation.images[camera] for name, camera in self.cameras.items() if camera in observation.images}
        state = observation.state[self.state_places()] if own.state_size else np.zeros(0, np.float32)
        return dataclasses.replace(observation, images=images, state=state, planned=None, committed=0)

    def answered(self, actions: FloatArray) -> FloatArray:
        """Actions (…, a) of the policy as actions of the robot."""
        out = np.empty_like(actions)
        out[..., self.action_places()] = actions
        return out

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"spec": self.spec.to_json(), "cameras": dict(self.cameras)}
        return record | {name: list(value) for name in ("state", "action") if (value := getattr(self, name)) is not None}

    @staticmethod
    def from_json(record: Mapping[str, Any], path: Path | str = ROBOT) -> RobotMap:
        """Inverse of `to_json`. Raises `ConfigError` that names the file."""
        try:
            if unknown := sorted(set(record) - {"spec", "cameras", "state", "action"}):
                raise ConfigError(f"it has {', '.join(unknown)}; expected spec, cameras, state and action")
            cameras = {str(name): str(camera) for name, camera in dict(record["cameras"]).items()}
            parts = {name: tuple(map(str, record[name])) for name in ("state", "action") if record.get(name) is not None}
            return RobotMap(RobotSpec.from_json(record["spec"]), cameras, **parts)
        except (ConfigError, SpecError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} does not say which robot the policy is for: {error}") from error

    @staticmethod
    def read(folder: Path) -> RobotMap | None:
        """That of the file `ROBOT` in `folder`; None if there is none."""
        path = folder / ROBOT
        return RobotMap.from_json(read_record(path), path) if path.is_file() else None
