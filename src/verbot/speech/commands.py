"""Spoken words that are for the console, and not for the robot."""

from __future__ import annotations

from typing import Literal

from verbot.speech.snapping import normalized, snap

SpokenCommand = Literal["", "stop", "obey"]
STOPS = ("stop", "halt", "hold", "stop stop", "stop it", "stop now", "stop please", "please stop", "stop the robot", "robot stop")
STOP_WORDS = ("stop", "halt")  # whatever is said around them
OBEYS = ("obey", "do it", "yes do it", "go ahead")


def spoken_command(heard: str) -> SpokenCommand:
    """What the console is to do, if anything.

    A stop is taken from a word that is like it, and from within a sentence; a consent only from its exact words.

    Example:
        >>> spoken_command("Stop!"), spoken_command("shop"), spoken_command("no, stop that"), spoken_command("Do it.")
        ('stop', 'stop', 'stop', 'obey')
        >>> spoken_command("pick up the red cube"), spoken_command("do it again")
        ('', '')
    """
    said = normalized(heard)
    if snap(said, STOPS) in STOPS or any(word in STOP_WORDS for word in said.split()):
        return "stop"
    return "obey" if said in OBEYS else ""


def is_only_command(heard: str) -> bool:
    """Whether nothing else was said.

    Example:
        >>> is_only_command("stop"), is_only_command("stop at the green cone")
        (True, False)
    """
    said = normalized(heard)
    return said in OBEYS or snap(said, STOPS) in STOPS
