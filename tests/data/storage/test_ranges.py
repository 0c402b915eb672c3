from types import SimpleNamespace

import numpy as np
import pytest

from verbot.data.storage.ranges import out_of_range, range_of
from verbot.spec import Component, RobotSpec


def component(name, low, high):
    return Component(name, "other", tuple("abc"[: len(low)]), "rad", "", low, high)


SPEC = RobotSpec("toy", 10.0, (), (component("q", (-1.0, -1.0), (1.0, 1.0)),), (component("u", (0.0,), (0.5,)),))


def episode(index, states, actions):
    return SimpleNamespace(index=index, states=np.array(states, np.float32), actions=np.array(actions, np.float32))


def test_what_is_outside_is_counted_by_dimension():
    episodes = [
        episode(3, [[0, 0], [0.5, -1]], [[0.5], [0.25]]),
        episode(4, [[0, 1.25], [0, -3], [0, 2]], [[0.75], [0], [-0.1]]),
    ]
    state, action = out_of_range(episodes, SPEC)
    assert (state.vector, state.component, state.axis, state.count, state.total) == ("state", "q", "b", 3, 5)
    assert (state.worst, state.excess, state.episode, state.frame) == (-3.0, 2.0, 4, 0)
    assert (action.component, action.axis, action.count, action.worst, action.frame) == ("u", "a", 2, 0.75, 0)
    assert str(state) == (
        "state q.b: 3 of 5 numbers are outside -1 to 1 rad, the worst -3 (by 2); the first in episode 4, frame 0"
    )


def test_rounding_to_float32_is_not_outside():
    assert out_of_range([episode(0, [[1.000001, 0]], [[np.float32(0.5) + 1e-7]])], SPEC) == ()
    assert out_of_range([episode(0, [[np.nan, 0]], [[np.nan]])], SPEC) == ()


@pytest.mark.parametrize("value", [0.0, 37.5, -5000.0])
def test_only_a_point_is_widened(value):
    low, high = range_of([value, -2.0], [value, 3.0])
    assert (low[1], high[1]) == (-2.0, 3.0)
    assert np.float32(low[0]) < np.float32(value) < np.float32(high[0])
    assert high[0] - low[0] < 1e-4 * max(1, abs(value))
