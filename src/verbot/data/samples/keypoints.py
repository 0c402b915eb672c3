"""Keypoints by hindsight: where the end effectors of a finished episode handle objects. Needs no simulator state.

Two points in the robot's base frame belong to every frame of an episode:

- the *target*, the place of what is (to be) handled: where the tool is when the gripper next closes; while it is closed, the tool
  itself; after the last release, where that was. Where the recorder noted the frame of first contact
  (``extras["first_contact_frame"]``), the target until then is where the tool was at that frame: a gripper that pushes closes
  some way behind the object, and a place beside the object is harder to find than the object.
- the *receptacle*, where it goes: where the tool is when the gripper next opens; without such a moment the last release, if the
  gripper is open after one, else where the tool is at the end.

`handled_by` finds them for one end effector. `handled_points` takes, of a robot with several, the one that acts at each frame.

A point is projected into each view with the episode's calibration: a camera in the frame ``"base"`` stays, one in the frame of an
end effector moves with its pose in the state. What is unknown (no pose in the state, no calibration, another frame) or out of
the image is masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verbot.spec import BASE, BoolArray, Component, EndEffector, FloatArray, FloatingArray, Int64Array, RobotSpec

NEAREST_M = 1e-3  # what lies nearer to the camera's plane, or behind it, is not in the image


def tool_poses(
    states: FloatArray, spec: RobotSpec, end_effector: EndEffector | None = None
) -> tuple[FloatingArray, FloatingArray]:
    """Positions (t, 3) and rotations (t, 3, 3) of an end effector in the base frame; NaN where the state does not hold them.

    Args:
        end_effector: by default the first.
    """
    positions, rotations = np.full((len(states), 3), np.nan), np.full((len(states), 3, 3), np.nan)
    for tool in _one(spec, end_effector):
        position, quaternion = spec.state_of(tool, "position"), spec.state_of(tool, "quaternion")
        if position and _in_base(position[0], spec):
            positions = states[:, position[1]].astype(np.float64)
        if quaternion and _in_base(quaternion[0], spec):
            rotations = rotation_matrices(states[:, quaternion[1]].astype(np.float64))
    return positions, rotations


def rotation_matrices(quaternions: FloatingArray) -> FloatingArray:
    """(t, 3, 3) of quaternions (t, 4), w first; they need not have length one. NaN for one of length zero."""
    with np.errstate(invalid="ignore"):
        w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def gripper_open(actions: FloatArray, spec: RobotSpec, end_effector: EndEffector | None = None) -> BoolArray | None:
    """Which frames (t,) command an open gripper: above the middle of the component's range. None if there is no gripper.

    Args:
        end_effector: by default the first.
    """
    for tool in _one(spec, end_effector):
        if gripper := spec.action_of(tool, "gripper"):
            component, where = gripper
            return np.asarray(actions[:, where.start] > _middle(component))
    return None


def handled_points(
    states: FloatArray, actions: FloatArray, spec: RobotSpec, first_contact_frame: int | None = None
) -> FloatingArray:
    """Target and receptacle of every frame in the base frame: (t, 2, 3), NaN where unknown.

    Of several end effectors the one that acts counts: which holds something, else which grips next, else which gripped last.
    """
    if len(spec.end_effectors) < 2:
        return handled_by(None, states, actions, spec, first_contact_frame)
    points = np.stack([handled_by(tool, states, actions, spec, first_contact_frame) for tool in spec.end_effectors])
    return np.asarray(points[acting(actions, spec), np.arange(len(states))])


def handled_by(
    end_effector: EndEffector | None,
    states: FloatArray,
    actions: FloatArray,
    spec: RobotSpec,
    first_contact_frame: int | None = None,
) -> FloatingArray:
    """As `handled_points`, of one end effector; of the first if it is None."""
    positions, _ = tool_poses(states, spec, end_effector)
    is_open = gripper_open(actions, spec, end_effector)
    frames = np.arange(len(states))
    last = len(states) - 1
    if is_open is None:
        is_open = np.ones(len(states), bool)
    closings, openings = _changes(is_open)
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


def acting(actions: FloatArray, spec: RobotSpec) -> Int64Array:
    """Which of the spec's end effectors acts at each frame (t,): see `handled_points`; the first in doubt."""
    frames, count = np.arange(len(actions)), len(actions)
    waits = []  # how far each end effector is from acting: below 0 while it holds, up to `count` before, beyond it after
    for tool in spec.end_effectors:
        is_open = gripper_open(actions, spec, tool)
        if is_open is None:
            waits.append(np.full(count, 3 * count))
            continue
        closings, openings = _changes(is_open)
        ahead, behind = _next(frames, closings), _latest(frames, openings)
        after = np.where(behind >= 0, count + frames - behind, 2 * count)
        waits.append(np.where(is_open, np.where(ahead >= 0, ahead - frames, after), -1))
    return np.argmin(np.stack(waits), axis=0)


