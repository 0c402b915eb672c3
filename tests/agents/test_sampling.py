"""Sampling: a policy draws its actions, as a function of the seed and the control step."""

from __future__ import annotations

import dataclasses

import numpy as np

from verbot.agents import ChunkAgent, SamplingAgent
from verbot.contracts import ChunkedAgent
from verbot.remote.codec import observation_from_wire, observation_to_wire
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

STEP = Component("x", "position_delta", ("x",), "m", "base", (-1.0,), (1.0,))
NOW = Observation({}, np.zeros(1, np.float32), "go")


class Drawing:
    """Predicts the seed that it is asked with."""

    spec = RobotSpec("line", 10.0, (), (STEP,), (STEP,))

    def __init__(self):
        self.seeds: list[int | None] = []

    def predict(self, observations):
        self.seeds += [o.sample_seed for o in observations]
        return [ActionChunk(np.full((2, 1), o.sample_seed or 0, np.float32)) for o in observations]


def played(seed: int, steps: int = 6, execute: int = 1) -> list[int | None]:
    policy = Drawing()
    agent = SamplingAgent(ChunkAgent(policy, execute), seed)
    agent.reset("go")
    for _ in range(steps):
        agent.act(NOW)
    return policy.seeds


def test_every_step_has_a_seed_of_its_own_that_repeats():
    assert isinstance(SamplingAgent(ChunkAgent(Drawing()), 0), ChunkedAgent)
    assert len(set(played(3))) == 6 and None not in played(3)
    assert played(3) == played(3) != played(4)
    assert played(3, execute=2) == played(3)[::2], "by the control step, however many of a chunk are executed"


def test_asking_twice_before_acting_asks_the_same():
    agent = SamplingAgent(ChunkAgent(Drawing()), 3)
    agent.reset("go")
    assert agent.next_query(NOW).sample_seed == agent.next_query(NOW).sample_seed


def test_a_new_episode_begins_anew():
    policy = Drawing()
    agent = SamplingAgent(ChunkAgent(policy), 3)
    for _ in range(2):
        agent.reset("go")
        agent.act(NOW)
    assert policy.seeds[0] == policy.seeds[1]


def test_the_seed_crosses_the_wire():
    seeded = dataclasses.replace(NOW, sample_seed=7)
    assert observation_from_wire(observation_to_wire(seeded)).sample_seed == 7
    assert "sample_seed" not in observation_to_wire(NOW)
    assert observation_from_wire(observation_to_wire(NOW)).sample_seed is None
