"""Text and names that come from outside: what can be stored and printed, and what can be a part of a path.

A *text* (an instruction, a robot's name, a unit) may hold every character but halves of surrogate pairs, which no file in UTF-8
can hold, and control characters other than tab and line breaks, which a terminal would obey. A *name* (of a camera, a component,
an end effector, a frame) also becomes a part of paths and of feature names; it is short and plain.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from verbot.errors import DataError

NAME = re.compile(r"[A-Za-z0-9_.-]+")
LONGEST_NAME = 128  # characters
BREAKS = "\t\n\r"
# Controls but for newline and tab, marks that reverse the direction of writing, line separators, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_MOVES = re.compile(r"(\r|\x1b\[A)")  # of progress bars


def text_problem(text: object) -> str:
    """Why `text` cannot be stored or printed, such as ``"holds U+D83D, half of a character"``; empty if it can.

    Example:
        >>> text_problem("go to the 🍎"), text_problem("go to the \\ud83c")
        ('', 'holds U+D83C, half of a character')
    """
    if not isinstance(text, str):
        return f"is {type(text).__name__}, not text"
    if text.isprintable():  # surrogates and control characters are not
        return ""
    odd = next((c for c in text if unicodedata.category(c) == "Cs" or (unicodedata.category(c) == "Cc" and c not in BREAKS)), "")
    if not odd:
        return ""
    kind = "half of a character" if unicodedata.category(odd) == "Cs" else "a control character"
    return f"holds U+{ord(odd):04X}, {kind}"


def check_text(text: object, what: str) -> None:
    """Raise `DataError` that names the character unless `text` can be stored and printed.

    Args:
        what: the text, for the message, e.g. ``"the instruction"``.
    """
    problem = text_problem(text)
    if problem:
        raise DataError(
            f"{what} {problem}: {text!r:.60}; expected plain text (verbot.text.repaired_text replaces such characters)"
        )


def check_record(record: Any, what: str) -> None:
    """Raise `DataError` unless no text in a JSON value, keys included, holds half of a surrogate pair.

    Control characters are allowed: such values are stored as escapes, and not printed as they are.
    """
    half = _half(record)
    if half is not None:
        raise DataError(f"{what} hold U+{ord(half):04X}, half of a character, which no file can hold; replace it")


def repaired_text(text: str) -> str:
    """`text` with halves of surrogate pairs joined, or replaced by U+FFFD, and control characters by spaces.

    Example:
        >>> repaired_text("go\\x07 to \\ud83c\\udf4e and \\ud83c")
        'go  to 🍎 and �'
    """
    if not text_problem(text):
        return text
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return "".join(" " if unicodedata.category(c) == "Cc" and c not in BREAKS else c for c in whole)


def repaired_record(record: Any) -> Any:
    """A JSON value without halves of surrogate pairs, which JSON can hold as escapes; itself if it has none."""
    return record if _half(record) is None else _repaired(record)


def name_problem(name: object) -> str:
    """What is wrong with a name, and what to call it instead; empty if nothing is.

    Example:
        >>> name_problem("front"), name_problem("../front")
        ('', "expected 1 to 128 of A-Z, a-z, 0-9, '_', '-' and '.', without '..'; rename it, for example to '__front'")
    """
    if isinstance(name, str) and NAME.fullmatch(name) and ".." not in name and name != "." and len(name) <= LONGEST_NAME:
        return ""
    example = f", for example to {clean_name(name)!r}" if isinstance(name, str) else ""
    return f"expected 1 to {LONGEST_NAME} of A-Z, a-z, 0-9, '_', '-' and '.', without '..'; rename it{example}"


def clean_name(name: str) -> str:
    """A name made of what other people call an object: the same for the same text, and itself if it is one.

    Letters beyond ASCII become their code points, other characters ``_``.

    Example:
        >>> clean_name("left shoulder"), clean_name("关节1"), clean_name("cam/left"), clean_name("..")
        ('left_shoulder', 'u5173u82821', 'cam_left', '_')
    """
    parts = [c if NAME.fullmatch(c) else f"u{ord(c):04x}" if ord(c) > 127 and c.isalnum() else "_" for c in name]
    clean = re.sub(r"\.{2,}|^\.$", "_", "".join(parts))
    if len(clean) > LONGEST_NAME:
        clean = f"{clean[: LONGEST_NAME - 9]}-{_digest(name, 8)}"
    return clean or "unnamed"


def clean_names(names: Iterable[str]) -> dict[str, str]:
    """The clean name of each of `names`: different for different ones, whatever their order.

    Names that are clean are kept. Where two would become one, those that are not clean get a part of their checksum.

    Example:
        >>> clean_names(["left arm", "left_arm", "right arm"])
        {'left arm': 'left_arm-d5d5b5', 'left_arm': 'left_arm', 'right arm': 'right_arm'}
    """
    found = {name: clean_name(name) for name in names}
    for length in (6, 16, 64):  # of checksums that may be a name in turn
        counts = Counter(found.values())
        found = {
            name: clean
            if counts[clean] == 1 or name == clean
            else f"{clean[: LONGEST_NAME - 1 - length]}-{_digest(name, length)}"
            for name, clean in found.items()
        }
    return found


def printable(text: str) -> str:
    r"""`text` with the characters that control a terminal as Python escapes them; newlines and tabs stay.

    Example:
        >>> printable("red\x1b[31m\r")
        'red\\x1b[31m\\r'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class PrintableStream:
    """A stream that writes `printable` text to `stream`; everything else is that of `stream`.

    Args:
        bars: progress bars may return to the start of a line, and move up a line.
    """

    def __init__(self, stream: TextIO, bars: bool = False):
        self.stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        parts = _MOVES.split(text) if self._bars else [text]
        self.stream.write("".join(part if self._bars and _MOVES.fullmatch(part) else printable(part) for part in parts))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def terminal(stream: Any) -> Any:
    """The stream behind a `PrintableStream`, for what draws on a terminal; other streams as they are."""
    return stream.stream if isinstance(stream, PrintableStream) else stream


@contextlib.contextmanager
def progress_bars() -> Iterator[None]:
    """Inside the block the progress bars of libraries are drawn on the standard error, which may be a `PrintableStream`."""
    if isinstance(sys.stderr, PrintableStream):
        with contextlib.redirect_stderr(PrintableStream(sys.stderr.stream, bars=True)):
            yield
    else:
        yield


def _digest(name: str, length: int) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:length]


def _half(record: Any) -> str | None:
    """The first half of a surrogate pair in the texts of a JSON value."""
    if isinstance(record, str):
        if record.isascii():
            return None
        return next((c for c in record if "\ud800" <= c <= "\udfff"), None)
    if isinstance(record, Mapping):
        return next((half for pair in record.items() for each in pair if (half := _half(each)) is not None), None)
    if isinstance(record, list | tuple):
        return next((half for each in record if (half := _half(each)) is not None), None)
    return None


def _repaired(record: Any) -> Any:
    if isinstance(record, str):
        return record.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(record, Mapping):
        return {_repaired(key): _repaired(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [_repaired(each) for each in record]
    return record
