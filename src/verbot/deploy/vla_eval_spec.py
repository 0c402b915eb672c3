"""What a robot's spec says in the vocabulary of vla-eval: the formats of observations and actions."""

from __future__ import annotations

from typing import Any

from verbot.deploy.observation_map import IMAGES, INSTRUCTION, STATE, ObservationMap
from verbot.spec import Component, RobotSpec

# Kind and size of an action component -> the part that vla-eval's benchmarks call it, and its format.
ACTIONS = {
    ("position_delta", 3): ("position", "delta_xyz"),
    ("position", 3): ("position", "absolute_xyz"),
    ("rotation_delta", 3): ("rotation", "axis_angle"),
    ("gripper", 1): ("gripper", "continuous_01"),
}
POSE_GRIPPER = [("position", 3), ("quaternion", 4), ("gripper", 1)]


def about_robot(spec: RobotSpec, keys: ObservationMap) -> dict[str, Any]:
    """The payload of the server's hello, but for the version."""
    wrist = any(camera.frame != "base" for camera in spec.color_cameras)
    wanted = {**({"send_wrist_image": True} if wrist else {}), **({"send_state": True} if spec.state else {})}
    return {
        "harness_version": "verbot",
        "model_server": "verbot",
        "capabilities": {},
        "observation_params": wanted,
        "action_spec": action_spec(spec),
        "observation_spec": observation_spec(spec, keys),
    }


def action_spec(spec: RobotSpec) -> dict[str, dict[str, Any]]:
    """Parts of the action in their order. A component that vla-eval has no word for has the format ``"raw"``."""
    found: dict[str, dict[str, Any]] = {}
    for part in spec.action:
        name, form = ACTIONS.get((part.kind, part.size), (part.name, "raw"))
        if name in found:  # of a second arm
            name = part.name
        found[name] = _dimensions(name, part, form)
    return found


def observation_spec(spec: RobotSpec, keys: ObservationMap) -> dict[str, dict[str, Any]]:
    """Images by the last part of their keys, the state, and the instruction."""
    found: dict[str, dict[str, Any]] = {}
    for camera in spec.color_cameras:
        name = keys.keys[IMAGES + camera.name][0].rpartition("/")[2]
        size = "any size" if keys.fit else f"{camera.height}×{camera.width}"
        found[name] = {"name": "image", "dims": 0, "format": "rgb_hwc_uint8", "description": f"{camera.name}, {size}"}
    if spec.state:
        found[STATE] = {"name": STATE, "dims": spec.state_size, "format": _state_format(spec), "description": _order(spec)}
    found["language"] = {"name": "language", "dims": 0, "format": "language", "description": " or ".join(keys.keys[INSTRUCTION])}
    return found


def _state_format(spec: RobotSpec) -> str:
    kinds = [(part.kind, part.size) for part in spec.state]
    if kinds == POSE_GRIPPER:
        return "eef_pos3_quat4_gripper1"
    return "joint_positions" if all(kind == "joint_position" for kind, _ in kinds) else "raw"


def _order(spec: RobotSpec) -> str:
    return "; ".join(f"{part.name} ({', '.join(part.axes)}) in {part.unit}, frame {part.frame}" for part in spec.state)


def _dimensions(name: str, part: Component, form: str) -> dict[str, Any]:
    about = "0 closed, 1 open" if part.kind == "gripper" else f"{', '.join(part.axes)} in {part.unit}, frame {part.frame}"
    return {
        "name": name, "dims": part.size, "format": form, "range": [min(part.low), max(part.high)],
        "description": f"{part.name}: {about}",
    }  # fmt: skip
