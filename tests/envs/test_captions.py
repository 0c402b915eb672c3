"""Captions are true of their scene, hard negatives are not, and words alone do not separate them."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from verbot.contracts import EpisodeRequest
from verbot.envs.tabletop import episodes
from verbot.envs.tabletop.language import captions, grammar
from verbot.envs.tabletop.language.referring_expressions import Related
from verbot.envs.tabletop.language.vocabulary import OBJECT_COLORS, SYNONYMS
from verbot.envs.tabletop.simulation.layout import Layout, SceneObject
from verbot.envs.tabletop.suites import find
from verbot.envs.tabletop.tasks import tasks

SUITE = find("tabletop-starter")
TASKS = {name: tasks.get(name)() for name in SUITE.tasks}
NOUNS = {noun: shape for shape, others in SYNONYMS.items() for noun in (shape, *others)}
WAYS = {way: name for name, (ways, _, _) in captions.RELATIONS.items() for way in ways}


def scene(index: int, count: int = 12, split: str = "train") -> episodes.TabletopEpisode:
    return episodes.prepare(SUITE, TASKS, EpisodeRequest(split=split, index=index), 0, {}, captions=count)


@pytest.fixture(scope="module")
def scenes() -> list[episodes.TabletopEpisode]:
    return [scene(index) for index in range(60)]


def named(text: str) -> list[str]:
    """The objects that a sentence names, by the noun that the scene knows."""
    return [f"{color} {NOUNS[noun]}" for color, noun in re.findall(rf"({'|'.join(OBJECT_COLORS)}) (\w+)", text)]


def is_true(text: str, kind: str, layout: Layout) -> bool:
    """A second opinion, from the words alone."""
    there = {obj.id for obj in layout}
    objects = named(text)
    if kind == "number":
        number, many = re.search(r"(two|three|four) (\w+)", text).groups()
        shape = next(shape for shape, plural in captions._PLURALS.items() if plural == many)
        return sum(obj.shape == shape for obj in layout) == ["zero", "one", "two", "three", "four"].index(number)
    if not set(objects) <= there:
        return False
    if kind == "relation":
        way = max((way for way in WAYS if f" {way} " in f" {text} "), key=len)
        first, second = objects if not text.startswith(way) else objects[::-1]
        return captions.holds(layout.object(first), WAYS[way], layout.object(second))
    return True


def test_what_is_said_is_true_and_its_hard_negative_is_not(scenes) -> None:
    seen = Counter()
    for episode in scenes:
        for caption in episode.info["captions"]:
            texts = (caption["true"], caption["false"])
            assert [is_true(text, caption["kind"], episode.layout) for text in texts] == [True, False], (caption, episode.layout)
            seen[caption["kind"]] += 1
    assert set(seen) == set(captions.KINDS) and seen["relation"] > 100 and seen["instruction"] > 100
    every = [caption["true"] for episode in scenes for caption in episode.info["captions"]]
    assert len(set(every)) > 0.8 * len(every), "the wording varies"


def test_words_alone_do_not_reveal_a_hard_negative(scenes) -> None:
    """Each word is about as frequent among hard negatives: none of them gives one away."""
    words = [Counter(), Counter()]
    for episode in scenes:
        for caption in episode.info["captions"]:
            for side, text in zip(words, (caption["true"], caption["false"]), strict=True):
                side.update(set(text.split()))
    true, false = words
    for word in (*OBJECT_COLORS, "cube", "ball", "cylinder", "left", "right", "behind", "front", "two"):
        assert 0.6 < true[word] / false[word] < 1.7, (word, true[word], false[word])


def test_no_sentence_names_a_color_twice(scenes) -> None:
    """Scenes do not show one twice, so that a hard negative that did would be known by its words."""
    for episode in scenes:
        for caption in episode.info["captions"]:
            for text in (caption["true"], caption["false"]):
                colors = [name.split()[0] for name in named(text)]
                assert len(set(colors)) == len(colors), caption


def test_an_instruction_that_is_never_demonstrated_is_no_hard_negative(scenes) -> None:
    rng = np.random.default_rng(0)
    wrong = [captions.misnamed(e.layout, goal, rng) for e in scenes for goal in e.info["feasible"]]
    found = [goal for goal in wrong if goal is not None]
    assert len(found) > 300
    assert all(grammar.is_demonstrated(goal) for goal in found)
    boxes = [goal for goal in found if goal["verb"] == "put"]
    assert all((goal["preposition"] == "in") == goal["receptacle"].endswith("box") for goal in boxes)


def test_a_hard_negative_names_what_the_scene_holds_elsewhere() -> None:
    pair = SceneObject("red", "cube", 0.5, -0.1), SceneObject("blue", "ball", 0.5, 0.1)
    layout = Layout(pair, (SceneObject("green", "box", 0.6, 0.0),))
    rng = np.random.default_rng(0)
    others = {captions.absent(layout, "red cube", rng) for _ in range(100)}
    assert others == {"blue cube", "green cube", "red ball"}, "its color is there, or its shape, but not together"


def test_of_objects_alike_no_caption_says_more_than_is_true() -> None:
    """Nothing is numbered, relations are of what is unique, and an instruction's hard negative names what is not there."""
    suite = find("tabletop-relations")
    related = {name: Related(tasks.get(name)()) for name in suite.tasks}
    seen = Counter()
    for index in range(20):
        episode = episodes.prepare(suite, related, EpisodeRequest(index=index), 0, {}, captions=12)
        names = Counter(obj.name for obj in episode.layout)
        assert max(names.values()) > 1
        for caption in episode.info["captions"]:
            kind, texts = caption["kind"], (caption["true"], caption["false"])
            assert not re.search(r"\d", " ".join(texts)) and texts[0] != texts[1]
            if kind == "relation":
                assert all(names[name] == 1 for name in named(texts[0])), caption
            if kind == "instruction":
                assert [set(named(text)) <= set(names) for text in texts] == [True, False], caption
            else:
                assert [is_true(text, kind, episode.layout) for text in texts] == [True, False], (caption, episode.layout)
            seen[kind] += 1
    assert set(seen) == set(captions.KINDS)


def test_captions_are_a_function_of_the_scene_and_change_nothing_else() -> None:
    without, few, again = scene(7, 0), scene(7, 4), scene(7, 4)
    assert "captions" not in without.info and few.info == again.info and len(few.info["captions"]) == 4
    assert {k: v for k, v in few.info.items() if k != "captions"} == without.info
