"""What the readers of ROS 2 recordings share: topics and messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verbot.errors import ConfigError


@dataclass(frozen=True)
class BagTopic:
    """A topic of a recording: its message type, the number of messages, and whether its publisher is transient local.

    `unreadable` says why its messages cannot be decoded; it is empty if they can. `definition` says whose definition of the type
    is taken; it is empty if the file has one.
    """

    type: str
    count: int
    latched: bool = False
    unreadable: str = ""
    definition: str = ""

    @property
    def short(self) -> str:
        """``sensor_msgs/msg/Image`` and ``foxglove.Image`` are ``Image``."""
        return self.type.replace(".", "/").rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.type}, which cannot be read: {self.unreadable}" if self.unreadable else self.type


@dataclass(frozen=True)
class BagMessage:
    """A message that is decoded on demand. `time` is the log time in ns; `value` raises `CorruptFileError` if it is broken."""

    topic: str
    time: int
    decode: Callable[[], Any]

    @property
    def value(self) -> Any:
        return self.decode()


def rough(number: float) -> str:
    """A number to one digit, so that the table of an import has one line for episodes that hardly differ.

    Example:
        >>> rough(7), rough(598.0), rough(0.0312), rough(0)
        ('7', 'about 600', 'about 0.03', '0')
    """
    near = float(f"{number:.1g}")
    return f"{near:g}" if near == number else f"about {near:g}"


@dataclass(frozen=True)
class BagOptions:
    """What a recording does not say.

    Args:
        color: ``"bgr"`` or ``"rgb"``: the order of colors where the encoding does not state it (``8UC3``, ``8UC4``).
        bits: the number of significant bits of encodings with 16 bits, such as 12 of a camera with 12.
        truncated: ``"use"`` imports the messages of a truncated file up to the cut; ``"refuse"`` reports it instead.
        join: True makes the files of each folder one recording, False each file; None decides by ``metadata.yaml`` and names.
    """

    color: str | None = None
    bits: int = 16
    truncated: str = "refuse"
    join: bool | None = None

    def __post_init__(self) -> None:
        if self.color not in (None, "bgr", "rgb"):
            raise ConfigError(f"color is {self.color!r}; expected bgr or rgb")
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 8 <= self.bits <= 16:
            raise ConfigError(f"bits is {self.bits!r}; expected the significant bits of 16, 8 to 16")
        if self.truncated not in ("use", "refuse"):
            raise ConfigError(f"truncated is {self.truncated!r}; expected use or refuse")
        if not isinstance(self.join, bool | None):
            raise ConfigError(f"join is {self.join!r}; expected true or false")
