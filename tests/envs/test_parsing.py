"""Grammars read back what they say, and nothing else."""

import numpy as np
import pytest

from verbot.contracts import Grammar, Understanding
from verbot.envs import make_env
from verbot.envs.navigation import instruction_parser as navigation
from verbot.envs.navigation import language as navigation_language
from verbot.envs.parsing import matches
from verbot.envs.tabletop.language import grammar, multi_sentence
from verbot.envs.tabletop.language.instruction_parser import describe, understand


def goals_of(env, scenes):
    """(goal, names of the scene's objects) without doubles."""
    found = {}
    for index in range(scenes):
        _, info = env.reset(seed=0, options={"index": index})
        for goal in info["feasible"]:
            found.setdefault(tuple(sorted(goal.items(), key=str)), (goal, env.object_names(), info["feasible"]))
    return found.values()


@pytest.mark.parametrize(
    ("suite", "scenes"), [("tabletop-starter", 6), ("tabletop-full", 24), ("tabletop-relations", 6), ("tabletop-memory", 8)]
)
def test_every_wording_of_the_tabletop_is_read_as_its_own_goal(suite, scenes):
    env, verbs = make_env(suite, render_cameras=False), set()
    for goal, names, feasible in goals_of(env, scenes):
        verbs.add(goal["verb"])
        for text in (*grammar.wordings(goal, "seen"), *grammar.wordings(goal, "unseen")):
            understood = env.parse(text.upper() + "!")
            fitting = [each for each in feasible if any(matches(meaning, each, names) for meaning in understood.goals)]
            assert fitting == [goal], (text, understood)
            assert not understood.problem and not understood.remaining
    assert verbs == set(env.tasks)


@pytest.mark.parametrize("wording", ["canonical", "seen", "unseen", "longer"])
def test_texts_of_several_sentences_are_read_as_their_command(wording):
    env, rng = make_env("tabletop-sentences", render_cameras=False), np.random.default_rng(0)
    for index in range(60):
        _, info = env.reset(seed=0, options={"index": index})
        goal, names = info["goal"], env.object_names()
        text = multi_sentence.say(goal, [name for name in names if name not in goal.values()], wording, rng)
        understood = env.parse(text)
        assert any(matches(meaning, goal, names) for meaning in understood.goals), (text, understood)
        assert set(understood.unchecked) < set(text.split(". "))


def test_every_wording_of_the_navigation_world_is_read_as_its_own_goal():
    env = make_env("navigation")
    for goal, *_ in goals_of(env, 30):
        for text in (*navigation_language.wordings(goal, "seen"), *navigation_language.wordings(goal, "unseen")):
            assert navigation.understand(text).goals == (goal,), text


@pytest.mark.parametrize(
    ("text", "problem", "remaining"),
    [
        ("burn the red cube", "the grammar does not know the word 'burn'", ("burn",)),
        ("pick up the red cube quickly", "the grammar does not know the word 'quickly'", ("quickly",)),
        ("kindly pick up the red cube soon", "does not know the words 'kindly', 'soon'", ("kindly", "soon")),
        ("put the green ball into the yellow bowl", "no object here is called 'yellow bowl'", ("yellow bowl",)),
        ("pick up the pink cube", "no object here is called 'pink cube'", ("pink cube",)),
        ("grab the mug", "no object here is called 'mug'", ("mug",)),
        ("pick up the white ball", "no object here is called 'white ball'", ("white ball",)),
        ("put everything black in the blue box", "no object here is called 'black object'", ("black object",)),
        ("do not pick up the red cube", "it says what not to do ('not')", ()),
        ("Don't pick up the red cube.", 'it says what not to do ("don\'t")', ("don't",)),
        ("don’t touch the red cube", 'it says what not to do ("don\'t")', ("don't",)),
        ("never lift the red cube", "it says what not to do ('never')", ()),
        ("ignore the red cube", "it says what to leave alone (ignore the red cube), but not what to do", ()),
        ("pick up the red cube and push the blue ball left", "it gives 2 commands (pick up the red cube; push the blue", ()),
        ("pick up the red cube, then push it to the left", "it gives 2 commands (pick up the red cube; push it to the left)", ()),
        ("pick up the red cube. grab the blue ball", "it gives 2 commands", ()),
        ("find the red cube", "no instruction of this form", ()),
        ("pick it up", "no instruction of this form", ()),
        ("push the red cube", "no instruction of this form", ()),
        ("put the red cube on the blue box", "no instruction of this form", ()),
        ("stack the red ball on the blue cube", "no instruction of this form", ()),
        ("ignore the red cube. pick up the red cube", "no instruction of this form", ()),
        ("find the red cube. find the blue ball. pick it up", "no instruction of this form", ()),
        ("", "the instruction is empty", ()),
    ],
)
def test_what_is_not_wholly_understood_has_no_goal_and_a_reason(text, problem, remaining):
    understood = understand(text)
    assert understood.goals == ()
    assert problem in understood.problem
    assert understood.remaining == remaining


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("Hey robot, could you please GRAB a red block now?", "pick up the red cube"),
        ("pick up the red cube and put it in the blue box", "put the red cube in the blue box"),
        ("put the red cube in the box", "put the red cube in the box"),
        ("can you put the yellow can in the blue bin", "put the yellow cylinder in the blue box"),
        ("move the red cube away from the robot", "push the red cube forward"),
        ("put the red cube on top of the blue cylinder", "stack the red cube on the blue cylinder"),
        ("put the red cube on top of the blue plate", "put the red cube on the blue plate"),
        ("find the red cube. ignore the blue ball. pick it up", "pick up the red cube"),
    ],
)
def test_frames_synonyms_and_pronouns_are_understood(text, goal):
    assert describe(understand(text).goals[0]) == goal


