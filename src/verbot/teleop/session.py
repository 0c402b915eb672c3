"""A teleoperation session: scenes, episodes, saving and retaking. No page, no clock; one call of `tick` is a control step."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from verbot.data import EpisodeRecord
from verbot.errors import SimulationError
from verbot.rollout.collect import stamped
from verbot.spec import UInt8Array
from verbot.teleop.controls import Operator
from verbot.teleop.episode import DrivenEpisode
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
    """A person's session in one env, or on one robot.

    Args:
        start: sets up the episode of a request, the fields of an `EpisodeRequest`.
        save: commits one record, e.g. `DatasetWriter.save_episode`.
        corrects: a policy acts until the person takes over; otherwise the person drives from the start.

    Raises:
        SimulationError: when the simulator faults in `TRIES` scenes in a row.
    """

    def __init__(
        self,
        start: Callable[[Mapping[str, Any]], DrivenEpisode],
        operator: Operator,
        save: Callable[[EpisodeRecord], int],
        plan: TeleopPlan,
        corrects: bool = False,
    ):
        self._start, self._operator, self._save, self._plan, self._corrects = start, operator, save, plan, corrects
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
        touched = self._operator.by_keys and (switches > 0 or (given.motion.moves and self._armed))
        self._armed = self._armed or not given.motion.moves
        self._operator.motion = given.motion
        if touched and self.phase == Phase.READY:
            self.phase = Phase.RECORDING
        if self.phase != Phase.RECORDING:
            return
        if touched and not self.episode.driving:
            self.episode.take_over()
            self.message = "You drive; H hands back to the policy." if self._corrects else ""
        if self.episode.driving and switches % 2:
            self._operator.switch_gripper()
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
            "corrects": self._corrects,
            "gripper": "closed" if self._operator.closed else "open",
            "speed": self._operator.speed,
            "end_effector": self._operator.active or "",
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
        if self.episode.note:
            self.message = self.episode.note

    def interrupt(self) -> None:
        """The page is gone: an episode that is being recorded ends, and is there to be reviewed."""
        if self.phase == Phase.RECORDING:
            self._review()
            self.message = f"The page was gone, so the episode ended. {self.message}"

    def _how_it_begins(self) -> str:
        if self._corrects:
            return "Enter lets the policy begin; touch a control to take over."
        return "Touch a control to begin." if self._operator.by_keys else "Enter begins: the robot goes where the leader arm is."

    def _review(self) -> None:
        self.phase = Phase.REVIEW
        self.episode.rest()
        if not self.episode.is_recorded:
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
                self.episode = self._start(request)
                break
            except SimulationError as error:
                self.errors += 1
                if number == scene + TRIES - 1:
                    raise SimulationError(f"the simulator faulted in {TRIES} scenes in a row, at last: {error}") from error
        self.scene, self.phase, self._armed = number, Phase.READY, False
        self.message = self._how_it_begins()

    def _obey(self, command: Command) -> None:
        quitting, self._quitting = self._quitting, False
        if command.name == "quit":
            self._quit(quitting)
        elif command.name == SAY:
            self._say(command.text, command.add)
        elif command.name == "speed":
            self._operator.switch_speed()
        elif command.name == "end_effector":
            self._operator.switch_end_effector()
        else:
            getattr(self, f"_obey_{command.name}")()

    def _obey_save(self) -> None:
        if self.phase == Phase.READY and self._corrects:
            self.phase, self.message = Phase.RECORDING, "The policy acts; touch a control to take over."
        elif self.phase == Phase.READY and not self._operator.by_keys:
            self.phase, self.message = Phase.RECORDING, "The leader arm moves the robot; Enter ends the episode."
            self.episode.take_over()
        elif self.phase == Phase.RECORDING:
            self._review()
        elif self.phase == Phase.REVIEW and (self.episode.success or not self.episode.is_recorded):
            self._commit()
        elif self.phase == Phase.REVIEW:
            self.message = "Not saved: it did not succeed. K keeps it as a failure, Backspace takes it again, X discards it."

    def _obey_keep(self) -> None:
        if self.phase == Phase.REVIEW:
            self.episode.judge(False)
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
        if self.phase == Phase.READY or not self.episode.is_recorded:
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
        if not self._corrects:
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
        if self.phase == Phase.READY or sure or not self.episode.is_recorded:
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
