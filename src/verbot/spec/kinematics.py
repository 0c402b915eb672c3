"""Where the joints of an arm are, for computing the position of its end effector. Plain frozen data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verbot.errors import SpecError
from verbot.spec.checks import check_name, is_finite

JOINT_KINDS = ("revolute", "prismatic", "fixed")
ANGLE_UNITS = {"rad": 1.0, "deg": math.pi / 180.0}
LENGTH_UNITS = {"m": 1.0, "mm": 1e-3}
_UNIT_TOLERANCE = 1e-3  # of the length of quaternions and axes, which people write with a few digits


@dataclass(frozen=True)
class ChainJoint:
    """One joint of a `KinematicChain`: a fixed transform from the joint before, then its motion about or along `axis`.

    Args:
        name: the axis of the action component that moves it; of a ``"fixed"`` joint any name.
        xyz: position in m, in the frame of the joint before.
        quaternion: orientation in that frame, unit, w first.
        axis: unit vector in the joint's own frame.
        kind: one of `JOINT_KINDS`.
    """

    name: str
    xyz: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    kind: str = "revolute"

    def __post_init__(self) -> None:
        check_name("joint", self.name)
        if self.kind not in JOINT_KINDS:
            raise SpecError(f"joint {self.name!r} has kind {self.kind!r}; expected one of {', '.join(JOINT_KINDS)}")
        for label, values, count in (("xyz", self.xyz, 3), ("quaternion", self.quaternion, 4), ("axis", self.axis, 3)):
            if not isinstance(values, tuple) or len(values) != count or not all(map(is_finite, values)):
                raise SpecError(f"{label} of joint {self.name!r} is {values!r:.80}; expected {count} finite numbers")
            if label != "xyz" and abs(math.hypot(*values) - 1.0) > _UNIT_TOLERANCE:
                raise SpecError(f"{label} of joint {self.name!r} has length {math.hypot(*values):.4g}; expected 1")


@dataclass(frozen=True)
class KinematicChain:
    """A serial chain from the base to an end effector.

    Args:
        end_effector: one of the robot's end effectors.
        component: the action component, of kind ``"joint_position"`` or ``"joint_velocity"``, that moves the joints.
        joints: in order from the base. A last one of kind ``"fixed"`` leads to the tool.

    Example:
        >>> link = ChainJoint("elbow", (0.0, 0.0, 0.3), axis=(0.0, 1.0, 0.0))
        >>> KinematicChain("tool", "joints", (link, ChainJoint("tip", (0.0, 0.0, 0.2), kind="fixed"))).moving
        ('elbow',)
    """

    end_effector: str
    component: str
    joints: tuple[ChainJoint, ...]

    def __post_init__(self) -> None:
        check_name("end effector", self.end_effector)
        check_name("component", self.component)
        if len(set(self.moving)) != len(self.moving) or not self.moving:
            raise SpecError(
                f"the chain of end effector {self.end_effector!r} has the moving joints {', '.join(self.moving) or 'none'}; "
                "expected at least one, each once"
            )

    @property
    def moving(self) -> tuple[str, ...]:
        """The names of the joints that move."""
        return tuple(joint.name for joint in self.joints if joint.kind != "fixed")

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> KinematicChain:
        """The chain of a record of `dataclasses.asdict`."""
        joints = tuple(ChainJoint(**_tuples(joint)) for joint in record["joints"])
        return KinematicChain(**{**record, "joints": joints})


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in dict(record).items()}


def check_chains(
    robot: str, axes: Mapping[str, tuple[str, str, Sequence[str]]], end_effectors: Sequence[str], chains: Sequence[KinematicChain]
) -> None:
    """Raise `SpecError` unless chains belong to end effectors, and their joints are axes of one action component.

    Args:
        axes: action component to its kind, its unit and the names of its axes.
    """
    for chain in chains:
        where = f"the chain of end effector {chain.end_effector!r} of robot {robot!r}"
        if chain.end_effector not in end_effectors:
            raise SpecError(f"{where}: its end effectors are {', '.join(map(repr, end_effectors)) or 'none'}")
        kind, unit, names = axes.get(chain.component, ("", "", ()))
        if kind not in ("joint_position", "joint_velocity"):
            raise SpecError(
                f"{where} is moved by component {chain.component!r}; expected one of kind joint_position or joint_velocity"
            )
        for joint in chain.joints:
            if joint.kind == "fixed":
                continue
            if joint.name not in names:
                raise SpecError(f"{where} has joint {joint.name!r}; the axes of {chain.component!r} are {', '.join(names)}")
            units = ANGLE_UNITS if joint.kind == "revolute" else LENGTH_UNITS
            if unit.removesuffix("/s") not in units:
                raise SpecError(
                    f"{where}: {joint.kind} joint {joint.name!r} has unit {unit!r}; expected one of {', '.join(units)}"
                )
    if len({chain.end_effector for chain in chains}) != len(chains):
        raise SpecError(f"robot {robot!r} has two chains of one end effector: {', '.join(c.end_effector for c in chains)}")
