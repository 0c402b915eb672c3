"""A simulated robot in a process of its own, on a real clock: it moves whether or not anybody calls."""

from __future__ import annotations

import dataclasses
import math
import select
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from verbot.envs import envs
from verbot.errors import ConfigError, RobotError, UnknownNameError
from verbot.parallel.workers import Worker, WorkerDied, WorkerError, workers
from verbot.robots import robots
from verbot.robots.simulated_world import STOP, ProcessFaults, WorldFrame, WorldSetup
from verbot.spec import FloatArray, Observation, RobotSpec

MODULE = "verbot.robots.simulated_world"
START_S = 120.0  # for a process to import a simulator and to set up an episode
PHASE_S = 0.02  # `connect` returns so long after a frame: a loop that begins then never reads at the edge of two frames
FAULTS = ProcessFaults()


@robots.register("simulated-process")
class SimulatedProcess:
    """An env as a robot in real time, a `verbot.contracts.AgingRobot`; also one whose scene can be set up anew.

    The env runs in another process, at its own rate on the monotonic clock. Each period executes the command that came in it.
    Without one deltas are zero, targets and grippers stay as commanded, and velocities become zero after 0.25 s. A robot whose
    actions are discrete choices stands still without one. A second command in the same period is executed in the next; more are
    dropped, the oldest first. `observe` returns the newest frame, with its age, and waits for nothing; `act` returns at once.

    A policy that commands as often as the world steps therefore meets the same dynamics as in `SimulatedRobot`, plus the real
    clock. After a success nothing moves any more; the env's time limit does not count. `close` ends the process; a further
    `connect` sets up the next episode.

    ``rate_hz`` above the env's own rate makes the *commands* more frequent, not the world: with 200 Hz and a world of 10 Hz, 20
    commands fill one period. Their deltas, whose ranges in `spec` are 20 times smaller, are added up; of targets the newest
    counts. The world still computes each period as a whole, with all its substeps of physics, so an observation is
    up to one period of the *world* old, and `ages_s` says so. The fastest motion stays the same. It is another spec than the
    env's: a policy for the env's own rate does not fit.

    Args:
        env: a registered env's name.
        request: fields of the `EpisodeRequest` of the first connection; each further one adds 1 to the index.
        seed: seed of the scenes.
        options: options of `make_env`.
        rate_hz: rate of the commands, a whole multiple of the env's; by default the env's.
        faults: what goes wrong on purpose; its fields are options.

    Raises `UnknownNameError` if there is no such env.

    Example:
        >>> robot = SimulatedProcess("navigation", {"task": "go"})
        >>> robot.connect()
        >>> robot.observe().images["top"].shape, sorted(robot.ages_s())
        ((64, 64, 3), ['state', 'top'])
        >>> robot.close()
    """

    def __init__(
        self,
        env: str = "tabletop-starter",
        request: Mapping[str, Any] | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        rate_hz: float | None = None,
        faults: ProcessFaults = FAULTS,
    ):
        if env not in envs.names():
            raise UnknownNameError("env", env, envs.names())
        if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
            raise ConfigError(f"rate_hz is {rate_hz}; expected more than 0, or none for the env's own rate")
        self._setup = WorldSetup(env, dict(request or {}), seed, dict(options or {}), rate_hz, faults)
        self._connections = 0
        self._spec: RobotSpec | None = None
        self._portions = 1
        self._open: ExitStack | None = None
        self._worker: Worker | None = None
        self._lock, self._connected = threading.Condition(), False
        self._frame: WorldFrame | None = None
        self._seen: WorldFrame | None = None
        self._fault = ""

    @property
    def spec(self) -> RobotSpec:
        """The robot. Starts the process, which knows it. Raises `RobotError` if that fails."""
        if self._spec is None:
            self._start()
        assert self._spec is not None
        return self._spec

    @property
    def is_over(self) -> bool:
        """Whether the episode has ended."""
        frame = self._newest()
        return frame.over

    @property
    def info(self) -> Mapping[str, Any]:
        """``success``, ``error``, ``instruction`` and ``instructions`` of the env, as of the newest observation, or the last."""
        frame = self._frame or self._newest()
        return frame.info

    @property
    def counts(self) -> Mapping[str, int]:
        """How the clock and the commands fared, see `WorldFrame`."""
        return self._newest().counts

    @property
    def pid(self) -> int | None:
        """The number of its process; None while there is none."""
        return None if self._worker is None else self._worker.process.pid

    def connect(self) -> None:
        """Set up an episode, and start its clock. Raises `RobotError` if it is connected, or if the process fails."""
        if self._connected:
            raise RobotError(f"robot {self.spec.name!r} is connected already; call close first")
        self._start()
        assert self._worker is not None
        self._connections += 1
        self._frame = self._seen = None
        self._send("go")
        self._connected = True
        threading.Thread(target=self._read, args=(self._worker,), name="simulated-process", daemon=True).start()
        with self._lock:
            self._lock.wait_for(lambda: self._frame is not None or self._fault, START_S)
        try:
            first = self._newest()
        except RobotError:
            self.close()
            raise
        phase_s = min(PHASE_S, 0.25 * self._portions / self.spec.rate_hz)
        time.sleep(max(0.0, first.measured_s + phase_s - time.monotonic()))

    def observe(self) -> Observation:
        """The newest observation. Raises `RobotError` if the robot is not connected, or its process has ended."""
        frame = self._seen = self._newest()
        seen = frame.observation
        images = {name: np.array(image) for name, image in seen.images.items()}
        return dataclasses.replace(seen, images=images, state=seen.state.copy())

    def ages_s(self) -> dict[str, float]:
        """Seconds since the latest `observe` was measured."""
        if self._seen is None:
            raise RobotError(f"nothing of robot {self.spec.name!r} was observed yet; call observe first")
        age_s = time.monotonic() - self._seen.measured_s
        return dict.fromkeys((*self._seen.observation.images, "state"), age_s)

    def act(self, action: FloatArray) -> None:
        """Command an action (a,) for the present period. Raises `RobotError` as `observe` does, and for another shape."""
        self._newest()
        command = np.array(action, np.float32)
        if command.shape != (self.spec.action_size,) or not np.isfinite(command).all():
            raise RobotError(
                f"the action of robot {self.spec.name!r} must be {self.spec.action_size} finite numbers; got {command.tolist()}"
            )
        self._send(command)

    def stop(self) -> None:
        """Rest where the robot is measured; commands that wait are dropped."""
        if self._connected and not self._fault:
            self._send(STOP)

    def next_scene(self, repeat: bool = False) -> None:
        """Connect anew, in a new process, for the next scene or for the same again."""
        self._newest()
        self._connections -= repeat
        self.close()
        self.connect()

    def close(self) -> None:
        """End the process."""
        opened, self._open, self._worker = self._open, None, None
        self._connected, self._fault, self._seen = False, "", None
        if opened is not None:
            opened.close()

    def _start(self) -> None:
        """Start the process, unless it waits already, and learn the spec."""
        if self._worker is not None:
            return
        opened, request = ExitStack(), dict(self._setup.request)
        request["index"] = request.get("index", 0) + self._connections
        (worker,) = opened.enter_context(workers(MODULE, 1, f"simulated robot {self._setup.env}"))
        try:
            worker.send(dataclasses.replace(self._setup, request=request))
            if not worker.connection.poll(START_S):
                raise RobotError(f"the process of the simulated robot {self._setup.env!r} did not start within {START_S:g} s")
            self._spec, self._portions = worker.receive()
        except WorkerError as error:
            opened.close()
            raise RobotError(f"the simulated robot cannot be set up: {error}") from error
        except BaseException:
            opened.close()
            raise
        self._worker, self._open = worker, opened

    def _read(self, worker: Worker) -> None:
        """Keep the newest frame; a thread of its own, which ends with the process."""
        while True:
            try:
                frame = worker.receive()
            except Exception as error:
                with self._lock:
                    if worker is self._worker:
                        self._fault = _reason(error, worker)
                        self._lock.notify_all()
                return
            with self._lock:
                if worker is self._worker:
                    self._frame = frame
                    self._lock.notify_all()

    def _newest(self) -> WorldFrame:
        if not self._connected:
            name = self._spec.name if self._spec else self._setup.env
            raise RobotError(f"robot {name!r} is not connected; call connect first")
        if self._fault:
            raise RobotError(f"robot {self.spec.name!r} is lost: {self._fault}; call close, then connect")
        if self._frame is None:
            raise RobotError(f"robot {self.spec.name!r} showed nothing within {START_S:g} s")
        return self._frame

    def _send(self, message: FloatArray | str) -> None:
        """Send without waiting: a process that reads nothing any more is lost."""
        assert self._worker is not None
        pipe = select.poll()
        pipe.register(self._worker.connection.fileno(), select.POLLOUT)
        if not pipe.poll(0):
            raise RobotError(f"robot {self.spec.name!r} takes no commands any more; call close, then connect")
        try:
            self._worker.connection.send(message)
        except OSError as error:
            if self._connected:  # otherwise the reader tells why
                with self._lock:
                    self._lock.wait_for(lambda: self._fault, 1.0)
            raise RobotError(f"robot {self.spec.name!r} is lost: {self._fault or error}; call close, then connect") from error


def _reason(error: Exception, worker: Worker) -> str:
    code = worker.process.poll()
    if isinstance(error, WorkerDied) and code is not None and code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
