"""When a prediction waits for further requests; a clock of numbers."""

import threading

import numpy as np
import pytest

from verbot.deploy.arrivals import Arrivals
from verbot.deploy.turns import TurnRequest, Turns
from verbot.spec import ActionChunk, Component, Observation, RobotSpec


def known(pauses, took_s=1.0, most_wait_s=0.004):
    """Clients that have asked twice with these pauses, and were answered last at 10 s."""
    arrivals = Arrivals(most_wait_s)
    for client, pause in enumerate(pauses):
        arrivals.asked(client, 10 - pause - 0.01)
        arrivals.answered(client, 10 - pause)
        arrivals.asked(client, 10.0)
        arrivals.answered(client, 10.0)
    for count in (1, 2):
        arrivals.predicted(count, took_s)  # a second observation costs nothing
    return arrivals


def test_it_waits_for_those_who_are_about_to_ask():
    arrivals = known([0.001, 0.002, 0.1])
    assert arrivals.wait_s(10.0, 10.0, {0}) == pytest.approx(0.004), "client 1 asks within it"
    assert arrivals.wait_s(10.0, 10.003, {0}) > 0 and arrivals.wait_s(10.0, 10.0041, {0}) == 0, "and no longer"
    assert arrivals.wait_s(10.0, 10.0, {0, 1}) == 0, "client 2 asks much later"
    assert arrivals.wait_s(10.099, 10.099, {0, 1}) > 0, "but now it does"
    assert arrivals.wait_s(10.2, 10.2, {0, 1}) == 0, "who did not come is not waited for"


def test_a_client_alone_never_waits():
    arrivals = known([0.001])
    assert arrivals.wait_s(10.0, 10.0, {0}) == 0
    assert Arrivals().wait_s(0.0, 0.0, set()) == 0


def test_it_waits_less_for_a_fast_policy_and_not_where_it_must_not():
    assert known([0.0, 0.0], took_s=0.002).wait_s(10.0, 10.0, {0}) == pytest.approx(0.001)
    linear = known([0.0, 0.0], took_s=0.1)
    for _ in range(20):
        linear.predicted(2, 0.2)
    assert linear.fixed_s() < 1e-6 and linear.wait_s(10.0, 10.0, {0}) < 1e-6, "a batch saves nothing"
    assert Arrivals().fixed_s() == 0
    assert known([0.0, 0.0], most_wait_s=0.0).wait_s(10.0, 10.0, {0}) == 0


def test_clients_that_left_are_forgotten():
    arrivals = known([0.001, 0.002])
    assert arrivals.recent(10.5) == {0, 1} and arrivals.recent(12.0) == set()
    assert arrivals.wait_s(10.0, 10.0, {0}) == 0
    arrivals.answered(1, 12.0)  # nothing is known of it


class Recorder:
    spec = RobotSpec("toy", 10.0, (), (), (Component("x", "other", ("x",), "1", "base", (-1.0,), (1.0,)),))

    def __init__(self):
        self.batches = []

    def predict(self, observations):
        self.batches.append(len(observations))
        return [ActionChunk(np.zeros((1, 1), np.float32)) for _ in observations]


def test_requests_that_come_while_it_waits_are_predicted_together(monkeypatch):
    monkeypatch.setattr("verbot.deploy.arrivals.Arrivals.fixed_s", lambda self: 1e9)  # this policy is fast
    policy, counted = Recorder(), []
    turns = Turns(policy, wait_s=60.0, predicted=lambda size, seconds: counted.append(size))  # only a full batch ends the wait
    turns.batch = 2
    seen = [Observation({}, np.zeros(0, np.float32))]
    for number in range(3):
        done = [threading.Event(), threading.Event()]
        for client in (0, 1):
            turns.submit(TurnRequest(client, b"x", lambda data: seen, lambda result, done=done[client]: done.set()))
            assert number < 2 or client or not done[0].wait(0.2), "client 0 waits for client 1, whose pauses are known"
        assert all(each.wait(5) for each in done)
    turns.close()
    assert policy.batches[-1] == 2 and counted == policy.batches
