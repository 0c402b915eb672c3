"""The simulated state: writes a layout into the model's slots, steps it, and answers questions about it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import mujoco
import numpy as np

from verbot.envs.tabletop.language.vocabulary import COLORS
from verbot.envs.tabletop.simulation import arm, scene
from verbot.envs.tabletop.simulation.layout import REACH_M, SIZES, Layout, SceneObject
from verbot.errors import SimulationError
from verbot.spec import Float64Array

SUBSTEPS = 20  # at 5 ms: a control step of 0.1 s
RAMP = 0.8  # joint targets are reached after this part of a control step
FEED_FORWARD = 0.2
POSITION_UNIT_M, ROTATION_UNIT_RAD = 0.05, 0.35
LEASH_M, LEASH_RAD = 0.08, 0.5  # how far the target may run ahead of the tool
TILT_RAD = 0.35  # how far the target may lean: beyond, the wrist nears its singularity and flips
TOOL_LOW_M, TOOL_HIGH_M = np.array([0.31, -0.42, 0.012]), np.array([0.76, 0.42, 0.42])
TOUCHED_M = 0.01
OVER_M, LIFTED_M = 0.03, 0.05  # so near above a receptacle's middle an object counts as held over it
SLEEVE = (0.45, 0.45, 0.47)  # the one color of covered objects
DROP_M = 0.045  # above a receptacle, where `Physics.place` lets go of an object
HAND_M = 0.12  # of the gripper, within which a receptacle is not moved
_PARKED_M = -2.0

_BOX, _CYLINDER = int(mujoco.mjtGeom.mjGEOM_BOX), int(mujoco.mjtGeom.mjGEOM_CYLINDER)
_CAPSULE, _ELLIPSOID = int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_ELLIPSOID)
_GEOM_TYPES = {"cube": _BOX, "cylinder": _CYLINDER, "ball": int(mujoco.mjtGeom.mjGEOM_SPHERE)}
_CLUTTER_SHAPES = (
    (_CAPSULE, (0.010, 0.008, 0.0), 0.018),
    (_ELLIPSOID, (0.020, 0.014, 0.010), 0.010),
    (_CYLINDER, (0.018, 0.006, 0.0), 0.006),
)

# Without a handler MuJoCo writes MUJOCO_LOG.TXT into the working directory; `fault` reads the counters instead.
mujoco.set_mju_user_warning(lambda message: None)


class Physics:
    """One simulated tabletop. Lengths in m, angles in rad, everything in the base frame.

    Args:
        config: the slots and fixtures that are compiled in.
    """

    def __init__(self, config: scene.SceneConfig):
        self.config = config
        self._pristine = scene.compile_model(config)
        self.model = copy.copy(self._pristine)
        self.data = mujoco.MjData(self.model)
        self._tracker = arm.Tracker(scene.compile_model(scene.SceneConfig(movables=0, receptacles=0, mount=config.mount)))
        self._site = self.model.site("tool").id
        self._pads = (self.model.geom("left_pad").id, self.model.geom("right_pad").id)
        self._finger = self.model.joint("left_finger").qposadr[0]
        hand = [self.model.body(name).id for name in ("hand", "left_finger", "right_finger")]
        self._gripper_geoms = frozenset(np.flatnonzero(np.isin(self.model.geom_bodyid, hand)).tolist())
        self.layout = Layout((), ())
        self.starts: dict[str, Float64Array] = {}
        self.highest: dict[str, float] = {}
        self.farthest: dict[str, float] = {}
        self.visited: dict[str, set[str]] = {}
        self.first_contact: str | None = None
        self._joint_target = self._target_position = np.zeros(0)
        self._target_rotation = np.eye(3)
        self._bodies: dict[str, int] = {}
        self._geoms: dict[str, frozenset[int]] = {}

    def reset(
        self,
        layout: Layout,
        tool_position: Float64Array,
        tool_yaw: float,
        rewrite: Callable[[mujoco.MjModel], None] = lambda _: None,
    ) -> None:
        """Rewrite the slots for `layout` and put the open gripper at a pose.

        Every other property is the model's nominal one, unless `rewrite` changes it.
        """
        self._restore()
        self.layout, self._bodies, self._geoms = layout, {}, {}
        mujoco.mj_resetData(self.model, self.data)
        for i in range(self.config.movables):
            self._write_movable(i, layout.movables[i] if i < len(layout.movables) else None)
        for i in range(self.config.receptacles):
            self._write_receptacle(i, layout.receptacles[i] if i < len(layout.receptacles) else None)
        self._write_clutter(layout)
        self._write_fixtures(layout)
        if layout.screen is not None:
            self.model.body_pos[self.model.body("screen").id, 1] = layout.screen.y
        rewrite(self.model)
        poses = self.data.qpos.copy()
        mujoco.mj_setConst(self.model, self.data)  # derived constants; it overwrites the poses
        self.data.qpos[:] = poses
        self._write_arm(tool_position, tool_yaw)
        self.refresh()
        self.starts = {obj.id: self.position(obj.id).copy() for obj in layout.movables}
        self.highest = {name: float(start[2]) for name, start in self.starts.items()}
        self.farthest = dict.fromkeys(self.starts, 0.0)
        self.visited = {name: set() for name in self.starts}
        self.first_contact = None

    def cover(self) -> None:
        """Put a gray sleeve on every movable: a skin, so thin that nothing but the color changes, and the same on all."""
        for obj in self.layout.movables:
            self.model.geom_rgba[list(self._geoms[obj.id]), :3] = SLEEVE

    def place(self, name: str, x: float, y: float) -> None:
        """Put a movable down at a place of the table, at rest; above a receptacle it falls into it.

        What the arm does to it counts from there. A receptacle, which the arm cannot move, takes along what is in it.

        Raises `SimulationError` if it is none of the layout's movables and receptacles, outside `REACH_M`, or something is in the
        way.
        """
        found = {obj.id: (i, obj) for i, obj in enumerate(self.layout.movables)}
        containers = {obj.id: (i, obj) for i, obj in enumerate(self.layout.receptacles)}
        if name not in found and name not in containers:
            raise SimulationError(f"{name!r} cannot be moved; these can: {', '.join((*found, *containers)) or 'none'}")
        if any(not low <= value <= high for value, (low, high) in zip((x, y), REACH_M, strict=True)):
            raise SimulationError(f"{name!r} cannot be put at ({x:.2f}, {y:.2f}) m: that is outside the reach of the arm")
        if name in containers:
            self._place_receptacle(*containers[name], x, y)
            return
        number, moved = found[name]
        for obj in self.layout.movables:
            there = self.position(obj.id)
            if obj.id != name and np.hypot(there[0] - x, there[1] - y) < obj.radius_m + moved.radius_m:
                raise SimulationError(f"{name!r} cannot be put at ({x:.2f}, {y:.2f}) m: the {obj.id} is there")
        is_over = any(np.hypot(obj.x - x, obj.y - y) < obj.radius_m + moved.radius_m for obj in self.layout.receptacles)
        height = moved.rest_height_m + (DROP_M if is_over else 0.0)
        self._put_down(number, np.array((x, y, height, 1.0, 0.0, 0.0, 0.0)), moved.rest_height_m)
        self.refresh()

    def _put_down(self, number: int, pose: Float64Array, height: float) -> None:
        """Movable `number` at rest at a pose (7,); what the arm does to it counts from there, at a height."""
        name, joint = self.layout.movables[number].id, self.model.joint(f"movable{number}")
        self.data.qpos[joint.qposadr[0] : joint.qposadr[0] + 7] = pose
        self.data.qvel[joint.dofadr[0] : joint.dofadr[0] + 6] = 0.0
        self.starts[name] = np.array((*pose[:2], height))
        self.highest[name], self.farthest[name] = height, 0.0

    def _place_receptacle(self, number: int, moved: SceneObject, x: float, y: float) -> None:
        shift, others = np.array((x - moved.x, y - moved.y)), tuple(obj for obj in self.layout.receptacles if obj != moved)
        away = {obj.id: self.position(obj.id) - (moved.x, moved.y, 0.0) for obj in self.layout.movables}
        inside = {name for name, at in away.items() if np.hypot(*at[:2]) < moved.radius_m and at[2] < HAND_M}
        circles = [(*self.position(obj.id)[:2], obj.radius_m) for obj in self.layout.movables if obj.id not in inside]
        circles += dataclasses.replace(self.layout, movables=(), receptacles=others).obstacles()
        hand = [(*(self.tool_position[:2] + back), HAND_M / 2) for back in (0.0, shift) if self.tool_position[2] < HAND_M]
        for problem, taken in (("something else is there", circles), ("the gripper is in the way", hand)):
            if any(np.hypot(a - x, b - y) < radius + moved.radius_m for a, b, radius in taken):
                raise SimulationError(f"{moved.id!r} cannot be put at ({x:.2f}, {y:.2f}) m: {problem}")
        for i, obj in enumerate(self.layout.movables):
            if obj.id in inside:
                at = self.model.joint(f"movable{i}").qposadr[0]
                pose = self.data.qpos[at : at + 7] + np.pad(shift, (0, 5))
                self._put_down(i, pose, float(pose[2]))
        self.model.body_pos[self._bodies[moved.id]] = (x, y, 0.0)
        placed = dataclasses.replace(moved, x=x, y=y)
        receptacles = tuple(placed if i == number else obj for i, obj in enumerate(self.layout.receptacles))
        self.layout = dataclasses.replace(self.layout, receptacles=receptacles)
        self.refresh()

    def step(self, action: Float64Array) -> None:
        """Advance one control step. `action` (7,): position delta, rotation delta, gripper (≥ 0.5 opens).

        Raises `SimulationError` when the simulator reports a warning: it resets a bad state silently.
        """
        self._move_target(np.clip(action, *_ACTION_RANGE))
        start = self._joint_target
        goal = self._tracker.solve(start, self._target_position, self._target_rotation)
        ramp = round(SUBSTEPS * RAMP)
        lead = FEED_FORWARD * arm.DAMPING_S / (ramp * scene.TIMESTEP_S)
        control, model, data = self.data.ctrl, self.model, self.data
        control[7:9] = arm.FINGER_TRAVEL_M if action[6] >= 0.5 else 0.0
        for i in range(1, ramp + 1):
            u = i / ramp
            # A smooth ramp, and a part of its velocity fed forward: the dampers' lag shrinks; all of it would shake grasps loose.
            control[:7] = start + (goal - start) * (u * u * (3.0 - 2.0 * u) + lead * 6.0 * u * (1.0 - u))
            mujoco.mj_step(model, data)
        control[:7] = goal
        mujoco.mj_step(model, data, SUBSTEPS - ramp)
        self._joint_target = goal
        fault = self.fault()
        if fault:
            raise SimulationError(fault)
        self.refresh()
        self._watch()

    def refresh(self) -> None:
        """Poses after the last integration; `mj_step` leaves them one substep behind."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def fault(self) -> str | None:
        """What the simulator warned of, in words."""
        kinds = np.flatnonzero(self.data.warning.number)
        if not len(kinds):
            return None
        kind = int(kinds[0])
        return f"the simulator warned: {mujoco.mju_warningText(kind, int(self.data.warning.lastinfo[kind]))}"

    # What is where.

    @property
    def tool_position(self) -> Float64Array:
        return self.data.site_xpos[self._site]

    @property
    def tool_rotation(self) -> Float64Array:
        return self.data.site_xmat[self._site].reshape(3, 3)

    @property
    def tool_yaw(self) -> float:
        rotation = self.tool_rotation
        return float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    @property
    def opening(self) -> float:
        """Of the gripper: 0 closed, 1 open."""
        return float(np.clip(self.data.qpos[self._finger : self._finger + 2].mean() / arm.FINGER_TRAVEL_M, 0.0, 1.0))

    def position(self, name: str) -> Float64Array:
        """The center (3,) of a movable, or of a receptacle's underside."""
        return self.data.xpos[self._bodies[name]]

    def rotation(self, name: str) -> Float64Array:
        return self.data.xmat[self._bodies[name]].reshape(3, 3)

    def fixture_position(self, name: str) -> float:
        """How far a fixture's joint has moved from its closed or unpressed position, m."""
        return float(self.data.qpos[self.model.joint(name).qposadr[0]])

    @property
    def geoms(self) -> dict[str, list[int]]:
        """The geoms of every object that can be seen, by name; ``"robot"``, ``"table"`` and ``"screen"`` besides the layout's."""
        found = {obj.id: sorted(self._geoms[obj.id]) for obj in self.layout}
        found |= {name: sorted(self._geoms[name]) for name in self.layout.fixtures}
        bodies = self.model.body_rootid[self.model.geom_bodyid]
        found["robot"] = np.flatnonzero(bodies == self.model.body("base").id).tolist()
        found["table"] = [self.model.geom("table").id]
        if self.layout.screen is not None:
            found["screen"] = [self.model.geom("screen").id]
        return found

    # Who touches whom.

    def touches(self, name: str, other: str = "gripper") -> bool:
        """Whether a movable touches another object, ``"gripper"`` or ``"table"``."""
        a, b = self._geoms[name], self._geoms[other]
        return any((g in a and h in b) or (g in b and h in a) for g, h in self.data.contact.geom.tolist())

    def grasped(self, name: str) -> bool:
        """Whether both finger pads press on a movable."""
        own, touched = self._geoms[name], set()
        for g, h in self.data.contact.geom.tolist():
            if g in own and h in self._pads:
                touched.add(h)
            elif h in own and g in self._pads:
                touched.add(g)
        return len(touched) == 2

    # Writing.

    def _restore(self) -> None:
        for field in _REWRITTEN:
            getattr(self.model, field)[:] = getattr(self._pristine, field)

    def _write_movable(self, i: int, obj: SceneObject | None) -> None:
        model, data = self.model, self.data
        body, geom, joint = model.body(f"movable{i}").id, model.geom(f"movable{i}").id, model.joint(f"movable{i}")
        pose = data.qpos[joint.qposadr[0] : joint.qposadr[0] + 7]
        if obj is None:  # parked: it floats under the floor and touches nothing
            model.geom_contype[geom] = model.geom_conaffinity[geom] = 0
            model.geom_rgba[geom, 3], model.body_gravcomp[body] = 0.0, 1.0
            pose[:] = (0.0, i, _PARKED_M, 1.0, 0.0, 0.0, 0.0)
            return
        self._shape(geom, _GEOM_TYPES[obj.shape], SIZES[obj.shape])
        model.geom_rgba[geom, :3] = COLORS[obj.color]
        model.body_inertia[body] = _inertia(obj.shape, float(model.body_mass[body]))
        half = obj.yaw_rad / 2
        pose[:] = (obj.x, obj.y, obj.rest_height_m, np.cos(half), 0.0, 0.0, np.sin(half))
        self._bodies[obj.id], self._geoms[obj.id] = body, frozenset((geom,))

    def _write_receptacle(self, i: int, obj: SceneObject | None) -> None:
        model = self.model
        body = model.body(f"receptacle{i}").id
        geoms = np.flatnonzero(model.geom_bodyid == body)
        plate = geoms == model.geom(f"receptacle{i}_plate").id
        used = np.zeros(len(geoms), bool) if obj is None else plate if obj.shape == "plate" else ~plate
        model.geom_contype[geoms], model.geom_conaffinity[geoms] = used, used
        model.geom_rgba[geoms, 3] = used
        if obj is not None:
            model.geom_rgba[geoms, :3] = COLORS[obj.color]
            model.body_pos[body] = (obj.x, obj.y, 0.0)
            self._bodies[obj.id], self._geoms[obj.id] = body, frozenset(geoms[used].tolist())

    def _write_clutter(self, layout: Layout) -> None:
        model = self.model
        for i, obj in enumerate(layout.clutter):
            body, geom = model.body(f"clutter{i}").id, model.geom(f"clutter{i}").id
            kind, size, height = _CLUTTER_SHAPES[i % len(_CLUTTER_SHAPES)]
            self._shape(geom, kind, size)
            model.geom_rgba[geom, :3] = np.array((0.45, 0.42, 0.38)) + 0.1 * np.sin((i, 2 * i, 3 * i))
            model.body_pos[body] = (obj.x, obj.y, height)

    def _write_fixtures(self, layout: Layout) -> None:
        for name, fixture in layout.fixtures.items():
            body = self.model.body(name).id
            self.model.body_pos[body] = (fixture.x, fixture.y, 0.0)
            joint = self.model.joint(name)
            self.data.qpos[joint.qposadr[0]] = fixture.opening_01 * joint.range[1]
            moving = np.flatnonzero(self.model.body_rootid[self.model.geom_bodyid] == body)
            self._bodies[name], self._geoms[name] = body, frozenset(moving.tolist())
        self._geoms["gripper"] = self._gripper_geoms
        self._geoms["table"] = frozenset((self.model.geom("ground").id,))

    def _write_arm(self, position: Float64Array, yaw: float) -> None:
        self._target_position, self._target_rotation = position.copy(), arm.rotation_about_z(yaw)
        joints = self._tracker.reach(self._target_position, self._target_rotation)
        self._joint_target = joints
        self.data.qpos[:9] = (*joints, arm.FINGER_TRAVEL_M, arm.FINGER_TRAVEL_M)
        self.data.ctrl[:9] = self.data.qpos[:9]

    def _shape(self, geom: int, kind: int, size: tuple[float, ...]) -> None:
        """Change a primitive's type and size, and the bounds that collision detection takes from them."""
        model = self.model
        padded = np.zeros(3)
        padded[: len(size)] = size
        if kind == _CYLINDER:
            half, bound = np.array((size[0], size[0], size[1])), np.hypot(size[0], size[1])
        elif kind == _CAPSULE:
            half, bound = np.array((size[0], size[0], size[0] + size[1])), size[0] + size[1]
        else:
            half = padded if len(size) == 3 else np.full(3, size[0])
            bound = np.linalg.norm(half) if kind == _BOX else half.max()
        model.geom_type[geom], model.geom_size[geom], model.geom_rbound[geom] = kind, padded, bound
        model.geom_aabb[geom] = (0.0, 0.0, 0.0, *half)

    def _move_target(self, action: Float64Array) -> None:
        """The target pose integrates, within reach and on a leash to the tool."""
        position = np.clip(self._target_position + action[:3], TOOL_LOW_M, TOOL_HIGH_M)
        lead = position - self.tool_position
        self._target_position = self.tool_position + lead * min(1.0, LEASH_M / (float(np.linalg.norm(lead)) + 1e-9))
        rotation = arm.rotation_from_vector(action[3:6]) @ self._target_rotation
        turn = arm.vector_from_rotation(rotation @ self.tool_rotation.T)
        turn *= min(1.0, LEASH_RAD / (float(np.linalg.norm(turn)) + 1e-9))
        self._target_rotation = arm.within_tilt(arm.rotation_from_vector(turn) @ self.tool_rotation, TILT_RAD)

    def _watch(self) -> None:
        """Remember how high and how far each movable ever was, what it was held over, and which object was touched first."""
        for name, start in self.starts.items():
            position = self.position(name)
            self.highest[name] = max(self.highest[name], float(position[2]))
            self.farthest[name] = max(self.farthest[name], float(np.hypot(*(position - start)[:2])))
            if position[2] - start[2] > LIFTED_M:
                over = (
                    place.id
                    for place in self.layout.receptacles
                    if np.hypot(position[0] - place.x, position[1] - place.y) < OVER_M
                )
                self.visited[name].update(over)
            moved = float(np.linalg.norm(position - start)) > TOUCHED_M
            if self.first_contact is None and (moved or self.grasped(name)):
                self.first_contact = name
        for name, fixture in self.layout.fixtures.items():
            travel = self.model.joint(name).range[1]
            moved = abs(self.fixture_position(name) - fixture.opening_01 * travel) > min(TOUCHED_M, travel / 2)
            if self.first_contact is None and moved:
                self.first_contact = name


# The fields of the model that slots and randomization rewrite.
_REWRITTEN = (
    "geom_type", "geom_size", "geom_rbound", "geom_aabb", "geom_rgba", "geom_matid", "geom_contype", "geom_conaffinity",
    "geom_friction", "body_pos", "body_mass", "body_inertia", "body_gravcomp", "cam_pos", "cam_quat", "mat_rgba",
    "light_dir", "light_diffuse", "light_ambient", "actuator_gainprm", "actuator_biasprm",
)  # fmt: skip
_LIMIT = np.array([POSITION_UNIT_M] * 3 + [ROTATION_UNIT_RAD] * 3)
_ACTION_RANGE = (np.append(-_LIMIT, 0.0), np.append(_LIMIT, 1.0))


def _inertia(shape: str, mass: float) -> Float64Array:
    """Principal moments (3,) of a homogeneous solid."""
    size = SIZES[shape]
    if shape == "ball":
        return np.full(3, 0.4 * mass * size[0] ** 2)
    if shape == "cylinder":
        across = mass * (3 * size[0] ** 2 + (2 * size[1]) ** 2) / 12
        return np.array((across, across, 0.5 * mass * size[0] ** 2))
    return np.full(3, 2 / 3 * mass * size[0] ** 2)
