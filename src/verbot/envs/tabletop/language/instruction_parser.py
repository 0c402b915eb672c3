"""Read instructions for the tabletop: the inverse of the templates in `language`, `phrases_relations` and `sentences`.

It knows the templates for training and those for testing. It is exact: a sentence that leaves a word over, or that
asks for two objects, is not understood.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verbot.contracts import Goal, Understanding
from verbot.envs import parsing
from verbot.envs.parsing import Lexicon, Name, Reading, Templates, Token
from verbot.envs.tabletop.language import (
    grammar as language,
)
from verbot.envs.tabletop.language import (
    multi_sentence,
    templates_basic,
    templates_full,
    templates_relations,
)
from verbot.envs.tabletop.language.vocabulary import COLORS, DIRECTIONS, OBJECT_COLORS, RECEPTACLES, SHAPES, SYNONYMS

FIXTURES = ("drawer", "button")
_STACKABLE = ("cube", "cylinder")
_SYNONYMS = {other: noun for noun, others in SYNONYMS.items() for other in others}
LEXICON = Lexicon(frozenset(COLORS), {name: name for name in (*SHAPES, *RECEPTACLES, *FIXTURES)} | _SYNONYMS, frozenset(("can",)))
_PREPOSITIONS = {"put": tuple(RECEPTACLES.values()), "place_next_to": ("next to", "left of", "right of")}
# The nouns that a verb's object and receptacle can have.
_NOUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pick": (SHAPES, ()),
    "push": (SHAPES, ()),
    "put": (SHAPES, tuple(RECEPTACLES)),
    "stack": (_STACKABLE, _STACKABLE),
    "place_next_to": (SHAPES, (*SHAPES, *RECEPTACLES)),
    "move_away": (SHAPES, (*SHAPES, *RECEPTACLES)),
    "open_drawer": (("drawer",), ()),
    "close_drawer": (("drawer",), ()),
    "press_button": (("button",), ()),
    "lift_and_hold": (SHAPES, ()),
    "sort_color": ((), ("box",)),
    "put_back": (SHAPES, (*SHAPES, *RECEPTACLES)),
}


@dataclass(frozen=True)
class _Grammar:
    """All templates: `commands`, and of texts of several sentences what spares an object, what names it, and pronoun commands."""

    commands: Templates
    asides: Templates
    finds: Templates
    pronouns: Templates
    relations: Mapping[tuple[str, ...], list[tuple[str, tuple[str, ...]]]]
    vocabulary: frozenset[str]


def understand(text: str) -> Understanding:
    """What `text` means, whatever the suite.

    Example:
        >>> understand("Could you please grab the red block?").goals
        ({'verb': 'pick', 'object': 'red cube'},)
        >>> understand("burn the red cube").problem
        "the grammar does not know the word 'burn'"
    """
    grammar = _grammar()
    objects = tuple(name for name in LEXICON.names(text) if not _absent(name))
    goals, unchecked, spared = _read(text, grammar)
    if not goals:
        return _explain(text, grammar, objects)
    names = dict.fromkeys((*_named(goals[0]), *spared))
    if absent := [name for name in names if _absent(name)]:
        problem = f"no object here is called {', '.join(map(repr, absent))}; their colors are {', '.join(OBJECT_COLORS)}"
        return Understanding((), objects, problem, tuple(absent))
    if len({_key(goal) for goal in goals}) > 1:
        meanings = " or ".join(dict.fromkeys(describe(goal) for goal in goals))
        return Understanding((), objects, f"it has more than one meaning: {meanings}")
    return Understanding(tuple(goals), tuple(name for name in names if name != _any_of(goals[0])), unchecked=tuple(unchecked))


def describe(goal: Goal) -> str:
    """The plain instruction for `goal`, which may name objects by their noun alone.

    Example:
        >>> describe({"verb": "put", "object": "red cube", "receptacle": "box"})
        'put the red cube in the box'
    """
    if goal["verb"] == "put" and "preposition" not in goal:
        goal = {**goal, "preposition": RECEPTACLES[goal["receptacle"].rpartition(" ")[2]]}
    return language.canonical(goal)


def _read(text: str, grammar: _Grammar) -> tuple[list[Goal], list[str], list[str]]:
    """The goals that the whole text means, without doubles; its sentences that no goal judges; the names in those."""
    goals: list[Goal] = []
    spared: list[str] = []
    asides: list[str] = []
    found: Name | None = None
    for sentence in parsing.pieces(text):
        variants = _variants(sentence, grammar)
        if commands := _commands(variants, grammar):
            if goals:
                return [], [], []
            goals = commands
        elif names := [reading.slots["object"] for tokens in variants for reading in grammar.asides.read(tokens)]:
            asides.append(sentence)
            spared += [name.text for name in names]
        elif names := [reading.slots["object"] for tokens in variants for reading in grammar.finds.read(tokens)]:
            found = names[0] if isinstance(names[0], Name) and found is None else None
            if found is None:
                return [], [], []
        elif found is not None and not goals:
            goals = _pronoun_commands(variants, found, grammar)
            if not goals:
                return [], [], []
            found = None
        else:
            return [], [], []
    # Something that is named and then not used, or that is to be spared and handled at once.
    if found is not None or any(name in spared for goal in goals[:1] for name in _named(goal)):
        return [], [], []
    return goals, asides, spared


def _commands(variants: Sequence[tuple[Token, ...]], grammar: _Grammar) -> list[Goal]:
    return _goals(reading for tokens in variants for reading in grammar.commands.read(tokens))


def _pronoun_commands(variants: Sequence[tuple[Token, ...]], name: Name, grammar: _Grammar) -> list[Goal]:
    readings = (reading for tokens in variants for reading in grammar.pronouns.read(tokens))
    return _goals(Reading(reading.fields, {**reading.slots, "object": name}) for reading in readings)


def _goals(readings: Iterator[Reading]) -> list[Goal]:
    goals: list[Goal] = []
    for reading in readings:
        goals += [goal for goal in _meanings(reading) if goal not in goals]
    return goals


def _meanings(reading: Reading) -> Iterator[Goal]:
    """The goals of one reading; none where its verb does not go with such objects. "Between" goes both ways."""
    goal: dict[str, Any] = dict(reading.fields)
    verb = goal["verb"]
    for slot, nouns in zip(("object", "receptacle"), _NOUNS[verb], strict=True):
        name = reading.slots.get(slot)
        if name is None:
            continue
        if name.text.rpartition(" ")[2] not in nouns:
            return
        if isinstance(name, Name) and name.relation:
            if slot == "receptacle":
                return
            goal |= {"noun": name.text, **name.relation}
        else:
            goal[slot] = name.text
    if "color" in reading.slots:
        goal["color"] = reading.slots["color"].text
    if verb == "put" and goal.get("preposition") not in (None, RECEPTACLES[goal["receptacle"].rpartition(" ")[2]]):
        return
    yield goal
    if goal.get("relation") == "between":
        yield {**goal, "anchor": goal["other"], "other": goal["anchor"]}


def _variants(text: str, grammar: _Grammar) -> list[tuple[Token, ...]]:
    """The tokens of `text`, as they are and with each noun phrase that a relation makes of them in one."""
    found: list[tuple[Token, ...]] = []
    longest = max(map(len, grammar.relations))
    for tokens in LEXICON.tokens(text):
        found.append(tokens)
        key = tuple(parsing.NAME if isinstance(token, Name) else str(token) for token in tokens)
        for start in range(len(key)):
            for end in range(start + 2, min(len(key), start + longest) + 1):
                for relation, slots in grammar.relations.get(key[start:end], ()):
                    names = [token.text for token in tokens[start:end] if isinstance(token, Name)]
                    said = dict(zip(slots, names, strict=True))
                    phrase = Name(said.pop("noun"), {"relation": relation, **said})
                    found.append((*tokens[:start], phrase, *tokens[end:]))
    return found


def _named(goal: Goal) -> list[str]:
    names = [goal[key] for key in ("object", "noun", "anchor", "other", "receptacle") if key in goal]
    return names + ([_any_of(goal)] if "color" in goal else [])


def _any_of(goal: Goal) -> str:
    """Whatever has the color of a goal that names no single object."""
    return f"{goal.get('color')} object"


def _absent(name: str) -> bool:
    """Whether no scene has an object of that color."""
    color, _, noun = name.rpartition(" ")
    return bool(color) and (color not in OBJECT_COLORS or noun in FIXTURES)


def _key(goal: Goal) -> tuple[Any, ...]:
    ends = frozenset(goal[key] for key in ("anchor", "other") if key in goal)
    return (ends, *sorted((key, value) for key, value in goal.items() if key not in ("anchor", "other")))


def _explain(text: str, grammar: _Grammar, objects: tuple[str, ...]) -> Understanding:
    """Why `text` is not understood."""

    def is_command(part: str) -> bool:
        variants = _variants(part, grammar)
        some = Name(SHAPES[0])
        return bool(_commands(variants, grammar) or _pronoun_commands(variants, some, grammar))

    plain = parsing.not_understood(text, LEXICON, set(grammar.vocabulary), objects, is_command)
    spared = [s for s in parsing.pieces(text) for tokens in _variants(s, grammar) if grammar.asides.read(tokens)]
    if spared and len(spared) == len(parsing.pieces(text)) and parsing.negation(text) is None:
        return Understanding((), objects, f"it says what to leave alone ({spared[0]}), but not what to do")
    return plain


@functools.cache
def _grammar() -> _Grammar:
    frames = [parsing.frame(template) for template in templates_basic.FRAMES]
    commands, pronouns = Templates(frames), Templates(frames)
    for table in (
        {verb: (template,) for verb, template in language.CANONICAL.items()},
        templates_basic.PHRASES, templates_basic.STATEMENTS, templates_basic.UNSEEN,
        templates_full.PHRASES, templates_full.STATEMENTS, templates_full.UNSEEN,
    ):  # fmt: skip
        _add(commands, table)
    for table in (multi_sentence.PRONOUNS, multi_sentence.UNSEEN_PRONOUNS):
        _add(pronouns, table)
    asides, finds = Templates(), Templates()
    for template in (*multi_sentence.ASIDES, *multi_sentence.UNSEEN_ASIDES):
        asides.add(template.replace("{other}", "<object>"), {})
    for template in (*multi_sentence.FINDS, *multi_sentence.UNSEEN_FINDS):
        finds.add(template.replace("{object}", "<object>"), {})
    relations: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = {}
    for tellings in (templates_relations.SEEN, templates_relations.UNSEEN):
        for relation, templates in tellings.items():
            for template in templates:
                said = parsing.words(template.replace("{", "<").replace("}", ">"))
                slots = tuple(word[1:-1] for word in said if word.startswith("<"))
                key = tuple(parsing.NAME if word.startswith("<") else word for word in said)
                relations.setdefault(key, []).append((relation, slots))
    known = commands.vocabulary() | pronouns.vocabulary() | asides.vocabulary() | finds.vocabulary()
    known |= {word for key in relations for word in key} - {parsing.NAME}
    return _Grammar(commands, asides, finds, pronouns, relations, frozenset(known))


def _add(templates: Templates, table: Mapping[str, Sequence[str]]) -> None:
    """Every filling of every template: by direction, by each way to name it, and by preposition."""
    for label, lines in table.items():
        verb, _, only = label.partition(" ")
        for line in lines:
            for fields in _fillings(verb, only):
                headings = templates_basic.HEADINGS.get(fields.get("direction", ""), ("",))
                goal = {**fields, "object": "<object>", "receptacle": "<receptacle>", "color": "<color>"}
                for heading in headings if "{heading}" in line else ("",):
                    plain = line.replace("{heading}", heading)
                    # A preposition that is not said follows from the receptacle.
                    own = fields if only or "{preposition}" in line or verb != "put" else {"verb": verb}
                    templates.add(language.fill(plain, goal), own)


def _fillings(verb: str, only: str) -> Iterator[dict[str, str]]:
    if verb == "push":
        yield from ({"verb": verb, "direction": direction} for direction in DIRECTIONS)
    elif verb in _PREPOSITIONS:
        for preposition in (only,) if only else _PREPOSITIONS[verb]:
            yield {"verb": verb, "preposition": preposition}
    else:
        yield {"verb": verb}
