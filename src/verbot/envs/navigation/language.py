"""Instructions for a task: one plain sentence, paraphrases for training, and others kept for testing.

A goal is a JSON-able mapping: ``{"verb": "go", "object": "red circle", "arm": "raised"}``; `arm` is ``"raised"``, ``"lowered"``
or None if nothing is said of it. Sentences are lower case and end without punctuation.
"""

from __future__ import annotations

import difflib
import functools
import string
import zlib
from collections.abc import Mapping
from typing import Any

from verbot.envs.navigation.world import COLORS, SHAPES
from verbot.errors import ConfigError

VERBS = ("go", "around", "follow")
NOUNS = (*SHAPES, "line")
ARMS = ("raised", "lowered")
CANONICAL = {"go": "go to the {object}", "around": "go around the {object}", "follow": "follow the {object}"}
PLACEHOLDERS = ("object", "arm")

FRAMES = (
    "please {}",
    "could you {}",
    "can you {} please",
    "i want you to {}",
    "your task is to {}",
    "robot {}",
    "now {}",
    "{} for me",
)
SEEN = {
    "go": (
        "drive to the {object}",
        "move to the {object}",
        "go over to the {object}",
        "head to the {object}",
        "approach the {object}",
        "drive up to the {object}",
        "walk to the {object}",
        "find the {object} and stop there",
        "stop at the {object}",
        "come to the {object}",
        "reach the {object}",
        "go and stand next to the {object}",
    ),
    "around": (
        "drive around the {object}",
        "move around the {object}",
        "circle the {object}",
        "go once around the {object}",
        "make a full turn around the {object}",
        "drive in a circle around the {object}",
        "go all the way around the {object}",
        "walk around the {object}",
        "make a round of the {object}",
        "go around the {object} once",
        "turn around the {object} without touching it",
        "do a lap around the {object}",
    ),
    "follow": (
        "drive along the {object}",
        "move along the {object}",
        "go along the {object}",
        "track the {object}",
        "stay on the {object}",
        "follow the {object} to its end",
        "drive down the {object}",
        "walk along the {object}",
        "keep to the {object}",
        "trace the {object}",
        "go from the start of the {object} to its end",
        "drive on the {object} from start to end",
    ),
}
UNSEEN = {
    "go": (
        "make your way over to the {object}",
        "would you mind heading for the {object}",
        "the {object} is where i want you",
        "travel to the {object} and halt",
        "get yourself next to the {object}",
        "let's see you visit the {object}",
    ),
    "around": (
        "would you mind making a loop around the {object}",
        "orbit the {object}",
        "travel around the {object} until you are back",
        "let's see you go round the {object}",
        "run a ring around the {object}",
        "encircle the {object} completely",
    ),
    "follow": (
        "would you mind driving along the {object}",
        "travel the whole length of the {object}",
        "let the {object} lead you",
        "let's see you go down the {object}",
        "run along the {object} until it ends",
        "the {object} shows you the way so stay with it",
    ),
}
ARM_SEEN = {
    "raised": (
        "with your arm raised",
        "with your arm up",
        "and keep your arm up",
        "and raise your arm",
        "with a raised arm",
        "arm up",
    ),
    "lowered": (
        "with your arm lowered",
        "with your arm down",
        "and keep your arm down",
        "and lower your arm",
        "with a lowered arm",
        "arm down",
    ),
}
ARM_UNSEEN = {
    "raised": ("holding your arm up", "while your arm is raised", "and have the arm up", "your arm should be raised"),
    "lowered": ("holding your arm down", "while your arm is lowered", "and have the arm down", "your arm should be lowered"),
}
_FRAMES_PER_PHRASE = 2


def canonical(goal: Mapping[str, Any]) -> str:
    """The one plain sentence for `goal`.

    Example:
        >>> canonical({"verb": "around", "object": "blue square", "arm": "raised"})
        'go around the blue square with your arm raised'
    """
    arm = goal.get("arm")
    return _said(CANONICAL[_verb(goal)], goal, ARM_SEEN[arm][0] if arm else "")


