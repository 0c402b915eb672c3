"""What a goal sounds like: its canonical sentence, paraphrases to train on, and paraphrases kept for testing.

A goal is a JSON-able mapping: ``{"verb": "put", "object": "red cube", "receptacle": "blue box", "preposition": "in"}``; verbs
that need them have ``direction`` and ``color``; one whose object a relation singles out has ``relation``, ``noun``, ``anchor``
and ``other`` (see `relations`). Sentences are lower case and end without punctuation.
"""

from __future__ import annotations

import difflib
import functools
import string
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verbot.envs.tabletop.language import templates_basic, templates_full, templates_relations
from verbot.envs.tabletop.language.vocabulary import COLORS, SHAPES, SYNONYMS, VERBS
from verbot.errors import ConfigError
from verbot.yaml_values import read_yaml

PLACEHOLDERS = ("object", "receptacle", "preposition", "direction", "color")

CANONICAL = {
    "pick": "pick up the {object}",
    "push": "push the {object} {heading}",
    "put": "put the {object} {preposition} the {receptacle}",
    "stack": "stack the {object} on the {receptacle}",
    "place_next_to": "place the {object} {preposition} the {receptacle}",
    "move_away": "move the {object} away from the {receptacle}",
    "open_drawer": "open the {object}",
    "close_drawer": "close the {object}",
    "press_button": "press the {object}",
    "lift_and_hold": "lift the {object} and hold it",
    "sort_color": "put everything {color} in the {receptacle}",
    "put_back": "take the {object} to the {receptacle} and put it back",
}

# What a template must name, lest two goals of one scene sound alike.
_REQUIRED = {
    "pick": ("object",),
    "push": ("object", "direction"),
    "put": ("object", "receptacle"),
    "stack": ("object", "receptacle"),
    "place_next_to": ("object", "receptacle"),
    "move_away": ("object", "receptacle"),
    "press_button": ("object",),
    "lift_and_hold": ("object",),
    "sort_color": ("color", "receptacle"),
    "put_back": ("object", "receptacle"),
}

_PHRASES = templates_basic.PHRASES | templates_full.PHRASES
_STATEMENTS = templates_basic.STATEMENTS | templates_full.STATEMENTS
_UNSEEN = templates_basic.UNSEEN | templates_full.UNSEEN
_FRAMES_PER_PHRASE = 2
_PLAIN_PER_SYNONYM = 3


def canonical(goal: Mapping[str, Any]) -> str:
    """The one plain sentence for `goal`.

    Example:
        >>> canonical({"verb": "push", "object": "blue cylinder", "direction": "left"})
        'push the blue cylinder to the left'
    """
    return _fill(CANONICAL[_verb(goal)], goal)


def wordings(goal: Mapping[str, Any], split: str) -> list[str]:
    """Sentences that mean `goal`, without doubles: ``"seen"`` to train on (the canonical one first), ``"unseen"`` for tests.

    Seen wordings also use other nouns (*block* for cube); unseen ones keep the scene's own.

    Example:
        >>> goal = {"verb": "pick", "object": "red cube"}
        >>> "grab the red cube" in wordings(goal, "seen"), "hoist the red cube" in wordings(goal, "unseen")
        (True, True)
    """
    if split == "unseen":
        phrases = _phrases(goal, templates_relations.UNSEEN)
        return [_fill(template, phrases[i % len(phrases)]) for i, template in enumerate(_UNSEEN[_verb(goal)])]
    if split != "seen":
        raise ConfigError(f"there is no wording split {split!r}; expected 'seen' or 'unseen'")
    phrases = _phrases(goal, templates_relations.SEEN)
    said = [_fill(template, phrases[i % len(phrases)]) for i, template in enumerate(_seen_templates(goal))]
    # Every third plain wording is said once more with other nouns.
    spoken_of = [_renamings(phrases[i % len(phrases)]) for i in range(0, len(said), _PLAIN_PER_SYNONYM)]
    other = [_swap(text, renamed, i) for i, (text, renamed) in enumerate(zip(said[::_PLAIN_PER_SYNONYM], spoken_of, strict=True))]
    return list(dict.fromkeys([canonical(goal), *said, *other]))


