"""The navigation world: each task is scored by what its own words mean, and the whole is an env that others can use."""

from __future__ import annotations

import itertools
import math
import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from navigation_fixtures import place, rover

import verbot.envs  # noqa: F401
from verbot.data import WindowConfig, Windows, open_dataset
from verbot.envs import envs, make_env
from verbot.envs.navigation import language, tasks
from verbot.envs.navigation.layout import sample
from verbot.envs.navigation.world import (
    COLORS,
    FORWARD,
    LEFT,
    LOWER,
    REACH_M,
    RIGHT,
    STEP_M,
    STOP,
    World,
)
from verbot.errors import ConfigError, SimulationError, SpecError, UnknownNameError
from verbot.rollout.baselines import RandomAgent
from verbot.rollout.collect import collect


@pytest.fixture(scope="module")
def env():
    return make_env("navigation")


def _play(env, noise=0.0, **options):
    _, info = env.reset(seed=0, options=options)
    expert, over, rewards = env.expert(noise), False, []
    expert.reset(info["instruction"])
    while not over:
        _, reward, terminated, truncated, info = env.step(expert.act())
        rewards.append(reward)
        over = terminated or truncated
    return info, rewards


# Rewarded.


def _goal(verb, name, arm=None):
    return {"verb": verb, "object": name, "arm": arm}


def _succeeds(goal, world):
    return tasks.succeeded(goal, tasks.task_of(goal, world.scene), world)


def test_going_to_an_object_means_to_stop_there():
    goal, world = _goal("go", "red circle"), rover(1.6 - REACH_M + 0.05, 1.6)
    assert not _succeeds(goal, world)  # not yet said to be there
    world.step(STOP)
    assert _succeeds(goal, world)
    assert not _succeeds(_goal("around", "red circle"), world)
    assert not _succeeds(_goal("go", "blue square"), world)
    outside = rover(1.6 - REACH_M - 0.05, 1.6)
    outside.step(STOP)
    assert outside.stopped_at is None and not _succeeds(goal, outside)


def _circle(world, share, radius_m=0.55, sign=1):
    """Around `POST` by a share of a whole turn, in chords of one step."""
    chord = 2 * math.asin(STEP_M / 2 / radius_m)
    for i in range(math.ceil(share * math.tau / chord)):
        angle = sign * i * chord
        place(world, 1.6 + radius_m * math.cos(angle), 1.6 + radius_m * math.sin(angle), angle + sign * (math.pi + chord) / 2)
        world.step(FORWARD)


@pytest.mark.parametrize("sign", [1, -1])
def test_going_around_means_a_whole_turn_either_way(sign):
    goal, world = _goal("around", "red circle"), rover(2.15, 1.6)
    _circle(world, 0.9, sign=sign)
    assert not _succeeds(goal, world)
    _circle(world, 0.2, sign=sign)
    assert _succeeds(goal, world) and not _succeeds(_goal("go", "red circle"), world)


def test_there_and_back_is_not_a_turn():
    goal, world = _goal("around", "red circle"), rover(2.15, 1.6)
    for _ in range(4):
        _circle(world, 0.4)
        _circle(world, 0.4, sign=-1)
    assert not _succeeds(goal, world)


def test_touching_the_object_or_leaving_it_begins_the_turn_anew():
    for x, y, heading in ((1.6 + 0.36, 1.6, math.pi), (1.6 + 0.88, 1.6, 0.0)):
        world = rover(2.15, 1.6)
        _circle(world, 0.9)
        assert abs(world.turns_rad["red circle"]) > 5
        place(world, x, y, heading)
        world.step(FORWARD)
        assert world.turns_rad["red circle"] == 0


def test_following_means_the_whole_line_in_order():
    goal = _goal("follow", "yellow line")
    world = rover(0.4, 2.8)
    for _ in range(10):
        world.step(FORWARD)
    assert _succeeds(goal, world)
    against = rover(1.4, 2.8, math.pi)
    for _ in range(10):
        against.step(FORWARD)
    assert not _succeeds(goal, against)
    beside = rover(0.4, 2.6)
    for _ in range(10):
        beside.step(FORWARD)
    assert beside.covered["yellow line"] == 0
    skipping = rover(0.4, 2.8)
    place(skipping, 1.4, 2.8)
    skipping.step(FORWARD)
    assert not _succeeds(goal, skipping)


