"""What a person does at the console, without a page and without a clock: obey, ask, stop, go on, choose."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.console.choices import Acting, ConsoleChoices, ConsoleSetup
from verbot.console.history import History
from verbot.console.inbox import MOST, Inbox
from verbot.console.plants import Preview, RobotPlant
from verbot.console.session import ConsolePhase, ConsoleSession
from verbot.envs.navigation.env import robot_spec
from verbot.errors import ConfigError, PolicyError, SimulationError, WireError
from verbot.spec import Observation

SPEC = robot_spec(8)


class Field:
    """A plant that understands what begins with "go", and counts what is done to it."""

    spec, is_real = SPEC, False

    def __init__(self, outcomes=None):
        self.started, self.actions, self.holds, self.closed, self.outcomes = [], 0, 0, False, outcomes or {}

    def preview(self, text):
        if text.startswith("go"):
            return Preview(text, goal=text)
        return Preview(text, problem="the grammar does not know it", elsewhere=text == "fly", asks=True)

    def begin(self, preview):
        self.started.append(preview and preview.text)
        self.actions = 0

    def observe(self):
        images = {name: np.zeros((8, 8, 3), np.uint8) for name in SPEC.camera_names}
        return Observation(images, np.zeros(SPEC.state_size, np.float32), "", None, self.actions / SPEC.rate_hz)

    def act(self, action):
        self.actions += 1
        outcome = self.outcomes.get(self.actions)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def hold(self):
        self.holds += 1

    def pictures(self, pixels):
        return {}

    def scene(self):
        return {"objects": [], "examples": []}

    def move(self, camera, start, end):
        return "cube"

    def close(self):
        self.closed = True


class Still:
    """An agent that says when it acts."""

    def __init__(self, before=lambda: None):
        self.resets, self._before = [], before

    def reset(self, instruction):
        self.resets.append(instruction)

    def act(self, observation):
        self._before()
        return SPEC.action_low()


def session_of(plant=None, agent=None, **more):
    plant, agent, inbox = plant or Field(), agent or Still(), Inbox()
    acting = more.pop("acting", None) or Acting(agent)
    choices = ConsoleChoices(lambda setup: plant, lambda setup, opened: acting, find=more.pop("find", lambda text, setup: None))
    return ConsoleSession(choices, ConsoleSetup(), inbox, History(), **more), plant, inbox


def test_an_instruction_is_obeyed_until_it_is_done():
    session, plant, _ = session_of(Field({3: "success"}))
    session.tick()
    assert plant.actions == 0, "nothing moves before an instruction"
    session.obey("go home")
    assert session.phase == ConsolePhase.MOVING and plant.started == ["go home"] and session.acting.agent.resets == ["go home"]
    for _ in range(5):
        session.tick()
    assert (session.phase, session.outcome, plant.actions) == (ConsolePhase.ENDED, "success", 3)
    assert [(each["judgement"], each["seconds"]) for each in session.history.listing()] == [("success", 3 / SPEC.rate_hz)]


def test_what_is_not_understood_is_asked_before_it_is_obeyed():
    session, plant, _ = session_of()
    preview = session.obey("sing")
    assert preview.asks and session.phase == ConsolePhase.READY and not plant.started
    assert "does not know" in preview.problem and session.message == "Not obeyed yet."
    session.obey("sing", anyway=True)
    assert session.phase == ConsolePhase.MOVING and not session.view()["judged"]


def test_an_expert_obeys_no_instruction_without_a_goal():
    session, plant, _ = session_of(acting=Acting(Still(), needs_goal=True))
    session.obey("sing", anyway=True)
    assert session.phase == ConsolePhase.READY and "expert" in session.message and not plant.started


def test_a_stop_holds_before_the_next_step_whenever_it_comes():
    """Also while the agent thinks: what it then says is not executed."""
    inbox = Inbox()
    session, plant, inbox = session_of(agent=Still(lambda: inbox.stop("you stopped it")))
    session.obey("go home")
    session.tick()
    assert (session.phase, plant.actions, plant.holds) == (ConsolePhase.STOPPED, 0, 1)
    assert session.message == "Held: you stopped it."
    session.tick()
    assert plant.actions == 0


def test_a_stop_overtakes_the_instructions_that_wait():
    inbox = Inbox()
    inbox.put({"type": "obey"})
    inbox.stop("you stopped it")
    assert inbox.take() == [] and inbox.stopped() == "you stopped it" and inbox.stopped() == ""
    for _ in range(MOST):
        inbox.put({"type": "again"})
    with pytest.raises(WireError, match="commands are waiting"):
        inbox.put({"type": "again"})
    inbox.stop("again")
    assert inbox.stopped() == "again", "a full inbox hinders no stop"


def test_going_on_drops_what_was_predicted_before_the_stop():
    session, plant, inbox = session_of()
    session.obey("go home")
    inbox.stop("you stopped it")
    session.tick()
    session.resume()
    assert session.acting.agent.resets == ["go home", "go home"] and plant.started == ["go home"]
    session.tick()
    assert session.phase == ConsolePhase.MOVING and plant.actions == 1


def test_another_instruction_goes_on_from_where_the_robot_is_and_is_not_judged():
    session, plant, _ = session_of(Field({2: "success"}))
    session.obey("go home")
    session.tick()
    session.obey("go away")
    assert plant.started == ["go home"] and session.acting.agent.resets[-1] == "go away" and not session.view()["judged"]
    session.tick()
    assert session.history.listing()[0]["judgement"] == "not judged"
    session.obey("go home")
    assert plant.started == ["go home", "go home"], "after its end the scene is set up again"


def test_time_and_faults_end_an_instruction():
    session, plant, _ = session_of(seconds=2 / SPEC.rate_hz)
    session.obey("go home")
    for _ in range(4):
        session.tick()
    assert (session.phase, session.outcome, plant.actions) == (ConsolePhase.ENDED, "time is over", 2)
    session, plant, _ = session_of(Field({1: SimulationError("it broke")}))
    session.obey("go home")
    session.tick()
    assert session.outcome == "fault" and "it broke" in session.message

    def fail():
        raise PolicyError("no weights")

    session, plant, _ = session_of(agent=Still(fail))
    session.obey("go home")
    session.tick()
    assert session.phase == ConsolePhase.STOPPED and "no weights" in session.message and plant.holds == 1


def test_a_choice_that_fails_leaves_everything_as_it_was():
    plants, fails = [], []

    def open_agent(setup, plant):
        if fails:
            raise ConfigError("no such policy")
        return Acting(Still())

    choices = ConsoleChoices(lambda setup: plants.append(Field()) or plants[-1], open_agent)
    session = ConsoleSession(choices, ConsoleSetup(), Inbox(), History())
    session.obey("go home")
    session.choose(ConsoleSetup(scene=2))
    assert plants[0].closed and not plants[1].closed and session.phase == ConsolePhase.READY and session.setup.scene == 2
    fails.append(True)
    session.obey("go home")
    with pytest.raises(ConfigError):
        session.choose(ConsoleSetup(policy="lost"))
    assert session.plant is plants[1] and plants[2].closed and session.phase == ConsolePhase.STOPPED
    session.close()
    assert plants[1].closed


def test_another_scene_is_searched_where_the_goal_is_elsewhere():
    session, _, _ = session_of(find=lambda text, setup: ConsoleSetup(scene=7))
    session.obey("fly", search=True)
    assert session.setup.scene == 7
    session, _, _ = session_of()
    session.obey("fly", search=True)
    assert session.message == "No scene was found for 'fly'." and session.phase == ConsolePhase.READY


def test_an_episode_that_a_person_disturbed_says_so():
    session, _, _ = session_of(Field({2: "success"}))
    session.move("front", (0.1, 0.1), (0.2, 0.2))
    assert not session.view()["disturbed"], "nothing ran yet"
    session.obey("go home")
    session.tick()
    session.move("front", (0.1, 0.1), (0.2, 0.2))
    session.tick()
    assert session.history.listing()[0]["disturbed"] and session.view()["disturbed"]


class Arm:
    """A robot that notes what it is asked."""

    spec = SPEC

    def __init__(self):
        self.calls = []

    def connect(self):
        self.calls.append("connect")

    def observe(self):
        return Field().observe()

    def act(self, action):
        self.calls.append("act")

    def stop(self):
        self.calls.append("stop")

    def close(self):
        self.calls.append("close")


def test_a_robot_is_stopped_by_every_way_out():
    arm = Arm()
    session, _, inbox = session_of(RobotPlant(arm))
    session.obey("wave")
    session.tick()
    inbox.stop("you stopped it")
    session.tick()
    session.tick()
    assert arm.calls == ["connect", "stop", "act", "stop"], "nothing judges on a robot, so nobody is asked"
    with pytest.raises(ConfigError, match="drives a robot"):
        session.choose(ConsoleSetup())
    with pytest.raises(SimulationError, match="in simulation only"):
        session.move("front", (0, 0), (1, 1))
    session.close()
    assert arm.calls[-2:] == ["stop", "close"]
