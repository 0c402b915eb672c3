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
    """Chunk number n holds 10 n, 10 n + 1, 10 n + 2: an action tells which chunk and which row it came from."""

    spec = SPEC

    def __init__(self) -> None:
        self.asked: list[Observation] = []

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.asked += observations
        return [ActionChunk(np.arange(3, dtype=np.float32)[:, None] + 10 * len(self.asked))]


def observe(time_s: float = 0.0) -> Observation:
    return Observation({}, np.zeros(1, np.float32), "what the env says", time_s=time_s)


def drive(agent: ChunkedAgent, steps: int) -> list[float]:
    return [float(agent.act(observe(i / 10))[0]) for i in range(steps)]


def test_agents_keep_the_contract() -> None:
    policy = Counting()
    assert isinstance(policy, Policy)
    assert isinstance(ChunkAgent(policy), ChunkedAgent)
    assert isinstance(EnsembleAgent(policy), ChunkedAgent)
    assert isinstance(ColorAlignmentAgent(ChunkAgent(policy), {}), ChunkedAgent)


@pytest.mark.parametrize(("execute", "actions"), [(1, [10, 20, 30, 40]), (2, [10, 11, 20, 21]), (3, [10, 11, 12, 20])])
def test_executes_n_of_k_then_predicts_anew(execute: int, actions: list[float]) -> None:
    policy = Counting()
    agent = ChunkAgent(policy, execute)
    agent.reset("go")
    assert drive(agent, 4) == actions
    assert len(policy.asked) == -(-4 // execute)


def test_policy_hears_what_the_agent_was_told() -> None:
    for agent in (ChunkAgent(policy := Counting(), 1), EnsembleAgent(policy)):
        agent.reset("go left")
        agent.act(observe())
        assert policy.asked[-1].instruction == "go left"


def test_reset_forgets_the_rest_of_a_chunk() -> None:
    agent = ChunkAgent(Counting(), 3)
    agent.reset("go")
    agent.act(observe())
    assert agent.next_query(observe()) is None
    agent.reset("stop")
    wanted = agent.next_query(observe())
    assert wanted is not None
    assert wanted.instruction == "stop"


def test_given_chunks_are_used_instead_of_asking() -> None:
    for agent in (ChunkAgent(policy := Counting(), 2), EnsembleAgent(policy)):
        agent.reset("go")
        asked = len(policy.asked)
        assert agent.next_query(observe()) is not None
        agent.receive(ActionChunk(np.full((2, 1), 7.0, np.float32)))
        assert agent.next_query(observe()) is None
        assert agent.act(observe()).tolist() == [7.0]
        assert len(policy.asked) == asked


def test_ensemble_weighs_the_oldest_most() -> None:
    """Chunks say 10 11 12, 20 21 22, 30 31 32: at step 2 the oldest says 12, then 21, then 30."""
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


def test_ensemble_without_decay_is_the_mean_and_reset_forgets() -> None:
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
    with pytest.raises(
        PolicyError, match="predicts 3 actions at a time but 4 were to be executed; choose execute between 1 and 3"
    ):
        ChunkAgent(Counting(), 4).act(observe())


class Remembering(Counting):
    """Its memory is how often it was asked, and when it was asked last."""

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        (seen,) = observations
        (chunk,) = super().predict(observations)
        asked = 1 if seen.memory is None else int(seen.memory["asked"]) + 1
        return [ActionChunk(chunk.values, memory={"asked": np.asarray(asked), "at_s": np.asarray(seen.time_s)})]


@pytest.mark.parametrize("make", [ChunkAgent, EnsembleAgent])
def test_memory_ends_with_the_episode_unless_it_shall_not(make: Callable[..., ChunkedAgent]) -> None:
    for across, asked in ((False, 2), (True, 5)):
        agent = make(policy := Remembering(), across_episodes=across)
        for command, steps in (("first", 3), ("second", 2)):
            agent.reset(command)
            drive(agent, steps)
        last = policy.asked[-1]
        assert last.instruction == "second"
        assert last.memory is not None
        assert int(last.memory["asked"]) + 1 == asked


@pytest.mark.parametrize("make", [ChunkAgent, EnsembleAgent])
def test_across_episodes_the_clock_runs_on_after_a_pause(make: Callable[..., ChunkedAgent]) -> None:
    agent = make(policy := Remembering(), across_episodes=True)
    for _ in range(3):
        agent.reset("go")
        drive(agent, 3)
    times = [seen.time_s for seen in policy.asked]
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.2 + PAUSE_S, *(0.2 + PAUSE_S + np.array([0.1, 0.2])),
                                       *(0.4 + 2 * PAUSE_S + np.array([0.0, 0.1, 0.2]))])  # fmt: skip
    agent = make(policy, across_episodes=True)
    agent.reset("go")
    drive(agent, 1)
    assert policy.asked[-1].memory is None
    assert policy.asked[-1].time_s == 0


class Seeing(Counting):
    """Keeps what it was shown."""

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.asked += observations
        return [ActionChunk(np.zeros((3, 1), np.float32)) for _ in observations]


def scene(light: float) -> np.ndarray:
    """A gray table with a red thing on it, in some light."""
    image = np.full((8, 8, 3), 100.0)
    image[2:4, 2:4] = (220, 30, 30)
    return np.clip(image + light, 0, 255).astype(np.uint8)


def test_pictures_are_moved_to_the_middle_color_and_the_world_is_learned_anew_in_every_episode() -> None:
    policy = Seeing()
    agent = ColorAlignmentAgent(ChunkAgent(policy), {"front": (100, 100, 100)})
    for light in (-30.0, 20.0):
        agent.reset("go")
        raw = {"front": scene(light), "wrist": scene(light)}
        given = Observation(raw, np.zeros(1, np.float32), "", time_s=0.0)
        agent.act(given)
        np.testing.assert_array_equal(policy.asked[-1].images["front"], scene(0.0))
        np.testing.assert_array_equal(policy.asked[-1].images["wrist"], raw["wrist"])
        assert policy.asked[-1].instruction == "go"
        np.testing.assert_array_equal(given.images["front"], scene(light))  # what the caller keeps is not changed


def test_the_middle_color_is_averaged_over_the_last_pictures_and_no_picture_counts_twice() -> None:
    policy = Seeing()
    agent = ColorAlignmentAgent(ChunkAgent(policy), {"front": (100, 100, 100)}, frames=2)
    agent.reset("go")
    for step, (light, offset) in enumerate(((10.0, -10.0), (30.0, -20.0), (50.0, -40.0))):
        observation = Observation({"front": scene(light)}, np.zeros(1, np.float32), "", time_s=step / 10)
        asked = agent.next_query(observation)
        assert asked is not None
        agent.receive(policy.predict([asked])[0])
        agent.act(observation)
        assert policy.asked[-1].images["front"][0, 0].tolist() == [100 + light + offset] * 3
    agent.act(Observation({}, np.zeros(1, np.float32), "", time_s=0.3))  # a camera may be missing
    assert policy.asked[-1].images == {}


def test_colors_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="middle color of camera 'front' is .1, 2.; expected red, green and blue, 0 to 255"):
        ColorAlignmentAgent(ChunkAgent(Counting()), {"front": (1, 2)})
    with pytest.raises(ConfigError, match="frames is 0; expected at least 1 picture"):
        ColorAlignmentAgent(ChunkAgent(Counting()), {}, frames=0)