def test_where_a_line_is_to_be_gone_on_with_moves_along_it(env):
    _, info = env.reset(seed=0, options={"task": "follow", "index": 4})
    line, expert = next(line for line in env.world.scene.lines if line.name == info["target_object"]), env.expert()
    others = [
        entry["target_base_m"]
        for goal, entry in zip(info["feasible"], info["grounding"], strict=True)
        if goal["verb"] != "follow"
    ]
    targets = []
    while not info["success"]:
        targets.append(tuple(info["grounding"][0]["target_base_m"][:2]))
        assert info["grounding"][0]["receptacle_base_m"][:2] == list(line.points_m[-1])
        _, _, _, _, info = env.step(expert.act())
    places = [line.points_m.index(point) for point in targets]
    assert places[0] == 0 and places == sorted(places) and places[-1] < line.needed
    assert len(set(places)) > 10, "it is where the line goes on, not where it begins"
    still = [e["target_base_m"] for g, e in zip(info["feasible"], info["grounding"], strict=True) if g["verb"] != "follow"]
    assert still == others


@pytest.mark.parametrize(("arm", "raised", "right"), [(None, True, True), ("raised", True, True), ("lowered", True, False)])
def test_the_arm_must_be_as_instructed(arm, raised, right):
    for verb in language.VERBS:
        world = rover(2.15, 1.6, arm_raised=raised) if verb != "follow" else rover(0.4, 2.8, arm_raised=raised)
        if verb == "follow":
            for _ in range(10):
                world.step(FORWARD)
        elif verb == "around":
            _circle(world, 1.05)
        else:
            world.step(STOP)
        name = "yellow line" if verb == "follow" else "red circle"
        assert _succeeds(_goal(verb, name, arm), world) is right
        if not right and verb != "go":  # it may still be put right
            world.step(LOWER)
            assert _succeeds(_goal(verb, name, arm), world)


def test_stopping_at_the_wrong_object_ends_the_episode_in_failure(env):
    _, info = env.reset(seed=0, options={"task": "go"})
    other = next(obj for obj in env.world.scene.objects if obj.name != info["target_object"])
    place(env.world, other.center_m[0] + 0.45, other.center_m[1])
    _, reward, terminated, truncated, info = env.step(STOP)
    assert terminated and not truncated and reward == 0 and not info["success"] and info["first_contact"] == other.name


def test_the_same_motion_is_scored_by_its_words():
    env = make_env("navigation", reward="shaped", render_cameras=False)
    shaped = {}
    for verb in language.VERBS:
        _, info = env.reset(seed=0, options={"index": 5})
        goals = info["feasible"]
        goal = next(j for j, g in enumerate(goals) if g["verb"] == verb)
        env.reset(seed=0, options={"index": 5, "goal": goal})
        shaped[verb] = [env.step(action)[1] for action in (FORWARD, FORWARD, RIGHT, FORWARD, FORWARD, LEFT, FORWARD)]
    for a, b in itertools.combinations(shaped.values(), 2):
        assert not np.allclose(a, b)


@pytest.mark.parametrize("gamma", [0.9, 0.99, 1.0])
@pytest.mark.parametrize("task", language.VERBS)
def test_shaping_telescopes(task, gamma):
    plain = make_env("navigation", render_cameras=False)
    shaped = make_env("navigation", reward="shaped", gamma=gamma, render_cameras=False)
    for index, noise in ((0, 0.0), (1, 0.3), (2, 1.0)):
        options = {"task": task, "index": index}
        shaped.reset(seed=0, options=options)
        first = shaped.potential()
        _, sparse = _play(plain, noise, **options)
        _, rewards = _play(shaped, noise, **options)
        assert len(sparse) == len(rewards)
        extra = sum(gamma**t * (a - b) for t, (a, b) in enumerate(zip(rewards, sparse, strict=True)))
        assert extra == pytest.approx(gamma ** len(rewards) * shaped.potential() - first)
        if sum(sparse):
            assert shaped.potential() == 0 and sum(sparse) == 1


# Described.


