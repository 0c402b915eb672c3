"""Text of other people's data, made harmless for a terminal."""

from __future__ import annotations

import re
from typing import Any, TextIO

# Controls but for newline and tab, marks that reverse the direction of writing, line separators, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with the characters that control a terminal as Python escapes them; newlines and tabs stay.

    Example:
        >>> printable("red\x1b[31m\r")
        'red\\x1b[31m\\r'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class PrintableStream:
    """A stream that writes `printable` text to `stream`; everything else is that of `stream`."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def terminal(stream: Any) -> Any:
    """The stream behind a `PrintableStream`, for what draws on a terminal; other streams as they are."""
    return stream.stream if isinstance(stream, PrintableStream) else stream
