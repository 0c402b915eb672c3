"""Messages of the page, validated one by one."""

from __future__ import annotations

from typing import Any

from verbot.remote.pages import ALIVE, FLAG, SEEN, MessageField, MessageFields, is_line, is_number, parse_message

MAX_BYTES = 2**15  # of one message; a piece of speech is the longest
MAX_TEXT = 400  # characters of an instruction
MAX_AXES = 32
_TEXT: MessageField = (is_line(MAX_TEXT), f"one line of 1 to {MAX_TEXT} printable characters")
_PLACE: MessageField = (
    lambda v: isinstance(v, list) and len(v) == 2 and all(is_number(x) and 0 <= x <= 1 for x in v),
    "a point of the picture, two numbers from 0 to 1",
)
_NAME: MessageField = (is_line(MAX_TEXT), f"a name of 1 to {MAX_TEXT} characters")
# Commands of the person who drives, in the order of the control loop.
COMMANDS: MessageFields = {
    "preview": {"text": _TEXT},
    "obey": {"text": _TEXT, "anyway": FLAG, "search": FLAG},
    "resume": {},
    "again": {},
    "choose": {
        "policy": _NAME,
        "suite": _NAME,
        "scene": (lambda v: type(v) is int and 0 <= v < 2**31, "the number of a scene, from 0 on"),
        "task": (lambda v: v == "" or _NAME[0](v), "a task, or nothing"),
        "axes": (
            lambda v: isinstance(v, dict) and len(v) <= MAX_AXES and all(_NAME[0](k) and x in (0, 1, 2, 3) for k, x in v.items()),
            "a map of randomization axes to strengths from 0 to 3",
        ),
    },
    "move": {"camera": _NAME, "start": _PLACE, "end": _PLACE},
    "heat": {"on": FLAG},
}
# What everybody may say at any time, and what is dealt with at once.
OTHERS: MessageFields = {"alive": ALIVE, "seen": SEEN, "stop": {}, "drive": {}, "talk": {"on": FLAG}, "listen": {"on": FLAG}}
ALL: MessageFields = {**COMMANDS, **OTHERS}


def parse(data: str | bytes) -> dict[str, Any]:
    """Parse one message and validate every field. Raises `WireError`.

    Example:
        >>> parse('{"type": "obey", "text": "pick up the red cube", "anyway": false, "search": false}')["text"]
        'pick up the red cube'
    """
    return parse_message(data, ALL, MAX_BYTES)
