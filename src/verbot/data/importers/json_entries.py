"""Long lists in a JSON file, entry by entry: neither the file nor the list is in memory as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

PIECE = 1 << 18  # bytes that are read at a time


@dataclass(frozen=True)
class Place:
    """Where an entry is in its file, in bytes."""

    start: int
    size: int


def entries(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, Place, Any]]:
    """(key, place, value) of the entries of a list at the top of the file (its key is ``""``), or of lists under `keys`.

    A value that is no list is its own entry, at the place of size 0: the whole content (key ``""``), or what another key holds,
    which is only checked (its value is then None).

    Raises `ValueError` if the file is not JSON in UTF-8, `OSError` if it cannot be read.
    """
    with open(path, "rb") as file:
        text = _Text(file)
        opening = text.peek()
        if opening == "[":
            for place, value in text.items():
                yield "", place, value
        elif opening == "{":
            yield from _members(text, keys)
        else:
            yield "", Place(0, 0), text.value()[1]
        if text.peek():
            raise text.error("Extra data")


def read_entry(path: Path, place: Place) -> Any:
    """One entry again. Raises `ValueError` if the file has changed, `OSError` if it cannot be read."""
    with open(path, "rb") as file:
        file.seek(place.start)
        return json.loads(file.read(place.size))


def _members(text: _Text, keys: tuple[str, ...]) -> Iterator[tuple[str, Place, Any]]:
    """The members of an object."""
    text.take("{")
    while text.peek() != "}":
        _, key = text.value()
        if not isinstance(key, str):
            raise text.error("Expecting property name enclosed in double quotes")
        text.take(":")
        if key in keys and text.peek() == "[":
            yield key, Place(0, 0), None
            for place, value in text.items():
                yield key, place, value
        else:
            text.value()
            yield key, Place(0, 0), None
        if text.peek() != "}":
            text.take(",")
    text.take("}")


class _Text:
    """The text of a file, of which only a piece is in memory."""

    def __init__(self, file: BinaryIO):
        self._file, self._bytes, self._ended = file, b"", False
        self._text, self._at = "", 0  # the piece, and the present place in it
        self._start = 0  # of the present place, in bytes of the file

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self._to(_SPACES.match(self._text, self._at).end())  # type: ignore[union-attr]  # it matches nothing too
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"Expecting {character!r}")
        self._to(self._at + 1)

    def value(self) -> tuple[Place, Any]:
        """The next value, of any kind."""
        self.peek()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise self.error(error.msg) from error
                continue
            if end == len(self._text) and self._more():  # a number may go on
                continue
            start = self._start
            self._to(end)
            return Place(start, self._start - start), found

    def items(self) -> Iterator[tuple[Place, Any]]:
        """The entries of the list that begins here."""
        self.take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.take(",")
                if self.peek() == "]":
                    raise self.error("Expecting value")
        self.take("]")

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{problem} at byte {self._start}")

    def _to(self, place: int) -> None:
        self._start += len(self._text[self._at : place].encode())
        self._at = place

    def _more(self) -> bool:
        """Read on, at least as much as is in memory; whether there was more."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        piece = self._file.read(max(PIECE, len(rest)))
        self._ended = not piece
        content = self._bytes + piece
        try:
            text, self._bytes = content.decode(), b""
        except UnicodeDecodeError as error:
            if self._ended or len(content) - error.start > 3:
                raise
            text, self._bytes = content[: error.start].decode(), content[error.start :]
        self._text, self._at = rest + text, 0
        return not self._ended


_DECODER, _SPACES = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
