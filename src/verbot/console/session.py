"""A session at the console: instructions, stopping, choosing. No page, no clock; one call of `tick` is a control step."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from typing import Any

from verbot.console.choices import Acting, ConsoleChoices, ConsoleSetup
from verbot.console.history import ConsoleRecording, History
from verbot.console.inbox import Inbox
from verbot.console.plants import Plant, PlantOutcome, Preview
from verbot.contracts import Narrator
from verbot.errors import ConfigError, SimulationError, VerbotError

EVENTS = 50  # of the guard, the latest; one that repeats counts once
PICTURE_HZ = 10.0  # at most, about


class ConsolePhase(enum.StrEnum):
    READY = "ready"  # nothing moves until an instruction is given
    MOVING = "moving"
    STOPPED = "stopped"  # held until a person says go on
    ENDED = "ended"


class ConsoleSession:
    """What happens between the pages and the robot.

    Args:
        inbox: holds the stop, which is looked for directly before each control step.
        seconds: time limit of an instruction; 0 for none.

    Raises what `ConsoleChoices.open_plant` and `open_agent` raise.
    """

    def __init__(self, choices: ConsoleChoices, setup: ConsoleSetup, inbox: Inbox, history: History, seconds: float = 60.0):
        self._choices, self._inbox, self.history, self._seconds = choices, inbox, history, seconds
        self.setup = setup
        self.phase: ConsolePhase
        self.outcome: PlantOutcome | None
        self.message, self.instruction, self.goal = "", "", ""
        self.plant: Plant = choices.open_plant(setup)
        self.acting: Acting = choices.open_agent(setup, self.plant)
        self._events: deque[str] = deque(maxlen=EVENTS)
        self._recording: ConsoleRecording | None = None
        self._wants_heat = self.disturbed = self._is_judged = False
        self.phase, self.outcome, self.steps, self._since = ConsolePhase.READY, None, 0, 0
        self._rest("Type an instruction, or choose one.")

    # What a person does.

    def preview(self, text: str) -> Preview:
        """What an instruction would mean; nothing is done."""
        if self.phase == ConsolePhase.READY:
            self.message = ""
        return self.plant.preview(text)

    def obey(self, text: str, anyway: bool = False, search: bool = False) -> Preview:
        """Follow an instruction from now on, unless a person has to be asked before: see `Preview.asks`.

        While the robot moves or is held, it goes on from where it is; otherwise the scene is set up again.

        Args:
            anyway: the person was asked.
            search: look for a scene that has the goal.
        """
        preview = self.preview(text)
        if search and preview.elsewhere:
            found = self._choices.find(text, self.setup)
            if found is None:
                self.message = f"No scene was found for {text!r}."
                return preview
            self.choose(found)
            preview = self.preview(text)
        if preview.asks and (not anyway or self.acting.needs_goal):
            self.message = "Not obeyed yet."
            if self.acting.needs_goal:
                self.message += " The expert acts on a goal alone."
            return preview
        in_place = self.phase in (ConsolePhase.MOVING, ConsolePhase.STOPPED) and not self.acting.needs_goal
        if in_place and not self.plant.is_real:
            self._is_judged = self._is_judged and preview.goal == self.goal and bool(preview.goal)
        else:
            self._finish("stopped")
            self.plant.begin(preview)
            self._is_judged, self.steps, self.disturbed = bool(preview.goal), 0, False
        self.instruction, self.goal, self._since = preview.text, preview.goal, self.steps
        self.acting.agent.reset(preview.text)
        if self.acting.policy is not None:
            self.acting.policy.forget()
        self._record()
        self._move("It obeys.")
        return preview

    def resume(self) -> None:
        """Go on after a stop, with the same instruction."""
        if self.phase == ConsolePhase.STOPPED and self.instruction:
            self.acting.reset()
            self.acting.agent.reset(self.instruction)  # actions that were predicted before the stop are dropped
            self._move("It goes on.")

    def again(self) -> None:
        """Set the scene up as it was. A robot is held where it is."""
        self._finish("stopped")
        self.plant.begin(None)
        self._rest("The scene is as it was." if not self.plant.is_real else "The robot is held.")

    def choose(self, setup: ConsoleSetup) -> None:
        """Another policy, suite or scene. Raises `VerbotError` if that cannot be; then everything stays as it was, and held."""
        self._hold("another choice")
        plant, acting = self.plant, self.acting
        if self.plant.is_real:
            raise ConfigError("this console drives a robot; start it without --robot to choose")
        new = self._choices.open_plant(setup)
        try:
            self.acting = self._choices.open_agent(setup, new)
        except BaseException:
            self.acting = acting
            new.close()
            raise
        self._finish("stopped")
        self.setup, self.plant = setup, new
        plant.close()
        self._apply_heat()
        self._rest("Type an instruction, or choose one.")

    def show_heat(self, wanted: bool) -> None:
        self._wants_heat = wanted
        self._apply_heat()

    def move(self, camera: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """A person moves an object in a picture. Raises `SimulationError`."""
        name = self.plant.move(camera, start, end)
        self.disturbed = self.phase in (ConsolePhase.MOVING, ConsolePhase.STOPPED)
        if self._recording is not None and self.disturbed:
            self._recording.about["disturbed"] = True
        self.message = f"You moved the {name}."

    # What the loop does.

    @property
    def steps_per_picture(self) -> int:
        """Pictures are made, and recorded, every so many control steps."""
        return max(1, round(self.plant.spec.rate_hz / PICTURE_HZ))

    def tick(self) -> None:
        """One control step, unless a person has stopped it."""
        if self._was_stopped() or self.phase != ConsolePhase.MOVING:
            self._watch()
            return
        try:
            action = self.acting.agent.act(self.plant.observe())
            if self._was_stopped():
                return
            outcome = self.plant.act(action)
        except SimulationError as fault:
            self._end("fault", f"The simulator faulted: {fault}.")
            return
        except VerbotError as error:
            self._hold(f"a fault: {error}")
            return
        finally:
            for event in self.acting.events():
                if not self._events or self._events[-1] != event:
                    self._events.append(event)
        self.steps += 1
        if outcome is not None:
            self._end(outcome)
        elif self._seconds and (self.steps - self._since) / self.plant.spec.rate_hz >= self._seconds:
            self._end("time is over")

    def record(self, pictures: Mapping[str, bytes]) -> None:
        """Keep the pictures, JPEG by camera, of the present step in the history."""
        if self._recording is not None and self.phase == ConsolePhase.MOVING:
            self._recording.add(self.instruction, pictures)

    def view(self) -> dict[str, Any]:
        """The state that pages show besides the pictures; JSON."""
        agent, policy = self.acting.agent, self.acting.policy
        return {
            "phase": self.phase.value, "message": self.message, "instruction": self.instruction, "goal": self.goal,
            "judged": self._is_judged, "outcome": self.outcome or "", "seconds": round(self.steps / self.plant.spec.rate_hz, 1),
            "disturbed": self.disturbed, "latency_ms": policy.latency_ms() if policy is not None else None,
            "heat": self._wants_heat, "has_heat": policy is not None and policy.has_heat,
            "narration": list(agent.narration()) if isinstance(agent, Narrator) else [], "events": list(self._events),
        }  # fmt: skip

    def about(self) -> dict[str, Any]:
        """What seldom changes: the setup and the scene; JSON."""
        setup = self.setup
        return {
            "policy": setup.policy, "suite": setup.suite, "scene": setup.scene, "task": setup.task, "axes": dict(setup.axes),
            "composition": setup.composition, "known_axes": list(self._choices.axes(setup.suite)), **self.plant.scene(),
        }  # fmt: skip

    def close(self) -> None:
        """Hold the robot, and let it go."""
        self._hold("the console ends")
        self._finish("stopped")
        self.plant.close()

    def _watch(self) -> None:
        """What a robot's cameras show while nothing moves."""
        if self.plant.is_real:
            try:
                self.plant.observe()
            except VerbotError as error:
                self.message = f"A fault: {error}"

    def _was_stopped(self) -> bool:
        reason = self._inbox.stopped()
        if reason:
            self._hold(reason)
        return bool(reason)

    def _hold(self, reason: str) -> None:
        self.plant.hold()
        if self.phase == ConsolePhase.MOVING:
            self.phase, self.message = ConsolePhase.STOPPED, f"Held: {reason}."

    def _move(self, message: str) -> None:
        self.phase, self.message, self.outcome = ConsolePhase.MOVING, message, None

    def _rest(self, message: str) -> None:
        self.phase, self.message, self.instruction, self.goal = ConsolePhase.READY, message, "", ""
        self.steps, self._since, self.disturbed, self._is_judged = 0, 0, False, False
        self.outcome = None
        if self.acting.policy is not None:
            self.acting.policy.forget()

    def _end(self, outcome: PlantOutcome, message: str = "") -> None:
        self.plant.hold()
        self.phase, self.outcome = ConsolePhase.ENDED, outcome
        judgement = (
            "not judged" if outcome == "fault" or not self._is_judged else "success" if outcome == "success" else "failure"
        )
        words = {"success": "Done.", "failure": "Not done: the time is over.", "not judged": "It ended; nothing judged it."}
        self.message = message or words[judgement]
        self._finish(judgement)

    def _record(self) -> None:
        """Begin a recording, or go on with the one of this episode."""
        if self._recording is None:
            self._recording = ConsoleRecording({"disturbed": False}, self.plant.spec.rate_hz / self.steps_per_picture)
        self._recording.about |= {
            "instruction": self.instruction, "policy": self.setup.policy, "suite": self.setup.suite, "scene": self.setup.scene,
            "axes": {name: strength for name, strength in self.setup.axes.items() if strength},
        }  # fmt: skip

    def _finish(self, judgement: str) -> None:
        """Keep what was recorded."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.about |= {"judgement": judgement, "seconds": round(self.steps / self.plant.spec.rate_hz, 1)}
            self.history.add(recording)

    def _apply_heat(self) -> None:
        if self.acting.policy is not None:
            self.acting.policy.wants_heat = self._wants_heat
