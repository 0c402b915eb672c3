"""Corrections: the policy acts first, and the expert's part begins in the state that the policy brought about."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from toy_world import LIMIT, SPEC, ToyEnv

from verbot.rollout.collect import LeadIn, demonstrate
from verbot.spec import ActionChunk
from verbot.training import DaggerConfig
from verbot.training.imitation import dagger_worker
from verbot.training.imitation.dagger_worker import CorrectionSetup

HOME, MAX_STEPS = 1.0, 5
REQUEST = {"task": "go", "split": "train", "index": 0, "wording": "seen"}


class RecordedEnv(ToyEnv):
    """The toy with all that a recording needs."""

    def _info(self, success=False):
        view = {"intrinsics": (16.0, 0, 8, 0, 16.0, 8, 0, 0, 1), "extrinsics": tuple(np.eye(4).ravel()), "frame": "base"}
        return {
            **super()._info(success), "calibration": {"front": view}, "instructions": [self.words], "grounding": [],
        }  # fmt: skip


class Away:
    """A policy that always goes left by whole steps, whatever it sees."""

    spec = SPEC

    def predict(self, observations):
        return [ActionChunk(np.full((4, 1), -1.0, np.float32)) for _ in observations]


class Steps:
    """An agent whose actions are given."""

    def __init__(self, *actions):
        self.actions, self.instructions, self.seen = list(actions), [], []

    def reset(self, instruction):
        self.instructions.append(instruction)

    def act(self, observation):
        self.seen.append(float(observation.state[0]))
        return np.array([self.actions[len(self.seen) - 1]], np.float32)


def attempt(agent, steps):
    return demonstrate(RecordedEnv(), REQUEST, 0.0, 0, 7, LeadIn(agent, steps))


def test_the_agent_acts_for_the_steps_of_the_lead_in_and_then_the_expert():
    """Kills the mutations in which the agent never acts, or the expert acts in its place."""
    agent = Steps(-1.0, -1.0, 0.5)
    found = attempt(agent, 3).record
    assert agent.seen == pytest.approx([HOME, HOME - 1.0, HOME - 2.0]), "the agent sees what it has brought about"
    assert agent.instructions == [found.instruction]
    assert found.states[0, 0] == pytest.approx(HOME - 1.5), "its own steps are not recorded"
    env = RecordedEnv()
    env.reset(seed=0, options=REQUEST)
    target = env.places[env.target]
    np.testing.assert_allclose(found.actions[:, 0], np.clip(target - found.states[:, 0], -1, 1), atol=1e-6)


def test_where_the_agent_ends_the_episode_nothing_is_recorded():
    found = attempt(Steps(*[0.0] * LIMIT), LIMIT + 10)
    assert found.record is None and found.over and found.index == 7


def test_a_worker_lets_the_policy_lead_for_a_random_time(monkeypatch):
    """Kills the mutations in which a worker asks for lead-ins of no steps, or of always as many."""
    monkeypatch.setattr(dagger_worker.VLAPolicy, "load", lambda path: Away())
    monkeypatch.setattr(dagger_worker, "make_env", lambda name, **options: RecordedEnv(**options))
    setup = CorrectionSetup(DaggerConfig(env="toy", max_steps=MAX_STEPS, noise=0.0), seed=0, policy="policy", round=0)
    with setup.open() as service:
        answers = list(service.answers(iter(range(100))))
    led = [round(HOME - float(answer.record.states[0, 0])) for answer in answers if answer.record is not None]
    assert len(led) >= 80 and set(led) == set(range(MAX_STEPS + 1)), "0 to max_steps, and every number of them"
    assert len({answer.record.states[0, 1:].tobytes() for answer in answers if answer.record}) == len(led), "new scenes"
