"""Easier episodes of the navigation env: the same scenes and tasks, a part of which is done."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.envs import make_env
from verbot.envs.navigation.tasks import ARM_M
from verbot.envs.navigation.world import LOWER, RAISE, STOP
from verbot.errors import ConfigError


@pytest.fixture(scope="module")
def env():
    return make_env("navigation")


def _won(env):
    expert, over, info = env.expert(), False, {}
    while not over:
        _, _, terminated, truncated, info = env.step(expert.act())
        over = terminated or truncated
    return info["success"]


def test_levels_leave_less_of_the_same_way(env):
    for task in env.tasks:
        for index in range(4):
            left, scenes = [], []
            for level in (*range(env.levels), None):
                _, info = env.reset(seed=0, options={"task": task, "index": index, "level": level})
                left.append(info["final_error_m"])
                scenes.append((env.world.scene, info["target_object"]))
                assert level in (None, env.levels - 1) or info["goal"]["arm"] is None, "below the hardest the arm does not matter"
                assert _won(env), (task, index, level)
            assert left == sorted(left) and left[-1] == left[-2]
            assert left[0] <= 0.15 * left[-1] + 1e-9 and left[1] <= 0.4 * left[-1] + 1e-9
            assert len({named for _, named in scenes}) == 1 and all(scene == scenes[0][0] for scene, _ in scenes)


def test_what_was_gone_before_is_in_the_picture(env):
    plain, _ = env.reset(seed=0, options={"task": "around", "index": 3})
    record, _ = env.reset(seed=0, options={"task": "around", "index": 3, "level": 0})
    path = env.world.path_m[:-3]
    marked = [(record["images"]["top"] != plain["images"]["top"]).any(-1)[int(20 * y), int(20 * x)] for x, y in path]
    assert len(path) > 10 and np.mean(marked) > 0.8


def test_a_level_that_does_not_exist_is_refused(env):
    with pytest.raises(ConfigError, match="level of the navigation env is 7; expected 0 to 4"):
        env.reset(seed=0, options={"level": 7})


def test_an_arm_that_must_still_move_is_worth_some_way(env):
    for index in range(12):
        _, info = env.reset(seed=0, options={"task": "go", "index": index})
        wanted = info["goal"]["arm"]
        if wanted is None or (wanted == "raised") == env.world.arm_raised:
            continue
        before = info["final_error_m"]
        _, _, _, _, info = env.step(RAISE if wanted == "raised" else LOWER)
        assert before - info["final_error_m"] == pytest.approx(ARM_M)
        return
    pytest.fail("no arm had to move in twelve scenes")


def test_ending_badly_may_cost_something():
    harsh = make_env("navigation", penalty=0.5)
    harsh.reset(seed=0, options={"task": "around", "index": 0})
    while not harsh.world.within_reach():
        harsh.step(harsh.expert().act())
    _, reward, over, _, info = harsh.step(STOP)
    assert over and not info["success"] and reward == -0.5