def test_the_objects_of_a_sentence_are_known_for_finding_a_scene():
    for text, objects in (
        ("put the can in the box", ("cylinder", "box")),
        ("can you pick up the red cube", ("red cube",)),
        ("leave the green ball alone. pick up the red cube", ("red cube", "green ball")),
        ("put everything red in the blue box", ("blue box",)),
        ("burn the red cube", ("red cube",)),
        ("pick up the ball between the red cube and the box", ("ball", "red cube", "box")),
    ):
        assert understand(text).objects == objects
    assert navigation.understand("go to the circle").objects == ("circle",)
    full, starter = (make_env(name, render_cameras=False) for name in ("tabletop-full", "tabletop-starter"))
    assert full.parse("open the drawer").objects == ("drawer",)
    assert starter.parse("open the drawer").objects == ()


def test_a_long_text_of_names_is_read_quickly():
    assert understand("can " * 400).goals == ()
    assert understand("could you please " * 200 + "pick up the red cube").goals == ()


def test_a_suite_says_which_tasks_and_which_kind_of_names_it_has():
    starter, relations = (make_env(name, render_cameras=False) for name in ("tabletop-starter", "tabletop-relations"))
    assert isinstance(starter, Grammar)
    assert starter.parse("open the drawer").problem == (
        "tabletop-starter has no task 'open_drawer'; its tasks are pick, push, put"
    )  # fmt: skip
    text = "pick up the cube left of the blue box"
    assert relations.parse(text).goals[0] == {"verb": "pick", "noun": "cube", "relation": "left of", "anchor": "blue box"}
    assert "identify objects by color and noun alone" in starter.parse(text).problem
    assert "identify objects by where they stand" in relations.parse("pick up the red cube").problem


def test_the_navigation_world_tells_apart_what_it_does_not_understand():
    env = make_env("navigation")
    assert isinstance(env, Grammar)
    assert env.parse("go to the red circle").goals == ({"verb": "go", "object": "red circle", "arm": None},)
    for text, problem in (
        ("pick up the cube", "no object here is called 'cube'; the grammar does not know the word 'pick'"),
        ("do not go to the red circle", "it says what not to do"),
        ("go to the red circle and follow the yellow line", "it gives 2 commands"),
        ("go to the yellow line", "no instruction of this form"),
        ("go to the red circle arm up arm down", "no instruction of this form"),
    ):
        assert env.parse(text).goals == () and problem in env.parse(text).problem, text
    one = make_env("navigation", tasks=("go",))
    assert one.parse("follow the yellow line").problem == "navigation has no task 'follow'; its tasks are go"


def test_a_noun_alone_fits_only_where_one_object_has_it():
    goal = {"verb": "pick", "object": "red cube"}
    assert matches({"verb": "pick", "object": "cube"}, goal, ["red cube", "blue ball"])
    assert not matches({"verb": "pick", "object": "cube"}, goal, ["red cube", "blue cube"])
    assert not matches({"verb": "pick", "object": "red cube"}, goal, ["red cube", "red cube"])
    assert not matches({"verb": "pick", "object": "red cube"}, {**goal, "relation": "leftmost"}, ["red cube"])
    assert Understanding(()).problem == ""
