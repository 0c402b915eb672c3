"""A teleoperation session: scenes, episodes, saving and retaking. No page, no clock; one call of `tick` is a control step."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from verbot.contracts import Agent, Env
from verbot.data import EpisodeRecord
from verbot.errors import SimulationError
from verbot.rollout.collect import stamped
from verbot.spec import UInt8Array
from verbot.teleop.controls import Teleoperator
from verbot.teleop.episode import TeleopEpisode
from verbot.teleop.inputs import SAY, Command, Given

TRIES = 20  # consecutive scenes in which the simulator may fault


class Phase(enum.StrEnum):
    READY = "ready"  # a scene is shown, and nothing moves until the person does
    RECORDING = "recording"
    REVIEW = "review"  # it is over: to be saved or not
    DONE = "done"


@dataclass(frozen=True)
class TeleopPlan:
    """The plan of a session.

    Args:
        request: scene number to the fields of an `EpisodeRequest`.
        seed: seed of the scenes.
        by: recorded with every episode.
        episodes: to save; None continues until the person quits.
        scene, saved, errors: where an earlier session ended.
    """

    request: Callable[[int], Mapping[str, Any]]
    seed: int = 0
    by: str = "keyboard"
    episodes: int | None = None
    scene: int = 0
    saved: int = 0
    errors: int = 0


class TeleopSession:
    """A person's session in one env.

    Args:
        save: commits one record, e.g. `DatasetWriter.save_episode`.
        policy: acts until the person takes over; without one the person drives from the start.

    Raises:
        SimulationError: when the simulator faults in `TRIES` scenes in a row.
    """

    def __init__(
        self,
        env: Env,
        teleoperator: Teleoperator,
        save: Callable[[EpisodeRecord], int],
        plan: TeleopPlan,
        policy: Agent | None = None,
    ):
        self._env, self._teleoperator, self._save, self._plan, self._policy = env, teleoperator, save, plan, policy
        self.scene, self.saved, self.errors, self.episodes = plan.scene, plan.saved, plan.errors, 0
        self.phase, self.message = Phase.READY, ""
        self._quitting = self._armed = False
        self._goal = 0  # another of the scene's goals
        self._text: str | None = None  # the person's words for it
        self._description: str | None = None  # what the person says was done
        self._added: list[str] = []
        self._visit(self.scene)

    def tick(self, given: Given) -> None:
        """One control step: execute the commands, then let the person or the policy act."""
        switches = sum(command.name == "gripper" for command in given.commands)
        for command in given.commands:
            if command.name != "gripper" and self.phase != Phase.DONE:
                self._obey(command)
        # A key still held from before the scene was set up or handed back has no effect until it is released.
        touched = switches > 0 or (given.motion.moves and self._armed)
        self._armed = self._armed or not given.motion.moves
        self._teleoperator.motion = given.motion
        if touched and self.phase == Phase.READY:
            self.phase = Phase.RECORDING
        if self.phase != Phase.RECORDING:
            return
        if touched and not self.episode.driving:
            self.episode.take_over()
            self.message = "You drive; H hands back to the policy." if self._policy else ""
        if self.episode.driving and switches % 2:
            self._teleoperator.switch_gripper()
        self._step()

    def view(self) -> dict[str, Any]:
        """The state that the page shows besides the images; JSON."""
        episode = self.episode
        driver = "nobody" if self.phase != Phase.RECORDING else "you" if episode.driving else "the policy"
        return {
            "phase": self.phase.value,
            "instruction": self._description or episode.instruction,
            "added": list(self._added),
            "goal": {key: str(value) for key, value in episode.info["goal"].items()},
            "goals": len(episode.info["feasible"]),
            "success": episode.success,
            "driver": driver,
            "corrects": self._policy is not None,
            "gripper": "closed" if self._teleoperator.closed else "open",
            "speed": self._teleoperator.speed,
            "end_effector": self._teleoperator.active or "",
            "seconds": round(episode.seconds, 1),
            "scene": self.scene,
            "saved": self.saved,
            "wanted": self._plan.episodes,
            "message": self.message,
        }

    @property
    def images(self) -> Mapping[str, UInt8Array]:
        """The latest, by camera."""
        return self.episode.images

    def _step(self) -> None:
        try:
            self.episode.step()
        except SimulationError as fault:
            self.errors += 1
            self._visit(self.scene + 1)
            self.message = f"The simulator faulted ({fault}): nothing of that scene is kept. Here is the next."
            return
        if self.episode.over:
            self._review()

    def _review(self) -> None:
        self.phase = Phase.REVIEW
        if not self.episode.segments:
            self.message = "The policy did it alone: there is nothing to record. Enter: next scene."
        elif self.episode.success:
            self.message = "Done! Enter saves it; type other words first if you like."
        else:
            self.message = "Not done, says the env. Backspace takes it again, X discards it, K keeps it as a failure."

    def _visit(self, scene: int, repeat: bool = False) -> None:
        """Set up a scene: `repeat` with the same request, or a new one."""
        if not repeat:
            self._goal, self._text, self._description, self._added = 0, None, None, []
        for number in range(scene, scene + TRIES):
            request = dict(self._plan.request(number))
            if not repeat or number != scene:
                self._goal, self._text = 0, None
            request |= {"goal": self._goal} if self._goal else {}
            request |= {"text": self._text} if self._text else {}
            try:
                self.episode = TeleopEpisode(self._env, request, self._plan.seed, self._teleoperator, self._policy)
                break
            except SimulationError as error:
                self.errors += 1
                if number == scene + TRIES - 1:
                    raise SimulationError(f"the simulator faulted in {TRIES} scenes in a row, at last: {error}") from error
        self.scene, self.phase, self._armed = number, Phase.READY, False
        starts = "Enter lets the policy begin; touch a control to take over." if self._policy else "Touch a control to begin."
        self.message = starts

    def _obey(self, command: Command) -> None:
        quitting, self._quitting = self._quitting, False
        if command.name == "quit":
            self._quit(quitting)
        elif command.name == SAY:
            self._say(command.text, command.add)
        elif command.name == "speed":
            self._teleoperator.switch_speed()
        elif command.name == "end_effector":
            self._teleoperator.switch_end_effector()
        else:
            getattr(self, f"_obey_{command.name}")()

    def _obey_save(self) -> None:
        if self.phase == Phase.READY and self._policy is not None:
            self.phase, self.message = Phase.RECORDING, "The policy acts; touch a control to take over."
        elif self.phase == Phase.RECORDING:
            self._review()
        elif self.phase == Phase.REVIEW and (self.episode.success or not self.episode.segments):
            self._commit()
        elif self.phase == Phase.REVIEW:
            self.message = "Not saved: it did not succeed. K keeps it as a failure, Backspace takes it again, X discards it."

    def _obey_keep(self) -> None:
        if self.phase == Phase.REVIEW:
            self._commit()
        else:
            self.message = (
                "K keeps an episode that is over; Enter ends this one." if self.phase == Phase.RECORDING else self.message
            )

    def _obey_retake(self) -> None:
        if self.phase in (Phase.RECORDING, Phase.REVIEW):
            self._description = None
            self._visit(self.scene, repeat=True)
            self.message = f"Discarded; the same scene again. {self.message}"

    def _obey_discard(self) -> None:
        if self.phase in (Phase.RECORDING, Phase.REVIEW):
            self._visit(self.scene + 1)
            self.message = f"Discarded. {self.message}"
        else:
            self.message = "There is nothing to discard; N shows the next scene."

    def _obey_next(self) -> None:
        if self.phase == Phase.READY or not self.episode.segments:
            self._visit(self.scene + 1)
        else:
            self.message = "This episode is not saved: Enter saves it, X discards it."

    def _obey_goal(self) -> None:
        if self.phase == Phase.READY:
            self._goal, self._text = (self._goal + 1) % len(self.episode.info["feasible"]), None
            self._visit(self.scene, repeat=True)
        else:
            self.message = "Another goal of this scene can be chosen before it begins."

    def _obey_hand_back(self) -> None:
        if self._policy is None:
            self.message = "There is no policy to hand back to; start with --policy."
        elif self.phase == Phase.RECORDING and self.episode.driving:
            self.episode.hand_back()
            self._armed, self.message = False, "The policy acts again; touch a control to take over."

    def _say(self, text: str, add: bool) -> None:
        if add:
            self._added.append(text)
        elif self.phase == Phase.READY:
            self._text = text
            self._visit(self.scene, repeat=True)
        elif self.phase == Phase.REVIEW:
            self._description = text
            how = "Enter saves it." if self.episode.success else "K keeps it as a failure."
            self.message = f"It will be saved with the instruction {text!r}. {how}"
        else:
            self.message = "Say it before it begins, or when it is over."

    def _quit(self, sure: bool) -> None:
        if self.phase == Phase.READY or sure or not self.episode.segments:
            self.phase = Phase.DONE
        else:
            self._quitting = True
            self.message = "This episode is not saved. Esc once more quits without it; Enter saves it."

    def _commit(self) -> None:
        records = list(self.episode.records(self._plan.by, self._description, self._added))
        for record in records:
            number = self._save(stamped(record, attempt=self.scene, errors=self.errors))
            self.episodes += 1
        if records:
            self.saved += 1
        if self._plan.episodes is not None and self.saved >= self._plan.episodes:
            self.phase = Phase.DONE
            return
        self._visit(self.scene + 1)
        if records:
            self.message = f"Saved as episode {number}. {self.message}"
