"""Commands of several sentences: nothing is named that is not there, and what is named first is often not what is meant."""

from __future__ import annotations

import collections
import itertools
import re

import numpy as np
import pytest

from verbot.data import open_dataset
from verbot.envs import make_env
from verbot.envs.tabletop.language import multi_sentence
from verbot.envs.tabletop.language.multi_sentence import say
from verbot.envs.tabletop.language.vocabulary import COLORS, DIRECTIONS, SYNONYMS
from verbot.errors import ConfigError
from verbot.rollout.collect import collect

NOUNS = "|".join(("cube", "cylinder", "ball", "box", "plate", *itertools.chain(*SYNONYMS.values())))
NAMES = re.compile(rf"\b(?:{'|'.join(COLORS)}) (?:{NOUNS})\b")
SAME = {other: noun for noun, others in SYNONYMS.items() for other in others}
GOALS = [
    {"verb": "pick", "object": "red cube"},
    *({"verb": "push", "object": "red cube", "direction": direction} for direction in DIRECTIONS),
    {"verb": "put", "object": "red cube", "receptacle": "blue box", "preposition": "in"},
    {"verb": "put", "object": "red cube", "receptacle": "blue plate", "preposition": "on"},
]


@pytest.fixture(scope="module")
def env():
    return make_env("tabletop-sentences", render_cameras=False)


def _said(goal, wording, count=300):
    rng = np.random.default_rng(0)
    return [say(goal, ["green ball", "orange cylinder"], wording, rng) for _ in range(count)]


def _names(text):
    """The objects that a text names, in order, in the scene's own words."""
    found = [name.rpartition(" ") for name in NAMES.findall(text)]
    return [f"{color} {SAME.get(noun, noun)}" for color, _, noun in found]


@pytest.mark.parametrize("wording", ["seen", "unseen"])
@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_every_command_is_complete(goal, wording):
    for text in _said(goal, wording):
        parts = text.split(". ")
        assert 2 <= len(parts) <= 3
        assert text == " ".join(text.lower().split()) and text[-1] not in ".!?" and not set("{}") & set(text)
        named = _names(text)
        assert goal["object"] in named, text
        assert goal.get("receptacle") is None or goal["receptacle"] in named, text
        assert set(named) <= {goal["object"], goal.get("receptacle"), "green ball", "orange cylinder"}
        for earlier, part in itertools.pairwise(parts):  # a pronoun stands for what the sentence before it named
            if re.search(r"\bit\b", part) and not set(_names(part)) - {goal.get("receptacle")}:
                assert _names(earlier)[-1] == goal["object"], text
        if goal.get("direction") in ("left", "right"):
            assert goal["direction"] in text


def test_the_decoy_comes_first_more_often_than_not_and_pronouns_are_common():
    said = [text for goal in GOALS for text in _said(goal, "seen")]
    first = [_names(text)[0] for text in said]
    share = collections.Counter(name != "red cube" for name in first)[True] / len(first)
    assert 0.55 < share < 0.75
    last = [[name for name in _names(text) if name not in ("blue box", "blue plate")][-1] for text in said]
    assert 0.15 < np.mean([name != "red cube" for name in last]) < 0.40  # nor is it always the last one
    assert np.mean([sum(len(_names(part)) == 0 or " it " in f" {part} " for part in text.split(". ")) > 0 for text in said]) > 0.3
    assert {len(text.split(". ")) for text in said} == {2, 3}


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_seen_and_unseen_never_meet_in_any_sentence_but_are_many(goal):
    seen, unseen = _said(goal, "seen", 1000), _said(goal, "unseen", 1000)
    assert len(set(seen)) > 400 and len(set(unseen)) > 100
    parts = [{part for text in texts for part in text.split(". ")} for texts in (seen, unseen)]
    assert not parts[0] & parts[1]
    assert not {text.split(". ")[0] for text in _said(goal, "canonical")} & parts[1]


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_longer_commands_have_more_sentences_than_any_to_train_on_and_say_the_same(goal):
    parts = {part for text in _said(goal, "seen", 3000) for part in text.split(". ")}
    texts = _said(goal, "longer")
    assert {len(text.split(". ")) for text in texts} == {4, 5}
    for text in texts:
        sentences_ = text.split(". ")
        asides = [
            part
            for part in sentences_
            if goal["object"] not in _names(part) and set(_names(part)) & {"green ball", "orange cylinder"}
        ]
        assert len(asides) == multi_sentence.ASIDES_OF_LONGER, text
        assert all(one != other for one, other in itertools.pairwise(name for part in asides for name in _names(part))), text
        assert goal["object"] in _names(text) and (goal.get("receptacle") or goal["object"]) in _names(text), text
        for earlier, part in itertools.pairwise(sentences_):
            if re.search(r"\bit\b", part) and not set(_names(part)) - {goal.get("receptacle")}:
                assert _names(earlier)[-1] == goal["object"], text
    said = {part for text in texts for part in text.split(". ")}
    assert len(said & parts) > 0.9 * len(said)  # sentences that training tells, in commands that it does not


