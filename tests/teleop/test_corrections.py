"""A user corrects a policy: only the user's actions are recorded, from the takeover on, and a chunk never mixes both."""

from __future__ import annotations

import numpy as np
import pytest
from scripted import OPTIONS, Expert, after, config, ready, teleop_session

from verbot.data import WindowConfig, Windows, check_dataset, open_dataset
from verbot.envs import make_env

LED = 4  # control steps of the policy before the takeover
TIP = np.array([0.01, 0.03, -0.02, 0, 0, 0, 1], np.float32)


class Wrong:
    """Moves in a wrong direction with the gripper open; counts its observations."""

    def __init__(self):
        self.shown = 0

    def reset(self, instruction):
        self.shown = 0

    def act(self, observation):
        self.shown += 1
        return TIP


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    """Three episodes: with one takeover, with two takeovers (handed back in between), and with none."""
    path, policy, states = tmp_path_factory.mktemp("corrected") / "corrections", Wrong(), []

    def drive(page, env, state, steps, expert=None):
        expert = expert or Expert(page, env)
        if steps is None:
            expert.begin()
        while state["phase"] == "recording" and (steps is None or steps > 0):
            expert.drive()
            page.seen()
            state, steps = page.receive(), None if steps is None else steps - 1
        page.pad([0, 0, 0, 0])
        return state

    def script(page, env):
        state = ready(page)
        states.append(state)
        for segments in (1, 2):
            state = after(page, "save")
            for _ in range(LED - 1):
                state = after(page)
            states.append(state)
            if segments == 2:
                expert = Expert(page, env)
                expert.begin()
                state = drive(page, env, state, 3, expert)
                state = after(page, "hand_back")
                state = after(page)
                states.append(state)
            state = drive(page, env, state, None)
            states.append(state)
            state = after(page, "save")
        state = after(page, "save")
        for _ in range(3):
            state = after(page)
        state = after(page, "save")
        states.append(state)
        states.append(after(page, "save"))
        after(page, "quit")

    with teleop_session(path, script, config(seed=4), lambda env: policy) as result:
        return open_dataset(path), states, result


def test_the_page_shows_the_driver(corrected):
    _, states, _ = corrected
    begin, led, won, led_again, handed_back, won_again, alone, following = states
    assert begin["corrects"] is True
    assert (begin["driver"], led["driver"], led_again["driver"], handed_back["driver"]) == (
        "nobody", "the policy", "the policy", "the policy",
    )  # fmt: skip
    assert (won["success"], won_again["success"]) == (True, True)
    assert alone["message"].startswith("The policy did it alone")
    assert following["scene"] == alone["scene"] + 1
    assert following["saved"] == 2


def test_each_segment_of_the_user_is_one_episode(corrected):
    dataset, _, result = corrected
    assert (result.attempts, result.episodes, len(dataset)) == (2, 3, 3)
    notes = [(e.extras["takeover_frame"], e.extras["handed_back"], e.extras["request"]["index"]) for e in dataset]
    # In the second episode the policy acts first, then the user for 3 steps, the policy for 2, and the user to the end.
    assert notes == [(LED, False, 0), (LED, True, 1), (LED + 3 + 2, False, 1)]
    assert len(dataset[1]) == 3
    for episode in dataset:
        assert episode.extras["by"] == "gamepad"
        assert episode.extras["success"] is True
        assert not np.isclose(episode.actions, TIP).all(axis=1).any(), "no action of the policy is a label"
    assert check_dataset(dataset.root) == []


def test_replaying_policy_and_person_gives_the_recorded_states_and_success(corrected):
    dataset, *_ = corrected
    env = make_env("tabletop-starter", **OPTIONS)
    for segments in ([dataset[0]], [dataset[1], dataset[2]]):
        record, info = env.reset(seed=4, options=dict(segments[0].extras["request"]))
        step = 0
        for segment in segments:
            while step < segment.extras["takeover_frame"]:
                record, *_ = env.step(TIP)
                step += 1
            for state, action in zip(segment.states, segment.actions, strict=True):
                np.testing.assert_array_equal(record["state"], state)
                record, *_, info = env.step(action)
                step += 1
        assert info["success"]
    env.close()


LABELS = ("keypoints", "steps_left")


def test_hindsight_labels_of_a_handed_back_segment_are_masked(corrected):
    dataset, *_ = corrected
    windows = Windows(dataset, WindowConfig(history=1, chunk=4, keypoints="hindsight", labels=LABELS))
    starts = np.cumsum([0, *map(len, dataset)])
    batch = windows.batch(np.arange(starts[-1]), np.random.default_rng(0))
    inside = slice(starts[1], starts[2])
    assert (batch.targets["steps_left"].values[inside] == -1).all()
    assert batch.targets["steps_left"].values[starts[1] - 1] == 0
    assert not batch.targets["keypoints"].mask[inside].any()
    assert batch.targets["keypoints"].mask[: starts[1]].any()
    windows = Windows(dataset, WindowConfig(history=1, chunk=4, keypoints="grounding", labels=LABELS))
    grounded = windows.batch(np.arange(starts[-1]), np.random.default_rng(0))
    assert grounded.targets["keypoints"].mask[inside].any(), "initial object positions are known until one is touched"
    # A chunk ends with the last action before the hand-back.
    assert batch.actions_mask[inside].sum(1).tolist() == [3, 2, 1]


def test_a_takeover_keeps_the_policys_grasp(tmp_path):
    class Closing(Wrong):
        def act(self, observation):
            return np.array([0, 0, 0.01, 0, 0, 0, 0], np.float32)

    states = []

    def script(page, env):
        ready(page)
        after(page, "save")
        page.pad([0.5, 0, 0, 0])
        states.append(after(page))
        after(page, "gripper")
        states.append(after(page, "save"))
        after(page, "keep")
        after(page, "quit")

    with teleop_session(tmp_path / "demos", script, make_policy=lambda env: Closing()):
        pass
    (episode,) = open_dataset(tmp_path / "demos")
    assert states[0]["gripper"] == "closed"
    assert episode.actions[:, 6].tolist() == [0.0, 1.0]


def test_training_mixes_demonstrations_and_corrections(corrected, tmp_path):
    from verbot.rollout.collect import collect
    from verbot.workflows.train_evaluate import train

    dataset, *_ = corrected
    collect("tabletop-starter", tmp_path / "demos", 2, workers=1, options={"image_size": 32}, progress=False)
    result = train("tiny", out=tmp_path / "run", data=[tmp_path / "demos", dataset.root], steps=2)
    assert result.steps == 2
