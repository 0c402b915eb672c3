"""A recorded episode as a robot: it shows what was recorded, by the clock, and compares what it is commanded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verbot.errors import ConfigError, RobotError
from verbot.robots import robots
from verbot.spec import Float64Array, FloatArray, Observation, RobotSpec


@dataclass(frozen=True)
class PlaybackReport:
    """How commands compare with the recorded actions.

    Args:
        frames: of the episode; `commanded` of them got a command.
        difference: action component to the mean and the largest absolute difference from the recorded action, in its unit.
    """

    frames: int
    commanded: int
    difference: dict[str, tuple[float, float]]


@robots.register("playback")
class PlaybackRobot:
    """A recorded episode on a real clock; a `verbot.contracts.AgingRobot`. Nothing moves: commands are noted and compared.

    Frame i is shown from i control periods after `connect` on. A command is compared with the recorded action of the frame that
    is shown when it comes; the first of several in a period counts. After the last frame the observation grows old. So a policy,
    a loop and a guard can be tried on recordings of a robot that is not here.

    Args:
        path: a verbot dataset.
        episode: number of the episode.
        rate_hz: rate of the clock; by default that of the recording. Another one plays it faster or slower, and is in `spec`.
        loop: begin again after the last frame.
        clock: seconds, monotonic.

    Raises `ConfigError` if the dataset has no such episode, `DataError` if it cannot be read.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.writer import example_dataset
        >>> folder = tempfile.TemporaryDirectory()
        >>> robot = PlaybackRobot(str(example_dataset(folder.name)))
        >>> robot.connect()
        >>> robot.observe().instruction, sorted(robot.ages_s())
        ('touch the red cube', ['front', 'state'])
        >>> robot.close()
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str,
        episode: int = 0,
        rate_hz: float | None = None,
        loop: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        from verbot.data import open_dataset

        dataset = open_dataset(path)
        if not 0 <= episode < len(dataset):
            raise ConfigError(f"{path} has no episode {episode}; it has {len(dataset)}, counted from 0")
        if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
            raise ConfigError(f"rate_hz is {rate_hz}; expected more than 0, or none for the rate of the recording")
        self._spec, self._loop, self._clock = _at_rate(dataset.spec, rate_hz), loop, clock
        self._episode = dataset[episode]
        self._frames: dict[str, Any] = {}
        self._begun_s: float | None = None
        self._seen = -1
        self._commands: dict[int, FloatArray] = {}

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    def connect(self) -> None:
        """Start the clock at the first frame. Raises `RobotError` if it runs."""
        if self._begun_s is not None:
            raise RobotError(f"robot {self.spec.name!r} is connected already; call close first")
        if not self._frames:
            self._frames = {name: self._episode.images(name) for name in self.spec.camera_names}
        self._commands, self._seen, self._begun_s = {}, -1, self._clock()

    def observe(self) -> Observation:
        """The frame of this moment; after the end the last one. Raises `RobotError` before `connect`."""
        period = self._period()
        self._seen, frame = period, self._frame(period)
        images = {name: np.array(frames[frame]) for name, frames in self._frames.items()}
        state, rate_hz = np.array(self._episode.states[frame], np.float32), self.spec.rate_hz
        return Observation(images, state, self._episode.instruction, time_s=self._shown(period) / rate_hz)

    def ages_s(self) -> dict[str, float]:
        """Seconds since the frame of the latest `observe` was due. Raises `RobotError` before it."""
        if self._begun_s is None or self._seen < 0:
            raise RobotError(f"nothing of robot {self.spec.name!r} was observed yet; call observe first")
        age_s = self._clock() - self._begun_s - self._shown(self._seen) / self.spec.rate_hz
        return dict.fromkeys((*self.spec.camera_names, "state"), age_s)

    def act(self, action: FloatArray) -> None:
        """Note an action (a,) for the present frame. Raises `RobotError` before `connect`, and for another shape."""
        period, given = self._period(), np.array(action, np.float32)
        if given.shape != (self.spec.action_size,):
            raise RobotError(
                f"the action of robot {self.spec.name!r} has shape {given.shape}; expected ({self.spec.action_size},)"
            )
        if period < len(self._episode) or self._loop:
            self._commands.setdefault(period, given)

    def stop(self) -> None:
        """Nothing moves."""

    def close(self) -> None:
        """The report stays until the next `connect`."""
        self._begun_s = None

    def report(self) -> PlaybackReport:
        """What was commanded since `connect`, against what was recorded."""
        slices = self.spec.action_slices()
        frames = [self._frame(period) for period in self._commands]
        if not frames:
            return PlaybackReport(len(self._episode), 0, {})
        given = np.array(list(self._commands.values()), float)
        off: Float64Array = np.abs(given - np.asarray(self._episode.actions, float)[frames])
        difference = {
            c.name: (float(off[:, slices[c.name]].mean()), float(off[:, slices[c.name]].max())) for c in self.spec.action
        }
        return PlaybackReport(len(self._episode), len(frames), difference)

    def _period(self) -> int:
        """The control period of this moment, counted from `connect`."""
        if self._begun_s is None:
            raise RobotError(f"robot {self.spec.name!r} is not connected; call connect first")
        return int((self._clock() - self._begun_s) * self.spec.rate_hz + 1e-9)

    def _frame(self, period: int) -> int:
        return period % len(self._episode) if self._loop else min(period, len(self._episode) - 1)

    def _shown(self, period: int) -> int:
        """The period in which the frame that is shown then was new."""
        return period if self._loop else self._frame(period)


def _at_rate(spec: RobotSpec, rate_hz: float | None) -> RobotSpec:
    return spec if rate_hz is None else replace(spec, rate_hz=float(rate_hz))
