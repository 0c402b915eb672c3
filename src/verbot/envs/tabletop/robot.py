"""The robot of the tabletop: its cameras, state, action and motion limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verbot.envs.tabletop.simulation import robot_mount
from verbot.envs.tabletop.simulation.physics import (
    LEASH_M,
    POSITION_UNIT_M,
    ROTATION_UNIT_RAD,
    SUBSTEPS,
    TOOL_HIGH_M,
    TOOL_LOW_M,
)
from verbot.envs.tabletop.simulation.scene import TIMESTEP_S
from verbot.envs.tabletop.simulation.views import VIEWS
from verbot.spec import Camera, Component, MotionLimits, RobotSpec, Workspace

DEPTH = "_depth"  # suffix of the depth camera beside a camera
RATE_HZ = 1.0 / (SUBSTEPS * TIMESTEP_S)
# Of the target, in m or rad and seconds: a quarter and more above what the experts and the starter policy ever ask for.
ACCELERATION, JERK = 9.0, 150.0
TURN_ACCELERATION, TURN_JERK = 50.0, 800.0
TURNED = (0.25, 0.25, 1.2)  # rad in all, about each axis, from where the arm began; the experts need 0.07, 0.07 and 0.5


def robot_spec(
    image_size: int = 64, cameras: Sequence[str] = ("front", "wrist"), mount: str = "back", depth: bool = False
) -> RobotSpec:
    """The robot "tabletop-panda": its cameras, state and action; mounted elsewhere it is called after that.

    Args:
        depth: also a depth camera beside each camera.
    """
    low, high = robot_mount.find(mount).box(TOOL_LOW_M - 0.1, TOOL_HIGH_M + 0.1)
    box = tuple(low.tolist()), tuple(high.tolist())
    turn, move = (ROTATION_UNIT_RAD,) * 3, (POSITION_UNIT_M,) * 3
    return RobotSpec(
        name="tabletop-panda" if mount == "back" else f"tabletop-panda-{mount}",
        rate_hz=RATE_HZ,
        cameras=tuple(
            Camera(label, image_size, image_size, intrinsics(VIEWS[name].fovy_deg, image_size), None, VIEWS[name].frame, kind)
            for kind, suffix in (("color", ""), *((("depth", DEPTH),) if depth else ()))
            for name in cameras
            for label in (name + suffix,)
        ),
        state=(
            Component("ee_position", "position", ("x", "y", "z"), "m", "base", *box),
            Component("ee_quaternion", "quaternion", ("w", "x", "y", "z"), "1", "base", (0.0, -1.0, -1.0, -1.0), (1.0,) * 4),
            Component("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,)),
        ),
        action=(
            Component("position_delta", "position_delta", ("x", "y", "z"), "m", "base", tuple(-m for m in move), move),
            Component("rotation_delta", "rotation_delta", ("x", "y", "z"), "rad", "base", tuple(-t for t in turn), turn),
            Component("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,)),
        ),
        limits=(
            MotionLimits(
                "position_delta", box[0], box[1], step=move, velocity=tuple(m * RATE_HZ for m in move),
                acceleration=(ACCELERATION,) * 3, jerk=(JERK,) * 3, lead=(LEASH_M,) * 3,
            ),
            MotionLimits(
                "rotation_delta", tuple(-t for t in TURNED), TURNED, step=turn, velocity=tuple(t * RATE_HZ for t in turn),
                acceleration=(TURN_ACCELERATION,) * 3, jerk=(TURN_JERK,) * 3,
            ),
        ),
        workspaces=(Workspace("tool", *box),),
    )  # fmt: skip


def intrinsics(fovy_deg: float, image_size: int) -> tuple[float, ...]:
    """The pinhole matrix (9,), row-major, of a square image; the origin is the upper left corner of the first pixel."""
    focal, center = image_size / 2 / np.tan(np.radians(fovy_deg) / 2), image_size / 2
    return (float(focal), 0.0, center, 0.0, float(focal), center, 0.0, 0.0, 1.0)
