"""Domain randomization: named axes, each with strengths 1 to 3; strength 0 is nominal.

Every axis draws from its own stream, so that an episode with one axis changed is the same episode otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import mujoco
import numpy as np

from verbot.envs.tabletop.simulation import arm, scene
from verbot.envs.tabletop.simulation.layout import SceneConstraints
from verbot.errors import ConfigError, UnknownNameError
from verbot.spec import Float64Array, FloatArray, UInt8Array

AXES: dict[str, str] = {
    "positions": "objects start in a wider area, cubes turned further",
    "lighting": "direction, strength and color of the light",
    "appearance": "colors and textures of table and floor, shades of objects",
    "camera": "poses of the cameras; the calibration tells the true ones",
    "distractors": "clutter that no instruction names",
    "robot_start": "where the tool starts",
    "sensor_noise": "noise and gain of images, noise of the state",
    "dynamics": "mass and friction of objects, gains of the arm",
    "camera_dropout": "one camera gives no picture: a third of the time, two thirds, always",
}
STRONGEST = 3
OF_A_PLACE = ("lighting", "appearance", "camera", "dynamics")  # what stays from one episode to the next where nobody moves
EVERY = "all"  # stands for every axis, where strengths are drawn
_LOST_STEPS = (5, 21)
RandomStream = Callable[[str], np.random.Generator]


def checked(axes: Mapping[str, int]) -> dict[str, int]:
    """All axes with their strengths. Raises on an unknown axis or a strength that is not 0, 1, 2 or 3."""
    for name, strength in axes.items():
        if name not in AXES:
            raise UnknownNameError("randomization axis", name, AXES)
        if strength not in range(STRONGEST + 1):
            raise ConfigError(f"axis {name!r} has strength {strength!r}; expected 0, 1, 2 or 3")
    return {name: int(axes.get(name, 0)) for name in AXES}


def draw(greatest: Mapping[str, int], stream: RandomStream, fixed: Mapping[str, int] | None = None) -> dict[str, int]:
    """The strengths of one demonstration: of each axis drawn evenly from 0 to its `greatest`, from a stream of its own.

    Args:
        greatest: ``"all"`` stands for every axis not named beside it, but for ``camera_dropout``, which no recording can hold.
        fixed: axes that have a strength already.

    Raises `ConfigError` for an axis that is fixed too, or that no recording can hold, and as `checked` does.

    Example:
        >>> from verbot.envs.seeding import generator
        >>> draw({"all": 2, "camera": 0}, lambda name: generator("strength", name, 7)).get("camera")
    """
    if both := sorted(set(fixed or ()) & set(greatest)):
        raise ConfigError(f"axis {both[0]!r} has a fixed strength in axes and a drawn one in randomize; give it one of them")
    if greatest.get("camera_dropout"):
        raise ConfigError(
            "randomize cannot draw camera_dropout: a recording holds a picture of each camera in each step; training leaves "
            "cameras out by itself (augment.camera_dropout)"
        )
    rest = greatest.get(EVERY, 0)
    limits = {name: rest for name in AXES if name != "camera_dropout" and name not in (fixed or ())}
    limits = checked({**limits, **{name: limit for name, limit in greatest.items() if name != EVERY}})
    return {name: int(stream(name).integers(limit + 1)) for name, limit in limits.items() if limit}


def widen(constraints: SceneConstraints, axes: Mapping[str, int]) -> SceneConstraints:
    """``positions``: what it asks of the layout."""
    return dataclasses.replace(
        constraints,
        widen_m=constraints.widen_m + 0.008 * axes["positions"],
        yaw_rad=min(np.pi / 4, constraints.yaw_rad + 0.15 * axes["positions"]),
    )


def clutter(axes: Mapping[str, int]) -> int:
    """``distractors``: how many pieces of clutter."""
    return min(2 * axes["distractors"], scene.CLUTTER_SLOTS)


def start_pose(axes: Mapping[str, int], stream: RandomStream) -> tuple[Float64Array, float]:
    """``robot_start``: the tool's position (3,) and yaw. A little of it is always there."""
    rng, strength = stream("robot_start"), axes["robot_start"]
    spread = np.array((0.015, 0.020, 0.015)) * (1 + strength)
    yaw = float(rng.uniform(-0.15, 0.15)) * strength
    return np.array(arm.HOME_TOOL_M) + rng.uniform(-spread, spread), yaw


def rewrite(model: mujoco.MjModel, axes: Mapping[str, int], stream: RandomStream) -> None:
    """``lighting``, ``appearance``, ``camera`` and ``dynamics``: change the model of this episode."""
    for name, change in (("lighting", _light), ("appearance", _paint), ("camera", _move_cameras), ("dynamics", _weigh)):
        if axes[name]:
            change(model, axes[name], stream(name))


