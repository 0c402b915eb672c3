"""Who waits for whom: requests of several clients in one policy."""

import threading

import numpy as np
import pytest

from verbot.deploy.turns import BATCH, TurnRequest, Turns
from verbot.errors import PolicyError, SpecError, WireError
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))


class Recorder:
    """Answers with the state; keeps what was predicted at once. The first call sets `began` and waits for `go`."""

    spec = RobotSpec("toy", 10.0, (), (GRIPPER,), (GRIPPER,))

    def __init__(self):
        self.began, self.go, self.batches = threading.Event(), threading.Event(), []

    def predict(self, observations):
        self.began.set()
        assert self.go.wait(60)
        self.batches.append([(o.instruction, float(o.state[0])) for o in observations])
        if any(o.instruction == "fail" for o in observations):
            raise IndexError("index 7 is out of bounds")
        return [ActionChunk(np.full((2, 1), np.nan if o.instruction == "nan" else o.state[0], np.float32)) for o in observations]


@pytest.fixture
def policy():
    return Recorder()


@pytest.fixture
def turns(policy):
    running = Turns(policy, clock=lambda: 0.0)  # clients stay recent, however slow the machine is
    yield running
    running.close()


def ask(turns, client, count, instruction=None, memory=None):
    """The result of a request, later."""
    done, results = threading.Event(), []
    name = instruction or f"client {client}"
    observations = [Observation({}, np.array([i], np.float32), name, memory=memory) for i in range(count)]

    def finish(result):
        results.append(result)
        done.set()

    def read(data):
        if data == b"wrong":
            raise WireError("wrong")
        return observations

    turns.submit(TurnRequest(client, b"wrong" if instruction == "wrong" else b"x" * count, read, finish))

    def result():
        assert done.wait(60)
        return results[0]

    return result


def test_a_client_alone_is_predicted_for_whole(turns, policy):
    policy.go.set()
    assert [chunk.values[0, 0] for chunk in ask(turns, 0, 40)()] == list(range(40))
    assert [len(batch) for batch in policy.batches] == [40]
    assert ask(turns, 0, 0)() == []


def test_a_large_request_does_not_hold_up_small_ones(turns, policy):
    first = ask(turns, 9, 1)
    assert policy.began.wait(60)
    large, small = ask(turns, 0, 60), [ask(turns, client, 1) for client in (1, 2, 3)]
    policy.go.set()
    for each in small:
        assert len(each()) == 1
    assert [chunk.values[0, 0] for chunk in large()] == list(range(60))
    assert len(first()) == 1
    assert all(len(batch) <= BATCH for batch in policy.batches)
    assert {name for name, _ in policy.batches[1]} == {f"client {client}" for client in range(4)}


def test_an_error_reaches_only_the_client_that_caused_it(turns, policy):
    first = ask(turns, 9, 1)
    assert policy.began.wait(60)
    memory = {"time_s": np.zeros(3)}
    bad, nan, wrong = ask(turns, 0, 2, "fail", memory), ask(turns, 1, 2, "nan"), ask(turns, 2, 2, "wrong")
    good = ask(turns, 3, 2)
    policy.go.set()
    assert len(first()) == 1 and len(good()) == 2
    assert isinstance(error := bad(), PolicyError) and "IndexError: index 7 is out of bounds; if the memory" in str(error)
    assert isinstance(nan(), SpecError) and isinstance(wrong(), WireError)
    count = len(policy.batches)
    again, good = ask(turns, 0, 1, "fail"), ask(turns, 3, 1)
    assert isinstance(again(), PolicyError) and len(good()) == 1
    assert [len(batch) for batch in policy.batches[count:]] == [1, 1], "a client that failed is predicted for alone"


@pytest.mark.parametrize("given", [[], [None], ["chunk"], 3])
def test_a_policy_may_return_anything(turns, policy, monkeypatch, given):
    policy.go.set()
    monkeypatch.setattr(policy, "predict", lambda observations: given)
    assert isinstance(ask(turns, 0, 1)(), PolicyError)
    monkeypatch.undo()
    assert len(ask(turns, 0, 1)()) == 1
