"""The two passes of an import: a survey, which finds the spec, and a copy of every episode. One episode is in memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verbot.data.importers import FieldNote, Item, RawEpisode, Source, UnknownFieldError, known_robots
from verbot.data.importers.clean import with_clean_cameras, with_plain_key
from verbot.data.importers.limits import EPISODE_BYTES, episode_room, pictures_of_size
from verbot.data.importers.table import RowLog, Skipped
from verbot.data.storage.reader import open_dataset
from verbot.data.storage.segments import check_segments
from verbot.data.storage.writer import DatasetWriter, EpisodeRecord
from verbot.errors import ConfigError, DataError, SpecError
from verbot.parallel.progress import Progress
from verbot.spec import Camera, RobotSpec
from verbot.text import clean_names, repaired_text

UNFIT = (DataError, SpecError)  # of one episode; an error of another kind ends the import
ENOUGH = 3  # episodes without a field that must exist


@dataclass(frozen=True)
class PlanOptions:
    """What the user says of a source.

    Args:
        format, name: the format, and the name of the file or folder.
        rate_hz, robot, spec, instruction, limit: as in `verbot.data.importers.convert.ImportConfig`.
        strict: stop at the first episode that cannot be imported.
        max_episode_bytes: of decoded values.
        progress: print progress.
    """

    format: str
    name: str
    rate_hz: float | None = None
    robot: str | None = None
    spec: RobotSpec | None = None
    instruction: str | None = None
    limit: int | None = None
    strict: bool = False
    max_episode_bytes: int = EPISODE_BYTES
    progress: bool = False


@dataclass
class ImportPlan:
    """One import: the source, and the parts of its robot that are known so far."""

    source: Source
    given: PlanOptions
    state: list[known_robots.KnownComponent] = field(default_factory=list)
    action: list[known_robots.KnownComponent] = field(default_factory=list)
    refused: Sequence[Item] = ()  # that are known to be unreadable
    first: RawEpisode | None = None  # defines the fields, and their order, of all episodes

    def items(self) -> Iterator[Item]:
        return (
            with_plain_key(item)
            for item in itertools.islice(itertools.chain(self.source.items(), self.refused), self.given.limit)
        )

    @property
    def total(self) -> int | None:
        counts = [count for count in (self.source.total, self.given.limit) if count is not None]
        return min(counts) if self.source.total is not None else None

    @property
    def recognition(self) -> str:
        """The evidence for the robot."""
        if self.given.spec is not None:
            return "the spec given"
        return f"--robot {self.given.robot}" if self.given.robot else self.source.recognition

    @property
    def rate_evidence(self) -> str:
        """Where the rate of the dataset comes from."""
        recorded, robot = self.source.rate_hz, self.source.robot
        if self.given.spec is not None:
            return "the spec given"
        if self.given.rate_hz is not None:
            other = recorded is not None and recorded != self.given.rate_hz
            return "--rate-hz" + (f" ({recorded:g} Hz otherwise)" if other else "")
        if recorded != robot.rate_hz:
            return "recorded by the source"
        why = (
            f"--robot {self.given.robot}" if self.given.robot else "which was recognized" if self.recognition else "by the format"
        )
        return f"the rate of {robot.name}, {why}"

    def survey(self) -> RobotSpec:
        """The spec defined by the source's fields. Unknown ranges come from a first pass over the numbers, without images."""
        rate = self.given.rate_hz or self.source.rate_hz
        if rate is None:
            hint = f" ({self.source.recognition})" if self.source.recognition else ""
            raise ConfigError(f"format {self.given.format!r} does not record the rate of {self.given.name}; give --rate-hz{hint}")
        ranges, problems = _Ranges(), list[str]()
        cameras: tuple[Camera, ...] | None = None
        with Progress("survey", self.total, "episodes", enabled=self.given.progress) as bar:
            for count, item in enumerate(self.items(), 1):
                try:
                    cameras = self._surveyed(item, ranges, cameras)
                except UNFIT as error:
                    if self.given.strict:
                        raise _stopped(item.key, error) from error
                    problems.append(f"{item.key}: {error}")
                    if cameras is None and isinstance(error, UnknownFieldError) and count >= ENOUGH:
                        break  # an option is wrong, not the episodes
                bar.update(count)
                if cameras is not None and all(part.low is not None for part in (*self.state, *self.action)):
                    break
        if cameras is None:
            raise DataError(self.nothing(problems))
        state, action = (
            known_robots.components(parts, low, high)
            for parts, (low, high) in zip((self.state, self.action), ranges.found, strict=True)
        )
        return known_robots.spec_of(self.source.robot, rate, cameras, state, action)

    def nothing(self, problems: Sequence[str]) -> str:
        """The message that no episode can be imported."""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"no episode of {self.given.name} can be imported: {problems[0] if problems else 'it has none'}{more}"

    def _surveyed(self, item: Item, ranges: _Ranges, cameras: tuple[Camera, ...] | None) -> tuple[Camera, ...]:
        """Add the numbers of an episode to `ranges`; the cameras are those of the first one."""
        with _reading_episode(self.given.max_episode_bytes):
            raw = with_clean_cameras(item.read())
            _check_lengths(raw)
            if cameras is None:
                self._define(raw)
            vectors = self._vectors(raw)
            if not all(np.isfinite(values).all() for values in vectors):
                raise DataError("its numbers are not finite")
            if cameras is None:
                cameras = tuple(self._camera(name, read()) for name, read in raw.cameras.items())
        ranges.update(vectors)
        return cameras

    def _camera(self, name: str, images: np.ndarray) -> Camera:
        kind = "depth" if images.dtype == np.float32 and images.ndim == 3 else "color"
        return known_robots.camera(self.source.robot, name, images.shape[1], images.shape[2], kind)

    def _define(self, raw: RawEpisode) -> None:
        """Take the fields of `raw` as those of all episodes."""
        given = self.given
        if raw.instructions is None and given.instruction is None:
            raise ConfigError(f"{given.name} holds no instructions; give one with --instruction, or --instruction '' for none")
        if given.spec is None:
            self.state = known_robots.parts_of(self.source.robot.state, raw.state, raw.axes)
            self.action = known_robots.parts_of(self.source.robot.action, raw.action, raw.axes)
        state, action, columns = (
            {name: np.zeros((0, *values.shape[1:]), values.dtype) for name, values in fields.items()}
            for fields in (raw.state, raw.action, raw.columns)
        )
        self.first = RawEpisode(state, action, {}, None, axes=raw.axes, columns=columns)

    def prepare(self) -> None:
        """Define the fields as a survey does if there was none: the spec was given, or an import continues."""
        if self.first is not None:
            return
        for item in self.items():
            try:
                self._surveyed(item, _Ranges(), None)
                return
            except UNFIT:
                continue

    def fill(self, writer: DatasetWriter, log: RowLog) -> tuple[int, list[Skipped]]:
        """Save every episode that `writer` lacks. Returns the number it had before, and the episodes that were skipped."""
        done = {episode.extras["source"]["episode"] for episode in open_dataset(writer.root)}
        already, skipped, frames = len(done), [], 0
        with Progress("import", self.total, "episodes", already, enabled=self.given.progress) as bar:
            for item in self.items():
                if item.key in done:
                    continue
                try:
                    frames += self._copy(item, writer, log)
                except _Unfit as error:
                    if self.given.strict:
                        raise _stopped(item.key, error) from error
                    skipped.append(Skipped(item.key, repaired_text(str(error))))
                note = f"{frames} frames" + (f", {len(skipped)} skipped" if skipped else "")
                bar.update(len(writer) + len(skipped), note)
        return already, skipped

    def _copy(self, item: Item, writer: DatasetWriter, log: RowLog) -> int:
        """Save one episode; its number of frames. Raises `_Unfit` if it cannot be imported."""
        try:
            with _reading_episode(self.given.max_episode_bytes):
                record, notes = self._record(item, writer.spec)
                record.check(writer.spec)
        except UNFIT as error:
            raise _Unfit(str(error)) from error
        log.add(item.key, notes)
        writer.save_episode(record)
        return len(record.actions)

    def _record(self, item: Item, spec: RobotSpec) -> tuple[EpisodeRecord, list[FieldNote]]:
        raw = with_clean_cameras(item.read())
        _check_lengths(raw)
        states, actions = self._vectors(raw)
        given, sentences = self.given, raw.instructions or ()
        if not sentences and given.instruction:
            sentences = (given.instruction,)
        extras: dict[str, Any] = {**raw.extras, "source": {"format": given.format, "name": given.name, "episode": item.key}}
        if len(sentences) > 1 and not raw.segments:
            extras["instructions"] = list(sentences)
        wanted = {n: raw.cameras[n] for n in spec.camera_names if n in raw.cameras} if given.spec is not None else raw.cameras
        images: dict[str, Any] = {}
        sizes = {camera.name: (camera.height, camera.width) for camera in spec.cameras}
        for name, read in wanted.items():
            with pictures_of_size(*sizes[name]) if name in sizes else contextlib.nullcontext():
                images[name] = read()
            if len(images[name]) != len(actions):
                raise DataError(f"camera {name!r} has {len(images[name])} frames for {len(actions)} actions")
        first = raw.segments[0].wordings[0] if raw.segments else sentences[0] if sentences else ""
        columns = self._columns(raw)
        record = EpisodeRecord(first, states, actions, images, raw.calibration, extras, raw.segments, columns)
        return record, self._notes(raw, set(wanted), set(columns))

    def _vectors(self, raw: RawEpisode) -> tuple[np.ndarray, np.ndarray]:
        length, out = _length(raw), []
        for label, parts in (("state", self.state), ("action", self.action)):
            fields = {name: self._aligned(label, name, values, raw) for name, values in _fields(raw, label).items()}
            expected = tuple(fields if self.first is None else _fields(self.first, label))
            if tuple(fields) != expected:
                raise DataError(
                    f"its {label} has {', '.join(fields) or 'nothing'}; the dataset's has {', '.join(expected) or 'none'}"
                )
            plain = self.given.spec is not None or not fields
            out.append(known_robots.plain(fields, length) if plain else known_robots.vector(fields, parts))
        return out[0], out[1]

    def _aligned(self, label: str, name: str, values: np.ndarray, raw: RawEpisode) -> np.ndarray:
        """`values` of a field with its dimensions in the order of the first episode. Raises `DataError` if they differ."""
        if self.first is None or name not in _fields(self.first, label):
            return values
        shape, axes = _fields(self.first, label)[name].shape[1:], raw.axes.get(name, ())
        known = self.first.axes.get(name, ())
        if values.shape[1:] != shape or set(axes) != set(known):
            found = f"{', '.join(axes)}" if axes else f"{int(np.prod(values.shape[1:], dtype=int))} numbers a frame"
            expected = f"{', '.join(known)}" if known else f"{int(np.prod(shape, dtype=int))}"
            raise DataError(f"its {label} {name!r} has {found}; the dataset's has {expected}")
        return values[:, [axes.index(axis) for axis in known]] if axes != known else values

    def _columns(self, raw: RawEpisode) -> dict[str, np.ndarray]:
        """The columns that the first episode has. Raises `DataError` if one is absent or has another shape."""
        known = raw.columns if self.first is None else self.first.columns
        out = {}
        for name, like in known.items():
            if name not in raw.columns:
                raise DataError(f"it has no column {name!r}, which the first episode has")
            values = raw.columns[name]
            if values.shape[1:] != like.shape[1:]:
                raise DataError(f"its column {name!r} has shape {values.shape[1:]}; the first episode's has {like.shape[1:]}")
            out[name] = values.astype(like.dtype, copy=False) if like.dtype.kind in "biuf" else values
        return out

    def _notes(self, raw: RawEpisode, cameras: set[str], columns: set[str]) -> list[FieldNote]:
        """The rows of the table for one episode: those of the vectors, those of the source, and what the source does not note."""
        vectors = {(note[0], note[1]): note for label in ("state", "action") for note in self._vector_notes(label, raw)}
        noted = {(note.field, note.taken_as) for note in raw.notes}
        out = [FieldNote(*note) for key, note in vectors.items() if key not in noted]
        kept = {f"camera {name}" for name in cameras} | {f"column {name}" for name in columns}
        for note in raw.notes:
            _, _, *own = vectors.get((note.field, note.taken_as), ("", "", "", ""))
            texts = zip((note.conversion, note.reason), own, strict=True)
            note = FieldNote(note.field, note.taken_as, *("; ".join(filter(None, pair)) for pair in texts))
            if note.taken_as.startswith(("camera ", "column ")) and note.taken_as not in kept:
                why = "the spec given has no such camera" if note.taken_as.startswith("camera ") else "the first episode has none"
                note = FieldNote(note.field, "left out", "", why)
            out.append(note)
        said = {note.taken_as for note in out}
        out += [FieldNote(name.partition(" ")[2], name) for name in sorted(kept - said)]
        if raw.instructions and "instruction" not in said:
            out.append(FieldNote("instruction", "instruction"))
        elif not raw.instructions and self.given.instruction:
            out.append(FieldNote("--instruction", "instruction", "", "of episodes without one"))
        return out

    def _vector_notes(self, label: str, raw: RawEpisode) -> Iterator[tuple[str, str, str, str]]:
        robot, given = self.source.robot, self.given
        meaning = robot.state if label == "state" else robot.action
        clean = clean_names(name.rpartition("/")[2] for name in _fields(raw, label) if name not in meaning)
        for name, values in _fields(raw, label).items():
            shown = raw.sources.get(name, name)
            if given.spec is not None:
                yield shown, label, "", "the spec given"
                continue
            parts = known_robots.field_parts(meaning, name, values, raw.axes.get(name, ()))
            texts = {part.name: known_robots.CONVERSION_TEXTS[part.of] for part in parts}
            conversion = "; ".join(f"{part}: {text}" for part, text in texts.items() if text)
            if name not in meaning:
                short = name.rpartition("/")[2]
                called = f", called {clean[short]}" if clean[short] != short else ""
                yield shown, label, conversion, f"of unknown meaning (kind other){called}"
                continue
            evidence = f"--robot {given.robot}" if given.robot else "as recognized" if self.recognition else ""
            yield shown, label, conversion, f"{', '.join(texts)} of {robot.name}" + (f", {evidence}" if evidence else "")


