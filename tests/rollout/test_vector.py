from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from verbot.agents import ChunkAgent, EnsembleAgent
from verbot.contracts import EpisodeRequest
from verbot.rollout.baselines import BlindPolicy, PolicySource, RandomAgent
from verbot.rollout.results import Job, decode_actions
from verbot.rollout.vector import EnvFactories, VectorRunner
from verbot.spec import ActionChunk, Observation


def jobs(count: int, agent: str = "policy", **fields: object) -> list[Job]:
    return [Job(agent, EpisodeRequest(task="go", index=i, **fields)) for i in range(count)]  # type: ignore[arg-type]


def stage(policy: object, slots: int = 4, **world: object) -> VectorRunner:
    import toy_world

    return VectorRunner(EnvFactories.of(functools.partial(toy_world.ToyEnv, **world)), policy, ChunkAgent, slots)  # type: ignore[arg-type]


def counting() -> tuple[object, list[int]]:
    import toy_world

    sizes: list[int] = []

    class Counting(toy_world.ToyPolicy):
        def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
            sizes.append(len(observations))
            return super().predict(observations)

    return Counting(), sizes


def test_one_full_batch_serves_all_episodes_of_a_step() -> None:
    policy, sizes = counting()
    results = list(stage(policy).play(jobs(6)))
    assert set(sizes) == {4}
    assert len(sizes) < sum(r.steps for r in results) / 2
    assert all(r.success for r in results)


def test_single_predictions_are_timed_one_by_one() -> None:
    policy, sizes = counting()
    seconds = stage(policy).time_predictions(jobs(9), 7)
    assert len(seconds) == 7
    assert set(sizes) == {1}
    assert min(seconds) > 0
    assert len(stage(policy).time_predictions(jobs(1), 10_000)) < 100  # no more than there is to play


def test_a_poisoned_observation_harms_its_own_episode_only() -> None:
    import toy_world

    class Choking(toy_world.ToyPolicy):
        def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
            if any("green" in o.instruction for o in observations):
                raise ValueError("I cannot say green")
            return super().predict(observations)

    results = list(stage(Choking()).play(jobs(12)))
    assert {r.outcome for r in results if r.target_object == "green"} == {"error"}
    assert {r.outcome for r in results if r.target_object != "green"} == {"success"}
    assert {r.error for r in results if r.error} == {"ValueError: I cannot say green"}


def test_actions_repeat_an_episode() -> None:
    import toy_world

    (result,) = stage(toy_world.ToyPolicy()).play(jobs(1))
    actions = decode_actions(result.actions, 1)
    assert actions.shape == (result.steps, 1)
    env = toy_world.ToyEnv()
    env.reset(seed=0, options={"task": "go", "index": 0})
    infos = [env.step(action)[4] for action in actions]
    assert [info["success"] for info in infos] == [False] * (result.steps - 1) + [True]


def test_blind_policy_hears_nothing() -> None:
    import toy_world

    heard: list[str] = []

    class Listening(toy_world.ToyPolicy):
        def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
            heard.extend(o.instruction for o in observations)
            return super().predict(observations)

    list(stage(BlindPolicy(Listening())).play(jobs(3)))
    assert set(heard) == {""}


def test_a_blinded_source_crosses_a_pipe() -> None:
    import toy_world

    source = pickle.loads(pickle.dumps(PolicySource("toy", toy_world.listening, "1").blinded()))
    assert isinstance(source.load(), BlindPolicy)
    assert (source.name, source.identity) == ("toy, blind to language", "1 blind")


def test_random_agent_stays_in_range_and_repeats() -> None:
    import toy_world

    observation = Observation({}, np.zeros(4, np.float32))
    first, second = (RandomAgent(toy_world.SPEC, 5) for _ in range(2))
    actions = [first.act(observation) for _ in range(200)]
    assert all(-1 <= a[0] <= 1 for a in actions)
    assert np.std(actions) > 0.4
    assert [a.tolist() for a in actions] == [second.act(observation).tolist() for _ in range(200)]


def test_ensembling_agents_play_too() -> None:
    import toy_world

    ensembling = VectorRunner(EnvFactories.of(toy_world.ToyEnv), toy_world.ToyPolicy(), EnsembleAgent, 3)
    assert all(r.success for r in ensembling.play(jobs(5)))


@pytest.mark.parametrize("agent", ["expert", "random"])
def test_scripted_agents_need_no_policy(agent: str) -> None:
    results = list(stage(None).play(jobs(3, agent)))
    assert {r.agent for r in results} == {agent}
    assert all(r.outcome != "error" for r in results)
