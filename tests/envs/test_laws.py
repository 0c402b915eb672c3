"""What holds for every registered environment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from verbot import contracts
from verbot.contracts import TaskEnv, observation_from_env
from verbot.envs import envs, make_env


@pytest.fixture(scope="module", params=envs.names())
def env(request):
    env = make_env(request.param)
    yield env
    env.close()


def _trace(env, actions, **options):
    record, info = env.reset(seed=11, options=options)
    records, infos = [record], [info]
    for action in actions:
        record, _, terminated, truncated, info = env.step(action)
        records.append(record)
        infos.append(info)
        if terminated or truncated:
            break
    return records, infos


def _actions(env, count=24):  # longer than any arm is locked
    spec, rng = env.robot_spec, np.random.default_rng(2)
    return rng.uniform(spec.action_low(), spec.action_high(), (count, spec.action_size)).astype(np.float32)


def test_it_is_an_env_and_its_observations_fit_its_spec(env):
    assert isinstance(env, TaskEnv)
    for record in _trace(env, _actions(env))[0]:
        observation_from_env(record).check(env.robot_spec)


def test_what_an_env_can_do_is_asked_for_by_protocols(env):
    protocols = (
        contracts.Demonstrator, contracts.Grammar, contracts.Pictured, contracts.Segmented, contracts.Leveled,
        contracts.Compositional, contracts.Described, contracts.Shaped,
    )  # fmt: skip
    own = {
        "navigation-rover": {"Demonstrator", "Grammar", "Pictured", "Leveled", "Described", "Shaped"},
        "tabletop-panda": {"Demonstrator", "Grammar", "Pictured", "Segmented", "Compositional"},
    }
    found = {protocol.__name__ for protocol in protocols if isinstance(env, protocol)}
    assert found == own[env.robot_spec.name.removesuffix("-right")]
    assert not isinstance(env, contracts.Robot)


def test_it_is_deterministic_for_a_seed(env):
    first, _ = _trace(env, _actions(env), index=1)
    _trace(env, _actions(env), index=2)
    second, _ = _trace(env, _actions(env), index=1)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a["state"], b["state"])
        assert a["instruction"] == b["instruction"]
        for camera in a["images"]:
            np.testing.assert_array_equal(a["images"][camera], b["images"][camera])


def test_observations_and_infos_share_nothing(env):
    records, infos = _trace(env, _actions(env, 2))
    for a, b in itertools.pairwise(records):
        assert not np.shares_memory(a["state"], b["state"])
        assert all(not np.shares_memory(image, b["images"][camera]) for camera, image in a["images"].items())
    infos[0]["feasible"].clear()
    assert infos[1]["feasible"]


def test_nothing_is_constant(env):
    held = np.repeat(env.robot_spec.action_low()[None], 32, 0)  # long enough to run into something
    scenes = [_trace(env, np.concatenate([_actions(env), held]), index=i)[0] for i in range(3)]
    states = np.concatenate([[record["state"] for record in scene] for scene in scenes])
    assert (states.std(0) > 0).all()
    for camera in env.robot_spec.camera_names:
        starts = [scene[0]["images"][camera] for scene in scenes]
        assert (starts[0] != starts[1]).any() and (starts[1] != starts[2]).any()
        assert all((scene[0]["images"][camera] != scene[-1]["images"][camera]).any() for scene in scenes)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_task_has_an_expert_and_at_least_three_objects_to_say(env, split):
    for task in env.tasks:
        _, info = env.reset(seed=0, options={"task": task, "split": split, "index": 0})
        assert info["goal"] == info["feasible"][0]
        assert len(info["feasible"]) >= 3
        assert len(info["grounding"]) == len(info["feasible"])
        expert = env.expert()
        expert.reset(info["instruction"])
        action, low, high = expert.act(None), env.robot_spec.action_low(), env.robot_spec.action_high()
        assert action.shape == low.shape and (low <= action).all() and (action <= high).all()
        np.testing.assert_array_equal(action, expert.label())