def test_only_a_suite_of_several_sentences_speaks_longer(env):
    _, info = env.reset(seed=0, options={"index": 0, "wording": "longer"})
    assert info["instruction"].count(". ") in (3, 4)
    with pytest.raises(ConfigError, match="single sentences.*tabletop-sentences"):
        make_env("tabletop-starter", render_cameras=False).reset(seed=0, options={"wording": "longer"})


def test_no_template_is_in_both_halves():
    assert not set(multi_sentence.ASIDES) & set(multi_sentence.UNSEEN_ASIDES)
    assert not set(multi_sentence.FINDS) & set(multi_sentence.UNSEEN_FINDS)
    for verb, templates in multi_sentence.PRONOUNS.items():
        assert not set(templates) & set(multi_sentence.UNSEEN_PRONOUNS[verb])
    assert sum(multi_sentence.ORDERS.values()) == pytest.approx(1.0) == sum(multi_sentence.WITHOUT_PRONOUN.values())


@pytest.mark.parametrize("wording", ["canonical", "seen", "unseen"])
def test_the_decoys_are_really_there_and_are_not_meant(env, wording):
    decoys = 0
    for index in range(40):
        _, info = env.reset(seed=0, options={"index": index, "wording": wording})
        goal, there = info["goal"], {obj.id for obj in env.physics.layout}
        for text in (info["instruction"], *info["instructions"]):
            named = set(_names(text))
            assert named <= there, text
            others = named - {goal["object"], goal.get("receptacle")}
            assert len(others) <= 1
            decoys += bool(others)
            assert ". " in text
        for goal_, where in zip(info["feasible"], info["grounding"], strict=True):
            assert all(goal_["object"] in _names(text) and ". " in text for text in where["instructions"])
    assert decoys > 40


def test_words_of_ones_own_and_none_at_all_still_count(env):
    def words(**options):
        return env.reset(seed=0, options={"index": 0, "task": "pick", **options})[1]["instruction"]

    assert words(wording="blank") == "" and words(text="do it") == "do it"
    assert words(templates={"pick": ["fetch the {object}"]}).startswith("fetch the ")
    assert words() == words() and re.fullmatch(r"leave the \w+ \w+ alone\. pick up the \w+ \w+", words())


def test_a_lone_object_is_refused():
    with pytest.raises(ConfigError, match="needs another object to speak of"):
        say({"verb": "pick", "object": "red cube"}, [], "seen", np.random.default_rng(0))


def test_verbs_without_pronoun_forms_get_two_sentences():
    goal = {"verb": "stack", "object": "red cube", "receptacle": "blue cube", "preposition": "on"}
    texts = [say(goal, ["green ball"], "seen", np.random.default_rng(i)) for i in range(30)]
    assert all(text.count(". ") == 1 and "green ball" in text for text in texts)


def test_it_is_demonstrated_in_such_words(tmp_path):
    collect("tabletop-sentences", tmp_path / "demos", 4, workers=1, options={"image_size": 32}, progress=False)
    dataset = open_dataset(tmp_path / "demos")
    assert len(dataset) == 4
    assert all(". " in dataset[i].instruction for i in range(4))
