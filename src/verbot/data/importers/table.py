"""The table of an import: what each field of the source was taken as, how it was converted, and what was left out.

It is printed, and is ``meta/import.json`` of the new dataset. While an import runs, a log beside the dataset has the rows of
every episode, so that an interrupted import ends with the same table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from verbot.data.importers import FieldNote, reading
from verbot.data.storage.files import read_json
from verbot.data.storage.ranges import OutOfRange
from verbot.files import LineLog, read_lines
from verbot.text import repaired_record, repaired_text

TABLE = "meta/import.json"
LOG = ".import.rows"
VERSION = 1


@dataclass(frozen=True)
class Skipped:
    """An episode that could not be imported, with the reason."""

    episode: str
    problem: str

    def __str__(self) -> str:
        return f"{self.episode}: {self.problem}"


@dataclass(frozen=True)
class ImportRow(FieldNote):
    """One line of the table: what became of a field in `episodes` episodes."""

    episodes: int = 0


@dataclass(frozen=True)
class ImportTable:
    """What an import took, converted and left out.

    Args:
        source, format, options: what was imported, and how.
        robot, recognition: the robot, and the evidence for it.
        rate_hz, rate_evidence: the rate of the dataset, and where it comes from.
        episodes: number in the dataset.
        rows: what became of each field.
        skipped: episodes that could not be imported.
        out_of_range: dimensions with numbers outside the range in the spec.
    """

    source: str
    format: str
    options: Mapping[str, Any]
    robot: str
    recognition: str
    rate_hz: float
    rate_evidence: str
    episodes: int
    rows: tuple[ImportRow, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    out_of_range: tuple[OutOfRange, ...] = ()

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"version": VERSION}
        for entry in fields(self):
            value = getattr(self, entry.name)
            record[entry.name] = [dict(vars(item)) for item in value] if isinstance(value, tuple) else value
        return record

    def to_bytes(self) -> bytes:
        return json.dumps(repaired_record(self.to_json()), indent=1, ensure_ascii=False).encode()

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> ImportTable:
        """Inverse of `to_json`. Raises `KeyError` or `TypeError` for another record."""
        kinds = {"rows": ImportRow, "skipped": Skipped, "out_of_range": OutOfRange}
        values = {key: value for key, value in record.items() if key != "version"}
        values |= {key: tuple(kind(**item) for item in record[key]) for key, kind in kinds.items()}
        return ImportTable(**values)

    def lines(self) -> list[str]:
        """The table as text."""
        because = f": {self.recognition}" if self.recognition else ""
        out = [f"robot {self.robot}{because}", f"rate {self.rate_hz:g} Hz: {self.rate_evidence}"]
        cells = [("field", "taken as", "conversion and reason")]
        cells += [(row.field, row.taken_as, self._detail(row)) for row in self.rows]
        widths = [min(max(len(cell[i]) for cell in cells), 48) for i in range(2)]
        out += [f"{name:<{widths[0]}}  {taken:<{widths[1]}}  {detail}".rstrip() for name, taken, detail in cells]
        return out + [f"out of range: {found}" for found in self.out_of_range]

    def _detail(self, row: ImportRow) -> str:
        some = f"{row.episodes} of {self.episodes} episodes" if row.episodes != self.episodes else ""
        return "; ".join(filter(None, (row.conversion, row.reason, some)))


def read_table(root: str | Path) -> ImportTable | None:
    """The table of the import that made the dataset at `root`; None if it was not imported. Raises `CorruptFileError`."""
    path = Path(root) / TABLE
    if not path.is_file():
        return None
    record = read_json(path)
    with reading(path, KeyError, TypeError, AttributeError):
        return ImportTable.from_json(record)


@dataclass
class RowLog:
    """The notes of each episode, in a file that only grows.

    Args:
        path: the file. Of a line that a dying process left incomplete nothing is read.
    """

    path: Path
    _rows: dict[FieldNote, int] = field(default_factory=dict)
    _episodes: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with reading(self.path, KeyError, TypeError, ValueError):
            for record in map(json.loads, read_lines(self.path)):
                if "row" in record:
                    self._rows[FieldNote(*record["row"])] = len(self._rows)
                else:
                    self._episodes[record["episode"]] = record["rows"]

    def add(self, episode: str, notes: Iterable[FieldNote]) -> None:
        """Record the notes of an episode, before it is saved."""
        lines, numbers = [], []
        for note in dict.fromkeys(FieldNote(*map(repaired_text, vars(note).values())) for note in notes):
            if note not in self._rows:
                self._rows[note] = len(self._rows)
                lines.append({"row": [note.field, note.taken_as, note.conversion, note.reason]})
            numbers.append(self._rows[note])
        if not lines and self._episodes.get(episode) == numbers:
            return
        self._episodes[episode] = numbers
        with LineLog(self.path) as log:
            log.append(*(json.dumps(line) for line in [*lines, {"episode": episode, "rows": numbers}]), sync=True)

    def rows(self, episodes: Container[str]) -> tuple[ImportRow, ...]:
        """The rows of the table for the episodes that were saved, in order of appearance, what was left out last."""
        counts = Counter(number for key, numbers in self._episodes.items() if key in episodes for number in numbers)
        notes = sorted(self._rows, key=lambda note: note.taken_as == "left out")
        return tuple(
            ImportRow(note.field, note.taken_as, note.conversion, note.reason, counts[self._rows[note]])
            for note in notes
            if counts[self._rows[note]]
        )
