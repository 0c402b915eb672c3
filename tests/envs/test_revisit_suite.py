"""The suite that shows nothing: its scenes are those of the memory suite, and covered from the first picture on."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.envs import make_env
from verbot.envs.tabletop.suites.revisit import REVISIT


@pytest.fixture(scope="module")
def envs():
    return make_env("tabletop-memory", image_size=48), make_env(REVISIT.name, image_size=48)


@pytest.mark.parametrize("task", REVISIT.tasks)
def test_scenes_goals_and_words_are_those_of_the_memory_suite(envs, task):
    infos = [env.reset(seed=3, options={"task": task, "split": "test", "index": 2})[1] for env in envs]
    for name in ("instruction", "goal", "feasible", "target_object"):
        assert infos[0][name] == infos[1][name]
    assert [info["covered"] for info in infos] == [False, True]
    np.testing.assert_array_equal(*(env.physics.data.qpos for env in envs))


def test_from_the_first_picture_on_nothing_tells_the_colors(envs):
    """What the memory suite shows after its covering is here from the start: every movable in one gray."""
    env = envs[1]
    env.reset(seed=3, options={"task": "pick", "index": 2})
    colors = [env.physics.model.geom_rgba[list(env.physics._geoms[obj.id]), :3] for obj in env.physics.layout.movables]
    assert len(np.unique(np.concatenate(colors), axis=0)) == 1


def test_the_arm_is_free_at_once_and_the_expert_succeeds(envs):
    env = envs[1]
    _, info = env.reset(seed=3, options={"task": "pick", "index": 2})
    start, expert, over = env.physics.tool_position.copy(), env.expert(), False
    expert.reset(info["instruction"])
    env.step(expert.act())
    assert np.linalg.norm(env.physics.tool_position - start) > 0.005
    while not over:
        *_, terminated, truncated, info = env.step(expert.act())
        over = terminated or truncated
    assert info["success"]
