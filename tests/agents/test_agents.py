from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from verbot.agents import ChunkAgent, ColorAlignmentAgent, EnsembleAgent
from verbot.agents.policy_memory import PAUSE_S
from verbot.contracts import ChunkedAgent, Policy
from verbot.errors import ConfigError, PolicyError
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

STEP = Component("x", "position_delta", ("x",), "m", "base", (-1.0,), (1.0,))
SPEC = RobotSpec("line", 10.0, (), (STEP,), (STEP,))


class Counting:
    """Chunk number n holds 10 n, 10 n + 1, 10 n + 2, so that an action identifies its chunk and row."""

    spec = SPEC

    def __init__(self) -> None:
        self.queries: list[Observation] = []

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.queries += observations
        return [ActionChunk(np.arange(3, dtype=np.float32)[:, None] + 10 * len(self.queries))]


def observe(time_s: float = 0.0) -> Observation:
    return Observation({}, np.zeros(1, np.float32), "the env's instruction", time_s=time_s)


def drive(agent: ChunkedAgent, steps: int) -> list[float]:
    return [float(agent.act(observe(i / 10))[0]) for i in range(steps)]


def test_agents_keep_the_contract() -> None:
    policy = Counting()
    assert isinstance(policy, Policy)
    assert isinstance(ChunkAgent(policy), ChunkedAgent)
    assert isinstance(EnsembleAgent(policy), ChunkedAgent)
    assert isinstance(ColorAlignmentAgent(ChunkAgent(policy), {}), ChunkedAgent)


@pytest.mark.parametrize(("execute", "actions"), [(1, [10, 20, 30, 40]), (2, [10, 11, 20, 21]), (3, [10, 11, 12, 20])])
def test_executes_n_of_k_then_predicts_again(execute: int, actions: list[float]) -> None:
    policy = Counting()
    agent = ChunkAgent(policy, execute)
    agent.reset("go")
    assert drive(agent, 4) == actions
    assert len(policy.queries) == -(-4 // execute)


def test_the_policy_gets_the_agents_instruction() -> None:
    for agent in (ChunkAgent(policy := Counting(), 1), EnsembleAgent(policy)):
        agent.reset("go left")
        agent.act(observe())
        assert policy.queries[-1].instruction == "go left"


def test_reset_discards_the_rest_of_a_chunk() -> None:
    agent = ChunkAgent(Counting(), 3)
    agent.reset("go")
    agent.act(observe())
    assert agent.next_query(observe()) is None
    agent.reset("stop")
    query = agent.next_query(observe())
    assert query is not None
    assert query.instruction == "stop"


def test_received_chunks_replace_predictions() -> None:
    for agent in (ChunkAgent(policy := Counting(), 2), EnsembleAgent(policy)):
        agent.reset("go")
        queries = len(policy.queries)
        assert agent.next_query(observe()) is not None
        agent.receive(ActionChunk(np.full((2, 1), 7.0, np.float32)))
        assert agent.next_query(observe()) is None
        assert agent.act(observe()).tolist() == [7.0]
        assert len(policy.queries) == queries


def test_ensemble_weighs_the_oldest_most() -> None:
    """The chunks are 10 11 12, 20 21 22 and 30 31 32. At step 2 they predict 12 (the oldest), 21 and 30."""
    decay = 0.5
    agent = EnsembleAgent(Counting(), decay)
    agent.reset("go")
    weights = np.exp(-decay * np.arange(3))
    expected = [
        10.0,
        np.average([11, 20], weights=weights[:2]),
        np.average([12, 21, 30], weights=weights),
        np.average([22, 31, 40], weights=weights),
    ]
    np.testing.assert_allclose(drive(agent, 4), expected, rtol=1e-6)
    assert expected[2] < np.mean([12, 21, 30])


def test_ensemble_without_decay_is_the_mean_and_reset_clears_it() -> None:
    agent = EnsembleAgent(Counting(), 0.0)
    agent.reset("go")
    np.testing.assert_allclose(drive(agent, 3), [10, 15.5, 21])
    agent.reset("go")
    assert drive(agent, 1) == [40]


def test_ensemble_actions_are_float32() -> None:
    agent = EnsembleAgent(Counting())
    agent.reset("go")
    assert agent.act(observe()).dtype == np.float32


def test_wrong_settings_teach() -> None:
    with pytest.raises(ConfigError, match="execute is 0; expected at least 1"):
        ChunkAgent(Counting(), 0)
    with pytest.raises(ConfigError, match="decay is -1; expected 0 or more"):
        EnsembleAgent(Counting(), -1)
    with pytest.raises(PolicyError, match="predicts 3 actions at a time, but execute is 4; choose execute between 1 and 3"):
        ChunkAgent(Counting(), 4).act(observe())


class Remembering(Counting):
    """Its memory holds the number of queries and the time of the last one."""

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        (query,) = observations
        (chunk,) = super().predict(observations)
        count = 1 if query.memory is None else int(query.memory["count"]) + 1
        return [ActionChunk(chunk.values, memory={"count": np.asarray(count), "at_s": np.asarray(query.time_s)})]


@pytest.mark.parametrize("make", [ChunkAgent, EnsembleAgent])
def test_memory_ends_with_the_episode_unless_kept(make: Callable[..., ChunkedAgent]) -> None:
    for across, count in ((False, 2), (True, 5)):
        agent = make(policy := Remembering(), across_episodes=across)
        for instruction, steps in (("first", 3), ("second", 2)):
            agent.reset(instruction)
            drive(agent, steps)
        last = policy.queries[-1]
        assert last.instruction == "second"
        assert last.memory is not None
        assert int(last.memory["count"]) + 1 == count


@pytest.mark.parametrize("make", [ChunkAgent, EnsembleAgent])
def test_across_episodes_the_clock_continues_after_a_pause(make: Callable[..., ChunkedAgent]) -> None:
    agent = make(policy := Remembering(), across_episodes=True)
    for _ in range(3):
        agent.reset("go")
        drive(agent, 3)
    times = [query.time_s for query in policy.queries]
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.2 + PAUSE_S, *(0.2 + PAUSE_S + np.array([0.1, 0.2])),
                                       *(0.4 + 2 * PAUSE_S + np.array([0.0, 0.1, 0.2]))])  # fmt: skip
    agent = make(policy, across_episodes=True)
    agent.reset("go")
    drive(agent, 1)
    assert policy.queries[-1].memory is None
    assert policy.queries[-1].time_s == 0