@contextlib.contextmanager
def _reading_episode(most_bytes: int) -> Iterator[None]:
    """Count the bytes of the episode that is read. What it asks for beyond the machine's means is its error too."""
    try:
        with episode_room(most_bytes):
            yield
    except MemoryError as error:
        raise DataError(f"it does not fit into memory ({str(error) or 'no more is free'})") from error
    except RecursionError as error:
        raise DataError("its values are nested too deeply") from error


def _stopped(key: str, error: Exception) -> DataError:
    return DataError(f"{key}: {error}; --strict stops here, and without it this episode is left out and the others are imported")


class _Unfit(Exception):
    """One episode that cannot be imported, unlike an error of the writer, which ends the import."""


class _Ranges:
    """The minimum and maximum of each dimension of states and actions."""

    def __init__(self) -> None:
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, vectors: tuple[np.ndarray, np.ndarray]) -> None:
        ranges = [(values.min(0, initial=np.inf), values.max(0, initial=-np.inf)) for values in vectors]
        if self.found:
            ranges = [(np.minimum(a, c), np.maximum(b, d)) for (a, b), (c, d) in zip(self.found, ranges, strict=True)]
        self.found = ranges


def _fields(raw: RawEpisode, label: str) -> Mapping[str, np.ndarray]:
    return raw.state if label == "state" else raw.action


def _length(raw: RawEpisode) -> int:
    if not raw.action:
        raise DataError("it has no actions")
    return len(next(iter(raw.action.values())))


def _check_lengths(raw: RawEpisode) -> None:
    length = _length(raw)
    if not length:
        raise DataError("it has no frames")
    labels: Sequence[tuple[str, Mapping[str, np.ndarray]]] = (
        ("state", raw.state),
        ("action", raw.action),
        ("column", raw.columns),
    )
    for label, fields in labels:
        for name, values in fields.items():
            if len(values) != length:
                raise DataError(f"{label} {name!r} has {len(values)} frames for {length} actions")
    if raw.segments:
        check_segments(raw.segments, length)