def known(goal: Mapping[str, Any], split: str) -> tuple[str, ...]:
    """As `wordings`, remembered."""
    return _known(tuple(sorted(goal.items())), split)


@functools.lru_cache(maxsize=4096)
def _known(goal: tuple[tuple[str, Any], ...], split: str) -> tuple[str, ...]:
    return tuple(wordings(dict(goal), split))


def fill(template: str, goal: Mapping[str, Any]) -> str:
    """A person's own template with the goal's words in its {object}, {receptacle}, {preposition}, {direction} and {color}.

    *the {direction}* reads "the front" and "the back" where the direction is forward or backward.

    Raises:
        ConfigError: for a placeholder that does not exist or that this goal has no word for.

    Example:
        >>> fill("shove the {object} to the {direction}", {"verb": "push", "object": "red cube", "direction": "forward"})
        'shove the red cube to the front'
    """
    has = [name for name in PLACEHOLDERS if goal.get(name) is not None]
    for name in _placeholders(template):
        if name not in PLACEHOLDERS:
            raise ConfigError(f"template {template!r} has the unknown placeholder {{{name}}}{_hint(name)}")
        if name not in has:
            raise ConfigError(
                f"template {template!r} uses {{{name}}}, which a {goal.get('verb')!r} goal lacks; it has {_braced(has)}"
            )
    return _fill(template, goal)


def spoken(template: str, goal: Mapping[str, Any], rng: np.random.Generator) -> str:
    """A template of the grammar with the goal's words, and any of the ways to name its direction for {heading}."""
    headings = templates_basic.HEADINGS.get(goal.get("direction") or "", ("",))
    return _fill(template.replace("{heading}", headings[int(rng.integers(len(headings)))]), goal)


