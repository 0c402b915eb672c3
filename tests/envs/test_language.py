"""The grammar: complete, honest about what is kept for testing, and clear about mistakes in a person's own templates."""

from __future__ import annotations

import itertools

import pytest

from verbot.envs.tabletop.language.grammar import canonical, fill, is_demonstrated, load_templates, wordings
from verbot.envs.tabletop.language.vocabulary import DIRECTIONS, OBJECT_COLORS, SHAPES, STARTER_VERBS, SYNONYMS, VERBS
from verbot.errors import ConfigError


def _goals():
    """Goals of every verb, with each way of filling them."""
    for direction in DIRECTIONS:
        yield {"verb": "push", "object": "blue cylinder", "direction": direction}
    for verb in ("pick", "lift_and_hold"):
        yield {"verb": verb, "object": "red cube", "receptacle": None, "direction": None}
    for receptacle, preposition in (("blue box", "in"), ("blue plate", "on")):
        yield {"verb": "put", "object": "red ball", "receptacle": receptacle, "preposition": preposition}
    yield {"verb": "stack", "object": "red cube", "receptacle": "blue cube", "preposition": "on"}
    for preposition in ("next to", "left of", "right of"):
        yield {"verb": "place_next_to", "object": "red cube", "receptacle": "blue ball", "preposition": preposition}
    yield {"verb": "move_away", "object": "red cube", "receptacle": "blue ball", "preposition": "away from"}
    yield {"verb": "put_back", "object": "red cube", "receptacle": "blue box"}
    yield {"verb": "open_drawer", "object": "drawer"}
    yield {"verb": "close_drawer", "object": "drawer"}
    yield {"verb": "press_button", "object": "red button"}
    yield {"verb": "sort_color", "color": "red", "receptacle": "white box", "preposition": "in"}


GOALS = list(_goals())


def names(name):
    color, _, noun = name.rpartition(" ")
    return [f"{color} {word}".strip() for word in (noun, *SYNONYMS.get(noun, ()))]


@pytest.mark.parametrize("goal", GOALS, ids=canonical)
def test_every_wording_names_everything_that_the_goal_needs(goal):
    toward = {"forward": ("front", "forward", "away from the robot", "toward the camera")}
    toward["backward"] = ("back", "toward the robot", "away from the camera")
    for text in [*wordings(goal, "seen"), *wordings(goal, "unseen")]:
        assert not set("{}").intersection(text)
        assert text == " ".join(text.lower().split())
        assert text[-1] not in ".!?"
        for key in ("object", "receptacle"):
            if goal.get(key):
                assert any(name in text for name in names(goal[key])), text
        if goal.get("direction"):
            assert any(word in text for word in toward.get(goal["direction"], (goal["direction"],))), text
        if goal.get("color"):
            assert goal["color"] in text


@pytest.mark.parametrize("goal", GOALS, ids=canonical)
def test_seen_and_unseen_never_meet_and_are_many(goal):
    seen, unseen = wordings(goal, "seen"), wordings(goal, "unseen")
    assert seen[0] == canonical(goal)
    assert not set(seen) & set(unseen)
    assert len(set(seen)) == len(seen) >= (60 if goal["verb"] in STARTER_VERBS else 20)
    assert len(set(unseen)) == len(unseen) >= 8
    assert wordings(goal, "seen") == seen


def test_wordings_of_different_goals_of_a_scene_differ():
    spoken = {}
    for goal in GOALS:
        for text in [*wordings(goal, "seen"), *wordings(goal, "unseen")]:
            assert spoken.setdefault(text, canonical(goal)) == canonical(goal), text


