"""Any env as a robot: what is written for `verbot.contracts.Robot` runs in simulation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from verbot.contracts import Env
from verbot.envs import make_env
from verbot.errors import RobotError, SimulationError
from verbot.robots import robots
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import FloatArray, Observation, RobotSpec


@robots.register("simulated")
class SimulatedRobot:
    """An env as a `verbot.contracts.Robot`.

    Time passes in `act` alone, by one control period a call: a loop that does not wait runs faster than real time, and the same
    actions lead to the same observations. After the end of the episode time passes on, but nothing moves any more.

    Args:
        env: a registered env's name, or an env, which stays open after `close`.
        request: fields of the `EpisodeRequest` of the first connection; each further one adds 1 to the index.
        seed: seed of the scenes.
        options: options of `make_env`.

    Example:
        >>> robot = SimulatedRobot("navigation", {"task": "go", "index": 3})
        >>> robot.connect()
        >>> robot.act(robot.spec.action_low())
        >>> robot.observe().time_s, robot.is_over
        (0.2, False)
        >>> robot.close()
    """

    def __init__(
        self,
        env: str | Env = "tabletop-starter",
        request: Mapping[str, Any] | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ):
        self._name = env if isinstance(env, str) else None
        self._env: Env = make_env(env, **(options or {})) if isinstance(env, str) else env
        self._options, self._closed = dict(options or {}), False
        self._request, self._seed, self._connections = dict(request or {}), seed, 0
        self._episode: EpisodeRunner | None = None
        self.info: Mapping[str, Any] = {}
        self.is_over = False

    @property
    def spec(self) -> RobotSpec:
        return self._env.robot_spec

    def connect(self) -> None:
        """Set up an episode. Raises `RobotError` if the robot is connected or the simulator faults."""
        if self._episode is not None:
            raise RobotError(f"robot {self.spec.name!r} is connected already; call close first")
        if self._name is not None and self._closed:
            self._env, self._closed = make_env(self._name, **self._options), False
        request = {**self._request, "index": self._request.get("index", 0) + self._connections}
        try:
            self._episode = EpisodeRunner(self._env, request, self._seed)
        except SimulationError as error:
            raise RobotError(f"the simulated robot {self.spec.name!r} cannot be set up: {error}") from error
        self.info = self._episode.info
        self._connections, self._steps, self.is_over = self._connections + 1, 0, False

    def observe(self) -> Observation:
        """The latest observation. Raises `RobotError` before `connect`."""
        return dataclasses.replace(self._connected().observation, time_s=self._steps / self.spec.rate_hz)

    def act(self, action: FloatArray) -> None:
        """One control step. Raises `RobotError` before `connect` and on a fault of the simulator."""
        episode = self._connected()
        self._steps += 1
        if self.is_over:
            return
        try:
            fault = episode.step(action).fault
        except SimulationError as error:
            fault = str(error)
        self.info = episode.info
        if fault:
            raise RobotError(f"the simulator of robot {self.spec.name!r} faulted: {fault}")
        self.is_over = episode.over

    def stop(self) -> None:
        """Nothing moves between two calls of `act`."""

    def next_scene(self, repeat: bool = False) -> None:
        """Connect anew, for the next scene or for the same again."""
        self._connected()
        self._connections -= repeat
        self.close()
        self.connect()

    def close(self) -> None:
        self._episode = None
        if self._name is not None and not self._closed:
            self._env.close()
            self._closed = True

    def _connected(self) -> EpisodeRunner:
        if self._episode is None:
            raise RobotError(f"robot {self.spec.name!r} is not connected; call connect first")
        return self._episode