def lost(axes: Mapping[str, int], cameras: Sequence[str], steps: int, stream: RandomStream) -> list[str | None]:
    """``camera_dropout``: which camera gives no picture at each of `steps` observations; None if all do.

    One camera in an episode: in spans of half a second to two at strengths 1 and 2, throughout at 3.

    Raises:
        ConfigError: if no other camera would be left.
    """
    rng, strength = stream("camera_dropout"), axes["camera_dropout"]
    if strength == 0:
        return [None] * steps
    if len(cameras) < 2:
        raise ConfigError(f"camera_dropout needs a second camera; this env has {', '.join(cameras)}")
    camera = str(rng.choice(sorted(cameras)))
    if strength == STRONGEST:
        return [camera] * steps
    out: list[str | None] = []
    before = int(rng.integers(3 * _LOST_STEPS[1]))  # an episode may begin anywhere in a span
    while len(out) < before + steps:
        span = int(rng.integers(*_LOST_STEPS))
        out += [camera] * span + [None] * (2 * span if strength == 1 else span // 2)
    return out[before : before + steps]


def blur_images(images: dict[str, UInt8Array], strength: int, rng: np.random.Generator) -> dict[str, UInt8Array]:
    """``sensor_noise`` on images: a gain per frame and camera, and noise per pixel."""
    out = {}
    for name, image in images.items():
        gain = 1.0 + rng.normal(0.0, 0.03 * strength)
        noisy = image * gain + rng.normal(0.0, 4.0 * strength, image.shape)
        out[name] = np.clip(noisy, 0.0, 255.0).astype(np.uint8)
    return out


def blur_state(state: FloatArray, strength: int, rng: np.random.Generator) -> FloatArray:
    """``sensor_noise`` on the state: 1 mm, half a degree and 1 % of the opening for each strength; the quaternion stays unit."""
    scale = np.array([0.001] * 3 + [0.005] * 4 + [0.01])
    noisy = state + rng.normal(0.0, 1.0, state.shape) * scale * strength
    noisy[3:7] /= np.linalg.norm(noisy[3:7])
    noisy[7] = np.clip(noisy[7], 0.0, 1.0)
    return noisy.astype(np.float32)


def _light(model: mujoco.MjModel, strength: int, rng: np.random.Generator) -> None:
    for i in range(model.nlight):
        direction = model.light_dir[i] + rng.uniform(-0.25, 0.25, 3) * strength
        model.light_dir[i] = direction / np.linalg.norm(direction)
        brightness = 1.0 + rng.uniform(-0.17, 0.17) * strength
        model.light_diffuse[i] *= brightness * (1.0 + rng.uniform(-0.05, 0.05, 3) * strength)
        model.light_ambient[i] *= 1.0 + rng.uniform(-0.1, 0.1) * strength


def _paint(model: mujoco.MjModel, strength: int, rng: np.random.Generator) -> None:
    for surface, count in (("table", scene.TABLE_MATERIALS), ("floor", scene.FLOOR_MATERIALS)):
        # Tints of the plain surface, then some of the patterns, then all.
        choice = int(rng.integers((1, count // 2, count)[strength - 1]))
        material = model.material(f"{surface}{choice}").id
        model.geom_matid[model.geom(surface).id] = material
        tint = model.mat_rgba[material, :3] + rng.uniform(-0.09, 0.09, 3) * strength
        model.mat_rgba[material, :3] = np.clip(tint, 0.1, 0.95)
    shades = model.geom_rgba[:, :3] + rng.uniform(-0.025, 0.025, (model.ngeom, 3)) * strength
    model.geom_rgba[:, :3] = np.clip(shades, 0.0, 1.0)


def _move_cameras(model: mujoco.MjModel, strength: int, rng: np.random.Generator) -> None:
    cameras = {model.camera(i).name for i in range(model.ncam)}
    # In this order: what a further camera draws changes nothing of the others.
    for name, shift_m, turn_rad in (("front", 0.012, 0.010), ("wrist", 0.002, 0.015), ("side", 0.012, 0.010)):
        if name not in cameras:
            continue
        camera = model.camera(name).id
        model.cam_pos[camera] += rng.uniform(-shift_m, shift_m, 3) * strength
        turn, turned = np.empty(4), np.empty(4)
        vector = rng.uniform(-turn_rad, turn_rad, 3) * strength
        mujoco.mju_axisAngle2Quat(turn, vector / np.linalg.norm(vector), float(np.linalg.norm(vector)))
        mujoco.mju_mulQuat(turned, model.cam_quat[camera], turn)
        model.cam_quat[camera] = turned


def _weigh(model: mujoco.MjModel, strength: int, rng: np.random.Generator) -> None:
    for i in range(model.nbody):
        name = model.body(i).name
        if name.startswith("movable"):
            factor = 1.0 + rng.uniform(-0.2, 0.2) * strength
            model.body_mass[i] *= factor
            model.body_inertia[i] *= factor
            model.geom_friction[model.body_geomadr[i]] *= 1.0 + rng.uniform(-0.2, 0.2) * strength
    gain = 1.0 + rng.uniform(-0.12, 0.12, 7) * strength
    model.actuator_gainprm[:7, 0] *= gain
    model.actuator_biasprm[:7, 1:3] *= gain[:, None]