def test_the_state_in_words_tells_of_everything_and_not_what_was_named(env):
    _, info = env.reset(seed=0, options={"index": 3})
    texts = set()
    for goal in range(len(info["feasible"])):
        text = env.reset(seed=0, options={"index": 3, "goal": goal})[1]["state_text"]
        texts.add(text)
        assert all(name in text for name in env.world.scene.names)
    assert len(texts) == 1
    assert re.search(r"arm is (raised|lowered)", text) and "stopped at nothing" in text
    info, _ = _play(env, task="around")
    turned = re.search(rf"{info['target_object']} and has gone (\d+) degrees", info["state_text"])
    assert turned and int(turned[1]) >= 360
    info, _ = _play(env, task="go")
    assert f"has stopped at the {info['target_object']}" in info["state_text"]
    assert env.state_text() == info["state_text"]


@pytest.mark.parametrize("verb", language.VERBS)
@pytest.mark.parametrize("arm", [None, *language.ARMS])
def test_wordings_name_the_object_and_the_arm_and_splits_share_none(verb, arm):
    goal = _goal(verb, "green line" if verb == "follow" else "green triangle", arm)
    seen, unseen = language.wordings(goal, "seen"), language.wordings(goal, "unseen")
    assert seen[0] == language.canonical(goal) and len(seen) >= 20 and len(unseen) >= 4 and not set(seen) & set(unseen)
    for text in (*seen, *unseen):
        assert text == text.lower().strip() and goal["object"] in text and not set("{}.!?") & set(text)
        up = bool(re.search(r"\barm (is |should be )?(raised|up)|raise your arm|raised arm|have the arm up|arm up", text))
        down = bool(
            re.search(r"\barm (is |should be )?(lowered|down)|lower your arm|lowered arm|have the arm down|arm down", text)
        )
        assert (up, down) == (arm == "raised", arm == "lowered"), text


def test_combinations_kept_for_testing_are_never_demonstrated(env):
    kept = {goal for goal in itertools.product(language.VERBS, COLORS, language.NOUNS) if not _shown(*goal)}
    for verb, noun in itertools.product(language.VERBS, language.NOUNS):
        assert len([goal for goal in kept if goal[0] == verb and goal[2] == noun]) == 1
    for index in range(30):
        _, info = env.reset(seed=0, options={"index": index, "split": "train"})
        assert all(language.is_demonstrated(goal) for goal in info["feasible"])
        _, info = env.reset(seed=0, options={"index": index, "composition": "unseen"})
        assert not language.is_demonstrated(info["goal"])


def _shown(verb, color, noun):
    return language.is_demonstrated({"verb": verb, "object": f"{color} {noun}"})


def test_a_scene_admits_several_goals_about_several_objects(env):
    for task, index in itertools.product(env.tasks, range(15)):
        _, info = env.reset(seed=0, options={"task": task, "index": index})
        assert info["goal"]["verb"] == task and len({goal["object"] for goal in info["feasible"]}) >= 2
        assert info["feasible"][1]["object"] != info["target_object"]
        first = env.world.scene
        env.reset(seed=0, options={"task": task, "index": index, "goal": 1})
        assert env.world.scene == first


def test_train_and_test_scenes_differ_and_every_scene_leaves_room(env):
    starts = set()
    for split, index in itertools.product(("train", "test"), range(15)):
        starts.add(env.reset(seed=0, options={"split": split, "index": index})[1]["state_text"])
    assert len(starts) == 30
    for number in range(60):
        scene = sample(np.random.default_rng(number))
        assert len(set(scene.names)) == len(scene.names) and len(scene.lines) == 2
        assert World(scene).is_free(*scene.start_m)
        for a, b in itertools.combinations(scene.objects, 2):
            assert math.dist(a.center_m, b.center_m) > 0.9


# Used.


@pytest.mark.parametrize("name", ["navigation", "navigation-compass"])
@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("task", language.VERBS)
def test_the_expert_succeeds(name, task, noise):
    env = make_env(name, render_cameras=False)
    infos = [_play(env, noise, task=task, index=index)[0] for index in range(12)]
    assert all(info["success"] and info["final_error_m"] == 0 for info in infos)


def test_the_label_is_clean_whatever_is_executed(env):
    env.reset(seed=0, options={"index": 1})
    noisy, clean = env.expert(1.0), env.expert(0.0)
    noisy.reset("")
    executed = [int(noisy.act()[0]) for _ in range(60)]
    assert len(set(executed)) == 6 and STOP not in executed
    np.testing.assert_array_equal(noisy.label(), clean.act())


