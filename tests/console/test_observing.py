"""A policy seen from beside it: heatmaps only while they are wanted, and how long predictions take."""

from __future__ import annotations

import numpy as np

from verbot.console.observing import ObservedPolicy
from verbot.envs.navigation.env import robot_spec
from verbot.spec import ActionChunk

SPEC = robot_spec(8)


class Constant:
    spec = SPEC

    def __init__(self, extras=None):
        self.extras, self.calls = extras or {}, 0

    def predict(self, observations):
        self.calls += 1
        return [ActionChunk(np.tile(SPEC.action_low(), (2, 1)), SPEC.rate_hz, extras=self.extras) for _ in observations]


def test_heatmaps_are_computed_only_while_they_are_wanted():
    maps, times = {"top": np.full((3, 8, 8), 1 / 64, np.float32)}, iter(np.arange(0, 10, 0.5))
    plain, attributed = Constant(), Constant({"heatmaps": maps})
    policy = ObservedPolicy(plain, attributed, clock=lambda: float(next(times)))
    assert policy.has_heat and policy.latency_ms() is None and policy.spec is SPEC
    policy.predict([None])
    assert policy.heat() == {} and (plain.calls, attributed.calls) == (1, 0)
    policy.wants_heat = True
    assert policy.heat() == {}, "the latest prediction was without"
    policy.predict([None])
    assert policy.heat() is maps and (plain.calls, attributed.calls) == (1, 1)
    assert policy.latency_ms() == (500.0, 500.0)
    policy.forget()
    assert policy.heat() == {}
    assert policy.predict([]) == [] and not ObservedPolicy(plain).has_heat
