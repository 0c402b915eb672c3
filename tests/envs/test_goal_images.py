"""A goal image shows what the expert brings about, and leaves the scene as it is without one."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.contracts import observation_from_env
from verbot.envs import make_env
from verbot.envs.tabletop.env import STILL
from verbot.errors import SimulationError
from verbot.evaluation.protocol.conditions import EvaluationConfig, make_plan

AXES = {"appearance": 2, "lighting": 2, "dynamics": 2, "camera": 1, "robot_start": 2, "sensor_noise": 1}


@pytest.mark.parametrize("suite", ["tabletop-starter", "tabletop-full"])
def test_the_scene_is_the_same_to_the_bit_as_without(suite):
    env, rng = make_env(suite), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (10, 7)) * (0.05, 0.05, 0.05, 0.3, 0.3, 0.3, 1.0)
    for index, task in enumerate(env.tasks):
        traces = []
        for wording in ("blank", "image"):
            env.reset(seed=0, options={"task": task, "index": index, "wording": wording, "axes": AXES})
            model, data = env.physics.model, env.physics.data
            state = [data.qpos.copy(), data.qvel.copy(), data.act.copy(), data.ctrl.copy(), data.qacc_warmstart.copy()]
            state += [model.geom_rgba.copy(), model.body_mass.copy(), model.body_pos.copy(), model.actuator_gainprm.copy()]
            known = (env.physics.starts, env.physics.highest, env.physics.first_contact, env._limit)
            steps = [env.step(action) for action in actions]
            traces.append((state, known, [s[0] for s in steps], [s[4] for s in steps]))
        (state, known, records, infos), (state2, known2, records2, infos2) = traces
        for a, b in zip(state, state2, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_equal(known, known2)
        assert infos == infos2
        for a, b in zip(records, records2, strict=True):
            np.testing.assert_array_equal(a["state"], b["state"])
            for camera in a["images"]:
                np.testing.assert_array_equal(a["images"][camera], b["images"][camera])


@pytest.mark.parametrize("task", ["pick", "push", "put"])
def test_it_shows_what_the_front_camera_sees_when_the_expert_has_done_it(task):
    env = make_env("tabletop-starter")
    record, info = env.reset(seed=0, options={"task": task, "index": 2, "wording": "image"})
    goal, start = record["goal_image"], record["images"]["front"]
    assert goal.dtype == np.uint8 and goal.shape == (64, 64, 3)
    assert record["instruction"] == info["instruction"] == "" and info["instructions"] == [""]
    np.testing.assert_array_equal(observation_from_env(record).goal_image, info["goal_image"])
    expert = env.expert()
    while not info["success"]:
        record, *_, info = env.step(expert.act())
        assert not np.shares_memory(record["goal_image"], goal)
        np.testing.assert_array_equal(record["goal_image"], goal)
    np.testing.assert_array_equal(record["images"]["front"], goal)
    assert (np.abs(goal.astype(int) - start).max(-1) > 30).sum() > 20


def test_two_goals_of_one_scene_look_different():
    env = make_env("tabletop-starter")
    options = {"task": "put", "index": 1, "wording": "image"}
    first, second = (env.reset(seed=0, options={**options, "goal": goal})[0] for goal in (0, 1))
    np.testing.assert_array_equal(first["images"]["front"], second["images"]["front"])
    assert (first["goal_image"] != second["goal_image"]).any()


def test_reset_can_tell_it_beside_words():
    env = make_env("tabletop-starter", goal_images=True)
    record, info = env.reset(seed=0, options={"index": 2, "task": "pick"})
    assert "goal_image" not in record and record["instruction"].startswith("pick up")
    assert env.observation_space.contains(record)
    pictured, _ = env.reset(seed=0, options={"index": 2, "task": "pick", "wording": "image"})
    np.testing.assert_array_equal(info["goal_image"], pictured["goal_image"])
    assert "goal_image" not in env.step(STILL)[4]
    assert "goal_image" not in make_env("tabletop-starter").reset(seed=0)[1]


def test_an_expert_that_fails_is_asked_again_and_then_it_is_an_error(monkeypatch):
    env = make_env("tabletop-starter", max_seconds=2.0)
    env.reset(seed=0, options={"task": "pick", "index": 0})
    task, tries = env._current().task, []
    clean = type(task).act

    def fails_once(self, physics, goal):
        if physics.data.time == 0.0:
            tries.append(1)
        return STILL.astype(float) if len(tries) < 2 else clean(self, physics, goal)

    monkeypatch.setattr(type(task), "act", fails_once)
    env = make_env("tabletop-starter")
    env.reset(seed=0, options={"task": "pick", "index": 0, "wording": "image"})
    assert len(tries) == 2
    monkeypatch.setattr(type(task), "act", lambda self, physics, goal: STILL.astype(float))
    with pytest.raises(SimulationError, match="no goal image: the expert failed in 3 tries at .*pick"):
        env.reset(seed=0, options={"task": "pick", "index": 0, "wording": "image"})
    with pytest.raises(SimulationError, match="no goal image"):
        env.step(STILL)
    env.reset(seed=0, options={"task": "pick", "index": 0})
    env.step(STILL)


def test_agents_without_images_pay_nothing_for_it():
    env = make_env("tabletop-starter", render_cameras=False)
    record, _ = env.reset(seed=0, options={"wording": "image"})
    assert not record["goal_image"].any()


def test_an_evaluation_can_ask_for_it():
    config = EvaluationConfig(episodes=3, mode="image", templates={"pick": ("get the {object}",)}, conditions=("canonical",))
    plan = make_plan(config, ("pick", "push", "put"))
    asked = [job.request for job in plan.conditions["image"]]
    assert [(r.wording, r.templates) for r in asked] == [("image", None)] * 3
    assert {job.request.wording for job in plan.conditions["canonical"]} == {"canonical"}
    assert {job.request.wording for job in plan.baselines["blind"]} == {"blank"}