def projections(states: FloatArray, spec: RobotSpec, calibration: Mapping[str, Any], cameras: Sequence[str]) -> FloatArray:
    """Matrices (t, v, 3, 4) from homogeneous base coordinates to the image, x right and y down in [-1, 1]; NaN where unknown.

    Args:
        calibration: as an episode's; a camera it lacks is looked up in the spec.
    """
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
        frame = ours.get("frame", camera.frame)
        if frame == BASE:
            out[:, view] = scale @ pixels @ np.linalg.inv(pose)[:3]
        elif (carrier := spec.end_effector(frame)) is not None:
            tool = _frame_poses(states, spec, carrier)
            finite = np.isfinite(tool).all(axis=(1, 2))
            inverse = np.full_like(tool, np.nan)
            inverse[finite] = np.linalg.inv(tool[finite] @ pose)
            out[:, view] = scale @ pixels @ inverse[:, :3]
    return out


def _frame_poses(states: FloatArray, spec: RobotSpec, end_effector: EndEffector) -> FloatingArray:
    """The frame of an end effector in the base frame, (t, 4, 4)."""
    positions, rotations = tool_poses(states, spec, end_effector)
    poses = np.tile(np.eye(4), (len(states), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations, positions
    return poses


def project(matrices: FloatArray, points: FloatingArray) -> tuple[FloatArray, BoolArray]:
    """Points (n, p, 3) through `projections` (n, v, 3, 4): places (n, v, p, 2) and which of them are in the image (n, v, p).

    A place that is unknown or out of the image is (0, 0) and masked.
    """
    seen = np.einsum("nvij,npj->nvpi", matrices[..., :3], points.astype(np.float32)) + matrices[:, :, None, :, 3]
    depth = seen[..., 2:]
    with np.errstate(invalid="ignore", divide="ignore"):
        places = seen[..., :2] / depth
        mask = (depth[..., 0] > NEAREST_M) & (np.abs(places) <= 1).all(axis=-1)
    return np.where(mask[..., None], places, 0).astype(np.float32), mask


def _one(spec: RobotSpec, end_effector: EndEffector | None) -> tuple[EndEffector, ...]:
    """The end effector that was asked for, or the first; none of a robot without."""
    return spec.end_effectors[:1] if end_effector is None else (end_effector,)


def _in_base(component: Component, spec: RobotSpec) -> bool:
    """Whether a pose is in the base frame. A spec without groups may call that frame by any name."""
    return not spec.groups or component.frame == BASE


def _changes(is_open: BoolArray) -> tuple[Int64Array, Int64Array]:
    """The frames at which a gripper closes, and those at which it opens."""
    before = np.concatenate([is_open[:1], is_open[:-1]])
    return np.flatnonzero(before & ~is_open), np.flatnonzero(~before & is_open)


def _middle(component: Component) -> float:
    return (component.low[0] + component.high[0]) / 2


def _next(frames: Int64Array, events: Int64Array) -> Int64Array:
    """The first event at or after each frame, −1 where there is none."""
    return np.append(events, -1)[np.searchsorted(events, frames)]


def _latest(frames: Int64Array, events: Int64Array) -> Int64Array:
    """The last event at or before each frame, −1 where there is none."""
    return np.concatenate([[-1], events])[np.searchsorted(events, frames, side="right")]