def load_templates(path: str | Path) -> dict[str, list[str]]:
    """A person's own wording, from YAML: ``{pick: ["grab the {object}", …], push: […], put: […]}``.

    Raises:
        ConfigError: names the file, the verb and the template that is wrong, and says what is expected.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such template file")
    record = read_yaml(path, "the templates")
    if not isinstance(record, dict) or not record:
        raise ConfigError(f"{path}: expected a mapping of verbs to lists of templates, such as {{pick: ['grab the {{object}}']}}")
    for verb, templates in record.items():
        if verb not in VERBS:
            raise ConfigError(f"{path}: there is no verb {verb!r}.{_near(str(verb), VERBS)} Known: {', '.join(VERBS)}")
        if not isinstance(templates, list) or not templates or not all(isinstance(t, str) and t.strip() for t in templates):
            raise ConfigError(f"{path}: {verb!r} needs a non-empty list of sentences; got {templates!r}")
        for template in templates:
            _check_template(path, verb, template)
    return {verb: list(templates) for verb, templates in record.items()}


def is_demonstrated(goal: Mapping[str, Any]) -> bool:
    """False for the one in eight (color, shape, verb) triples that no demonstration ever shows.

    Every color, shape and pair of both is demonstrated with other verbs.

    Example:
        >>> is_demonstrated({"verb": "pick", "object": "red cube"}), is_demonstrated({"verb": "pick", "object": "green ball"})
        (True, False)
    """
    color, shape = (*str(goal.get("object") or "").split()[:2], "", "")[:2]
    if color not in COLORS or shape not in SHAPES:
        return True
    return (list(COLORS).index(color) + 3 * SHAPES.index(shape) + 5 * VERBS.index(_verb(goal)) + 1) % len(COLORS) != 0


def _seen_templates(goal: Mapping[str, Any]) -> list[str]:
    """Each command plain and in a few frames, then the statements; which frames turns with the goal."""
    verb = _verb(goal)
    commands = [*_PHRASES[verb], *_PHRASES.get(f"{verb} {goal.get('preposition')}", ())]
    turn = zlib.crc32(canonical(goal).encode())
    out = []
    for i, command in enumerate(commands):
        frames = (
            templates_basic.FRAMES[(turn + i * _FRAMES_PER_PHRASE + j) % len(templates_basic.FRAMES)]
            for j in range(_FRAMES_PER_PHRASE)
        )
        out += [command, *(frame.replace("{}", command) for frame in frames)]
    out += _STATEMENTS[verb]
    headings = templates_basic.HEADINGS.get(goal.get("direction") or "", ("",))
    return [template.replace("{heading}", headings[(turn + i) % len(headings)]) for i, template in enumerate(out)]


def _phrases(goal: Mapping[str, Any], phrases_of: Mapping[str, tuple[str, ...]]) -> list[Mapping[str, Any]]:
    """`goal` with each of the phrases that tell its object by a relation in its place; itself where its name is enough."""
    if "relation" not in goal:
        return [goal]
    own = {name: value for name, value in goal.items() if name != "relation"}
    return [{**own, "object": phrase.format(**own)} for phrase in phrases_of[goal["relation"]]]


def _fill(template: str, goal: Mapping[str, Any]) -> str:
    goal = _phrases(goal, templates_relations.SEEN)[0]
    words = {name: goal[name] for name in PLACEHOLDERS if goal.get(name) is not None}
    direction = goal.get("direction")
    if direction is not None:
        noun = {"forward": "front", "backward": "back"}.get(direction, direction)
        template = template.replace("{heading}", templates_basic.HEADINGS[direction][0])
        template = template.replace("the {direction} direction", f"the {direction} direction")
        template = template.replace("the {direction}", f"the {noun}")
        if noun != direction:  # "forward" already ends in what "{direction}ward" appends
            template = template.replace("{direction}ward", direction)
    return template.format(**words)


def _renamings(goal: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """(name as it stands, the same with other nouns) for what the goal names."""
    names = [goal[key] for key in ("object", "receptacle") if goal.get(key)]
    pairs = [(name, name.rpartition(" ")) for name in names]
    return [(name, tuple(f"{color} {other}" for other in SYNONYMS.get(noun, (noun,)))) for name, (color, _, noun) in pairs]


def _swap(text: str, renamed: list[tuple[str, tuple[str, ...]]], turn: int) -> str:
    for name, others in renamed:
        text = text.replace(name, others[turn % len(others)].strip())
    return text


def _verb(goal: Mapping[str, Any]) -> str:
    verb = goal.get("verb")
    if verb not in VERBS:
        raise ConfigError(f"the goal has the unknown verb {verb!r}.{_near(str(verb), VERBS)} Known: {', '.join(VERBS)}")
    return str(verb)


def _placeholders(template: str) -> list[str]:
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(f"template {template!r} has a brace that does not match: {error}") from error
    for name, spec, conversion in fields:
        if name is not None and (spec or conversion):
            raise ConfigError(f"template {template!r} formats {{{name}}}; write the bare placeholder: {_braced(PLACEHOLDERS)}")
    return [name for name, _, _ in fields if name is not None]


def _check_template(path: Path, verb: str, template: str) -> None:
    try:
        used = _placeholders(template)
    except ConfigError as error:
        raise ConfigError(f"{path}: {verb}: {error}") from error
    for name in used:
        if name not in PLACEHOLDERS:
            raise ConfigError(f"{path}: {verb}: template {template!r} has the unknown placeholder {{{name}}}{_hint(name)}")
    missing = [name for name in _REQUIRED.get(verb, ()) if name not in used]
    if missing:
        raise ConfigError(f"{path}: {verb}: template {template!r} must also name {_braced(missing)}, or it fits several goals")
    surplus = [name for name in used if f"{{{name}}}" not in CANONICAL[verb].replace("{heading}", "{direction}")]
    surplus = [name for name in surplus if not (name == "preposition" and verb == "stack")]
    if surplus:
        raise ConfigError(f"{path}: {verb}: template {template!r} uses {_braced(surplus)}, which a {verb!r} goal lacks")


def _hint(name: str) -> str:
    return f".{_near(name, PLACEHOLDERS)} Known: {_braced(PLACEHOLDERS)}"


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _braced(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "no placeholders"
