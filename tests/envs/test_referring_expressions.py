"""Objects alike, identified by where they stand: one object fits each instruction, and never by its name alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from verbot.contracts import observation_from_env
from verbot.data import open_dataset
from verbot.data.samples.keypoints import project, projections
from verbot.data.samples.window_config import WindowConfig
from verbot.data.samples.windows import Windows
from verbot.envs import make_env
from verbot.envs.tabletop.language import grammar, templates_relations
from verbot.envs.tabletop.language.referring_expressions import RELATIONS, descriptions
from verbot.envs.tabletop.simulation.layout import Layout, SceneObject
from verbot.rollout.collect import collect
from verbot.workflows.watch import find_scene


@pytest.fixture(scope="module")
def env():
    return make_env("tabletop-relations", render_cameras=False)


def _pictured(env, record, info):
    """Where each object is in the front camera's picture: x right and y down, in [-1, 1]."""
    state = observation_from_env(record).state
    objects = list(env.physics.layout)
    places, _ = project(
        projections(state[None], env.robot_spec, info["calibration"], ("front",)), np.array([[t.middle_m for t in objects]])
    )
    return {obj.id: place for obj, place in zip(objects, places[0, 0], strict=True)}


def _fits(relation, place, anchors, others):
    """A lenient reading of the words: so far, in a picture, or none at all (below 0)."""
    x, y = place
    if relation in ("left of", "right of"):
        return (anchors[0][0] - x) * (1 if relation == "left of" else -1)
    if relation in ("in front of", "behind"):
        return (y - anchors[0][1]) * (1 if relation == "in front of" else -1)
    ends = {"leftmost": -x, "rightmost": x, "frontmost": y, "rearmost": -y}
    best = {"leftmost": -others[:, 0], "rightmost": others[:, 0], "frontmost": others[:, 1], "rearmost": -others[:, 1]}
    return ends[relation] - best[relation].max() + 1e-9


@pytest.mark.parametrize("split", ["train", "test"])
def test_in_the_picture_one_object_fits_even_a_lenient_reading(env, split):
    seen = Counter()
    for index in range(30):
        record, info = env.reset(seed=0, options={"index": index, "split": split})
        where, layout = _pictured(env, record, info), env.physics.layout
        for goal in info["feasible"]:
            alike = [obj.id for obj in layout.movables if goal["noun"] in (obj.name, obj.shape)]
            assert len(alike) > 1 and goal["object"] in alike
            anchors = [where[goal[name]] for name in ("anchor", "other") if name in goal]
            assert all(len({t.id for t in layout if t.name == goal[n]}) == 1 for n in ("anchor", "other") if n in goal)
            assert not {goal.get("anchor"), goal.get("other")} & {*alike, goal.get("receptacle", "-")}
            seen[goal["relation"]] += 1
            if goal["relation"] in ("between", "closest to", "farthest from"):
                continue
            others = np.array([where[name] for name in alike])
            fits = {name: _fits(goal["relation"], where[name], anchors, others) for name in alike}
            assert [name for name, by in fits.items() if by > 0] == [goal["object"]], (goal, fits)
            if anchors:
                assert fits[goal["object"]] > 2 / 32  # two of 64 pixels
    assert set(seen) == set(RELATIONS)


def test_what_is_between_closest_and_farthest_is_so_by_a_margin(env):
    for index in range(30):
        _, info = env.reset(seed=0, options={"index": index, "task": "pick"})
        place = {obj.id: np.array((obj.x, obj.y)) for obj in env.physics.layout}
        for goal in info["feasible"]:
            alike = [t.id for t in env.physics.layout.movables if goal["noun"] in (t.name, t.shape) and t.id != goal["object"]]
            anchors = [place[goal[name]] for name in ("anchor", "other") if name in goal]

            def way(name, anchors=anchors, place=place):
                return sum(np.linalg.norm(place[name] - anchor) for anchor in anchors)

            if goal["relation"] == "closest to":
                assert all(way(goal["object"]) + 0.05 < way(name) for name in alike)
            elif goal["relation"] == "farthest from":
                assert all(way(goal["object"]) - 0.05 > way(name) for name in alike)
            elif goal["relation"] == "between":  # the detour over what is between is short
                direct = np.linalg.norm(anchors[0] - anchors[1])
                assert way(goal["object"]) < min(direct + 0.03, min(map(way, alike)) - 0.005)


def _layout(*places):
    return Layout(tuple(SceneObject(*place) for place in places), (SceneObject("green", "plate", 0.5, 0.2),))


