"""Easier episodes of the navigation world: the same scenes and errands, a part of which is done."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.envs import make_env
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
                scenes.append((env.world.scene, info["named"]))
                assert level in (None, env.levels - 1) or info["goal"]["arm"] is None, "below the hardest no arm is told"
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
    with pytest.raises(ConfigError, match="level of the navigation world is 7; expected 0 to 4"):
        env.reset(seed=0, options={"level": 7})