class Recording(Counting):
    """Records its queries."""

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.queries += observations
        return [ActionChunk(np.zeros((3, 1), np.float32)) for _ in observations]


def scene(light: float) -> np.ndarray:
    """A gray table with a red object on it; `light` is added to every channel."""
    image = np.full((8, 8, 3), 100.0)
    image[2:4, 2:4] = (220, 30, 30)
    return np.clip(image + light, 0, 255).astype(np.uint8)


def test_images_are_shifted_to_the_channel_median_which_is_estimated_in_every_episode() -> None:
    policy = Recording()
    agent = ColorAlignmentAgent(ChunkAgent(policy), {"front": (100, 100, 100)})
    for light in (-30.0, 20.0):
        agent.reset("go")
        raw = {"front": scene(light), "wrist": scene(light)}
        given = Observation(raw, np.zeros(1, np.float32), "", time_s=0.0)
        agent.act(given)
        np.testing.assert_array_equal(policy.queries[-1].images["front"], scene(0.0))
        np.testing.assert_array_equal(policy.queries[-1].images["wrist"], raw["wrist"])
        assert policy.queries[-1].instruction == "go"
        np.testing.assert_array_equal(given.images["front"], scene(light))  # the caller's image is not changed


def test_the_channel_median_is_averaged_over_the_last_images_and_no_image_counts_twice() -> None:
    policy = Recording()
    agent = ColorAlignmentAgent(ChunkAgent(policy), {"front": (100, 100, 100)}, frames=2)
    agent.reset("go")
    for step, (light, offset) in enumerate(((10.0, -10.0), (30.0, -20.0), (50.0, -40.0))):
        observation = Observation({"front": scene(light)}, np.zeros(1, np.float32), "", time_s=step / 10)
        query = agent.next_query(observation)
        assert query is not None
        agent.receive(policy.predict([query])[0])
        agent.act(observation)
        assert policy.queries[-1].images["front"][0, 0].tolist() == [100 + light + offset] * 3
    agent.act(Observation({}, np.zeros(1, np.float32), "", time_s=0.3))  # a camera may be missing
    assert policy.queries[-1].images == {}


def test_invalid_colors_are_refused() -> None:
    with pytest.raises(ConfigError, match="channel median of camera 'front' is .1, 2.; expected red, green and blue, 0 to 255"):
        ColorAlignmentAgent(ChunkAgent(Counting()), {"front": (1, 2)})
    with pytest.raises(ConfigError, match="frames is 0; expected at least 1 image"):
        ColorAlignmentAgent(ChunkAgent(Counting()), {}, frames=0)
