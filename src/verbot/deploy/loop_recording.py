"""Records a run as episodes of a dataset, in a thread of its own: the control loop never waits for the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.agents.guard_events import GuardEvent, GuardResult
from verbot.data import DatasetWriter, EpisodeRecord
from verbot.errors import VerbotError
from verbot.spec import FloatArray, Observation, RobotSpec, UInt8Array

EPISODE_BYTES = 256 * 2**20  # of pictures in memory; a longer run becomes several episodes
WAITING = 2  # full episodes that may wait to be written
MOST_EVENTS = 1000  # kept of one episode


@dataclass
class _Part:
    """The steps since the last episode was handed over."""

    first_step: int = 0
    states: list[FloatArray] = field(default_factory=list)
    actions: list[FloatArray] = field(default_factory=list)
    images: dict[str, list[UInt8Array]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    size: int = 0


class RunRecorder:
    """A `verbot.deploy.loop.Recorder` that writes `DatasetWriter`'s datasets.

    Executed actions are recorded, as the guard gave them; ``extras["run"]`` has the guard's events and the frames that were held.
    Steps without an action or a picture of each camera are left out and counted. A run whose pictures need more than
    `EPISODE_BYTES`, or that gets another instruction, becomes several episodes, each whole on disk as soon as it is written. If
    writing falls behind or fails, the recording ends (`problem`), and the robot goes on.

    Args:
        path: the dataset, made or extended.
        spec: the robot's.
        instruction: of the episode.
        about: further values of ``extras["run"]``, such as the policy.

    Raises `DataError` if the dataset has another robot or another writer.
    """

    def __init__(self, path: Path, spec: RobotSpec, instruction: str, about: Mapping[str, Any]):
        self._spec, self._instruction, self._about = spec, instruction, dict(about)
        self._writer = DatasetWriter(path, spec)
        self._part, self._steps = _Part(), 0
        self.left_out, self.episodes, self.problem = 0, 0, ""
        self._waiting: queue.Queue[Callable[[], EpisodeRecord] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write, name="run-recorder", daemon=True)
        self._thread.start()

    def add(self, observation: Observation, result: GuardResult) -> None:
        self._steps += 1
        if self.problem:
            return
        names = self._spec.camera_names
        if result.action is None or any(name not in observation.images for name in names):
            self.left_out += 1
            return
        part = self._part
        if part.states and part.size >= EPISODE_BYTES:
            self._hand_over({})
            part = self._part
        if not part.states:
            part.first_step = self._steps - 1
        if result.held:
            part.held.append(len(part.states))
        part.states.append(observation.state)
        part.actions.append(result.action.copy())  # an agent may fill the same array again
        for name in names:
            part.images.setdefault(name, []).append(observation.images[name])
            part.size += observation.images[name].nbytes
        part.events += [_of_frame(event, len(part.states) - 1) for event in result.events][: MOST_EVENTS - len(part.events)]

    def instruct(self, instruction: str) -> None:
        if self._part.states and not self.problem and instruction != self._instruction:
            self._hand_over({})
        self._instruction = instruction

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the rest; the last episode has the figures of the run."""
        if self._part.states and not self.problem:
            self._hand_over({"summary": dict(summary)}, wait=True)
        self._waiting.put(None)
        self._thread.join()
        self._writer.close()

    def _hand_over(self, more: Mapping[str, Any], wait: bool = False) -> None:
        part, self._part, instruction = self._part, _Part(), self._instruction
        run = {**self._about, "first_step": part.first_step, "guard_events": part.events, "held_frames": part.held, **more}

        def record() -> EpisodeRecord:
            images = {name: np.stack(frames) for name, frames in part.images.items()}
            return EpisodeRecord(instruction, np.stack(part.states), np.stack(part.actions), images, extras={"run": run})

        try:
            self._waiting.put(record, block=wait)
        except queue.Full:
            self.problem = f"the disk is too slow: {WAITING} episodes wait to be written"

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            if self.problem:
                continue
            try:
                self._writer.save_episode(record())
                self.episodes += 1
            except Exception as error:  # the thread goes on, for whoever closes the recorder waits for it
                said = str(error) if isinstance(error, VerbotError | OSError) else f"{type(error).__name__}: {error}"
                self.problem = f"the recording ended: {said}"


def _of_frame(event: GuardEvent, frame: int) -> dict[str, Any]:
    return {**event.to_json(), "frame": frame}
