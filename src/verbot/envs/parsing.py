"""Read instructions back: the inverse of a grammar that fills templates.

A template is a sentence with slots. A sentence is read by replacing the names of objects in it by slots and looking the rest up
among the templates. Every word must belong to a template, to a name or to a frame ("could you please ..."). Letter case, articles
and punctuation are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from verbot.contracts import Understanding

ARTICLES = frozenset(("the", "a", "an"))
NEGATIONS = frozenset(
    ("not", "never", "no", "without", "avoid", "except", "nothing", "nobody", "neither", "nor", "refrain", "cannot")
)
NAME, COLOR = "<name>", "<color>"
SLOTS = {"<object>": NAME, "<receptacle>": NAME, "<color>": COLOR}
_DEEPEST = 3  # frames around one command
_SENTENCE_ENDS = re.compile(r"[.!?;]+(?:\s+|$)")
_CONNECTIVES = re.compile(r"[.!?;,]+(?:\s+|$)|\b(?:and then|then|and)\b")


@dataclass(frozen=True)
class Name:
    """What a sentence calls an object: ``"red cube"`` or ``"cube"``; `relation` holds further fields of the goal."""

    text: str
    relation: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Color:
    """A color that stands by itself, as in "everything red"."""

    text: str


Token = str | Name | Color


@dataclass(frozen=True)
class Reading:
    """A template that a sentence fits: the template's own fields of the goal, and what stands in its slots."""

    fields: Mapping[str, Any]
    slots: Mapping[str, Name | Color]


