"""Messages from the page: validated one by one, and collected until the next control step.

Keys and sticks have effect only while the page's heartbeat is heard (`verbot.remote.heartbeat`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from verbot.errors import WireError
from verbot.remote.heartbeat import ALIVE_S, Heartbeat
from verbot.remote.pages import ALIVE, FLAG, SEEN, MessageFields, is_line, is_number, parse_message
from verbot.teleop.controls import DIGITS, MOTIONS, MotionCommand, live, motion_of

MAX_BYTES = 4096  # of one message
MAX_TEXT = 300  # characters of a sentence
MAX_AXES, MAX_BUTTONS = 8, 32
MAX_COMMANDS = 64  # between two control steps
SAY = "say"
COMMANDS = {
    "Space": "gripper", "KeyC": "speed", "KeyV": "end_effector", "Enter": "save", "KeyK": "keep", "Backspace": "retake",
    "KeyX": "discard", "KeyN": "next", "KeyG": "goal", "KeyH": "hand_back", "Escape": "quit",
}  # fmt: skip
BUTTONS = {
    0: "gripper", 1: "retake", 2: "discard", 3: "next", 4: "speed", 5: "hand_back", 7: "end_effector", 8: "goal", 9: "save",
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """One command: a value of `COMMANDS`, or ``"say"`` with its sentence."""

    name: str
    text: str = ""
    add: bool = False


@dataclass(frozen=True)
class Given:
    """The input since the last control step."""

    motion: MotionCommand = field(default_factory=MotionCommand)
    commands: tuple[Command, ...] = ()


class Inputs:
    """Keys and a gamepad of one page. Thread-safe: the server calls `put`, the control loop calls `take`.

    A key pressed and released between two control steps counts for one step. If no heartbeat of the last 0.3 s is known, because
    the page is frozen, hidden or gone or the network stalls, everything is released. Then a key that is still held has no effect
    until it is pressed anew, and a stick none until it was at rest.

    Args:
        gamepad: whether a gamepad may move the arm; keys always may.
        clock: seconds, monotonic.
    """

    def __init__(self, gamepad: bool = True, clock: Callable[[], float] = time.monotonic):
        self._gamepad, self._lock = gamepad, threading.Lock()
        self._heartbeat, self._alive = Heartbeat(clock), False
        self._held: set[str] = set()
        self._tapped: set[str] = set()
        self._resting = False  # whether the gamepad is at rest
        self._rested = False  # whether it was since the last release
        self._axes: tuple[float, ...] = ()
        self._buttons: tuple[float, ...] = ()
        self._commands: list[Command] = []
        self.seen = -1  # number of the latest frame that the page has confirmed

    def put(self, data: str | bytes) -> None:
        """Process one message. Raises `WireError` for an invalid message and then changes nothing."""
        message = parse(data)
        with self._lock:
            match message["type"]:
                case "alive":
                    self._is_alive()  # a gap before this heartbeat counts, even if nobody asked meanwhile
                    self._heartbeat.hear(message["at"] / 1000, message["beat"])
                case "key":
                    self._key(message["code"], message["down"])
                case "pad":
                    self._pad(tuple(message["axes"]), tuple(message["buttons"]))
                case "release":
                    self._release()
                case "say":
                    self._add(Command(SAY, message["text"].strip(), message["add"]))
                case "seen":
                    self.seen = message["frame"]

    def take(self) -> Given:
        """The present motion, and the commands since the last call."""
        with self._lock:
            self._is_alive()
            motion = motion_of(frozenset(self._held | self._tapped), self._axes, self._buttons)
            commands, self._commands = tuple(self._commands), []
            self._tapped.clear()
            return Given(motion, commands)

    def beat(self) -> int:
        """The number of the server's next beat; call before it is sent."""
        with self._lock:
            return self._heartbeat.beat()

    def restart(self) -> None:
        """Another page drives from now on: release everything, and wait for its heartbeat."""
        with self._lock:
            self._heartbeat.restart()
            self._alive = self._resting = False
            self._release()

    def release(self) -> None:
        """Release all keys and sticks, because the page is gone."""
        with self._lock:
            self._release()

    def _is_alive(self) -> bool:
        """Whether the page is alive; everything is released once when it ceases to be."""
        before, self._alive = self._alive, self._heartbeat.alive
        if before and not self._alive:
            self._release()
        return self._alive

    def _release(self) -> None:
        self._held.clear()
        self._tapped.clear()
        self._rested, self._axes, self._buttons = self._resting, (), ()

    def _key(self, code: str, down: bool) -> None:
        if not down:
            self._held.discard(code)
            return
        if not self._is_alive():
            raise WireError(f"{code} has no effect: the page was not heard for {ALIVE_S} s, or only late; press it again")
        if code in COMMANDS:
            self._add(Command(COMMANDS[code]))
        else:
            self._held.add(code)
            self._tapped.add(code)

    def _pad(self, axes: tuple[float, ...], buttons: tuple[float, ...]) -> None:
        if not self._gamepad:
            raise WireError("gamepads are disabled; start with --by gamepad")
        pressed = {i for i, value in enumerate(buttons) if value > 0.5}
        self._resting = not pressed and not any(live(axis) for axis in axes[:4])
        if not self._is_alive() or not self._rested:
            self._rested = self._resting
            return
        before = {i for i, value in enumerate(self._buttons) if value > 0.5}
        self._axes, self._buttons = axes, buttons
        self._add(*(Command(BUTTONS[i]) for i in sorted(pressed - before) if i in BUTTONS))

    def _add(self, *commands: Command) -> None:
        if len(self._commands) + len(commands) > MAX_COMMANDS:
            raise WireError(f"more than {MAX_COMMANDS} commands are waiting for the next control step")
        self._commands += commands


def parse(data: str | bytes) -> dict[str, Any]:
    """Parse one message and validate every field. Raises `WireError`.

    Example:
        >>> parse('{"type": "key", "code": "KeyW", "down": true}')["code"]
        'KeyW'
    """
    return parse_message(data, _FIELDS, MAX_BYTES)


def _numbers(most: int, low: float, high: float) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        return isinstance(value, list) and len(value) <= most and all(is_number(x) and low <= x <= high for x in value)

    return fits


_KEYS = frozenset({*MOTIONS, *DIGITS, *COMMANDS})
# For each field a predicate for valid values and its description. Some gamepads report values slightly beyond ±1.
_FIELDS: MessageFields = {
    "alive": ALIVE,
    "key": {
        "code": (lambda v: isinstance(v, str) and v in _KEYS, "a key with a function, such as 'KeyW'"),
        "down": FLAG,
    },
    "pad": {
        "axes": (_numbers(MAX_AXES, -1.5, 1.5), f"a list of at most {MAX_AXES} numbers in [-1, 1]"),
        "buttons": (_numbers(MAX_BUTTONS, 0.0, 1.5), f"a list of at most {MAX_BUTTONS} numbers in [0, 1]"),
    },
    "release": {},
    "say": {
        "text": (is_line(MAX_TEXT), f"one line of 1 to {MAX_TEXT} printable characters"),
        "add": FLAG,
    },
    "seen": SEEN,
}
