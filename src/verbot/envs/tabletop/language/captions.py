"""Captions of a scene, each with a hard negative: the same words but one, which makes the caption false.

Captions name objects, relations between them, or the number of objects of a shape, or give an instruction that the scene admits.
Each hard negative is checked against the scene: another color or shape in place of one that is there, the opposite of a relation,
another shape's number. Hard negatives in the sense of Faghri et al. 2018, "VSE++".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from verbot.envs.tabletop.language import grammar
from verbot.envs.tabletop.language.vocabulary import OBJECT_COLORS, RECEPTACLES, SHAPES, SYNONYMS
from verbot.envs.tabletop.simulation.layout import Layout, SceneObject

APART_M = 0.05  # along the axis of a relation
OTHER_NOUN = 0.25  # how often an object is called by another noun
KINDS = ("object", "objects", "relation", "number", "instruction")
SHARES = (0.2, 0.1, 0.3, 0.1, 0.3)  # of the kinds
Pair = tuple[str, str]

_ONE = (
    "there is a {a}", "a {a}", "a {a} on the table", "one can see a {a}", "the table holds a {a}", "a {a} is standing there",
    "this shows a {a}", "a table with a {a}", "among other things a {a}", "a {a} can be seen",
)  # fmt: skip
_SEVERAL = ("there is {a}", "{a}", "{a} on the table", "one can see {a}", "the table holds {a}", "this shows {a}")
_RELATION = (
    "the {a} is {r} the {b}",
    "a {a} {r} a {b}",
    "there is a {a} {r} a {b}",
    "the {a} stands {r} the {b}",
    "{r} the {b} is a {a}",
)
_NUMBER = ("there are {n} {s}", "{n} {s}", "{n} {s} on the table", "one can count {n} {s}", "the table holds {n} {s}")
_PLURALS = {"cube": "cubes", "cylinder": "cylinders", "ball": "balls", "box": "boxes", "plate": "plates"}
# Ways to say it, and which way along which axis of the base frame, as a person in front of the table sees it.
RELATIONS: dict[str, tuple[tuple[str, ...], int, float]] = {
    "left": (("left of", "to the left of", "on the left side of"), 1, -1.0),
    "right": (("right of", "to the right of", "on the right side of"), 1, 1.0),
    "front": (("in front of", "nearer than", "closer to the viewer than"), 0, 1.0),
    "behind": (("behind", "at the back of", "farther away than"), 0, -1.0),
}
OPPOSITE = {"left": "right", "right": "left", "front": "behind", "behind": "front"}
_NUMBERS = ("zero", "one", "two", "three", "four", "five")


def describe(layout: Layout, goals: Sequence[Mapping[str, Any]], rng: np.random.Generator, count: int) -> list[dict[str, str]]:
    """`count` different captions of a scene, each ``{"true": …, "false": …, "kind": one of KINDS}``; fewer where it says less.

    Args:
        goals: that the scene admits.

    Example:
        >>> from verbot.envs.tabletop.simulation.layout import Layout, SceneObject
        >>> pair = SceneObject("red", "cube", 0.5, -0.1), SceneObject("blue", "ball", 0.5, 0.1)
        >>> scene = Layout(pair, (SceneObject("green", "box", 0.6, 0.0),))
        >>> found = describe(scene, [{"verb": "pick", "object": "red cube"}], np.random.default_rng(0), 40)
        >>> {caption["kind"] for caption in found} <= set(KINDS), all(c["true"] != c["false"] for c in found)
        (True, True)
    """
    say: dict[str, Callable[[Layout, Sequence[Mapping[str, Any]], np.random.Generator], Pair | None]] = {
        "object": _object, "objects": _objects, "relation": _relation, "number": _number, "instruction": _instruction,
    }  # fmt: skip
    found: dict[str, dict[str, str]] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        kind = str(rng.choice(KINDS, p=SHARES))
        pair = say[kind](layout, goals, rng)
        if pair is not None:
            true, false = (text.replace("a orange", "an orange") for text in pair)
            found.setdefault(true, {"true": true, "false": false, "kind": kind})
    return list(found.values())


def true_caption(layout: Layout, rng: np.random.Generator, counts: bool = True) -> str | None:
    """One caption of objects, a relation or, with `counts`, a number; None if nothing is found to say in 20 tries."""
    for _ in range(20):
        say = (_object, _relation, _objects, *((_number,) if counts else ()))[int(rng.integers(3 + counts))]
        pair = say(layout, (), rng) if len(tuple(layout)) > 1 else None
        if pair is not None:
            return pair[0].replace("a orange", "an orange")
    return None


def absent(layout: Layout, obj: str, rng: np.random.Generator, beside: Sequence[str] = ()) -> str | None:
    """An object that is not there and differs from `obj` ("color shape") in one word; one that the scene holds elsewhere, if any.

    So neither "red" nor "cube" alone tells that there is no red cube. Colors of what is named `beside` it are not taken: a scene
    rarely shows a color twice, and a sentence that names one twice would be known by its words. None if nothing is absent.
    """
    color, _, shape = obj.partition(" ")
    shapes = tuple(RECEPTACLES) if shape in RECEPTACLES else SHAPES
    here = {each.name for each in layout}
    taken = {other.partition(" ")[0] for other in beside if other != obj}
    others = [f"{c} {shape}" for c in OBJECT_COLORS if c != color and c not in taken]
    others += [f"{color} {s}" for s in shapes if s != shape and color not in taken]
    free = [name for name in others if name not in here]
    seen = [name for name in free if any(set(name.split()) - {color, shape} <= set(each.split()) for each in here)]
    pile = seen or free
    return pile[int(rng.integers(len(pile)))] if pile else None


def _object(layout: Layout, goals: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Pair | None:
    chosen = _draw(tuple(layout), rng).name
    other = absent(layout, chosen, rng)
    return None if other is None else _both(_draw(_ONE, rng), rng, a=(chosen, other))


def _objects(layout: Layout, goals: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Pair | None:
    everything = list(dict.fromkeys(obj.name for obj in layout))
    some = [everything[i] for i in rng.permutation(len(everything))[: int(rng.integers(2, 4))]]
    place = int(rng.integers(len(some)))
    other = absent(layout, some[place], rng, some)
    if len(some) < 2 or other is None:
        return None
    names = [_called(name, rng) for name in some]
    wrong = [*names[:place], _called(other, rng), *names[place + 1 :]]
    template = _draw(_SEVERAL, rng)
    return template.format(a=_listed(names)), template.format(a=_listed(wrong))


def _relation(layout: Layout, goals: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Pair | None:
    objects = [layout.object(name) for name in _unique(layout)]
    pairs = [(a, b, name) for a in objects for b in objects for name in RELATIONS if a is not b and holds(a, name, b)]
    if not pairs:
        return None
    a, b, name = _draw(pairs, rng)
    template = _draw(_RELATION, rng)
    said = _draw(RELATIONS[name][0], rng)
    other = absent(layout, a.name, rng, (b.name,))
    if other is not None and rng.random() < 0.25:
        return _both(template, rng, a=(a.name, other), b=(b.name, b.name), r=(said, said))
    opposite = _draw(RELATIONS[OPPOSITE[name]][0], rng)
    return _both(template, rng, a=(a.name, a.name), b=(b.name, b.name), r=(said, opposite))


def _number(layout: Layout, goals: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Pair | None:
    shape = _draw((*SHAPES, *RECEPTACLES), rng)
    counts = {each: sum(obj.shape == each for obj in layout) for each in (*SHAPES, *RECEPTACLES)}
    others = [each for each, n in counts.items() if n != counts[shape]]
    if counts[shape] < 2 or not others:
        return None
    number = _NUMBERS[counts[shape]]
    return _both(_draw(_NUMBER, rng), rng, n=(number, number), s=(_PLURALS[shape], _PLURALS[_draw(others, rng)]))


def _instruction(layout: Layout, goals: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Pair | None:
    goal = _draw(goals, rng)
    wrong = misnamed(layout, goal, rng)
    if wrong is None:
        return None
    place = int(rng.integers(len(grammar.known(goal, "seen"))))
    text = grammar.known(goal, "seen")[place]
    wordings = grammar.known(wrong, "seen")
    return text, wordings[min(place, len(wordings) - 1)]


def misnamed(layout: Layout, goal: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    """`goal` with one of the objects that it names exchanged for one that is not there; None if there is none.

    Combinations that are never demonstrated do not occur here either: else an instruction would be known to be wrong without the
    image. An object of a relation is named by its noun, and the relation by its other objects.
    """
    keys = ("noun", "anchor", "other", "receptacle") if "relation" in goal else ("object", "receptacle")
    named = [key for key in keys if goal.get(key) in {obj.name for obj in layout}]
    if not named:
        return None
    key = _draw(named, rng)
    other = absent(layout, goal[key], rng, [goal[each] for each in named])
    if other is None:
        return None
    wrong = {**goal, key: other, **({"object": other} if key == "noun" else {})}
    if key == "receptacle" and goal.get("preposition") in RECEPTACLES.values():
        wrong["preposition"] = RECEPTACLES.get(other.partition(" ")[2], goal["preposition"])
    return wrong if grammar.is_demonstrated(wrong) == grammar.is_demonstrated(goal) else None


def holds(a: SceneObject, relation: str, b: SceneObject) -> bool:
    """Whether `a` is ``"left"``, ``"right"``, ``"front"`` or ``"behind"`` of `b`: by 5 cm, and more that way than across."""
    _, axis, sign = RELATIONS[relation]
    apart = np.array((a.x - b.x, a.y - b.y))
    return bool(sign * apart[axis] >= APART_M and abs(apart[axis]) > abs(apart[1 - axis]))


def _unique(layout: Layout) -> list[str]:
    """Names that fit one object each; identical objects have no relation, as none would single one out."""
    names = Counter(obj.name for obj in layout)
    return [name for name, count in names.items() if count == 1]


def _both(template: str, rng: np.random.Generator, **words: Pair) -> Pair:
    """The template with the first and with the second of each pair of words; an object has one noun in both where it is one."""
    true, false = {}, {}
    for key, (right, wrong) in words.items():
        true[key] = _called(right, rng) if key in "ab" else right
        false[key] = true[key] if wrong == right else (_called(wrong, rng) if key in "ab" else wrong)
    return template.format(**true), template.format(**false)


def _called(obj: str, rng: np.random.Generator) -> str:
    color, _, shape = obj.partition(" ")
    nouns = SYNONYMS.get(shape, ())
    return f"{color} {_draw(nouns, rng)}" if nouns and rng.random() < OTHER_NOUN else obj


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"a {name}" for name in names[:-1]) + f" and a {names[-1]}"


def _draw(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]
