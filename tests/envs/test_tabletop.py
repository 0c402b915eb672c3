"""The tabletop keeps its contract: deterministic, calibrated, honest about success, engagement and faults."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from verbot.contracts import Env, Expert
from verbot.envs import make_env
from verbot.envs.tabletop.suites import suites
from verbot.envs.tabletop.tasks.put import release_height_m
from verbot.errors import SimulationError, SpecError, UnknownNameError

NOTHING = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
TASKS = ("pick", "push", "put")


@pytest.fixture(scope="module")
def env():
    env = make_env("tabletop-starter")
    yield env
    env.close()


@pytest.fixture(scope="module")
def blind():
    """For tests of the physics alone."""
    env = make_env("tabletop-starter", render_cameras=False)
    yield env
    env.close()


def _run(env, expert, info):
    """To the end of the episode with the expert; the last info and the number of steps."""
    expert.reset(info["instruction"])
    for steps in range(1, 200):
        _, _, terminated, truncated, info = env.step(expert.act())
        if terminated or truncated:
            return info, steps
    raise AssertionError("the episode never ended")


@pytest.mark.parametrize("suite", suites.names())
def test_gymnasiums_own_checker_passes(suite):
    env = gymnasium.make("verbot/Tabletop-v0", suite=suite, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)
    env.close()


def test_it_keeps_the_contracts(env):
    assert isinstance(env, Env)
    assert isinstance(env.expert(), Expert)
    observation, info = env.reset(seed=0)
    spec = env.robot_spec
    assert spec.state_size == 8 and spec.action_size == 7 and spec.rate_hz == 10.0
    assert observation["state"].dtype == np.float32 and observation["state"].shape == (8,)
    assert all(observation["images"][c].dtype == np.uint8 for c in spec.camera_names)
    assert observation["instruction"] == info["instruction"]
    np.testing.assert_allclose(observation["state"][3:7], (1, 0, 0, 0), atol=1e-3)  # the tool is aligned with the base
    assert observation["state"][7] == pytest.approx(1.0)
    known = {
        "instruction",
        "instructions",
        "goal",
        "target_object",
        "feasible",
        "grounding",
        "calibration",
        "first_contact",
        "success",
    }
    assert known | {"final_error_m", "error"} <= info.keys()
    assert info["instructions"][0] == info["instruction"]
    assert len(info["grounding"]) == len(info["feasible"])
    assert info["target_object"] in [obj.id for obj in env.physics.layout.movables]


def test_same_seed_and_actions_give_identical_states_and_images():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 7)).astype(np.float32) * (0.05, 0.05, 0.05, 0.3, 0.3, 0.3, 1.0)
    traces = []
    for earlier in (0, 2):  # what an env did before must not matter
        env = make_env("tabletop-starter", axes={"appearance": 2, "sensor_noise": 1, "dynamics": 1})
        for i in range(earlier):
            env.reset(seed=9, options={"index": i})
            env.step(NOTHING)
        observation, _ = env.reset(seed=4, options={"index": 7})
        trace = [observation]
        trace += [env.step(action)[0] for action in actions]
        traces.append(trace)
    for a, b in zip(*traces, strict=True):
        np.testing.assert_array_equal(a["state"], b["state"])
        for camera in a["images"]:
            np.testing.assert_array_equal(a["images"][camera], b["images"][camera])


def test_observations_share_no_memory_and_are_alive(env):
    first, _ = env.reset(seed=0)
    second, *_ = env.step(np.array([0.05, 0.05, -0.05, 0, 0, 0, 0], np.float32))
    for camera, image in first["images"].items():
        assert not np.shares_memory(image, second["images"][camera])
        assert image.std() > 5
        assert (image != second["images"][camera]).any()
    assert not np.shares_memory(first["state"], second["state"])
    assert (first["state"] != second["state"]).sum() >= 4


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_follows_the_instruction_and_touches_nothing_else_first(blind, task):
    expert = blind.expert(noise=0.15, seed=3)
    for index in range(4):
        _, info = blind.reset(seed=0, options={"task": task, "split": "train", "index": index})
        info, steps = _run(blind, expert, info)
        assert info["success"], (info["instruction"], steps)
        assert info["first_contact"] == info["target_object"]
        assert info["final_error_m"] == pytest.approx(0.0, abs=1e-9)


def test_another_feasible_goal_from_the_identical_state_moves_another_object(blind):
    _, first = blind.reset(seed=0, options={"index": 3, "goal": 0})
    start = blind.physics.data.qpos.copy()
    _, second = blind.reset(seed=0, options={"index": 3, "goal": 1})
    np.testing.assert_array_equal(start, blind.physics.data.qpos)
    assert second["goal"] == first["feasible"][1]
    assert second["feasible"] == first["feasible"]
    assert second["target_object"] != first["target_object"]
    info, _ = _run(blind, blind.expert(), second)
    assert info["success"]
    assert info["first_contact"] == second["target_object"]


@pytest.mark.parametrize("task", TASKS)
def test_doing_nothing_never_succeeds(blind, task):
    for index in range(3):
        blind.reset(seed=1, options={"task": task, "index": index})
        ended = False
        while not ended:
            _, reward, terminated, ended, info = blind.step(NOTHING)
            assert reward == 0.0 and not terminated
        assert not info["success"]
        assert info["first_contact"] is None
        assert info["final_error_m"] > 0.01


def test_success_must_be_held_for_half_a_second(blind):
    _, info = blind.reset(seed=0, options={"task": "pick", "index": 1, "split": "train"})
    expert, task = blind.expert(), blind._current().task
    satisfied = []
    while not info["success"]:
        *_, info = blind.step(expert.act())
        satisfied.append(task.satisfied(blind.physics, info["goal"]))
    assert len(satisfied) < 60
    assert satisfied[-6:] == [True] * 6  # five steps of 0.1 s lie between six states
    assert not satisfied[-7]


def test_put_needs_the_gripper_to_let_go(blind):
    _, info = blind.reset(seed=0, options={"task": "put", "index": 2, "split": "train"})
    episode, expert = blind._current(), blind.expert()
    obj, place = (episode.layout.object(info["goal"][key]) for key in ("object", "receptacle"))
    for _ in range(60):
        action = expert.act()
        position = blind.physics.position(obj.id)
        if blind.physics.grasped(obj.id) and abs(position[2] - release_height_m(obj, place)) < 0.01 and action[6] > 0.5:
            break
        blind.step(action)
    assert blind.physics.grasped(obj.id)
    held = NOTHING.copy()
    held[6] = 0.0
    for _ in range(8):
        *_, info = blind.step(held)
    assert not info["success"]


def test_a_push_that_lifts_is_no_push(blind):
    _, info = blind.reset(seed=0, options={"task": "push", "index": 0})
    task, name = blind._current().task, info["target_object"]
    way = {"left": (0, -1), "right": (0, 1), "forward": (1, 0), "backward": (-1, 0)}[info["goal"]["direction"]]
    joint = blind.physics.model.body(blind.physics._bodies[name]).jntadr[0]
    address = blind.physics.model.jnt_qposadr[joint]
    blind.physics.data.qpos[address : address + 2] += np.array(way) * 0.08
    blind.physics.refresh()
    assert task.satisfied(blind.physics, info["goal"])
    blind.physics.highest[name] += 0.05
    assert not task.satisfied(blind.physics, info["goal"])


def test_left_is_left_in_the_front_cameras_picture(env):
    options = {"task": "push", "split": "train"}
    for index in range(30):
        _, info = env.reset(seed=0, options={**options, "index": index})
        if info["goal"]["direction"] == "left":
            break
    start = _pixel(env, info, "front", env.physics.position(info["target_object"]))
    _run(env, env.expert(), info)
    end = _pixel(env, info, "front", env.physics.position(info["target_object"]))
    assert end[0] < start[0] - 3


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_the_calibration_projects_a_known_object_onto_its_pixels(camera):
    env, errors = make_env("tabletop-starter", image_size=128, axes={"camera": 2}), []
    for index in range(40):
        observation, info = env.reset(seed=1, options={"index": index})
        model, physics = env.physics.model, env.physics
        for obj in physics.layout.movables:
            pixel = _pixel(env, info, camera, physics.position(obj.id))
            if obj.shape != "ball" or not (pixel > 12).all() or not (pixel < 116).all():
                continue
            geom = next(iter(physics._geoms[obj.id]))
            model.geom_rgba[geom, 3] = 0.0
            without = env._renderer.render(physics.data, (camera,), 128, 128)[camera]
            model.geom_rgba[geom, 3] = 1.0
            shown = np.abs(without.astype(int) - observation["images"][camera]).sum(-1) > 20
            if shown.any():
                errors.append(np.linalg.norm(np.argwhere(shown).mean(0)[::-1] + 0.5 - pixel))
        if len(errors) >= 6:
            break
    assert len(errors) >= 3
    assert np.median(errors) < 0.8  # a sphere near a wide lens is seen a little off its center


def test_a_simulator_fault_is_an_error_and_never_a_failure(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env.reset(seed=0)
    env.physics.data.qvel[0] = np.nan
    observation, reward, terminated, truncated, info = env.step(NOTHING)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["error"] is not None and "simulator" in info["error"]
    assert not info["success"]
    assert observation["images"]["front"].shape == (64, 64, 3)
    assert not list(tmp_path.iterdir())  # MuJoCo would write its log here
    with pytest.raises(SimulationError):
        env.step(NOTHING)
    env.reset(seed=0)
    assert env.step(NOTHING)[4]["error"] is None


def test_wrong_uses_teach(env):
    env.reset(seed=0)
    with pytest.raises(SpecError, match="7 finite numbers"):
        env.step(np.zeros(6, np.float32))
    with pytest.raises(SpecError, match="7 finite numbers"):
        env.step(np.full(7, np.nan, np.float32))
    with pytest.raises(UnknownNameError, match="Did you mean 'pick'"):
        make_env("tabletop-starter", tasks=("pik",))
    with pytest.raises(UnknownNameError, match="Did you mean 'tabletop-starter'"):
        make_env("tabletop-start")
    with pytest.raises(SimulationError, match="reset first"):
        make_env("tabletop-starter").step(NOTHING)


def test_the_time_limit_truncates():
    env = make_env("tabletop-starter", max_seconds=0.5, render_cameras=False)
    env.reset(seed=0)
    assert [env.step(NOTHING)[3] for _ in range(5)] == [False] * 4 + [True]


def _pixel(env, info, camera, point):
    """Where the calibration says that a point (3,) of the base frame is seen."""
    record = info["calibration"][camera]
    matrix, pose = np.reshape(record["intrinsics"], (3, 3)), np.reshape(record["extrinsics"], (4, 4))
    if record["frame"] == "tool":
        tool = np.eye(4)
        tool[:3, :3], tool[:3, 3] = env.physics.tool_rotation, env.physics.tool_position
        pose = tool @ pose
    seen = (np.linalg.inv(pose) @ np.append(point, 1.0))[:3]
    return (matrix @ (seen / seen[2]))[:2] if seen[2] > 0.05 else np.full(2, -1.0)
