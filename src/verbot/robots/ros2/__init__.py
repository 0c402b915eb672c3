"""ROS 2 without a ROS installation: topics over Cyclone DDS, messages by rosbags. A file says which (docs/guides/ros2.md)."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import DataError, RobotError
from verbot.robots import robots
from verbot.robots.ros2.config import STRING, Ros2Config, read_ros2_config
from verbot.robots.ros2.dds import DdsConnection, Endpoint
from verbot.robots.ros2.inputs import Input, JointInput, Rejected, inputs_of, reject, sentence
from verbot.robots.ros2.outputs import Output, outputs_of
from verbot.spec import Float64Array, FloatArray, Observation, RobotSpec

POLL_S = 0.2  # of the wait for first messages and for subscribers
FRESH_S = 0.5  # joints that were measured longer ago are not where the robot is held


@robots.register("ros2", needs=("cyclonedds", "rosbags"))
class Ros2Robot:
    """A robot behind topics of ROS 2; it keeps `verbot.contracts.AgingRobot` and `InstructedRobot`.

    Args:
        config: a file (YAML or JSON) with the fields of `Ros2Config`, or these fields.
        domain_id: instead of the file's; 0 to 232.
        clock: monotonic seconds.

    Raises `ConfigError` for a configuration that makes no robot, naming the field.

    Example:
        >>> robot = Ros2Robot(config="robot.yaml")  # doctest: +SKIP
        >>> robot.connect()  # doctest: +SKIP
        >>> robot.observe().images["front"].shape  # doctest: +SKIP
        (480, 640, 3)
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | Ros2Config,
        domain_id: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config = read_ros2_config(config)
        network = self._config.network
        if domain_id is not None:
            network = dataclasses.replace(network, domain_id=domain_id)
        self._network, self._clock = network.resolved(), clock
        self._spec, self._lock = self._config.spec(), threading.RLock()
        self._connection: DdsConnection | None = None
        self._forget()

    def _forget(self) -> None:
        """What a connection has seen is nothing to the next one."""
        config = self._config
        self._cameras, self._state = inputs_of(config.cameras, config.state, config.use_stamps)
        self._sentences, self._sentence, self._is_commanded = Rejected(), "", False
        self._held: dict[str, Float64Array] | None = None
        self._outputs = outputs_of(config.action, config.rate_hz)

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def received(self) -> Mapping[str, int]:
        """How many messages of each topic came since `connect`. Raises `RobotError` before."""
        return dict(self._open().heard)

    @property
    def rejected(self) -> Mapping[str, Rejected]:
        """How many messages of each topic could not be read since `connect`, and why the last one."""
        found = {each.endpoint.topic: dataclasses.replace(each.rejected) for each in self._inputs()}
        if self._config.instruction:
            found[self._config.instruction.topic] = dataclasses.replace(self._sentences)
        return found

    def connect(self) -> None:
        """Join the domain and wait for a first message of each topic, and for a subscriber of each command.

        Raises `RobotError` if the robot is connected, or naming each topic that is silent after ``connect_timeout_s``: its type,
        its qos and what to check.
        """
        if self._connection is not None:
            raise RobotError(f"robot {self._spec.name!r} is connected already; call close first")
        self._forget()
        instruction = self._config.instruction
        entering = [each.endpoint for each in self._inputs()]
        if instruction:
            entering.append(Endpoint(instruction.topic, STRING, instruction.reliability, instruction.durability))
        leaving = [output.endpoint for output in self._outputs.values()]
        connection = DdsConnection(self._network, entering, leaving, self._clock)
        self._connection = connection
        try:
            deadline_s = time.monotonic() + self._config.connect_timeout_s
            while incomplete := self._incomplete():
                if time.monotonic() >= deadline_s:
                    text = "; ".join(f"{each.endpoint}: {self._why(each)}" for each in incomplete)
                    waited = f"{self._config.connect_timeout_s:g} s"
                    raise RobotError(f"robot {self._spec.name!r} is not complete after {waited}: {text}")
                connection.wait(POLL_S)
            self._connected_s, self._measured = self._clock(), self._times()
        except BaseException:
            self._connection = None
            connection.close()
            raise

    def observe(self) -> Observation:
        """The newest picture of each camera and the newest state, each as old as `ages_s` says.

        Raises `RobotError` before `connect`, or if receiving ended.
        """
        with self._lock:
            self._intake()
            self._measured = self._times()
            images = {name: np.array(each.value) for name, each in self._cameras.items()}
            return Observation(images, self._state_vector(), time_s=self._clock() - self._connected_s)

    def ages_s(self) -> Mapping[str, float]:
        """Seconds since each picture, and the oldest part of ``"state"``, of the latest `observe` was measured.

        See `Ros2Config.use_stamps`. Raises `RobotError` before `connect`.
        """
        with self._lock:
            self._open()
            now_s = self._clock()
            return {name: now_s - measured_s for name, measured_s in self._measured.items()}

    def next_instruction(self) -> str | None:
        """The newest sentence that came since the last call; None if none did, or the robot has no topic of them."""
        with self._lock:
            self._intake()
            found, self._sentence = self._sentence, ""
            return found or None

    def act(self, action: FloatArray) -> None:
        """Send an action (a,), clipped to the ranges of the spec.

        Raises `RobotError` before `connect`, for an action of another size or with numbers that are not finite, and if nobody
        subscribes to one of its topics.
        """
        with self._lock:
            connection, values = self._open(), np.asarray(action, np.float32)
            if values.shape != (self._spec.action_size,) or not np.isfinite(values).all():
                raise RobotError(
                    f"robot {self._spec.name!r} was commanded {values.tolist()!s:.200}; expected {self._spec.action_size} finite "
                    "numbers"
                )
            deaf = [topic for topic, each in self._outputs.items() if each.is_required and not connection.subscribers(topic)]
            if deaf:
                raise RobotError(f"nobody subscribes to {', '.join(deaf)} any more; is the controller running?")
            values = np.clip(values, self._spec.action_low(), self._spec.action_high())
            self._held, self._is_commanded, now_ns = None, True, time.time_ns()
            for topic, output in self._outputs.items():
                connection.write(topic, output.command(values, now_ns))

    def stop(self) -> None:
        """Send what holds the robot where it is (`ActionTopic.hold`); again and again the same, until the next `act`.

        Raises `RobotError` if a topic could not be written; the others were.
        """
        with self._lock:
            if self._connection is None:
                return
            if self._held is None:
                self._held = self._holding()
            problems, now_ns = [], time.time_ns()
            for topic, numbers in self._held.items():
                try:
                    self._connection.write(topic, self._outputs[topic].message(numbers, now_ns))
                except RobotError as error:
                    problems.append(str(error))
            if problems:
                raise RobotError(f"robot {self._spec.name!r} may not be at rest: {'; '.join(problems)}")

    def close(self) -> None:
        """Stop a robot that was commanded, and leave the domain. Nothing is sent to one that was only watched."""
        with self._lock:
            connection = self._connection
            if connection is None:
                return
            try:
                if self._is_commanded:
                    self.stop()
            finally:
                self._connection = None
                connection.close()

    def _open(self) -> DdsConnection:
        if self._connection is None:
            raise RobotError(f"robot {self._spec.name!r} is not connected; call connect first")
        return self._connection

    def _inputs(self) -> list[Input]:
        return [*self._cameras.values(), *self._state.values()]

    def _intake(self) -> None:
        """Read what came since the last call."""
        connection = self._open()
        for each in self._inputs():
            each.take(connection.arrivals(each.endpoint.topic))
        if self._config.instruction:
            for arrival in connection.arrivals(self._config.instruction.topic):
                try:
                    self._sentence = sentence(arrival.data, STRING)
                except DataError as error:
                    reject(self._sentences, error)

    def _times(self) -> dict[str, float]:
        """When each part was measured."""
        cameras = {name: each.measured_s for name, each in self._cameras.items()}
        state = [self._state[topic.topic].values(topic)[1] for topic in self._config.state]
        return cameras | ({"state": min(state)} if state else {})

    def _state_vector(self) -> FloatArray:
        parts = []
        for topic in self._config.state:
            values, _ = self._state[topic.topic].values(topic)
            parts.append(np.array(topic.scale) * values + np.array(topic.offset))
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)

    def _holding(self) -> dict[str, Float64Array]:
        """The numbers that hold the robot, by topic."""
        try:
            self._intake()
        except RobotError:  # nothing is received any more: what is known has to do
            pass
        measured, oldest_s = dict[str, float](), self._clock() - FRESH_S
        for topic in self._config.state:
            part = self._state[topic.topic]
            if topic.has_positions and isinstance(part, JointInput) and not part.lacks:
                values, measured_s = part.values(topic)
                if measured_s >= oldest_s:
                    measured |= dict(zip(topic.joints, map(float, values), strict=True))
        found = {topic: output.hold(measured) for topic, output in self._outputs.items()}
        return {topic: numbers for topic, numbers in found.items() if numbers is not None}

    def _incomplete(self) -> list[Input | Output]:
        """The topics that are not ready: no message came, or nobody subscribes."""
        self._intake()
        connection = self._open()
        deaf = [each for topic, each in self._outputs.items() if each.is_required and not connection.subscribers(topic)]
        return [*(each for each in self._inputs() if each.lacks), *deaf]

    def _why(self, each: Input | Output) -> str:
        connection = self._open()
        if not isinstance(each, Output) and each.rejected.count:
            return f"{each.rejected.count} messages were refused, the last one because {each.rejected.reason}"
        if not isinstance(each, Output) and each.endpoint.topic in connection.heard:
            return f"its messages lack {each.lacks}"
        return connection.why_silent(each.endpoint)


__all__ = ["Ros2Config", "Ros2Robot", "read_ros2_config"]
