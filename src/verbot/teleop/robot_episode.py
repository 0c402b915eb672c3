"""Control steps of a robot in real time, by a person, a leader arm or a policy, behind the robot's guard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from verbot.agents.guard import Guard
from verbot.agents.holding import HoldAgent
from verbot.contracts import Agent, AgingRobot, InformedAgent, InterruptibleAgent, Robot
from verbot.data import EpisodeRecord
from verbot.spec import FloatArray, Observation, UInt8Array
from verbot.teleop.controls import Operator
from verbot.teleop.episode import SharedControl


class DrivenRobot:
    """A connected robot, its guard, and whoever drives it. One call of `step` is a control step.

    Args:
        policy: drives until the person takes over.
    """

    def __init__(self, robot: Robot, guard: Guard, operator: Operator, policy: Agent | None = None):
        self.robot, self.guard, self.control = robot, guard, SharedControl(operator, policy)
        self.note = ""  # what the guard changed in the latest step
        self.latest = robot.observe()

    def look(self) -> Observation:
        """The newest observation, also while nobody drives."""
        self.latest = self.robot.observe()
        return self.latest

    def begin(self, instruction: str) -> None:
        """A new episode. A person began it, so a latch of the guard is released."""
        self.note = ""
        self.guard.reset_latch()
        self.guard.reset()
        self.control.reset(instruction)

    def step(self, instruction: str = "") -> tuple[Observation, FloatArray | None]:
        """The observation, and what was commanded after it; None if the robot was only stopped."""
        observation, policy = replace(self.look(), instruction=instruction), self.control.policy
        action = self.control.act(observation)
        age_s = max(self.robot.ages_s().values(), default=0.0) if isinstance(self.robot, AgingRobot) else 0.0
        result = self.guard.apply(action, observation, age_s)
        if result.held and isinstance(policy, InterruptibleAgent | HoldAgent):
            policy.interrupt()  # it goes on from a fresh observation
        elif isinstance(policy, InformedAgent) and result.events and result.action is not None:
            policy.executed(result.action)
        self.note = f"Guard: {result.events[-1]}" if result.events else ""
        if result.action is None:
            self.robot.stop()
        else:
            self.robot.act(result.action)
        return observation, result.action

    def rest(self) -> None:
        """Nobody drives any more: stop the robot where it is."""
        self.robot.stop()
        self.guard.reset()


@dataclass
class RobotSegment:
    """Consecutive control steps that are recorded, from step `begin` of the episode on."""

    begin: int
    observations: list[Observation] = field(default_factory=list)
    actions: list[FloatArray] = field(default_factory=list)
    handed_back: bool = False


class RobotEpisode:
    """An episode on a robot; a `verbot.teleop.episode.DrivenEpisode`. Actions are recorded as the guard let them pass.

    It has no judge but the person: saved it is a success, kept a failure.

    Args:
        instruction: what is to be done.
        max_seconds: it ends then.
        whole: record every step, whoever drives, as one episode; otherwise the person's steps only.
    """

    def __init__(self, driven: DrivenRobot, instruction: str, max_seconds: float, whole: bool = False):
        self._driven, self._instruction, self._max_seconds, self._whole = driven, instruction, max_seconds, whole
        self.segments: list[RobotSegment] = []
        self._steps, self._success, self._takeovers = 0, True, list[int]()
        self.info: Mapping[str, Any] = {"goal": {}, "feasible": [{}]}
        driven.begin(instruction)

    @property
    def instruction(self) -> str:
        return self._instruction

    @property
    def images(self) -> Mapping[str, UInt8Array]:
        """The newest, by camera."""
        return self._driven.latest.images

    @property
    def success(self) -> bool:
        """What the person says; a success until then."""
        return self._success

    @property
    def over(self) -> bool:
        return self.seconds >= self._max_seconds or bool(self._driven.guard.latched)

    @property
    def seconds(self) -> float:
        return self._steps / self._driven.robot.spec.rate_hz

    @property
    def driving(self) -> bool:
        """Whether the person drives."""
        return self._driven.control.person_drives

    @property
    def note(self) -> str:
        """What the guard changed."""
        latched = self._driven.guard.latched
        return f"The guard holds the robot: {latched}. A new episode releases it." if latched else self._driven.note

    @property
    def is_recorded(self) -> bool:
        return any(segment.actions for segment in self.segments)

    def take_over(self) -> None:
        """The person drives from now on."""
        self._driven.control.take_over()
        self._takeovers.append(self._steps)
        if not self._whole:
            self.segments.append(RobotSegment(self._steps))

    def hand_back(self) -> None:
        """The policy drives from now on."""
        self._driven.control.hand_back()
        if not self._whole:
            self.segments[-1].handed_back = True

    def step(self) -> None:
        """One control step."""
        if self._whole and not self.segments:
            self.segments.append(RobotSegment(0))
        observation, action = self._driven.step(self._instruction)
        self._steps += 1
        if action is not None and (self._whole or self.driving):
            self.segments[-1].observations.append(observation)
            self.segments[-1].actions.append(action.copy())  # a leader arm may fill the same array again

    def rest(self) -> None:
        """The robot rests where it is."""
        self._driven.rest()

    def judge(self, success: bool) -> None:
        """What the person says of it."""
        self._success = success

    def records(self, by: str, description: str | None, added: Sequence[str]) -> Iterator[EpisodeRecord]:
        """One record for each segment, or one of the whole episode.

        Args:
            description: what the person says was done, in place of the instruction.
            added: further sentences for the same goal.
        """
        spec, corrected = self._driven.robot.spec, self._driven.control.policy is not None and not self._whole
        for segment in (s for s in self.segments if s.actions):
            said = description or self._instruction
            extras: dict[str, Any] = {
                "success": self._success, "by": by, "instructions": list(dict.fromkeys([said, *added])),
            }  # fmt: skip
            if corrected:
                extras |= {"takeover_frame": segment.begin, "handed_back": segment.handed_back}
            if self._whole and self._takeovers:
                extras["taken_over_frames"] = list(self._takeovers)
            yield EpisodeRecord(
                instruction=said,
                states=np.stack([o.state for o in segment.observations]).astype(np.float32),
                actions=np.stack(segment.actions).astype(np.float32),
                images={name: np.stack([o.images[name] for o in segment.observations]) for name in spec.camera_names},
                extras=extras,
            )


class FreeDrive:
    """Driving without recording: what a page needs of a session.

    Motion begins with a touch of a control, or with Enter where a leader arm drives; Enter lets the robot rest.
    """

    def __init__(self, driven: DrivenRobot):
        self._driven, self._operator = driven, driven.control.operator
        self.phase, self._steps, self._armed = "ready", 0, False
        self.done, self.message = False, ""
        self._rest()

    def tick(self, names: Sequence[str], moves: bool) -> None:
        """One control step, after the commands `names`; `moves` says whether a motion is commanded."""
        for name in names:
            self._obey(name)
        touched = self._operator.by_keys and (("gripper" in names) or (moves and self._armed))
        self._armed = self._armed or not moves
        if touched and self.phase == "ready":
            self._begin()
        if self.phase != "driving":
            return
        if names.count("gripper") % 2:
            self._operator.switch_gripper()
        self._driven.step()
        self._steps += 1
        self.message = self._driven.note or "Enter lets the robot rest."
        if latched := self._driven.guard.latched:
            self._rest()
            self.message = f"The guard holds the robot: {latched}. {self.message}"

    def interrupt(self) -> None:
        """The page is gone."""
        if self.phase == "driving":
            self._rest()

    def view(self) -> dict[str, Any]:
        """The state that the page shows besides the images; JSON."""
        operator = self._operator
        return {
            "phase": self.phase, "instruction": "", "added": [], "success": False,
            "driver": "you" if self.phase == "driving" else "nobody", "gripper": "closed" if operator.closed else "open",
            "speed": operator.speed, "end_effector": operator.active or "",
            "seconds": round(self._steps / self._driven.robot.spec.rate_hz, 1), "message": self.message,
        }  # fmt: skip

    def _begin(self) -> None:
        self._driven.begin("")
        self._driven.control.take_over()
        self.phase = "driving"

    def _rest(self) -> None:
        self._driven.rest()
        self.phase, self._armed = "ready", False
        by_keys = self._operator.by_keys
        self.message = "Touch a control to drive." if by_keys else "Enter begins: the robot goes where the leader arm is."

    def _obey(self, name: str) -> None:
        if name == "quit":
            self._rest()
            self.done = True
        elif name == "speed":
            self._operator.switch_speed()
        elif name == "end_effector":
            self._operator.switch_end_effector()
        elif name == "save" and self.phase == "driving":
            self._rest()
        elif name == "save" and not self._operator.by_keys:
            self._begin()