def test_canonical_forms():
    assert canonical({"verb": "pick", "object": "red cube"}) == "pick up the red cube"
    assert canonical({"verb": "push", "object": "red cube", "direction": "right"}) == "push the red cube to the right"
    assert canonical({"verb": "push", "object": "red cube", "direction": "backward"}) == "push the red cube backward"
    put = {"verb": "put", "object": "red cube", "receptacle": "blue plate", "preposition": "on"}
    assert canonical(put) == "put the red cube on the blue plate"
    with pytest.raises(ConfigError, match=r"unknown verb 'pik'\. Did you mean 'pick'"):
        canonical({"verb": "pik", "object": "red cube"})
    with pytest.raises(ConfigError, match="expected 'seen' or 'unseen'"):
        wordings({"verb": "pick", "object": "red cube"}, "other")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("shove the {object} to the {direction}", "shove the red cube to the front"),
        ("shove the {object} {direction}", "shove the red cube forward"),
        ("shove the {object} {direction}wards", "shove the red cube forwards"),
        ("shove the {object} in the {direction} direction", "shove the red cube in the forward direction"),
    ],
)
def test_a_persons_direction_reads_well(template, expected):
    assert fill(template, {"verb": "push", "object": "red cube", "direction": "forward"}) == expected


def test_fill_teaches():
    goal = {"verb": "pick", "object": "red cube", "receptacle": None}
    with pytest.raises(ConfigError, match=r"unknown placeholder \{objekt\}. Did you mean 'object'\? Known: \{object\}"):
        fill("get the {objekt}", goal)
    with pytest.raises(ConfigError, match=r"uses \{receptacle\}, which a 'pick' goal lacks; it has \{object\}"):
        fill("get the {object} in the {receptacle}", goal)
    with pytest.raises(ConfigError, match="brace that does not match"):
        fill("get the {object", goal)
    with pytest.raises(ConfigError, match="write the bare placeholder"):
        fill("get the {object!r}", goal)


def test_own_templates_are_loaded(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "pick: ['nab the {object}']\npush: ['heave the {object} {direction}']\nput: ['{object} {preposition} {receptacle}']"
    )
    assert load_templates(path)["pick"] == ["nab the {object}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- pick", "expected a mapping of verbs"),
        ("", "expected a mapping of verbs"),
        ("pick: [", "cannot read .*, but found"),
        ("pik: ['get the {object}']", "no verb 'pik'. Did you mean 'pick'"),
        ("pick: get the {object}", "'pick' needs a non-empty list"),
        ("pick: []", "'pick' needs a non-empty list"),
        ("pick: ['get the {item}']", r"unknown placeholder \{item\}"),
        ("pick: ['get the item']", r"must also name \{object\}"),
        ("push: ['move the {object}']", r"must also name \{direction\}"),
        ("pick: ['get the {object} from the {receptacle}']", r"uses \{receptacle\}, which a 'pick' goal lacks"),
    ],
)
def test_own_templates_teach(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_templates(path)
    assert str(path) in str(caught.value)


def test_a_missing_template_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such template file"):
        load_templates(tmp_path / "none.yaml")


@pytest.mark.parametrize("verbs", [STARTER_VERBS, tuple(v for v in VERBS if "drawer" not in v)])
def test_undemonstrated_triples_leave_every_part_demonstrated(verbs):
    triples = list(itertools.product(OBJECT_COLORS, SHAPES, verbs))
    shown = [t for t in triples if is_demonstrated({"verb": t[2], "object": f"{t[0]} {t[1]}"})]
    assert 0.08 <= 1 - len(shown) / len(triples) <= 0.17
    assert {(c, s) for c, s, _ in shown} == set(itertools.product(OBJECT_COLORS, SHAPES))
    assert {(c, v) for c, _, v in shown} == set(itertools.product(OBJECT_COLORS, verbs))
    assert {(s, v) for _, s, v in shown} == set(itertools.product(SHAPES, verbs))
    assert all(any(t[2] == v for t in triples if t not in shown) for v in verbs)


def test_goals_without_a_colored_object_are_demonstrated():
    assert is_demonstrated({"verb": "open_drawer", "object": "drawer"})
    assert is_demonstrated({"verb": "sort_color", "color": "red", "receptacle": "white box"})
