"""Navigation as a Gymnasium environment."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from verbot.contracts import EpisodeRequest, Understanding
from verbot.envs.navigation import episodes, instruction_parser, tasks
from verbot.envs.navigation.experts import NavigationExpert
from verbot.envs.navigation.language import VERBS, canonical
from verbot.envs.navigation.renderer import Painter
from verbot.envs.navigation.world import ACTIONS, RATE_HZ, SIDE_M, World
from verbot.envs.options import RENDERING, Rendering
from verbot.envs.parsing import lacking_task
from verbot.errors import ConfigError, SimulationError, SpecError, UnknownNameError
from verbot.ranges import DURATION_S
from verbot.registry import with_records
from verbot.spec import Camera, Component, MotionLimits, RobotSpec, UInt8Array

CAMERA = "top"
REWARDS, STEERING = ("sparse", "shaped"), ("turns", "compass")


def robot_spec(image_size: int = 64) -> RobotSpec:
    """The robot "navigation-rover": its camera, state and action. Frame ``"base"`` is that of the floor and of the image.

    A pinhole as far above the floor as the floor is wide shows it exactly as the orthographic picture does.
    """
    pixels, middle = float(image_size), image_size / 2
    intrinsics = (pixels, 0.0, middle, 0.0, pixels, middle, 0.0, 0.0, 1.0)
    half = SIDE_M / 2
    extrinsics = (1.0, 0.0, 0.0, half, 0.0, 1.0, 0.0, half, 0.0, 0.0, 1.0, -SIDE_M, 0.0, 0.0, 0.0, 1.0)
    return RobotSpec(
        name="navigation-rover",
        rate_hz=RATE_HZ,
        cameras=(Camera(CAMERA, image_size, image_size, intrinsics, extrinsics),),
        state=(
            Component("position", "position", ("x", "y"), "m", "base", (0.0, 0.0), (SIDE_M, SIDE_M)),
            Component("heading", "other", ("cos", "sin"), "1", "base", (-1.0, -1.0), (1.0, 1.0)),
            Component("arm", "other", ("raised",), "1", "robot", (0.0,), (1.0,)),
            Component("bumper", "other", ("pressed",), "1", "robot", (0.0,), (1.0,)),
        ),
        action=(Component("choice", "discrete", ("action",), "1", "robot", (0.0,), (len(ACTIONS) - 1.0,)),),
        limits=(MotionLimits("choice", (0.0,), (len(ACTIONS) - 1.0,)),),
    )


@dataclass(frozen=True)
class RewardRule:
    """What a step earns. The fields are options of the env.

    Args:
        reward: ``"sparse"``: 1 at success, else 0. ``"shaped"``: that and γΦ(s′) − Φ(s) of the env's `potential`, which leaves
            the best policies the best (Ng, Harada, Russell 1999).
        gamma: γ of the shaping; take the learner's own discount.
        penalty: subtracted when an episode ends in failure, by stopping at the wrong object or with the wrong arm position.
    """

    reward: Literal["sparse", "shaped"] = "sparse"
    gamma: float = 0.99
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise UnknownNameError("reward of the navigation env", self.reward, REWARDS)
        if not 0 < self.gamma <= 1 or self.penalty < 0:
            raise ConfigError(
                f"gamma is {self.gamma} and penalty {self.penalty}; expected more than 0 and at most 1, and at least 0"
            )


@dataclass(frozen=True)
class Controls:
    """What actions are. The fields are options of the env.

    Args:
        discrete: the action space is ``Discrete(7)`` instead of one number from 0 to 6; `NavigationEnv.step` takes either.
        steering: ``"turns"``: left and right turn the robot, forward and back are along its heading. ``"compass"``: forward,
            back, left and right go up, down, left and right in the picture; much easier to learn.
    """

    discrete: bool = False
    steering: Literal["turns", "compass"] = "turns"

    def __post_init__(self) -> None:
        if self.steering not in STEERING:
            raise UnknownNameError("steering of the navigation env", self.steering, STEERING)


REWARD_RULE, CONTROLS = RewardRule(), Controls()


class NavigationEnv(gymnasium.Env):
    """Implements `verbot.contracts.TaskEnv`. An action is the index of one of seven: forward, back, left, right, raise arm, lower arm, stop.

    ``info["state_text"]`` describes the state in words. Stopping within reach of an object ends the episode, successful or not; stopping
    anywhere else is standing still.

    Args:
        suite: there is one, ``"navigation"``.
        tasks: use only these of ``"go"``, ``"around"`` and ``"follow"``.
        max_seconds: an episode is truncated after this, at most a day; by default each task has its own limit.
        controls: what actions are.
        rule: what a step earns.
        episode: fields of `EpisodeRequest` for every episode, e.g. ``{"split": "train", "wording": "seen"}``; the options of `reset`
            come on top.
        axes: accepted as every env does; there is no randomization axis.
        rendering: the picture's size, and whether it is drawn.

    Example:
        >>> env = NavigationEnv(tasks=("go",), controls=Controls(discrete=True))
        >>> record, info = env.reset(seed=0)
        >>> record["images"]["top"].shape, record["state"].shape, info["target_object"] in info["instruction"]
        ((64, 64, 3), (6,), True)
    """  # noqa: E501

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE_HZ)}

    def __init__(
        self,
        suite: str = episodes.SUITE,
        tasks: Sequence[str] | None = None,
        max_seconds: float | None = None,
        controls: Controls = CONTROLS,
        rule: RewardRule = REWARD_RULE,
        episode: Mapping[str, Any] | None = None,
        axes: Mapping[str, int] | None = None,
        rendering: Rendering = RENDERING,
    ):
        if suite != episodes.SUITE:
            raise UnknownNameError("suite of the navigation env", suite, (episodes.SUITE,))
        DURATION_S.check("max_seconds", max_seconds)
        self.tasks = tuple(tasks or VERBS)
        for name in self.tasks:
            if name not in VERBS:
                raise UnknownNameError("task of the navigation env", name, VERBS)
        self._compass, self.levels = controls.steering == "compass", len(episodes.LEFT)
        if rendering.depth:
            raise ConfigError("the navigation env has no depth camera; leave depth out")
        self._rule, self._max_seconds, self._size = rule, max_seconds, rendering.image_size
        self._defaults: dict[str, Any] = dict(episode or {})
        if axes:
            self._defaults["axes"] = {**axes, **self._defaults.get("axes", {})}
        self._request({"index": 0})
        self._render_cameras, self.render_mode = rendering.render_cameras, rendering.render_mode
        self.robot_spec = robot_spec(self._size)
        self._seed = 0
        self._episode: episodes.NavigationEpisode | None = None
        spec = self.robot_spec
        self.observation_space = spaces.Dict(
            {
                "images": spaces.Dict({CAMERA: spaces.Box(0, 255, (self._size, self._size, 3), np.uint8)}),
                "state": spaces.Box(-1.0, SIDE_M, (spec.state_size,), np.float32),
                "instruction": spaces.Text(400, min_length=0, charset=string.printable),
            }
        )
        box = spaces.Box(spec.action_low(), spec.action_high(), dtype=np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(len(ACTIONS)) if controls.discrete else box

    # Gymnasium.

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Set up an episode; see `verbot.contracts.EpisodeRequest` for `options`.

        Without an index every call draws the next one, from the seed.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._seed = seed
        options = {"index": int(self.np_random.integers(2**31)), **self._defaults, **(options or {})}
        self._episode = episode = episodes.prepare(self.tasks, self._request(options), self._seed)
        self._world, self._task = World(episode.scene, self._compass), tasks.task_of(episode.goal, episode.scene)
        tasks.advance(episode.goal, self._task, self._world, episode.left)
        self._limit = round((self._max_seconds or self._task.seconds) * RATE_HZ)
        self._steps, self._first_contact = 0, tasks.first_contact(self._world)
        self._painter = self._tracked(self._size) if self._render_cameras else None
        camera = self.robot_spec.cameras[0]
        pose = {"intrinsics": camera.intrinsics, "extrinsics": camera.extrinsics, "frame": camera.frame}
        self._constant_info = json.dumps({**episode.info, "calibration": {CAMERA: pose}})
        self._score()
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step of an action's index, alone or in a vector (1,), rounded to a whole number.

        Success terminates, and so does stopping at an object that is not the target; the time limit truncates.
        """
        self._current()
        values = np.asarray(action, np.float64)
        if values.size != 1 or not -0.5 <= values.item() < len(ACTIONS) - 0.5:
            raise SpecError(f"the action must be one number from 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)}); got {action!r}")
        before = self._potential
        self._world.step(round(values.item()))
        self._steps += 1
        if self._first_contact is None:
            self._first_contact = tasks.first_contact(self._world)
        self._score()
        reward = float(self._success) - self._rule.penalty * (self._over and not self._success)
        if self._rule.reward == "shaped":
            reward += self._rule.gamma * self._potential - before
        truncated = not self._over and self._steps >= self._limit
        return self._observation(), reward, self._over, truncated, self._info()

    def render(self) -> UInt8Array | None:
        return self.picture() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Nothing is held."""

    # Beyond Gymnasium.

    def expert(self, noise: float = 0.0, seed: int = 0) -> NavigationExpert:
        """The scripted expert of the present episode. `noise` 0.15 makes good demonstrations."""

        def clean() -> int:
            return tasks.act(self._current().goal, self._task, self._world)

        def stream(number: int) -> np.random.Generator:
            return self._episode.stream(f"expert {number}") if self._episode else np.random.default_rng(number)

        return NavigationExpert(clean, stream, noise, seed)

    def state_text(self) -> str:
        """The present state in words, from the robot's view; also ``info["state_text"]``."""
        self._current()
        return tasks.describe(self._world)

    def potential(self) -> float:
        """Φ of the present state, 0 to 0.9, larger the nearer success is; 0 if the episode is over."""
        self._current()
        return self._potential

    def picture(self, camera: str = CAMERA, size: int = 256, quality: str = "fine") -> UInt8Array:
        """A picture (size, size, 3) of the present state for people."""
        if camera != CAMERA:
            raise UnknownNameError("camera of the navigation env", camera, (CAMERA,))
        self._current()
        return self._tracked(size).picture(self._world)

    @property
    def world(self) -> World:
        """The state itself, for experts, tests and tools; a policy never sees it."""
        self._current()
        return self._world

    def parse(self, text: str) -> Understanding:
        """What `text` means; see `verbot.contracts.Grammar`."""
        understood = instruction_parser.understand(text)
        return lacking_task(understood, self.tasks, episodes.SUITE)

    def describe(self, goal: Mapping[str, Any]) -> str:
        return canonical(goal)

    def object_names(self) -> tuple[str, ...]:
        scene = self._current().scene
        return (*(obj.name for obj in scene.objects), *(line.name for line in scene.lines))

    # What happened.

    def _request(self, options: Mapping[str, Any]) -> EpisodeRequest:
        try:
            request = EpisodeRequest(**{**self._defaults, **options})
        except TypeError as error:
            known = ", ".join(EpisodeRequest.__dataclass_fields__)
            raise ConfigError(f"reset does not know this option: {error}. Known: {known}") from error
        episodes.check(request, self.tasks)
        return request

    def _tracked(self, size: int) -> Painter:
        """A painter with the robot's path so far."""
        painter = Painter(self._world.scene, size)
        for point in self._world.path_m:
            painter.track(point)
        painter.follow(self._world.covered)
        return painter

    def _score(self) -> None:
        goal = self._current().goal
        self._success = tasks.succeeded(goal, self._task, self._world)
        self._over = self._success or self._world.stopped_at is not None
        self._potential = 0.0 if self._over else tasks.potential(goal, self._task, self._world)
        if self._painter is not None:
            self._painter.track(self._world.path_m[-1])
            self._painter.follow(self._world.covered)

    def _observation(self) -> dict[str, Any]:
        world, blank = self._world, (self._size, self._size, 3)
        image = np.zeros(blank, np.uint8) if self._painter is None else self._painter.picture(world)
        turned = (math.cos(world.heading_rad), math.sin(world.heading_rad))
        state = (world.x_m, world.y_m, *turned, world.arm_raised, world.bumped)
        return {"images": {CAMERA: image}, "state": np.array(state, np.float32), "instruction": self._current().instruction}

    def _info(self) -> dict[str, Any]:
        info = json.loads(self._constant_info)  # fresh every time: callers keep what they are given
        for goal, entry in zip(info["feasible"], info["grounding"], strict=True):
            if goal["verb"] == "follow":
                line = next(line for line in self._world.scene.lines if line.name == goal["object"])
                entry["target_base_m"] = [*tasks.Follow(line).next_m(self._world), 0.0]
        return {
            **info,
            "first_contact": self._first_contact,
            "moved": False,
            "success": self._success,
            "final_error_m": tasks.error_m(self._current().goal, self._task, self._world),
            "error": None,
            "state_text": self.state_text(),
        }

    def _current(self) -> episodes.NavigationEpisode:
        if self._episode is None:
            raise SimulationError("there is no episode: call reset first")
        return self._episode


def make(**options: Any) -> NavigationEnv:
    """The env by the names of its options, for `verbot.envs.make_env` and for Gymnasium."""
    return NavigationEnv(**with_records(NavigationEnv, options))


make.metadata = NavigationEnv.metadata  # type: ignore[attr-defined]  # Gymnasium reads the render modes there
