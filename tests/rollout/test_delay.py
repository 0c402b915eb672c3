"""Evaluation with a clock: the env is stepped while an answer is on its way."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from verbot.agents import ChunkAgent, ColorAlignmentAgent, GroundingMonitor, RealTimeAgent, SamplingAgent
from verbot.agents.interrupting import lost
from verbot.contracts import EpisodeRequest
from verbot.errors import ConfigError
from verbot.rollout.baselines import AgentFactory
from verbot.rollout.delay import NO_DELAY, Delay, DelayedAnswers
from verbot.rollout.results import EpisodeResult, Job, decode_actions
from verbot.rollout.vector import EnvFactories, VectorRunner
from verbot.spec import ActionChunk

JOBS = [Job("policy", EpisodeRequest(task="go", index=i)) for i in range(8)]
CHUNK = ActionChunk(np.zeros((1, 1), np.float32))


def played(make_agent: AgentFactory, delay: Delay = NO_DELAY, slots: int = 3) -> dict[str, EpisodeResult]:
    import toy_world

    runner = VectorRunner(EnvFactories.of(toy_world.ToyEnv), toy_world.ToyPolicy(), make_agent, slots, delay=delay)  # type: ignore[arg-type]
    return {result.key: result for result in runner.play(JOBS)}


def moves(results: dict[str, EpisodeResult]) -> dict[str, bytes]:
    return {key: decode_actions(result.actions, 1).tobytes() for key, result in results.items()}


def agent(method: str, execute: int = 2) -> AgentFactory:
    return functools.partial(RealTimeAgent, execute=execute, method=method)


def test_without_a_delay_nothing_changes_to_the_bit() -> None:
    plain = moves(played(functools.partial(ChunkAgent, execute=2)))
    for method in ("naive", "hold", "aligned"):
        assert moves(played(agent(method))) == plain


def test_results_depend_on_the_episode_alone_and_not_on_the_slots() -> None:
    late = Delay(2, 1, 0.2)
    one, several = (moves(played(agent("aligned"), late, slots)) for slots in (1, 5))
    assert one == several
    began = {int(np.flatnonzero(np.frombuffer(actions, np.float32))[0]) for actions in one.values()}
    assert began >= {1, 2, 3}, "the first answer comes after 1 to 3 steps, in which the robot is held"


def test_the_robot_is_held_until_the_first_answer_and_then_arrives() -> None:
    at_once = played(agent("hold"))
    for key, result in played(agent("hold"), Delay(2)).items():
        actions = decode_actions(result.actions, 1)[:, 0]
        assert result.success and (actions[:2] == 0).all() and actions[2] != 0
        assert (actions[4:6] == 0).all(), "it asks again after two rows, and is held"
        assert result.steps > at_once[key].steps


def test_lost_answers_are_noticed_and_asked_for_again() -> None:
    for key, result in played(agent("hold", 1), Delay(0, 0, 0.5)).items():
        actions = decode_actions(result.actions, 1)[:, 0]
        assert result.error is None and 0.2 < (actions[: result.steps] == 0).mean() < 0.9, key


def test_an_agent_that_cannot_wait_is_an_error_of_its_episode() -> None:
    results = played(functools.partial(ChunkAgent, execute=2), Delay(1))
    assert all(r.outcome == "error" and "cannot be evaluated with a delay" in str(r.error) for r in results.values())


def test_a_policy_that_does_not_go_with_the_agent_is_refused_before_the_first_episode() -> None:
    import toy_world

    factories = EnvFactories.of(toy_world.ToyEnv)  # type: ignore[arg-type]
    runner = VectorRunner(factories, toy_world.ToyPolicy(), agent("guided"), 1, delay=Delay(1))
    with pytest.raises(ConfigError, match="does not continue planned actions by the method 'guided'"):
        runner.check()


def test_wrappers_pass_on_that_an_answer_is_lost() -> None:
    import toy_world

    for wrap in (lambda a: SamplingAgent(a, 0), lambda a: ColorAlignmentAgent(a, {}), GroundingMonitor):
        inner = RealTimeAgent(toy_world.ToyPolicy())
        inner._waits = True
        lost(wrap(inner))
        assert not inner._waits
        with pytest.raises(ConfigError, match=r"ChunkAgent cannot wait for an answer: it lacks lost"):
            lost(wrap(ChunkAgent(toy_world.ToyPolicy())))


def test_each_answer_takes_its_time_and_comes_once() -> None:
    answers, there = DelayedAnswers(Delay(4, 2), "a"), list[int]()
    for asked in range(0, 600, 10):
        answers.send(CHUNK, asked)
        there += [step - asked for step in range(asked, asked + 10) for _ in answers.arrived(step)]
    assert sorted(set(there)) == [2, 3, 4, 5, 6] and len(there) == 60
    lossy = DelayedAnswers(Delay(1, 1, 1.0), "a")
    lossy.send(CHUNK, 0)
    assert [lossy.arrived(step) for step in range(4)] == [[], [], [], [None]]
    assert Delay().is_none and not Delay(1).is_none and not Delay(0, 0, 0.1).is_none