@dataclass(frozen=True)
class Frame:
    """Words before and after a command, and the fields of the goal that they set."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)


def frame(template: str, fields: Mapping[str, Any] | None = None) -> Frame:
    """The frame that `template` writes around its ``{}``.

    Example:
        >>> frame("could you {} please")
        Frame(before=('could', 'you'), after=('please',), fields={})
    """
    before, _, after = template.partition("{}")
    return Frame(words(before), words(after), dict(fields or {}))


def words(text: str) -> tuple[str, ...]:
    """Lower-case words without articles and punctuation.

    Example:
        >>> words("Push the RED cube, please!")
        ('push', 'red', 'cube', 'please')
    """
    return tuple(word for word in _raw(text) if word not in ARTICLES)


class Templates:
    """Templates by their words. Slots are written ``<object>``, ``<receptacle>`` and ``<color>``."""

    def __init__(self, frames: Sequence[Frame] = ()):
        self._frames = frames
        self._entries: dict[tuple[str, ...], list[tuple[Mapping[str, Any], tuple[str, ...]]]] = {}

    def add(self, template: str, fields: Mapping[str, Any]) -> None:
        found = words(template)
        slots = tuple(word[1:-1] for word in found if word in SLOTS)
        entries = self._entries.setdefault(tuple(SLOTS.get(word, word) for word in found), [])
        if (fields, slots) not in entries:
            entries.append((dict(fields), slots))

    def vocabulary(self) -> set[str]:
        """Every word of the templates and the frames."""
        own = {word for key in self._entries for word in key}
        return (own | {word for each in self._frames for word in (*each.before, *each.after)}) - {NAME, COLOR}

    def read(self, tokens: Sequence[Token]) -> list[Reading]:
        """Every template that all of `tokens` fit, with up to three frames around it."""
        found, layer = [], [(tuple(tokens), dict[str, Any]())]
        for _ in range(_DEEPEST + 1):
            for inner, fields in layer:
                values = [token for token in inner if not isinstance(token, str)]
                key = tuple(NAME if isinstance(t, Name) else COLOR if isinstance(t, Color) else t for t in inner)
                for own, slots in self._entries.get(key, ()):
                    if not fields.keys() & own.keys():
                        found.append(Reading({**own, **fields}, dict(zip(slots, values, strict=True))))
            layer = [stripped for inner, fields in layer for stripped in self._stripped(inner, fields)]
        return found

    def _stripped(self, tokens: tuple[Token, ...], fields: dict[str, Any]) -> Iterator[tuple[tuple[Token, ...], dict[str, Any]]]:
        for each in self._frames:
            start, end = len(each.before), len(tokens) - len(each.after)
            if start < end and tokens[:start] == each.before and tokens[end:] == each.after and not fields.keys() & each.fields:
                yield tokens[start:end], {**fields, **each.fields}


@dataclass(frozen=True)
class Lexicon:
    """The words for objects.

    Args:
        colors: every color that has a name.
        nouns: noun to the object's own noun, synonyms included.
        plain: nouns that also occur as other words ("can you ...").
    """

    colors: frozenset[str]
    nouns: Mapping[str, str]
    plain: frozenset[str] = frozenset()

    def tokens(self, text: str) -> list[tuple[Token, ...]]:
        """`text` with its names and colors found, in every way that is possible."""
        found: list[tuple[Token, ...]] = [()]
        said, i = words(text), 0
        while i < len(said):
            word, following = said[i], said[i + 1] if i + 1 < len(said) else ""
            if word in self.colors and following in self.nouns:
                ways: list[Token] = [Name(f"{word} {self.nouns[following]}")]
                i += 1
            elif word in self.colors:
                ways = [Color(word)]
            elif word in self.nouns:
                ways = [Name(self.nouns[word]), *([word] if word in self.plain else [])]
            else:
                ways = [word]
            # A long text of words that are also nouns would have too many readings.
            found = [(*before, way) for before in found for way in (ways if len(found) < 64 else ways[-1:])]
            i += 1
        return found

    def names(self, text: str) -> tuple[str, ...]:
        """The names of objects in `text`: first those with a color."""
        found = [token.text for token in self.tokens(text)[-1] if isinstance(token, Name)]
        return tuple(sorted(dict.fromkeys(found), key=lambda name: " " not in name))


def pieces(text: str, connectives: bool = False) -> list[str]:
    """The sentences of `text`; with `connectives` also split at commas, *and* and *then*."""
    parts = (_CONNECTIVES if connectives else _SENTENCE_ENDS).split(text.strip().lower())
    return [part.strip(" ,") for part in parts if part.strip(" ,")]


def negation(text: str) -> str | None:
    """The first word of `text` that negates, if there is one."""
    return next((word for word in words(text) if word in NEGATIONS or word.endswith("n't") or word == "dont"), None)


def unknown(text: str, lexicon: Lexicon, vocabulary: set[str]) -> tuple[list[str], list[str]]:
    """What no template and no name accounts for: (names of objects that do not exist, other words).

    Example:
        >>> lexicon = Lexicon(frozenset(("red", "yellow")), {"cube": "cube"})
        >>> unknown("burn the red cube in the yellow bowl", lexicon, {"in"})
        (['yellow bowl'], ['burn'])
    """
    absent: list[str] = []
    other: list[str] = []
    known, said = vocabulary | ARTICLES | lexicon.colors | lexicon.nouns.keys(), ["", *_raw(text), ""]
    i = 1
    while i < len(said) - 1:
        before, word, following = said[i - 1 : i + 2]
        is_strange_noun = word in lexicon.colors and bool(following) and following not in known
        is_strange_adjective = word not in known and following in lexicon.nouns and before in ARTICLES
        if is_strange_noun or is_strange_adjective:
            absent.append(f"{word} {following}")
            i += 1
        elif word not in known:
            (absent if before in ARTICLES else other).append(word)
        i += 1
    return list(dict.fromkeys(absent)), list(dict.fromkeys(other))


def not_understood(
    text: str, lexicon: Lexicon, vocabulary: set[str], objects: tuple[str, ...], is_command: Callable[[str], bool]
) -> Understanding:
    """Why `text` fits no template: nothing in it, several commands, a negation, unknown words or an unknown form.

    Args:
        objects: named in the text, for the scene that is shown.
        is_command: whether a part of the text is a command by itself, perhaps with a pronoun for its object.
    """
    absent, other = unknown(text, lexicon, vocabulary)
    commands = [part for part in pieces(text, connectives=True) if is_command(part)]
    if not words(text):
        problem = "the instruction is empty"
    elif (word := negation(text)) is not None:
        problem = f"it says what not to do ({word!r}); only instructions that say what to do can be judged"
    elif len(commands) > 1:
        problem = f"it gives {len(commands)} commands ({'; '.join(commands)}); one command at a time can be judged"
    elif absent or other:
        nothing = f"no object here is called {_quoted(absent)}" if absent else ""
        strange = f"the grammar does not know the word{'s' * (len(other) > 1)} {_quoted(other)}" if other else ""
        problem = "; ".join(filter(None, (nothing, strange)))
    else:
        problem = "the grammar knows its words but no instruction of this form"
    return Understanding((), objects, problem, (*absent, *other))


def lacking_task(understood: Understanding, tasks: Sequence[str], suite: str) -> Understanding:
    """`understood`, or what says that `suite` has no such task."""
    verbs = [goal["verb"] for goal in understood.goals[:1]]
    if not verbs or verbs[0] in tasks:
        return understood
    problem = f"{suite} has no task {verbs[0]!r}; its tasks are {', '.join(tasks)}"
    return Understanding((), understood.objects, problem, (), understood.unchecked)


def matches(meaning: Mapping[str, Any], goal: Mapping[str, Any], objects: Sequence[str]) -> bool:
    """Whether a scene's `goal` is what an instruction means. A noun without a color fits where one object alone has that noun.

    Args:
        objects: the names of all objects in the scene; twins have one name.

    Example:
        >>> goal = {"verb": "put", "object": "red cube", "receptacle": "blue box", "preposition": "in"}
        >>> meaning = {"verb": "put", "object": "red cube", "receptacle": "box"}
        >>> matches(meaning, goal, ["red cube", "blue box"]), matches(meaning, goal, ["red cube", "blue box", "red box"])
        (True, False)
    """
    if ("relation" in goal) != ("relation" in meaning):
        return False
    return all(key in goal and _fits(key, value, goal[key], objects) for key, value in meaning.items())


def present(name: str, objects: Sequence[str]) -> bool:
    """Whether the scene has an object of that name, or of that noun where `name` has no color."""
    return any(name in (each, each.rpartition(" ")[2]) for each in objects)


def unrelated_goal(understood: Understanding, instructions: Sequence[str]) -> int:
    """The first of a scene's goals about other objects than those in a text, so that success by chance does not end the episode.

    Args:
        instructions: the plain instruction of each goal.
    """
    nouns = [name.rpartition(" ")[2] for name in understood.objects]
    apart = (number for number, text in enumerate(instructions) if not any(noun in text.split() for noun in nouns))
    other = (number for number, text in enumerate(instructions) if not any(name in text for name in understood.objects))
    return next(apart, next(other, 0))


def _fits(key: str, value: Any, own: Any, objects: Sequence[str]) -> bool:
    if key not in ("object", "receptacle", "anchor", "other"):
        return bool(value == own)
    alike = [name for name in objects if value in (name, name.rpartition(" ")[2])]
    return alike == [own]


def _raw(text: str) -> list[str]:
    return re.sub(r"[^\w\s'<>-]", " ", text.lower().replace("’", "'")).split()


def _quoted(items: Sequence[str]) -> str:
    return ", ".join(repr(item) for item in items)
