"""The sentences of an HDF5 episode: attributes and text datasets of ALOHA's, robomimic's, RoboCasa's and LIBERO's recorders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verbot.data.importers import FieldNote, pick, unique
from verbot.data.importers.fields import joined_wordings
from verbot.data.importers.hdf5_file import Entry, record_of, stored, texts
from verbot.data.storage.segments import InstructionSegment, segments_of
from verbot.errors import DataError

SENTENCES = ("language_instruction", "instruction", "language_instructions", "instructions", "language_raw", "language", "task")
WORDINGS = "verbot_wordings"  # {sentence: its wordings}, as verbot exports them beside one sentence per frame


@dataclass(frozen=True)
class EpisodeSentences:
    """The wordings of the first instruction (None without a field for them), all segments if it changes, and their fields."""

    wordings: tuple[str, ...] | None = None
    segments: tuple[InstructionSegment, ...] = ()
    used: tuple[str, ...] = ()
    notes: tuple[FieldNote, ...] = ()


def sentences_of(
    place: Any, group: Any, shared: Mapping[str, Any], fields: Mapping[str, Entry], length: int, named: tuple[str, ...] | None
) -> EpisodeSentences:
    """The sentences of an episode of `length` frames from the first field that has some; others are noted as left out.

    A dataset with one text per frame gives each frame its own instruction. In any other field with several texts they are
    alternative wordings.

    Args:
        group, shared: the episode's group, and the attributes that all episodes of the file share.
        named: the datasets that the user named, alternative wordings; None to look for the usual ones.
    """
    found = _Candidates(place, group, shared, fields, length)
    if named is not None:
        known = place.inside(fields, "", place.observed)
        pick(named, {name: path for name, path in known.items() if fields[path].kind == "text"}, "sentences", place)
        return _joined([found.dataset(known[name]) for name in named], length)
    every = [one for one in found.all() if one.wordings]
    if not every:
        return EpisodeSentences(()) if found.empty else EpisodeSentences()
    first, others = every[0], every[1:]
    reason = f"the sentence of {first.notes[0].field} is taken"
    notes = [FieldNote(one.notes[0].field, "left out", "", reason) for one in others if one.wordings != first.wordings]
    used = tuple(path for one in every for path in one.used)
    return dataclasses.replace(first, used=used, notes=(*first.notes, *notes))


def _joined(found: list[EpisodeSentences], length: int) -> EpisodeSentences:
    """The sentences of several fields as alternative wordings of each frame, those of the first field first."""
    if len(found) < 2:
        return found[0] if found else EpisodeSentences()
    segments = joined_wordings(one.segments or [InstructionSegment(0, length, one.wordings or ("",))] for one in found)
    used = tuple(path for one in found for path in one.used)
    notes = tuple(FieldNote(note.field, note.taken_as, "", "alternative wordings") for one in found for note in one.notes)
    return EpisodeSentences(unique(segments[0].wordings), segments if len(segments) > 1 else (), used, notes)


class _Candidates:
    """Every field that may hold sentences, the most particular one first."""

    def __init__(self, place: Any, group: Any, shared: Mapping[str, Any], fields: Mapping[str, Entry], length: int):
        self._place, self._group, self._shared, self._fields, self._length = place, group, shared, fields, length
        self.empty = False  # whether there was a field without a sentence

    def all(self) -> list[EpisodeSentences]:
        out = [self.dataset(name) for name in SENTENCES if name in self._fields and self._fields[name].kind == "text"]
        observed = [f"{self._place.observed}/{name}" for name in SENTENCES if self._place.observed]
        out += [self.dataset(path) for path in observed if path in self._fields and self._fields[path].kind == "text"]
        out += [self._attribute(self._group.attrs, name) for name in SENTENCES if name in self._group.attrs]
        out += [self._record(self._group.attrs, "ep_meta", "lang")]
        if self._place.group:
            out += [self._attribute(self._shared, name) for name in SENTENCES if name in self._shared]
        return [*out, self._record(self._shared, "problem_info", "language_instruction")]

    def dataset(self, path: str) -> EpisodeSentences:
        sentences = texts(stored(self._group[path], f"{self._place}, {path}"))
        if len(sentences) > 1 and len(sentences) == self._length:
            return self._by_frame(path, sentences)
        return self._wordings(path, sentences, (path,))

    def _by_frame(self, path: str, sentences: list[str]) -> EpisodeSentences:
        wordings = record_of(self._group.attrs, WORDINGS, self._place)
        segments = []
        for segment in segments_of([text.strip() for text in sentences]):
            known = wordings.get(segment.wordings[0], ())
            more = tuple(text for text in known if isinstance(text, str)) if isinstance(known, list) else ()
            segments.append(dataclasses.replace(segment, wordings=tuple(dict.fromkeys((*segment.wordings, *more)))))
        note = FieldNote(path, "instruction", "", "one sentence per frame")
        return EpisodeSentences(segments[0].wordings, tuple(segments) if len(segments) > 1 else (), (path,), (note,))

    def _attribute(self, attributes: Mapping[str, Any], name: str) -> EpisodeSentences:
        return self._wordings(f"attribute {name}", texts(attributes[name]), ())

    def _record(self, attributes: Mapping[str, Any], name: str, key: str) -> EpisodeSentences:
        value = record_of(attributes, name, self._place).get(key)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = "".join(value)  # as LIBERO's own reader joins its parts
        if value is None:
            return EpisodeSentences()
        if not isinstance(value, str):
            raise DataError(f"{self._place}: {key} of {name} is {value!r}; expected a sentence")
        return self._wordings(f"attribute {name}", [value], ())

    def _wordings(self, field: str, sentences: list[str], used: tuple[str, ...]) -> EpisodeSentences:
        found = unique(sentences)
        self.empty = self.empty or not found
        reason = f"{len(found)} sentences, taken as wordings of one instruction" if len(found) > 1 else ""
        return EpisodeSentences(found, (), used, (FieldNote(field, "instruction", "", reason),))