def wordings(goal: Mapping[str, Any], split: str) -> list[str]:
    """Sentences that mean `goal`, without doubles: ``"seen"`` to train on (the canonical one first), ``"unseen"`` for tests.

    Example:
        >>> goal = {"verb": "follow", "object": "yellow line", "arm": None}
        >>> wordings(goal, "unseen")[1], len(wordings(goal, "seen")) > 30
        ('travel the whole length of the yellow line', True)
    """
    verb, arm = _verb(goal), goal.get("arm")
    if split == "unseen":
        tails: tuple[str, ...] = ARM_UNSEEN[arm] if arm else ("",)
        return [_said(template, goal, tails[i % len(tails)]) for i, template in enumerate(UNSEEN[verb])]
    if split != "seen":
        raise ConfigError(f"there is no wording split {split!r}; expected 'seen' or 'unseen'")
    tails = ARM_SEEN[arm] if arm else ("",)
    turn = zlib.crc32(canonical(goal).encode())
    out = [canonical(goal)]
    for i, command in enumerate((CANONICAL[verb], *SEEN[verb])):
        frames = [FRAMES[(turn + _FRAMES_PER_PHRASE * i + j) % len(FRAMES)] for j in range(_FRAMES_PER_PHRASE)]
        for j, frame in enumerate(("{}", *frames)):
            out.append(_said(frame.replace("{}", command), goal, tails[(turn + i + j) % len(tails)]))
    return list(dict.fromkeys(out))


def known(goal: Mapping[str, Any], split: str) -> tuple[str, ...]:
    """As `wordings`, remembered."""
    return _known(goal["verb"], goal["object"], goal["arm"], split)


@functools.lru_cache(maxsize=1024)
def _known(verb: str, name: str, arm: str | None, split: str) -> tuple[str, ...]:
    return tuple(wordings({"verb": verb, "object": name, "arm": arm}, split))


def fill(template: str, goal: Mapping[str, Any]) -> str:
    """A person's own template with the goal's words in its {object} and {arm}; what is said of the arm is added where it lacks.

    Raises `ConfigError` for a placeholder that does not exist, or without {object}.

    Example:
        >>> fill("roll to the {object}", {"verb": "go", "object": "red circle", "arm": "lowered"})
        'roll to the red circle with your arm lowered'
    """
    try:
        used = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"template {template!r} has a brace that does not match: {error}") from error
    if unknown := [name for name in used if name not in PLACEHOLDERS]:
        raise ConfigError(f"template {template!r} has the unknown placeholder {{{unknown[0]}}}. Known: {{object}}, {{arm}}")
    if "object" not in used:
        raise ConfigError(f"template {template!r} must name {{object}}, or it fits several goals")
    arm = goal.get("arm")
    tail = ARM_SEEN[arm][0] if arm else ""
    if "arm" in used:
        return " ".join(template.format(object=goal["object"], arm=tail).split())
    return _said(template, goal, tail)


def is_demonstrated(goal: Mapping[str, Any]) -> bool:
    """False for the one in six (color, noun, verb) triples that no demonstration ever shows.

    Every color is demonstrated with every verb and every noun but for those.

    Example:
        >>> is_demonstrated({"verb": "go", "object": "red circle"}), is_demonstrated({"verb": "go", "object": "orange circle"})
        (True, False)
    """
    color, _, noun = str(goal["object"]).partition(" ")
    return (list(COLORS).index(color) + 2 * NOUNS.index(noun) + 3 * VERBS.index(_verb(goal)) + 1) % len(COLORS) != 0


def _said(template: str, goal: Mapping[str, Any], tail: str) -> str:
    return f"{template.format(object=goal['object'])} {tail}".strip()


def _verb(goal: Mapping[str, Any]) -> str:
    verb = goal.get("verb")
    if verb not in VERBS:
        near = difflib.get_close_matches(str(verb), VERBS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"the goal has the unknown verb {verb!r}.{hint} Known: {', '.join(VERBS)}")
    return str(verb)
