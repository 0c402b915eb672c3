"""Commands of several sentences: one says what to leave alone, or a pronoun stands for what an earlier one named.

The decoy, ``{other}``, is an object of the scene that the goal does not name; it often comes first. Sentences are lower case,
with a full stop between them and none at the end. The `UNSEEN` tables are kept for testing, as are `language`'s own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verbot.envs.tabletop.language import grammar
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.errors import ConfigError

# What may be said before a command or after it.
ASIDES = (
    "leave the {other} alone",
    "do not touch the {other}",
    "the {other} is in the way",
    "the {other} stays where it is",
    "the {other} must not move",
    "ignore the {other}",
    "forget about the {other}",
    "not the {other}",
    "we do not need the {other}",
    "the {other} is not what i want",
    "you may see the {other} too",
    "be careful with the {other}",
    "let the {other} be",
    "do not pick the {other}",
)
# What names the object before a command with a pronoun.
FINDS = (
    "find the {object}",
    "look for the {object}",
    "look at the {object}",
    "go to the {object}",
    "this is about the {object}",
    "you can see the {object}",
    "i mean the {object}",
    "you need the {object}",
)
PRONOUNS: dict[str, tuple[str, ...]] = {
    "pick": ("pick it up", "lift it", "grab it", "take it", "raise it from the table", "hold it up", "i want you to lift it"),
    "push": (
        "push it {heading}",
        "slide it {heading}",
        "move it {heading}",
        "shove it {heading}",
        "please push it {heading}",
        "it should go {heading}",
    ),
    "put": (
        "put it {preposition} the {receptacle}",
        "place it {preposition} the {receptacle}",
        "drop it {preposition} the {receptacle}",
        "move it to the {receptacle}",
        "it belongs {preposition} the {receptacle}",
        "please put it {preposition} the {receptacle}",
    ),
}
UNSEEN_ASIDES = (
    "never mind the {other}",
    "keep your gripper off the {other}",
    "the {other} is just for show",
    "nobody asked for the {other}",
    "pay no attention to the {other}",
    "mind the {other}",
    "whatever happens spare the {other}",
    "the {other} is not part of this",
)
UNSEEN_FINDS = (
    "locate the {object}",
    "turn your attention to the {object}",
    "consider the {object}",
    "spot the {object}",
    "my favorite is the {object}",
)
UNSEEN_PRONOUNS: dict[str, tuple[str, ...]] = {
    "pick": ("hoist it", "let's see you holding it", "bring it up into the air", "would you mind lifting it"),
    "push": ("scoot it to the {direction}", "make it travel {direction}", "would you mind sliding it to the {direction}"),
    "put": (
        "rest it {preposition} the {receptacle}",
        "park it {preposition} the {receptacle}",
        "would you mind leaving it {preposition} the {receptacle}",
    ),
}
# In what order, and how often: A an aside, C a command that names its object, F P an object found and a pronoun.
ORDERS = {"AC": 0.35, "AFP": 0.25, "CA": 0.15, "FPA": 0.10, "FP": 0.15}
WITHOUT_PRONOUN = {"AC": 0.7, "CA": 0.3}
# Of the commands that are longer than any to train on: so many asides stand around the command, or what is found and its pronoun.
ASIDES_OF_LONGER = 3


def decoys(goal: Mapping[str, Any], layout: Layout) -> list[str]:
    """What stands on the table and is not named by `goal`."""
    return [obj.id for obj in layout if obj.id not in (goal.get("object"), goal.get("receptacle"))]


def say(goal: Mapping[str, Any], others: Sequence[str], wording: str, rng: np.random.Generator) -> str:
    """`goal` in two or three sentences; in four or five where the wording is ``"longer"``.

    Args:
        others: the decoys to choose from; at least one.
        wording: ``"canonical"``, ``"seen"`` (templates to train on), ``"unseen"`` (those kept for testing) or
            ``"longer"`` (templates to train on, in more sentences than any command to train on has).

    Example:
        >>> say({"verb": "pick", "object": "red cube"}, ["green ball"], "canonical", np.random.default_rng(0))
        'leave the green ball alone. pick up the red cube'
    """
    if not others:
        raise ConfigError(f"a command of several sentences needs another object to speak of; the goal is {dict(goal)}")

    def draw(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    spared = [draw(others)]
    if wording == "canonical":
        return f"leave the {spared[0]} alone. {grammar.canonical(goal)}"
    known = "unseen" if wording == "unseen" else "seen"
    asides, finds, pronouns = (ASIDES, FINDS, PRONOUNS) if known == "seen" else (UNSEEN_ASIDES, UNSEEN_FINDS, UNSEEN_PRONOUNS)
    verb = str(goal["verb"])
    orders = ORDERS if verb in pronouns else WITHOUT_PRONOUN
    order = str(rng.choice(list(orders), p=list(orders.values())))
    if wording == "longer":
        before = int(rng.integers(ASIDES_OF_LONGER + 1))
        order = "A" * before + order.replace("A", "") + "A" * (ASIDES_OF_LONGER - before)
        spared = [others[i] for i in rng.permutation(len(others))]
    turn = itertools.cycle(spared)
    said = {
        "A": lambda: draw(asides).replace("{other}", next(turn)),
        "C": lambda: draw(grammar.known(goal, known)),
        "F": lambda: grammar.spoken(draw(finds), goal, rng),
        "P": lambda: grammar.spoken(draw(pronouns[verb]), goal, rng),
    }
    return ". ".join(said[part]() for part in order)
