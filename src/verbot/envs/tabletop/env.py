"""The tabletop as a Gymnasium environment: physics owns state, a task owns meaning, the environment owns time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from verbot.contracts import EpisodeRequest, SceneTruth, Understanding
from verbot.envs.options import RENDERING, Rendering
from verbot.envs.parsing import lacking_task
from verbot.envs.rendering import Renderer
from verbot.envs.tabletop import episodes
from verbot.envs.tabletop.expert.scripted_expert import TabletopExpert
from verbot.envs.tabletop.language import instruction_parser
from verbot.envs.tabletop.language.referring_expressions import Related
from verbot.envs.tabletop.robot import DEPTH, RATE_HZ, intrinsics, robot_spec
from verbot.envs.tabletop.scene_truth import scene_truth
from verbot.envs.tabletop.simulation import randomization, robot_mount, segmentation
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.simulation.segmentation import TabletopSegmentation
from verbot.envs.tabletop.simulation.views import VIEWS
from verbot.envs.tabletop.suites import find
from verbot.envs.tabletop.tasks import tasks as task_registry
from verbot.errors import ConfigError, SimulationError, SpecError, UnknownNameError
from verbot.ranges import DURATION_S
from verbot.registry import with_records
from verbot.spec import Camera, FloatArray, UInt8Array

STILL = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)  # the gripper stays open
_GOAL_NOISES = (0.0, 0.15, 0.15)  # of the expert that makes a goal image: it tries again, a little otherwise


@dataclass(frozen=True)
class Extras:
    """What `reset` reports beside the observation. The fields are options of the env.

    Args:
        goal_images: an image of the goal state, ``info["goal_image"]``, for every wording.
        captions: how many captions of the scene, ``info["captions"]``, each with a hard negative.
    """

    goal_images: bool = False
    captions: int = 0


EXTRAS = Extras()


class TabletopEnv(gymnasium.Env):
    """Implements `verbot.contracts.TaskEnv`.

    Args:
        suite: a registered suite's name, e.g. ``"tabletop-starter"``.
        axes: randomization axis to strength 0–3 for every episode; an episode's own `axes` come on top.
        max_seconds: an episode is truncated after this, at most a day; by default each task has its own limit.
        tasks: use only these tasks of the suite.
        cameras: these of the suite's cameras; by default all.
        place: all episodes share the light, the surfaces, the camera poses and the dynamics that this number draws (as far as
            their axes allow), as for a robot that stays in one room; None draws them for each episode.
        rendering: the images' size, and whether they are drawn.
        extras: what `reset` reports beside the observation.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}

    def __init__(
        self,
        suite: str = "tabletop-starter",
        axes: Mapping[str, int] | None = None,
        max_seconds: float | None = None,
        tasks: Sequence[str] | None = None,
        cameras: Sequence[str] | None = None,
        place: int | None = None,
        rendering: Rendering = RENDERING,
        extras: Extras = EXTRAS,
    ):
        DURATION_S.check("max_seconds", max_seconds)
        self._suite, self._place = find(suite), place
        for name in cameras or ():
            if name not in self._suite.cameras:
                raise UnknownNameError(f"camera of suite {self._suite.name!r}", name, self._suite.cameras)
        if extras.goal_images:
            episodes.check_pictured(self._suite)
        self.tasks = tuple(tasks or self._suite.tasks)
        for name in self.tasks:
            if name not in self._suite.tasks:
                raise UnknownNameError(f"task of suite {self._suite.name!r}", name, self._suite.tasks)
        self._tasks = {name: task_registry.get(name)() for name in self.tasks}
        if self._suite.relations:
            self._tasks = {name: Related(task) for name, task in self._tasks.items()}
        self.compositional_tasks = tuple(name for name, task in self._tasks.items() if task.is_compositional)
        self._axes, self._max_seconds = randomization.checked(axes or {}), max_seconds
        self._size, self._render_cameras, self.render_mode = rendering.image_size, rendering.render_cameras, rendering.render_mode
        self._views = tuple(cameras or self._suite.cameras)
        self.robot_spec = robot_spec(self._size, self._views, self._suite.scene.mount, rendering.depth)
        self._extras, self._mount = extras, robot_mount.find(self._suite.scene.mount)
        self._physics = Physics(self._suite.scene)
        self._renderer = Renderer(self._physics.model, "tabletop")
        self._seed = 0
        self._error: str | None = None
        self._episode: episodes.TabletopEpisode | None = None
        spec = self.robot_spec
        self.observation_space = spaces.Dict(
            {
                "images": spaces.Dict({c.name: _image_space(c) for c in spec.cameras}),
                "state": spaces.Box(-2.0, 2.0, (spec.state_size,), np.float32),
                "instruction": spaces.Text(400, min_length=0, charset=string.printable),
            }
        )
        self.action_space = spaces.Box(spec.action_low(), spec.action_high(), dtype=np.float32)

    # Gymnasium.

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Set up an episode; see `verbot.contracts.EpisodeRequest` for `options`.

        Without an index every call draws the next one, from the seed.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._seed = seed
        options = dict(options or {})
        options.setdefault("index", int(self.np_random.integers(2**31)))
        try:
            request = EpisodeRequest(**options)
        except TypeError as error:
            known = ", ".join(EpisodeRequest.__dataclass_fields__)
            raise ConfigError(f"reset does not know this option: {error}. Known: {known}") from error
        episode = episodes.prepare(
            self._suite, self._tasks, request, self._seed, self._axes, place=self._place, captions=self._extras.captions
        )
        self._episode, self._axes_now = episode, episode.axes
        self._error = None
        self._limit = episode.locked_steps + round((self._max_seconds or episode.task.max_seconds) * RATE_HZ)
        wants_goal, goal_image = request.wording == "image", None
        if wants_goal or self._extras.goal_images:
            goal_image = self._picture_goal(episode)
        self._goal_image = goal_image if wants_goal else None
        self._set_up(episode)
        self._noise = episode.stream("sensor_noise")
        self._lost = randomization.lost(episode.axes, self.robot_spec.camera_names, self._limit + 1, episode.stream)
        grounding = [self._mount.grounding(goal) for goal in episode.info["grounding"]]
        self._constant_info = json.dumps({**episode.info, "grounding": grounding, "calibration": self._calibrate()})
        self._images = self._look()
        image = {"goal_image": goal_image.copy()} if goal_image is not None else {}
        return self._observation(), self._info() | image

    def step(self, action: FloatArray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step. Success terminates; the time limit and a simulator fault (``info["error"]``) truncate."""
        if self._episode is None or self._error is not None:
            raise SimulationError("call reset first: there is no episode" if self._error is None else self._error)
        command = np.asarray(action, np.float64)
        if command.shape != (7,) or not np.isfinite(command).all():
            raise SpecError(f"the action must be 7 finite numbers; got shape {command.shape}: {command.tolist()}")
        if self._steps < self._episode.locked_steps:
            command = STILL.astype(np.float64)
        self._steps += 1
        try:
            self._physics.step(self._mount.to_scene(command))
        except SimulationError as error:
            self._error = str(error)
            return self._observation(), 0.0, False, True, self._info()
        self._judge()
        if self._steps == self._episode.cover_step:
            self._physics.cover()
        self._images = self._look()
        truncated = not self._success and self._steps >= self._limit
        return self._observation(), float(self._success), self._success, truncated, self._info()

    def render(self) -> UInt8Array | None:
        return self.picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """The OpenGL context is shared; it closes with the process."""

    # Beyond Gymnasium.

    def expert(self, noise: float = 0.0, seed: int = 0) -> TabletopExpert:
        """The scripted expert of the present episode. `noise` 0.15 makes good demonstrations."""

        low, high = self.robot_spec.action_low(), self.robot_spec.action_high()

        def clean() -> FloatArray:
            episode = self._current()
            action = self._mount.to_base(episode.task.act(self._physics, episode.goal))
            return np.clip(action, low, high).astype(np.float32)

        def stream(number: int) -> np.random.Generator:
            return self._episode.stream(f"expert {number}") if self._episode else np.random.default_rng(number)

        return TabletopExpert(clean, stream, noise, seed)

    def segmentation(self, size: int | None = None) -> TabletopSegmentation:
        """Which object each pixel of each camera shows at present, in pictures of `size`, by default that of the observations."""
        self._current()
        names, size = self._views, size or self._size
        shown = self._renderer.segment(self._physics.data, names, size, size)
        return segmentation.from_geoms(shown, self._physics.geoms, self._physics.model.ngeom)

    def picture(self, camera: str = "front", size: int = 256, quality: str = "fine") -> UInt8Array:
        """A picture (size, size, 3) of the present state for people, at most 640 pixels wide; see `rendering.QUALITIES`."""
        self._current()
        return self._renderer.render(self._physics.data, (camera,), size, size, quality)[camera]

    def parse(self, text: str) -> Understanding:
        """What `text` means; see `verbot.contracts.Grammar`."""
        understood = instruction_parser.understand(text)
        lacking = set(instruction_parser.FIXTURES) - set(self._suite.constraints.fixtures)
        understood = dataclasses.replace(understood, objects=tuple(n for n in understood.objects if n not in lacking))
        related = [goal for goal in understood.goals if ("relation" in goal) != self._suite.relations]
        if related and understood.goals[0]["verb"] in self.tasks:
            how = "by where they stand" if self._suite.relations else "by color and noun alone"
            problem = f"the instructions of {self._suite.name} identify objects {how}"
            return Understanding((), understood.objects, problem, (), understood.unchecked)
        return lacking_task(understood, self.tasks, self._suite.name)

    def describe(self, goal: Mapping[str, Any]) -> str:
        return instruction_parser.describe(goal)

    def object_names(self) -> tuple[str, ...]:
        layout = self._current().layout
        return (*(obj.name for obj in layout), *layout.fixtures)

    def object_positions(self) -> dict[str, tuple[float, float, float]]:
        """See `verbot.contracts.Disturbable`."""
        self._current()
        ids = [obj.id for obj in self._physics.layout]
        return {name: tuple(self._mount.point(self._physics.position(name)).tolist()) for name in ids}

    def move_object(self, name: str, x_m: float, y_m: float) -> None:
        """Put a movable or a receptacle, with what is in it, down at (x, y) of the base frame; the next step shows it.

        Drawer and button are fixed to the table, with their guides. Raises `SimulationError` where it cannot be.
        """
        self._current()
        self._physics.place(name, *self._mount.place((x_m, y_m)))

    def scene_truth(self) -> SceneTruth:
        """See `verbot.contracts.Surveyed`."""
        episode = self._current()
        return scene_truth(self._physics, episode, self._mount, self._is_covered(episode))

    @property
    def physics(self) -> Physics:
        """The simulator's own state, for experts, tests and tools; a policy never sees it."""
        return self._physics

    # How it begins.

    def _set_up(self, episode: episodes.TabletopEpisode) -> None:
        """The initial state, which is a function of the episode alone."""
        stream = episode.stream
        position, yaw = randomization.start_pose(episode.axes, stream)
        self._physics.reset(episode.layout, position, yaw, lambda model: randomization.rewrite(model, episode.axes, stream))
        self._steps, self._held, self._success = 0, -1, False
        if episode.cover_step == 0:
            self._physics.cover()

    def _picture_goal(self, episode: episodes.TabletopEpisode) -> UInt8Array:
        """What the first camera sees (h, w, 3) when the expert has done it; the physics is left as that left it.

        Raises `SimulationError` when the expert fails three times.
        """
        if not self._render_cameras:
            return np.zeros((self._size, self._size, 3), np.uint8)
        for number, noise in enumerate(_GOAL_NOISES):
            self._set_up(episode)
            expert = self.expert(noise, number)
            with contextlib.suppress(SimulationError):
                while self._steps < self._limit and not self._success:
                    self._physics.step(self._mount.to_scene(np.asarray(expert.act(), np.float64)))
                    self._steps += 1
                    self._judge()
            if self._success:
                camera = self.robot_spec.camera_names[0]
                return self._renderer.render(self._physics.data, (camera,), self._size, self._size)[camera]
        self._error = f"no goal image: the expert failed in {len(_GOAL_NOISES)} tries at {episode.info['goal']}"
        raise SimulationError(self._error)

    # What happened.

    def _judge(self) -> None:
        episode = self._current()
        if self._guessed(episode) or not episode.task.satisfied(self._physics, episode.goal):
            self._held = -1
            return
        self._held = self._steps if self._held < 0 else self._held
        self._success = (self._steps - self._held) / RATE_HZ >= episode.task.hold_s - 1e-9

    def _guessed(self, episode: episodes.TabletopEpisode) -> bool:
        """Whether another object was touched first while covers hide the colors: guessing is no success."""
        return episode.cover_step is not None and self._physics.first_contact not in (None, episode.info["target_object"])

    def _look(self) -> dict[str, Any]:
        if not self._render_cameras:
            return {c.name: np.zeros_like(_image_space(c).low) for c in self.robot_spec.cameras}
        images = self._renderer.render(self._physics.data, self._views, self._size, self._size)
        strength = self._axes_now["sensor_noise"]
        images = randomization.blur_images(images, strength, self._noise) if strength else images
        if not self.robot_spec.depth_cameras:
            return images
        depth = self._renderer.depth(self._physics.data, self._views, self._size, self._size)
        return {**images, **{name + DEPTH: image for name, image in depth.items()}}

    def _observation(self) -> dict[str, Any]:
        physics = self._physics
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._mount.turned(physics.tool_rotation).reshape(9))
        quaternion *= -1.0 if quaternion[0] < 0 else 1.0
        position = self._mount.point(physics.tool_position)
        state = np.concatenate([position, quaternion, [physics.opening]]).astype(np.float32)
        if self._axes_now["sensor_noise"]:
            state = randomization.blur_state(state, self._axes_now["sensor_noise"], self._noise)
        lost = self._lost[min(self._steps, self._limit)]
        images = {name: image.copy() for name, image in self._images.items() if name != lost}
        record = {"images": images, "state": state, "instruction": self._current().instruction}
        return record if self._goal_image is None else {**record, "goal_image": self._goal_image.copy()}

    def _info(self) -> dict[str, Any]:
        episode = self._current()
        return {
            **json.loads(self._constant_info),  # fresh every time: callers keep what they are given
            "first_contact": self._physics.first_contact,
            "success": self._success,
            "final_error_m": episode.task.error_m(self._physics, episode.goal),
            "error": self._error,
            "covered": self._is_covered(episode),
        }

    def _is_covered(self, episode: episodes.TabletopEpisode) -> bool:
        return episode.cover_step is not None and self._steps >= episode.cover_step

    def _calibrate(self) -> dict[str, dict[str, Any]]:
        model, data = self._physics.model, self._physics.data
        tool = np.eye(4)
        tool[:3, :3], tool[:3, 3] = self._physics.tool_rotation, self._physics.tool_position
        out = {}
        for name in self._views:
            frame = VIEWS[name].frame
            camera, pose = model.camera(name).id, np.eye(4)
            # MuJoCo's cameras look along −z with y up; OpenCV's along +z with y down.
            pose[:3, :3] = data.cam_xmat[camera].reshape(3, 3) * (1.0, -1.0, -1.0)
            pose[:3, 3] = data.cam_xpos[camera]
            pose = np.linalg.inv(tool if frame == "tool" else self._mount.matrix) @ pose
            matrix = intrinsics(VIEWS[name].fovy_deg, self._size)
            out[name] = {"intrinsics": list(matrix), "extrinsics": pose.ravel().tolist(), "frame": frame}
        return {**out, **{c.name: out[c.name.removesuffix(DEPTH)] for c in self.robot_spec.depth_cameras}}

    def _current(self) -> episodes.TabletopEpisode:
        if self._episode is None:
            raise SimulationError("there is no episode: call reset first")
        return self._episode


def _image_space(camera: Camera) -> spaces.Box:
    if camera.kind == "depth":
        return spaces.Box(0.0, np.inf, (camera.height, camera.width), np.float32)
    return spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)


def make(**options: Any) -> TabletopEnv:
    """The env by the names of its options, for `verbot.envs.make_env` and for Gymnasium."""
    return TabletopEnv(**with_records(TabletopEnv, options))


make.metadata = TabletopEnv.metadata  # type: ignore[attr-defined]  # Gymnasium reads the render modes there
