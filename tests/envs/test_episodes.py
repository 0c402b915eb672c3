"""Which episode is a function of what was asked for, and each is worth asking."""

from __future__ import annotations

import collections
import hashlib

import numpy as np
import pytest

from verbot.contracts import EpisodeRequest
from verbot.envs.tabletop import episodes
from verbot.envs.tabletop.language import grammar
from verbot.envs.tabletop.suites import find
from verbot.envs.tabletop.suites.starter import STARTER
from verbot.envs.tabletop.tasks import tasks
from verbot.errors import ConfigError, UnknownNameError

ALL = {name: tasks.get(name)() for name in STARTER.tasks}


def _prepare(seed=0, **request):
    return episodes.prepare(STARTER, ALL, EpisodeRequest(**request), seed, {})


def test_streams_are_the_same_on_every_machine():
    assert episodes.generator("tabletop", 3).integers(10**6) == 804058


@pytest.mark.parametrize(("suite", "known"), [("tabletop-starter", "fc538d8d783dd98d"), ("tabletop-full", "80434e155f9d8a78")])
def test_scenes_and_words_are_those_that_the_documented_figures_were_measured_on(suite, known):
    """Whoever changes them on purpose measures every figure anew, and then puts the new digest here."""
    suite, digest = find(suite), hashlib.sha256()
    everything = {name: tasks.get(name)() for name in suite.tasks}
    for split in ("train", "test"):
        for index in range(20):
            axes = {"distractors": index % 3, "positions": index % 2}
            request = EpisodeRequest(split=split, index=index, wording="seen" if index % 2 else "unseen", axes=axes)
            episode = episodes.prepare(suite, everything, request, 0, {})
            layout, info = episode.layout, episode.info
            objects = (layout.movables, layout.receptacles, layout.clutter, sorted(layout.fixtures.items()))
            text = repr((*objects, info["instructions"], info["feasible"]))
            digest.update(text.replace("SceneObject(", "Thing(").encode())  # as the class was called when they were measured
    assert digest.hexdigest()[:16] == known


def test_a_scene_depends_on_task_split_index_and_seed_alone():
    base = _prepare(task="pick", index=5)
    assert _prepare(task="pick", index=5, wording="unseen", goal=1).layout == base.layout
    for changed in ({"index": 6}, {"split": "train"}, {"task": "push"}, {"seed": 1}):
        assert _prepare(**{"task": "pick", "index": 5, **changed}).layout != base.layout


def test_every_scene_admits_three_instructions_that_name_two_objects():
    for split in ("train", "test"):
        for index in range(40):
            episode = _prepare(split=split, index=index)
            goals = episode.info["feasible"]
            assert len(goals) >= 3
            assert len({g["object"] for g in goals}) >= 2
            assert goals[0]["object"] != goals[1]["object"]
            assert len({grammar.canonical(g) for g in goals}) == len(goals)
            assert all(grammar.is_demonstrated(g) for g in goals)
            objects = [*episode.layout.movables, *episode.layout.receptacles]
            assert 3 <= len(objects) <= 5
            assert len({obj.id for obj in objects}) == len(objects)
            assert len({obj.color for obj in objects}) == len(objects)


def test_tasks_and_their_variants_are_drawn_evenly():
    drawn = [_prepare(index=i).goal for i in range(240)]
    verbs = collections.Counter(goal["verb"] for goal in drawn)
    assert all(55 < verbs[verb] < 105 for verb in STARTER.tasks)
    directions = collections.Counter(goal["direction"] for goal in drawn if goal["verb"] == "push")
    assert min(directions[d] for d in ("left", "right", "forward", "backward")) >= 8


def test_unseen_compositions_are_never_demonstrated():
    for index in range(20):
        episode = _prepare(composition="unseen", index=index)
        assert not grammar.is_demonstrated(episode.goal)
        assert len(episode.info["feasible"]) >= 3


def test_words():
    goal = _prepare(task="pick", index=1).goal
    assert _prepare(task="pick", index=1).instruction == grammar.canonical(goal)
    assert _prepare(task="pick", index=1, wording="seen").instruction in grammar.wordings(goal, "seen")
    assert _prepare(task="pick", index=1, wording="unseen").instruction in grammar.wordings(goal, "unseen")
    assert _prepare(task="pick", index=1, wording="blank").instruction == ""
    assert _prepare(task="pick", index=1, text="do it").instruction == "do it"
    said = _prepare(task="pick", index=1, templates={"pick": ["fetch {object} at once"]}).instruction
    assert said == f"fetch {goal['object']} at once"
    grounding = _prepare(task="pick", index=1).info["grounding"]
    assert all(len(record["instructions"]) >= 3 and len(record["target_base_m"]) == 3 for record in grounding)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"split": "valid"}, "split is 'valid'; expected one of train, test"),
        ({"wording": "loud"}, "wording is 'loud'"),
        ({"composition": "new"}, "composition is 'new'"),
        ({"task": "dance"}, "task is 'dance'; expected one of pick, push, put"),
        ({"goal": 99}, "goal 99 was asked for"),
        ({"templates": {"wave": ["wave"]}}, "no template for"),
        ({"axes": {"lighting": 4}}, "expected 0, 1, 2 or 3"),
    ],
)
def test_a_wrong_request_teaches(request_, message):
    with pytest.raises(ConfigError, match=message):
        _prepare(**request_)


def test_unknown_axes_and_suites_teach():
    with pytest.raises(UnknownNameError, match="Did you mean 'lighting'"):
        _prepare(axes={"lightning": 1})
    with pytest.raises(UnknownNameError, match="Did you mean 'tabletop-starter'"):
        find("tabletop-starters")


def test_reset_refuses_an_unknown_option():
    from verbot.envs import make_env

    env = make_env("tabletop-starter", render_cameras=False)
    with pytest.raises(ConfigError, match="Known: task, split, index"):
        env.reset(options={"number": 3})
    first, second = env.reset(seed=5)[0], env.reset()[0]
    assert (first["state"] != second["state"]).any()  # without an index, the next scene
    np.testing.assert_array_equal(first["state"], env.reset(seed=5)[0]["state"])