def test_a_relation_that_nearly_holds_for_two_is_never_used():
    one, two, far = ("red", "cube", 0.5, -0.2), ("red", "cube", 0.5, -0.08, 0.0, 2), ("red", "cube", 0.5, 0.05, 0.0, 2)
    ball = ("blue", "ball", 0.5, -0.01)
    both_left = descriptions(_layout(one, two, ball), "left of")
    assert not [goal for goal in both_left if goal["anchor"] == "blue ball"]
    found = [goal for goal in descriptions(_layout(one, far, ball)) if goal.get("anchor") == "blue ball"]
    assert {(g["relation"], g["object"], g["noun"]) for g in found} >= {
        ("left of", "red cube", "red cube"),
        ("right of", "red cube 2", "red cube"),
        ("left of", "red cube", "cube"),
    }
    assert "between" not in {
        goal["relation"] for goal in descriptions(_layout(one, far, ball), "between") if "2" not in goal["object"]
    }
    between = descriptions(_layout(one, far, ball), "between")
    assert {goal["object"] for goal in between} == {"red cube 2"}  # the ball, the second cube and the plate stand in a row
    hardly = ("red", "cube", 0.53, -0.2, 0.0, 2)
    assert not descriptions(_layout(one, hardly, ball), "leftmost") and not descriptions(_layout(one, hardly, ball), "frontmost")


def test_the_same_picture_with_other_words_means_another_of_the_objects_alike(env):
    pairs = 0
    for index in range(40):
        _, info = env.reset(seed=0, options={"index": index})
        meant = defaultdict(set)
        for goal in info["feasible"]:
            meant[goal["verb"], goal["noun"], goal.get("direction")].add(goal["object"])
        pairs += any(len(objects) > 1 for objects in meant.values())
        assert len({grammar.canonical(goal) for goal in info["feasible"]}) == len(info["feasible"]) <= 24
        assert info["feasible"][0]["object"] != info["feasible"][1]["object"]
    assert pairs > 36


def test_relations_are_drawn_evenly_and_offered_in_turn(env):
    drawn, offered = Counter(), Counter()
    for index in range(110):
        _, info = env.reset(seed=0, options={"index": index, "task": "pick"})
        drawn[info["goal"]["relation"]] += 1
        offered.update(goal["relation"] for goal in info["feasible"])
    assert min(drawn[name] for name in RELATIONS) >= 3 and max(drawn.values()) <= 22
    assert min(offered[name] for name in RELATIONS) >= 40


def test_every_relation_has_phrases_and_those_for_tests_are_never_trained_on():
    assert set(templates_relations.SEEN) == set(templates_relations.UNSEEN) == set(RELATIONS)
    goal = {"verb": "pick", "object": "red cube 2", "noun": "red cube", "anchor": "blue ball", "other": "green plate"}
    for name in RELATIONS:
        assert not set(templates_relations.SEEN[name]) & set(templates_relations.UNSEEN[name])
        related = {**goal, "relation": name}
        seen, unseen = grammar.wordings(related, "seen"), grammar.wordings(related, "unseen")
        assert not set(seen) & set(unseen) and len(set(seen)) > 100 and len(set(unseen)) >= 10
        parts = [phrase.format(**goal) for phrase in templates_relations.SEEN[name]]
        assert all(any(part in text for text in seen) for part in parts)
        assert not any(part in text for part in parts for text in unseen)
        assert not any("2" in text or "{" in text for text in (*seen, *unseen))


def test_the_anchor_is_pointed_at_and_other_words_can_be_used(env):
    for index in range(12):
        _, info = env.reset(seed=0, options={"index": index})
        layout = env.physics.layout
        for goal, where in zip(info["feasible"], info["grounding"], strict=True):
            meant = goal.get("anchor") or goal.get("receptacle")
            expected = None if meant is None else layout.object(meant).middle_m.tolist()
            assert where["reference_base_m"] == expected
    said = env.reset(seed=0, options={"index": 0, "templates": {v: ["fetch the {object}"] for v in ("pick", "push", "put")}})[1]
    assert re.fullmatch(r"fetch the [a-z ]+", said["instruction"]) and said["goal"]["noun"] in said["instruction"]


def test_its_twin_does_not_count(env):
    """The expert obeys; the same hand on the other one of the objects alike does not."""
    for goal, obeys in ((0, True), (1, False)):
        _, info = env.reset(seed=0, options={"index": 3, "task": "pick", "goal": 0})
        pick = next(g for g in info["feasible"][goal:] if (g["object"] == info["goal"]["object"]) == obeys)
        expert = env._tasks["pick"]
        for _ in range(60):
            _, _, done, over, info = env.step(expert.act(env.physics, {"verb": "pick", "object": pick["object"]}))
            if done or over:
                break
        assert info["success"] == obeys and info["first_contact"] == pick["object"]


def test_it_is_demonstrated_and_each_picture_is_asked_many_questions(tmp_path):
    collect("tabletop-relations", tmp_path / "demos", 3, workers=1, options={"image_size": 32}, progress=False)
    dataset = open_dataset(tmp_path / "demos")
    batch = Windows(dataset, WindowConfig(grounding_queries=4)).batch(np.array([0]), np.random.default_rng(0))
    assert len(set(batch.grounding_queries[0])) == 4 and batch.query_keypoints.mask[0, :, 0, 0].all()
    targets = batch.query_keypoints.values[0, :, 0, 0]
    assert len(np.unique(targets.round(3), axis=0)) > 1


def test_a_scene_is_found_by_what_is_said(env):
    _, info = env.reset(seed=0, options={"index": 0})
    text = grammar.canonical(info["goal"])
    assert find_scene(text, "tabletop-relations", scene=0).options == {"index": 0, "composition": "seen", "goal": 0}
