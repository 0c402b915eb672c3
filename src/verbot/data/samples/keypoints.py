"""Where the hand acts, read off a finished episode: what the keypoint loss is taught with. Needs no simulator state.

Two points in the robot's base frame belong to every frame of an episode:

- the *target*, what is (to be) handled: where the tool is when the gripper next closes; while it is closed, the tool itself;
  after the last release, where that was. Where the recorder noted the frame at which something was first engaged
  (``extras["first_contact_frame"]``), the target until then is where the tool was at that frame: a hand that pushes closes some
  way behind the object, and a place beside the object is harder to find than the object.
- the *receptacle*, where it goes: where the tool is when the gripper next opens; without such a moment the last release, if the
  gripper is open after one, else where the tool is at the end.

A point is projected into each view with the episode's calibration: a camera in the frame ``"base"`` stays, one in the frame
``"tool"`` moves with the end effector's pose in the state. What cannot be known (no pose in the state, no calibration) or seen
is masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.spec import Component, FloatArray, RobotSpec

Array = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]
NEAREST_M = 1e-3  # what lies nearer to the camera's plane, or behind it, is not in the picture


def tool_poses(states: FloatArray, spec: RobotSpec) -> tuple[Array, Array]:
    """Positions (t, 3) and rotations (t, 3, 3) of the tool in the base frame; NaN where the state does not hold them."""
    positions, rotations = np.full((len(states), 3), np.nan), np.full((len(states), 3, 3), np.nan)
    for component, where in zip(spec.state, spec.state_slices().values(), strict=True):
        values = states[:, where].astype(np.float64)
        if component.kind == "position" and component.size == 3 and np.isnan(positions).all():
            positions = values
        if component.kind == "quaternion" and np.isnan(rotations).all():
            rotations = rotation_matrices(values)
    return positions, rotations


def rotation_matrices(quaternions: Array) -> Array:
    """(t, 3, 3) of quaternions (t, 4), w first; they need not have length one. NaN for one of length zero."""
    with np.errstate(invalid="ignore"):
        w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def gripper_open(actions: FloatArray, spec: RobotSpec) -> BoolArray | None:
    """Which frames (t,) command an open gripper: above the middle of the component's range. None for a robot without one."""
    for component, where in zip(spec.action, spec.action_slices().values(), strict=True):
        if component.kind == "gripper":
            return np.asarray(actions[:, where.start] > _middle(component))
    return None


def handled_points(states: FloatArray, actions: FloatArray, spec: RobotSpec, first_contact_frame: int | None = None) -> Array:
    """Target and receptacle of every frame in the base frame: (t, 2, 3), NaN where unknown."""
    positions, _ = tool_poses(states, spec)
    is_open = gripper_open(actions, spec)
    frames = np.arange(len(states))
    last = len(states) - 1
    if is_open is None:
        is_open = np.ones(len(states), bool)
    before = np.concatenate([is_open[:1], is_open[:-1]])
    closings, openings = np.flatnonzero(before & ~is_open), np.flatnonzero(~before & is_open)
    next_closing, next_opening = _next(frames, closings), _next(frames, openings)
    latest_opening = _latest(frames, openings)
    released = is_open & (latest_opening >= 0) & (next_closing < 0)
    target = np.where(is_open, next_closing, frames)
    target = np.where(released, latest_opening, target)
    if first_contact_frame is not None:
        target = np.where(frames <= first_contact_frame, min(first_contact_frame, last), target if len(closings) else frames)
    elif not len(closings):
        target = np.full_like(frames, -1)
    receptacle = np.where(next_opening >= 0, next_opening, np.where(released, latest_opening, last))
    points = np.stack([positions[target], positions[receptacle]], axis=1)
    points[target < 0, 0] = np.nan
    return points


def projections(states: FloatArray, spec: RobotSpec, calibration: Mapping[str, Any], cameras: Sequence[str]) -> FloatArray:
    """Matrices (t, v, 3, 4) from homogeneous base coordinates to the picture, x right and y down in [-1, 1]; NaN where unknown.

    Args:
        calibration: as an episode's; a camera it lacks is looked up in the spec.
    """
    positions, rotations = tool_poses(states, spec)
    tool = np.tile(np.eye(4), (len(states), 1, 1))
    tool[:, :3, :3], tool[:, :3, 3] = rotations, positions
    out = np.full((len(states), len(cameras), 3, 4), np.nan, np.float32)
    known = {camera.name: camera for camera in spec.cameras}
    for view, name in enumerate(cameras):
        camera = known.get(name)
        if camera is None:
            continue
        ours = calibration.get(name) or {"intrinsics": camera.intrinsics, "extrinsics": camera.extrinsics, "frame": camera.frame}
        if ours.get("intrinsics") is None or ours.get("extrinsics") is None:
            continue
        pixels = np.reshape(ours["intrinsics"], (3, 3))
        scale = np.array([[2 / camera.width, 0, -1], [0, 2 / camera.height, -1], [0, 0, 1]])
        pose = np.reshape(ours["extrinsics"], (4, 4))
        if ours.get("frame", camera.frame) == "tool":
            finite = np.isfinite(tool).all(axis=(1, 2))
            inverse = np.full_like(tool, np.nan)
            inverse[finite] = np.linalg.inv(tool[finite] @ pose)
            out[:, view] = scale @ pixels @ inverse[:, :3]
        else:
            out[:, view] = scale @ pixels @ np.linalg.inv(pose)[:3]
    return out


def project(matrices: FloatArray, points: Array) -> tuple[FloatArray, BoolArray]:
    """Points (n, p, 3) through `projections` (n, v, 3, 4): places (n, v, p, 2) and which of them are in the picture (n, v, p).

    A place that is unknown or out of the picture is (0, 0) and masked.
    """
    seen = np.einsum("nvij,npj->nvpi", matrices[..., :3], points.astype(np.float32)) + matrices[:, :, None, :, 3]
    depth = seen[..., 2:]
    with np.errstate(invalid="ignore", divide="ignore"):
        places = seen[..., :2] / depth
        mask = (depth[..., 0] > NEAREST_M) & (np.abs(places) <= 1).all(axis=-1)
    return np.where(mask[..., None], places, 0).astype(np.float32), mask


def _middle(component: Component) -> float:
    return (component.low[0] + component.high[0]) / 2


def _next(frames: npt.NDArray[np.int64], events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first event at or after each frame, −1 where there is none."""
    return np.append(events, -1)[np.searchsorted(events, frames)]


def _latest(frames: npt.NDArray[np.int64], events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The last event at or before each frame, −1 where there is none."""
    return np.concatenate([[-1], events])[np.searchsorted(events, frames, side="right")]
