"""New sentences for recorded episodes: what is one, and how the extras of an episode keep the ones before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verbot.data.storage.segments import SEGMENTS
from verbot.errors import DataError
from verbot.files import read_record

LONGEST = 300  # characters of a sentence
NOTE = "recorded_as"  # key of the extras: the wordings before the first annotation
SEGMENTS_NOTE = "recorded_segments"  # and the instructions by frame, if there were several


def load_sentences(path: str | Path) -> dict[int, tuple[str, ...]]:
    """Sentences by episode from a JSON file such as ``{"0": ["pick up the cube"]}``. Raises `DataError` for anything else."""
    record = read_record(Path(path))
    if not record or not all(key.isdecimal() for key in record):
        raise DataError(f'{path}: expected a map of episode numbers to lists of sentences, such as {{"0": ["pick up the cube"]}}')
    return {int(key): check_sentences(int(key), texts) for key, texts in record.items()}


def check_sentences(episode: int, texts: object) -> tuple[str, ...]:
    """`texts` without duplicates and surrounding space. Raises `DataError` unless it is a list of at least one sentence."""
    if not isinstance(texts, list | tuple) or not texts:
        raise DataError(f"episode {episode} needs a list of at least one sentence; got {texts!r}")
    for text in texts:
        if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text) > LONGEST:
            raise DataError(f"episode {episode}: a sentence is one line of 1 to {LONGEST} printable characters; got {text!r}")
    return tuple(dict.fromkeys(text.strip() for text in texts))


def reworded(extras: Mapping[str, Any], texts: Sequence[str], recorded: Sequence[str]) -> dict[str, Any]:
    """The extras of an episode with new sentences; those before the first change are kept.

    Args:
        recorded: the sentences of its frames before this change.
    """
    extras = dict(extras)
    extras.setdefault(NOTE, extras.get("instructions") or list(recorded))
    if SEGMENTS in extras:
        recorded = extras.pop(SEGMENTS)
        extras.setdefault(SEGMENTS_NOTE, recorded)
    return {**extras, "instructions": list(texts)}