def test_time_runs_out():
    env = make_env("navigation", max_seconds=1.0)
    env.reset(seed=0)
    ends = [env.step(LEFT)[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_gymnasium_makes_it_with_discrete_actions():
    options = {"split": "train", "wording": "seen", "task": "go"}
    env = gymnasium.make("verbot/Navigation-v0", discrete=True, reward="shaped", episode=options)
    assert env.action_space == gymnasium.spaces.Discrete(7)
    record, info = env.reset(seed=3)
    assert env.observation_space.contains(record) and info["goal"]["verb"] == "go"
    record, reward, *_ = env.step(np.int64(FORWARD))
    assert env.observation_space.contains(record) and isinstance(reward, float)
    again, _ = env.reset(seed=3)
    first = again["images"]["top"]
    np.testing.assert_array_equal(first, env.reset(seed=3)[0]["images"]["top"])
    assert (env.reset()[0]["images"]["top"] != first).any()


def test_an_action_is_a_number_alone_or_in_a_vector():
    env = make_env("navigation")
    states = []
    for action in (2, np.int64(2), np.array([2.0], np.float32), np.array([2.3], np.float32)):
        env.reset(seed=0, options={"index": 0})
        states.append(env.step(action)[0]["state"])
    assert all((state == states[0]).all() for state in states)


def test_wrong_requests_teach():
    env = make_env("navigation")
    with pytest.raises(SimulationError, match="call reset first"):
        env.step(0)
    env.reset(seed=0)
    for action in (7, -1, [0, 0], np.nan):
        with pytest.raises(SpecError, match="0 to 6.*forward, back"):
            env.step(action)
    for options, words in (
        ({"split": "valid"}, "split.*train, test"),
        ({"task": "pick"}, "task.*go, around, follow"),
        ({"wording": "longer"}, "wording.*canonical"),
        ({"axes": {"lighting": 1}}, "no randomization axis 'lighting'"),
        ({"goal": 99}, "goal 99.*admits goals 0 to"),
        ({"color": "red"}, "does not know this option.*Known: task"),
        ({"templates": {"go": ["to the {item}"]}, "task": "go"}, "unknown placeholder {item}"),
        ({"templates": {"go": ["go there"]}, "task": "go"}, "must name {object}"),
        ({"templates": {"follow": ["down the {object}"]}, "task": "go"}, "no template for 'go'"),
    ):
        with pytest.raises(ConfigError, match=words):
            env.reset(seed=0, options=options)
    with pytest.raises(UnknownNameError, match="Known: around, follow, go"):
        make_env("navigation", tasks=("goo",))
    with pytest.raises(UnknownNameError, match="sparse"):
        make_env("navigation", reward="dense")
    with pytest.raises(UnknownNameError, match="compass, turns"):
        make_env("navigation", steering="wheel")
    with pytest.raises(ConfigError, match="gamma is 1.5"):
        make_env("navigation", gamma=1.5)
    with pytest.raises(ConfigError, match="unknown verb 'goes'.*Did you mean 'go'"):
        language.canonical({"verb": "goes", "object": "red circle"})


def test_a_person_may_word_it(env):
    record, _ = env.reset(seed=0, options={"task": "go", "templates": {"go": ["roll to the {object}"]}})
    assert record["instruction"].startswith("roll to the ")
    assert env.reset(seed=0, options={"wording": "blank"})[0]["instruction"] == ""
    assert env.reset(seed=0, options={"text": "hello"})[0]["instruction"] == "hello"


def test_it_is_listed_without_a_simulator():
    assert "navigation" in envs.names()


def test_demonstrations_are_collected_and_cut_into_windows(tmp_path):
    collect("navigation", tmp_path / "demos", 3, workers=1, options={"image_size": 32}, progress=False)
    dataset = open_dataset(tmp_path / "demos")
    assert {episode.extras["goal"]["verb"] for episode in dataset} == set(language.VERBS)
    for episode in dataset:
        assert set(np.unique(episode.actions)) <= set(range(7)) and episode.images("top").shape[1:] == (32, 32, 3)
    batch = Windows(dataset, WindowConfig(chunk=4, labels=("keypoints",))).batch(np.arange(4), np.random.default_rng(0))
    assert batch.actions.shape == (4, 4, 1) and batch.targets["keypoints"].mask[:, 0, 2].all()  # where the named object is


def test_a_random_agent_draws_every_action_alike(env):
    agent = RandomAgent(env.robot_spec, 0)
    counts = np.bincount([int(agent.act(None)[0]) for _ in range(7000)], minlength=7)
    assert len(counts) == 7 and (abs(counts - 1000) < 150).all()
