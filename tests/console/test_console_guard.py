"""The guard stands between the agent and what it drives, and the page says what it changed."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.console import ConsoleSetup
from verbot.console.plants import RobotPlant
from verbot.errors import ConfigError
from verbot.robots import make_robot
from verbot.spec import ActionChunk
from verbot.workflows import console

SETUP = ConsoleSetup("wild", "")


class Wild:
    """A policy that asks for more than the robot's range, and then for no number."""

    def __init__(self, spec):
        self.spec, self.value = spec, 50.0

    def predict(self, observations):
        return [ActionChunk(np.full((1, self.spec.action_size), self.value, np.float32), o.time_s) for o in observations]


@pytest.fixture
def plant():
    plant = RobotPlant(make_robot("simulated", options={"render_cameras": False}))
    yield plant
    plant.close()


def test_what_the_guard_changes_is_an_event_and_a_latch_waits_for_a_person(plant, monkeypatch):
    wild = Wild(plant.spec)
    monkeypatch.setattr(console, "_opened", lambda name: wild)
    monkeypatch.setattr(console, "_attributed", lambda policy: None)
    acting = console._open_agent(console.ConsoleOptions(robot="simulated"), SETUP, plant)
    acting.agent.reset("go")
    action = acting.agent.act(plant.observe())
    assert np.all(action <= plant.spec.action_high()) and acting.events()
    acting.agent.guard.latch("seen enough")
    plant.act(acting.agent.act(plant.observe()))
    assert any("latch" in event for event in acting.events())
    acting.agent.reset("go")
    assert acting.agent.guard.latched, "another instruction is no consent"
    acting.reset()
    assert not acting.agent.guard.latched


def test_a_policy_of_another_robot_is_refused(plant, monkeypatch):
    from verbot.envs.navigation.env import robot_spec

    monkeypatch.setattr(console, "_opened", lambda name: Wild(robot_spec()))
    monkeypatch.setattr(console, "_attributed", lambda policy: None)
    with pytest.raises(ConfigError, match="does not fit robot"):
        console._open_agent(console.ConsoleOptions(robot="simulated"), SETUP, plant)
