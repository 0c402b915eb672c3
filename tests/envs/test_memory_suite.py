"""The memory suite: what must be remembered is nowhere to be seen, and remembering it is enough."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.data import open_dataset
from verbot.envs import make_env
from verbot.envs.tabletop.env import STILL
from verbot.envs.tabletop.expert.placing import place
from verbot.envs.tabletop.suites.memory import COVERED, MEMORY
from verbot.errors import ConfigError
from verbot.rollout.collect import collect


@pytest.fixture(scope="module")
def env():
    return make_env("tabletop-memory", image_size=48)


@pytest.fixture(scope="module")
def blind():
    return make_env("tabletop-memory", render_cameras=False)


def _play(env, act, task, index, **options):
    """The last info and the number of steps of an episode."""
    _, info = env.reset(seed=0, options={"task": task, "index": index, **options})
    for steps in range(1, 200):
        *_, terminated, truncated, info = env.step(act())
        if terminated or truncated:
            return info, steps
    raise AssertionError("the episode did not end")


def _swap_two_colors(env):
    model, layout = env.physics.model, env.physics.layout
    first, second = (next(iter(env.physics._geoms[obj.id])) for obj in layout.movables[:2])
    model.geom_rgba[[first, second]] = model.geom_rgba[[second, first]]


@pytest.mark.parametrize("task", COVERED)
def test_after_the_covering_nothing_tells_the_colors(env, task):
    """Two colors change places before the show: it differs, and from the covering on everything is the same to the bit."""
    rng, traces = np.random.default_rng(0), []
    actions = rng.uniform(-1, 1, (30, 7)) * (0.05, 0.05, 0.05, 0.3, 0.3, 0.3, 1.0)
    for swapped in (False, True):
        env.reset(seed=0, options={"task": task, "index": 1, "axes": {"appearance": 3, "lighting": 2}})
        if swapped:
            _swap_two_colors(env)
        traces.append([env.step(action)[0] for action in actions])
    cover = env._current().cover_step
    for step, (a, b) in enumerate(zip(*traces, strict=True), start=1):
        np.testing.assert_array_equal(a["state"], b["state"])
        if step < cover:
            assert (a["images"]["front"] != b["images"]["front"]).any()
        else:
            for camera in ("front", "wrist"):
                np.testing.assert_array_equal(a["images"][camera], b["images"][camera])


def test_while_locked_actions_do_nothing_and_then_they_do(env):
    starts = []
    for index in range(12):
        env.reset(seed=0, options={"task": "pick", "index": index})
        episode = env._current()
        assert episode.locked_steps == episode.cover_step + 4
        starts.append(episode.cover_step)
    assert set(starts) <= set(range(10, 15)) and len(set(starts)) >= 3
    paths = []
    for action in (STILL, np.array([0.05, 0.05, -0.05, 0.3, 0.3, 0.3, 0], np.float32)):
        env.reset(seed=0, options={"task": "pick", "index": 0})
        paths.append([])
        for _ in range(starts[0] + 5):
            env.step(action)
            paths[-1].append(env.physics.data.qpos.copy())
    for still, moved in zip(*(path[:-1] for path in paths), strict=True):
        np.testing.assert_array_equal(still, moved)
    assert (paths[0][-1] != paths[1][-1]).any()


@pytest.mark.parametrize("task", MEMORY.tasks)
def test_the_expert_remembers(blind, task):
    expert = blind.expert(noise=0.15, seed=1)
    infos = [_play(blind, expert.act, task, index, split="train")[0] for index in range(8)]
    assert sum(info["success"] for info in infos) >= 7
    assert all(
        info["first_contact"] == info["target_object"] and info["final_error_m"] == 0.0 for info in infos if info["success"]
    )


def test_the_expert_acts_while_the_arm_is_locked_and_moves_nothing(blind):
    """Nothing that a policy sees tells when the lock ends: demonstrations of waiting would teach it to wait for good."""
    blind.reset(seed=0, options={"task": "put", "index": 0})
    expert, start = blind.expert(noise=0.15), blind.physics.tool_position.copy()
    first = expert.label()
    assert np.abs(first[:3]).max() > 0.01
    for _ in range(blind._current().locked_steps):
        np.testing.assert_allclose(expert.label(), first, atol=1e-3)
        blind.step(expert.act())
    np.testing.assert_allclose(blind.physics.tool_position, start, atol=1e-4)
    blind.step(expert.act())
    assert np.abs(blind.physics.tool_position - start).max() > 1e-3


@pytest.mark.parametrize("task", COVERED)
def test_words_and_memory_matter(blind, task):
    """At least three objects alike, each of which the command could be about; nothing of it is about putting back."""
    for index in range(10):
        _, info = blind.reset(seed=0, options={"task": task, "index": index})
        objects = blind.physics.layout.movables
        assert len(objects) >= 3
        assert len({obj.shape for obj in objects}) == 1 and len({obj.color for obj in objects}) == len(objects)
        assert {goal["verb"] for goal in info["feasible"]} <= set(COVERED)
        goals = blind._tasks[task].goals(blind.physics.layout)
        assert all({**info["goal"], "object": obj.id} in goals for obj in objects)


def test_who_cannot_remember_must_guess(blind):
    """An agent that does everything right with an object drawn at random succeeds in one of three or four scenes."""
    rng, solved, chance = np.random.default_rng(0), [], []
    for index in range(40):
        blind.reset(seed=0, options={"task": "pick", "index": index})
        objects = [obj.id for obj in blind.physics.layout.movables]
        chosen = str(rng.choice(objects))
        info, _ = _play(blind, lambda g=chosen: _pick(blind, g), "pick", index)
        solved.append(info["success"])
        chance.append(chosen == info["target_object"])
        assert info["success"] <= chance[-1]
    assert sum(chance) - 2 <= sum(solved) <= sum(chance) < 20


def test_trying_one_after_the_other_is_no_success(blind):
    _, info = blind.reset(seed=0, options={"task": "pick", "index": 0})
    other = next(obj.id for obj in blind.physics.layout.movables if obj.id != info["target_object"])
    tried = []

    def act():
        physics = blind.physics
        up = physics.position(other)[2] > 0.10
        tried.append(up)
        if sum(tried) == 0:
            return _pick(blind, other)
        if physics.position(other)[2] > 0.03 or physics.touches(other, "gripper"):
            return place(physics, other, np.add(physics.starts[other], (0.0, 0.0, 0.003))).astype(np.float32)
        return _pick(blind, info["target_object"])

    last, _ = _play(blind, act, "pick", 0, goal=0)
    assert any(tried) and blind.physics.position(info["target_object"])[2] > 0.10  # it has the right object in the end
    assert not last["success"] and last["first_contact"] == other


def test_doing_nothing_ends_after_the_show_and_the_tasks_own_time(blind):
    info, steps = _play(blind, lambda: STILL, "pick", 3)
    assert not info["success"] and info["first_contact"] is None
    assert steps == blind._current().locked_steps + 60


def test_put_back_needs_the_visit_and_the_place(blind):
    """Away and back without the receptacle, or to another place: neither is a success."""
    _, info = blind.reset(seed=0, options={"task": "put_back", "index": 2})
    name, physics, task = info["target_object"], blind.physics, blind._current().task
    assert not task.satisfied(physics, info["goal"]) and task.error_m(physics, info["goal"]) > 0.1
    physics.farthest[name] = 0.2
    assert not task.satisfied(physics, info["goal"])
    physics.visited[name].add(info["goal"]["receptacle"])
    blind.step(STILL)
    assert task.satisfied(physics, info["goal"])
    for shift, expected in ((0.025, True), (0.035, False)):
        physics.starts[name] = np.add(physics.position(name), (shift, 0.0, 0.0))
        assert task.satisfied(physics, info["goal"]) is expected
    physics.farthest[name] = 0.07
    assert not task.satisfied(physics, info["goal"])


def test_put_back_elsewhere_is_no_success(blind):
    _, info = blind.reset(seed=0, options={"task": "put_back", "index": 0})
    name, expert = info["target_object"], blind.expert()
    box = blind.physics.layout.object(info["goal"]["receptacle"])

    def act():
        if box.id not in blind.physics.visited[name]:
            return expert.act()
        return place(blind.physics, name, np.add(blind.physics.starts[name], (0.0, 0.06, 0.003))).astype(np.float32)

    info, _ = _play(blind, act, "put_back", 0)
    assert not info["success"] and 0.01 < info["final_error_m"] < 0.06


def test_put_back_is_not_covered(env):
    before, _ = env.reset(seed=0, options={"task": "put_back", "index": 0})
    assert env._current().cover_step is None
    assert len({goal["verb"] for goal in env._current().info["feasible"]}) == 1
    after, *_ = env.step(np.array([0.05, 0, 0, 0, 0, 0, 1], np.float32))
    assert after["state"][0] > before["state"][0] + 0.01


def test_it_has_no_goal_images(env):
    with pytest.raises(ConfigError, match="no goal images: they would show what must be remembered"):
        env.reset(options={"wording": "image"})
    with pytest.raises(ConfigError, match="no goal images"):
        make_env("tabletop-memory", goal_images=True)


def test_it_can_be_collected(tmp_path):
    result = collect("tabletop-memory", tmp_path / "demos", 4, workers=1, options={"image_size": 32}, progress=False)
    assert result.episodes == 4 and result.errors == 0
    dataset = open_dataset(tmp_path / "demos")
    shown = [episode for episode in (dataset[i] for i in range(4)) if episode.extras["goal"]["verb"] in COVERED]
    assert len(shown) == 3
    for episode in shown:
        assert np.abs(episode.actions[:14, :3]).max(1).min() > 0.01  # it acts all the while
        assert np.ptp(episode.states[:14], 0).max() < 1e-3  # and moves nothing


def _pick(env, name):
    episode = env._current()
    if env._steps < episode.locked_steps:
        return STILL
    return episode.task.act(env.physics, {**episode.goal, "object": name}).astype(np.float32)
