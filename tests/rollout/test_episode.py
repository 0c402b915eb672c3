"""The episode loop: what a transition holds, who acts and who observes, and what ends it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from toy_world import ToyEnv

from verbot.contracts import EpisodeRequest
from verbot.errors import SimulationError
from verbot.rollout.episode import EpisodeRunner, Replay, Supervised, Transition, final, play, request_options
from verbot.spec import Observation

GO = {"task": "go", "index": 0}


class Noting:
    """Steps right, and notes what it is given."""

    def __init__(self) -> None:
        self.instructions: list[str] = []
        self.seen: list[Observation] = []

    def reset(self, instruction: str) -> None:
        self.instructions.append(instruction)

    def act(self, observation: Observation) -> np.ndarray:
        self.seen.append(observation)
        return np.array([0.5], np.float32)


class NotingExpert(Noting):
    def label(self) -> np.ndarray:
        return np.array([-0.25], np.float32)


def test_transitions_join_and_the_last_one_ends_the_episode() -> None:
    env, agent = ToyEnv(), Noting()
    transitions = list(play(env, agent, GO, seed=0))
    assert len(transitions) == 30 and [t.over for t in transitions] == [False] * 29 + [True]
    assert transitions[-1].truncated and not transitions[-1].terminated
    for before, after in itertools.pairwise(transitions):
        assert before.next_observation is after.observation and before.info is after.previous_info
    assert [t.observation.time_s for t in transitions] == pytest.approx([i / 10 for i in range(30)])
    assert transitions[-1].next_observation.time_s == pytest.approx(3.0)
    assert [t.observation for t in transitions] == agent.seen
    assert agent.instructions == [transitions[0].previous_info["instruction"]], "the agent is reset once"
    assert transitions[0].expert_action is None and transitions[0].action.tolist() == [0.5]


def test_the_expert_labels_its_own_steps_and_those_of_another_agent_that_it_observes() -> None:
    (own,) = itertools.islice(play(ToyEnv(), NotingExpert(), GO), 1)
    assert (own.action.tolist(), own.expert_action.tolist()) == ([0.5], [-0.25])
    agent, expert = Noting(), NotingExpert()
    transitions = list(itertools.islice(play(ToyEnv(), Supervised(agent, expert), GO), 5))
    assert [t.expert_action.tolist() for t in transitions] == [[-0.25]] * 5
    assert agent.seen == expert.seen and agent.instructions == expert.instructions


def test_another_agent_continues_where_the_first_one_stopped() -> None:
    env, first, successor = ToyEnv(), Noting(), Noting()
    episode = EpisodeRunner(env, EpisodeRequest(task="go"))
    list(itertools.islice(episode.run(first), 4))
    assert (episode.steps, episode.over, len(first.seen)) == (4, False, 4)
    last = final(episode.run(successor))
    assert (episode.steps, episode.over, len(successor.seen)) == (30, True, 26)
    assert successor.seen[0].time_s == pytest.approx(0.4) and last.over
    assert not list(episode.run(first)), "it is over"


def test_an_env_is_stepped_only_as_far_as_transitions_are_asked_for() -> None:
    env = ToyEnv()
    for count, _ in enumerate(play(env, Noting(), GO), 1):
        assert env.steps == count
        if count == 3:
            break
    assert env.steps == 3


def test_a_fault_is_raised_where_it_happens_and_reported_by_a_single_step() -> None:
    seen: list[Transition] = []
    with pytest.raises(SimulationError, match="NaN in qpos"):
        seen.extend(play(ToyEnv(broken=(0,)), Noting(), GO))
    episode = EpisodeRunner(ToyEnv(broken=(0,)), GO)
    faults = [episode.step(np.zeros(1, np.float32)).fault for _ in range(3)]
    assert faults == [None, None, "NaN in qpos"]


def test_an_env_that_cannot_begin_raises() -> None:
    class Unready(ToyEnv):
        def _info(self, success: bool = False) -> dict[str, object]:
            return {**super()._info(success), "error": "no goal image"}

    with pytest.raises(SimulationError, match="no goal image"):
        next(play(Unready(), Noting(), GO))


def test_recorded_actions_repeat_an_episode() -> None:
    env = ToyEnv()
    played = list(play(env, env.expert(), GO))
    again = list(play(ToyEnv(), Replay(np.stack([t.action for t in played])), GO))
    assert [t.next_observation.state.tolist() for t in again] == [t.next_observation.state.tolist() for t in played]
    assert again[-1].info["success"]


def test_a_request_may_be_a_record_or_its_fields() -> None:
    request = EpisodeRequest(task="go", index=3, axes={"lighting": 1})
    assert EpisodeRequest(**request_options(request)) == request
    assert request_options({"index": 3}) == {"index": 3}
