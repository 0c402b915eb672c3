"""Questions about the present scene and their answers, from its truth. Needs no simulator.

Yes and no are equally likely: both answers to a question are found before one is drawn. Numbers are drawn before what is counted.
A question is asked only where the answer is clear: relations hold by 5 cm, and for all other objects they clearly do not.
One in eight (color, shape, kind) triples is never asked of in training, as in `grammar.is_demonstrated`.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from verbot.contracts import ObjectTruth, Question, SceneTruth
from verbot.envs.tabletop.language.captions import OPPOSITE, RELATIONS
from verbot.envs.tabletop.language.templates_scene import QUESTIONS
from verbot.envs.tabletop.language.vocabulary import COLORS, OBJECT_COLORS, RECEPTACLES, SHAPES, SYNONYMS
from verbot.errors import ConfigError, UnknownNameError
from verbot.spec import Float64Array

KINDS = tuple(QUESTIONS)
APART_M, AGAINST_M = 0.05, 0.015  # along the axis of a relation that holds, and of one that clearly does not
AHEAD_M = 0.03  # by so much an object is nearer than all others
OTHER_NOUN = 0.15  # how often a question says another noun; in training only
PLAIN = 0.25  # how often what is mostly true is asked: that a box is empty, an object on the table, the drawer at its place
NOTHING = "nothing"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
SIDES = {"left": "left", "right": "right", "front": "in front", "behind": "behind"}  # relation to the answer
PLURALS = {"cube": "cubes", "cylinder": "cylinders", "ball": "balls", "box": "boxes", "plate": "plates"}
_TRIES = 24

# What a question says: words for its placeholders, the answer, and the names of all objects that it is about.
Draft = tuple[dict[str, str], str, tuple[str, ...]]


def ask(
    truth: SceneTruth, rng: np.random.Generator, wording: str = "seen", composition: str = "seen", kind: str | None = None
) -> Question | None:
    """A question; see `verbot.contracts.SceneLanguage`. None if no try finds one, and while colors are covered.

    Raises `ConfigError` for another wording or composition, `UnknownNameError` for another kind.

    Example:
        >>> red, blue = (ObjectTruth(n, n, p) for n, p in (("red cube", (0.5, -0.1, 0.02)), ("blue ball", (0.5, 0.1, 0.02))))
        >>> truth = SceneTruth("tabletop", (0, 1, 0), (1, 0, 0), (0.4, 0.0, 0.2), None, (red, blue))
        >>> found = ask(truth, np.random.default_rng(0), kind="side")
        >>> found.answer in ("left", "right")
        True
    """
    for label, value in (("wording", wording), ("composition", composition)):
        if value not in ("seen", "unseen"):
            raise ConfigError(f"{label} is {value!r}; expected 'seen' or 'unseen'")
    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind of question", kind, KINDS)
    if truth.covered:
        return None
    scene = _Scene(truth, rng, composition)
    for _ in range(_TRIES):
        chosen = kind or KINDS[int(rng.integers(len(KINDS)))]
        draft = _DRAFTS[chosen](scene, chosen)
        if draft is not None:
            words, answer, _ = draft
            template = scene.draw(QUESTIONS[chosen][wording])
            said = {key: _renamed(word, rng) if wording == "seen" and key in "xy" else word for key, word in words.items()}
            return Question(template.format(**said).replace("a orange", "an orange"), answer, chosen)
    return None


def find(truth: SceneTruth, text: str) -> Question | None:
    """The question `text` and its answer; see `verbot.contracts.JudgingLanguage`. A noun may be a synonym.

    Example:
        >>> red, blue = (ObjectTruth(n, n, p) for n, p in (("red cube", (0.5, -0.1, 0.02)), ("blue ball", (0.5, 0.1, 0.02))))
        >>> truth = SceneTruth("tabletop", (0, 1, 0), (1, 0, 0), (0.4, 0.0, 0.2), None, (red, blue))
        >>> find(truth, "Where is the red block relative to the blue ball?").answer
        'left'
        >>> find(truth, "why is there anything?") is None
        True
    """
    asked = _plain(text)
    for kind, template in _TEMPLATES:
        if truth.covered or not _pattern(template).fullmatch(asked):
            continue
        for composition in ("seen", "unseen"):
            rng = np.random.default_rng(0)
            scene = _Scene(truth, rng, composition)
            for _ in range(_DRAWS):  # a draft draws what it is about; this finds the one that was asked
                draft = _DRAFTS[kind](scene, kind)
                if draft is not None and _plain(template.format(**draft[0])) == asked:
                    return Question(asked + "?", draft[1], kind)
    return None


_DRAWS = 1500
_TEMPLATES = tuple((kind, each) for kind, sets in QUESTIONS.items() for wordings in sets.values() for each in wordings)


def _plain(text: str) -> str:
    """Lower case with one space between words, without punctuation, and with the plain noun for each synonym."""
    words = " ".join(re.sub(r"[^\w' ]", " ", text.lower()).split())
    for noun, others in SYNONYMS.items():
        for other in others:
            words = re.sub(rf"\b{re.escape(other)}(s?)\b", rf"{noun}\1", words)
    return re.sub(r"\ban (?=orange)", "a ", words)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w\\\}", ".+", re.escape(_plain_template(template))))


def _plain_template(template: str) -> str:
    return " ".join(re.sub(r"[^\w'{} ]", " ", template.lower()).split())


def is_asked(name: str, kind: str) -> bool:
    """False for the one in eight (color, shape, kind) triples that training asks nothing of.

    Example:
        >>> is_asked("red cube", "color_at"), is_asked("red box", "exists")
        (True, True)
    """
    color, _, shape = name.partition(" ")
    if color not in COLORS or shape not in SHAPES:
        return True
    return (list(COLORS).index(color) + 3 * SHAPES.index(shape) + 5 * KINDS.index(kind) + 1) % len(COLORS) != 0


class _Scene:
    """The truth in the viewer's axes, and what may be asked of it."""

    def __init__(self, truth: SceneTruth, rng: np.random.Generator, composition: str):
        self.truth, self.rng, self._composition = truth, rng, composition
        axes = np.array((truth.near, truth.right))
        self._places = {each.id: axes @ np.array(each.position_m) for each in truth.objects}  # (2,): near, right
        self.tool = axes @ np.array(truth.tool_m)
        counts = Counter(each.name for each in truth.objects)
        self.unique = [each for each in truth.objects if each.name and counts[each.name] == 1]

    def draw(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def allows(self, kind: str, *names: str) -> bool:
        """Whether the split asks this kind of question of these objects."""
        return all(is_asked(name, kind) for name in names) == (self._composition == "seen")

    def resting(self) -> list[ObjectTruth]:
        """What has a name of its own and is not in the gripper."""
        return [each for each in self.unique if each.id != self.truth.held]

    def offset(self, a: ObjectTruth, b: ObjectTruth) -> Float64Array:
        return np.asarray(self._places[a.id] - self._places[b.id])

    def holds(self, a: ObjectTruth, relation: str, b: ObjectTruth) -> bool:
        """As `captions.holds`."""
        along, across = _along(self.offset(a, b), relation)
        return along >= APART_M and along > across

    def fails(self, a: ObjectTruth, relation: str, b: ObjectTruth) -> bool:
        """Whether a relation clearly does not hold."""
        along, across = _along(self.offset(a, b), relation)
        return along < AGAINST_M or across > 1.5 * along

    def only(self, relation: str, b: ObjectTruth) -> ObjectTruth | None:
        """The only object in relation to `b`, while for every other it clearly does not hold; None if there is none."""
        others = [each for each in self.truth.objects if each.id != b.id]
        found = [each for each in others if self.holds(each, relation, b)]
        clear = all(self.fails(each, relation, b) for each in others if each not in found)
        return found[0] if len(found) == 1 and clear and found[0] in self.resting() else None

    def nearest(self, place: Float64Array, others: Sequence[ObjectTruth]) -> ObjectTruth | None:
        """The one of `others` that is clearly the nearest to `place` (2,)."""
        order = sorted(others, key=lambda each: self.distance(each, place))
        if not order or (len(order) > 1 and self.distance(order[1], place) - self.distance(order[0], place) < AHEAD_M):
            return None
        return order[0] if order[0] in self.unique else None

    def distance(self, each: ObjectTruth, place: Float64Array) -> float:
        return float(np.linalg.norm(self._places[each.id] - place))

    def place(self, each: ObjectTruth) -> Float64Array:
        return np.asarray(self._places[each.id])

    def pairs(self) -> Iterator[tuple[ObjectTruth, str, ObjectTruth]]:
        """All relations that clearly hold between objects at rest."""
        for a in self.resting():
            for b in self.resting():
                yield from ((a, relation, b) for relation in RELATIONS if a is not b and self.holds(a, relation, b))


def _along(offset: Float64Array, relation: str) -> tuple[float, float]:
    _, axis, sign = RELATIONS[relation]
    return sign * float(offset[axis]), abs(float(offset[1 - axis]))


def _at(scene: _Scene, kind: str) -> tuple[ObjectTruth, str, ObjectTruth] | None:
    found = [
        (chosen, relation, b)
        for b in scene.resting()
        for relation in RELATIONS
        if (chosen := scene.only(relation, b)) is not None and scene.allows(kind, chosen.name, b.name)
    ]
    return scene.draw(found) if found else None


def _color_at(scene: _Scene, kind: str) -> Draft | None:
    found = _at(scene, kind)
    if found is None or " " not in found[0].name:
        return None
    chosen, relation, b = found
    return {"r": scene.draw(RELATIONS[relation][0]), "x": b.name}, chosen.name.partition(" ")[0], (chosen.name, b.name)


def _object_at(scene: _Scene, kind: str) -> Draft | None:
    found = _at(scene, kind)
    if found is None or (" " not in found[0].name and scene.rng.random() >= PLAIN):
        return None
    chosen, relation, b = found
    return {"r": scene.draw(RELATIONS[relation][0]), "x": b.name}, chosen.name, (chosen.name, b.name)


def _side(scene: _Scene, kind: str) -> Draft | None:
    """A direction is drawn before the pair, so that none is rarer for the shape of the table."""
    pairs = [pair for pair in scene.pairs() if scene.allows(kind, pair[0].name, pair[2].name)]
    if not pairs:
        return None
    relation = scene.draw(sorted({pair[1] for pair in pairs}))
    a, _, b = scene.draw([pair for pair in pairs if pair[1] == relation])
    return {"x": a.name, "y": b.name}, SIDES[relation], (a.name, b.name)


def _count(scene: _Scene, kind: str) -> Draft | None:
    if not scene.allows(kind):
        return None
    names = [each.name for each in scene.truth.objects]
    counts = {plural: sum(name.endswith(f" {shape}") for name in names) for shape, plural in PLURALS.items()}
    counts |= {f"{color} objects": sum(name.startswith(f"{color} ") for name in names) for color in OBJECT_COLORS}
    number = scene.draw(sorted(set(counts.values())))
    plural = scene.draw([plural for plural, count in counts.items() if count == number])
    return {"s": plural}, NUMBERS[number], ()


def _exists(scene: _Scene, kind: str) -> Draft | None:
    here = sorted({each.name for each in scene.truth.objects if " " in each.name})
    there = [name for name in here if scene.allows(kind, name)]
    missing = [name for name in _differing(here) if scene.allows(kind, name)]
    if not there or not missing:
        return None
    yes = bool(scene.rng.integers(2))
    name = scene.draw(there if yes else missing)
    return {"x": name}, "yes" if yes else "no", (name,)


def _differing(here: Sequence[str]) -> list[str]:
    """Names that are not there and differ in one word from one that is, so that no single word tells."""
    every = [f"{color} {shape}" for color in OBJECT_COLORS for shape in (*SHAPES, *RECEPTACLES)]
    return [name for name in every if name not in here and any(set(name.split()) & set(other.split()) for other in here)]


def _relation(scene: _Scene, kind: str) -> Draft | None:
    pairs = [pair for pair in scene.pairs() if scene.allows(kind, pair[0].name, pair[2].name)]
    if not pairs:
        return None
    a, relation, b = scene.draw(pairs)
    yes = bool(scene.rng.integers(2))
    said = RELATIONS[relation if yes else OPPOSITE[relation]][0]
    return {"x": a.name, "y": b.name, "r": scene.draw(said)}, "yes" if yes else "no", (a.name, b.name)


def _nearest(scene: _Scene, kind: str) -> Draft | None:
    if not scene.resting():
        return None
    b = scene.draw(scene.resting())
    chosen = scene.nearest(scene.place(b), [each for each in scene.truth.objects if each.id != b.id])
    if chosen is None or chosen.id == scene.truth.held or not scene.allows(kind, chosen.name, b.name):
        return None
    return {"x": b.name}, chosen.name, (chosen.name, b.name)


def _nearest_arm(scene: _Scene, kind: str) -> Draft | None:
    chosen = scene.nearest(scene.tool, scene.truth.objects)
    return None if chosen is None or not scene.allows(kind, chosen.name) else ({}, chosen.name, (chosen.name,))


def _holding(scene: _Scene, kind: str) -> Draft | None:
    held = [each.name for each in scene.truth.objects if each.id == scene.truth.held]
    if not held and scene.rng.random() >= PLAIN:
        return None
    return ({}, held[0] if held else NOTHING, tuple(held)) if scene.allows(kind, *held) else None


def _inside(scene: _Scene, kind: str) -> Draft | None:
    """At most one object lies there, else there were several answers."""
    places = [each for each in scene.unique if each.name.partition(" ")[2] in RECEPTACLES]
    if not places:
        return None
    place = scene.draw(places)
    found = [each.name for each in scene.truth.objects if each.within == place.id]
    if len(found) > 1 or (not found and scene.rng.random() >= PLAIN) or not scene.allows(kind, *found):
        return None
    words = {"x": place.name, "p": RECEPTACLES[place.name.partition(" ")[2]]}
    return words, found[0] if found else NOTHING, (*found, place.name)


def _where(scene: _Scene, kind: str) -> Draft | None:
    movable = [each for each in scene.unique if each.name.partition(" ")[2] in SHAPES and scene.allows(kind, each.name)]
    if not movable:
        return None
    chosen = scene.draw(movable)
    if chosen.id == scene.truth.held:
        return {"x": chosen.name}, "in the gripper", (chosen.name,)
    if chosen.within is None:
        return ({"x": chosen.name}, "on the table", (chosen.name,)) if scene.rng.random() < PLAIN else None
    place = scene.truth.object(chosen.within)
    if place not in scene.unique:
        return None
    preposition = RECEPTACLES.get(place.name.partition(" ")[2], "on")
    return {"x": chosen.name}, f"{preposition} the {place.name}", (chosen.name, place.name)


def _renamed(name: str, rng: np.random.Generator) -> str:
    color, _, shape = name.partition(" ")
    nouns = SYNONYMS.get(shape, ())
    return f"{color} {nouns[int(rng.integers(len(nouns)))]}" if nouns and rng.random() < OTHER_NOUN else name


_DRAFTS: dict[str, Callable[[_Scene, str], Draft | None]] = {
    "color_at": _color_at, "object_at": _object_at, "side": _side, "count": _count, "exists": _exists, "relation": _relation,
    "nearest": _nearest, "nearest_arm": _nearest_arm, "holding": _holding, "inside": _inside, "where": _where,
}  # fmt: skip
