"""The action that keeps a robot where it is."""

from __future__ import annotations

import numpy as np

from verbot.errors import ConfigError, SpecError
from verbot.spec.arrays import FloatArray
from verbot.spec.robot import Component, RobotSpec

RATES = frozenset({"position_delta", "rotation_delta", "joint_velocity", "velocity"})  # zero is rest
TARGETS = frozenset({"position", "quaternion", "joint_position", "gripper"})  # the measured value is rest


class HoldAction:
    """The action that keeps a robot where it is: zero for deltas and velocities, the measured value for targets.

    A gripper keeps what it was commanded last. A target is held where it was measured when the hold began, so the arm does not
    sink. A target's measured value is a state component of its kind, size, unit and frame: the one of the same name or axes, or
    the only one.

    Raises:
        ConfigError: no hold is known for a component of the action.
    """

    def __init__(self, spec: RobotSpec):
        self._spec, self._slices = spec, spec.action_slices()
        self._low, self._high = spec.action_low(), spec.action_high()
        self._sources = {c.name: source for c in spec.action if (source := measured_slice(spec, c)) is not None}
        for component in spec.action:
            _check_known(spec, component, self._sources)

    def of(self, state: FloatArray, last: FloatArray | None) -> FloatArray:
        """float32 (a,), within the ranges.

        Args:
            state: float32 (s,), measured when the hold began.
            last: the last action (a,) that was commanded; None if there was none.

        Raises `SpecError` for a state that is not finite, or of another size.
        """
        if state.shape != (self._spec.state_size,) or not np.isfinite(state).all():
            raise SpecError(f"robot {self._spec.name!r} cannot be held: its state is {state.tolist()}")
        action = np.zeros(len(self._low), np.float32)
        for component in self._spec.action:
            place = self._slices[component.name]
            if component.kind == "gripper" and last is not None:
                action[place] = last[place]
            elif component.kind in TARGETS:
                action[place] = state[self._sources[component.name]]
        held: FloatArray = np.minimum(np.maximum(action, self._low), self._high)
        return held


def measured_slice(spec: RobotSpec, component: Component) -> slice | None:
    """Where the state holds the measured value of a target; None if that is not clear."""
    if component.kind not in TARGETS:
        return None
    same = [c for c in spec.state if _signature(c) == _signature(component)]
    found = [c for c in same if c.name == component.name] or [c for c in same if c.axes == component.axes] or same
    return spec.state_slices()[found[0].name] if len(found) == 1 else None


def _signature(component: Component) -> tuple[object, ...]:
    return component.kind, component.size, component.unit, component.frame


def _check_known(spec: RobotSpec, component: Component, sources: dict[str, slice]) -> None:
    where = f"component {component.name!r} ({component.kind}) of the action of robot {spec.name!r}"
    if component.kind in TARGETS:
        if component.name not in sources:
            raise ConfigError(f"no hold is known for {where}: no single state component measures it")
    elif component.kind not in RATES:
        raise ConfigError(f"no hold is known for {where}; known are {', '.join(sorted(RATES | TARGETS))}")
    elif not all(low <= 0.0 <= high for low, high in zip(component.low, component.high, strict=True)):
        raise ConfigError(f"no hold is known for {where}: zero is outside its range")
