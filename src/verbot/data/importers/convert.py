"""Imports datasets of other formats. Imports hold one episode in memory, resume, and report broken episodes, which they skip."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import Item, RawEpisode, Source, known_robots, open_source, recognize
from verbot.data.storage import layout
from verbot.data.storage.files import read_json, write_atomic
from verbot.data.storage.info import READ_VERSIONS
from verbot.data.storage.reader import open_dataset
from verbot.data.storage.verify import check_dataset
from verbot.data.storage.writer import DatasetWriter, EpisodeRecord
from verbot.errors import ConfigError, DataError
from verbot.parallel.progress import Progress
from verbot.spec import RobotSpec

REQUEST = ".import.json"  # in the new dataset: the arguments and the spec found, written before the first episode


@dataclass(frozen=True)
class Skipped:
    """An episode that could not be imported, with the reason."""

    episode: str
    problem: str

    def __str__(self) -> str:
        return f"{self.episode}: {self.problem}"


@dataclass(frozen=True)
class ImportResult:
    """The outcome of an import.

    Args:
        episodes, frames: number in the dataset now; `already` of the episodes were there before.
        skipped: episodes that could not be imported.
        without_instruction: number of episodes with an empty instruction.
        problems: findings of `check_dataset` on the result.
    """

    path: str
    format: str
    robot: str
    episodes: int
    frames: int
    already: int
    without_instruction: int
    skipped: tuple[Skipped, ...]
    problems: tuple[str, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        return 1 if self.skipped or self.problems else 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ImportConfig:
    """How recordings are read.

    Args:
        format: a name in `verbot.data.importers.sources`; None recognizes it.
        limit: import only this many episodes from the start of the source. The same call with a higher limit adds the others;
            the ranges in the spec remain those of the first call.
        rate_hz: the recording rate; required if the format does not record it, otherwise overrides it.
        robot: a name in `verbot.data.importers.known_robots.ROBOTS`; None recognizes it, ``"generic"`` assumes nothing.
        spec: replaces the spec found in the source; values are then imported unchanged.
        instruction: instruction of episodes without one.
        options: options of the format.

    Raises `ConfigError` for a limit or a rate that is not above 0.
    """

    format: str | None = None
    limit: int | None = None
    rate_hz: float | None = None
    robot: str | None = None
    spec: RobotSpec | None = None
    instruction: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, value in (("limit", self.limit), ("rate_hz", self.rate_hz)):
            if value is not None and value <= 0:
                raise ConfigError(f"{label} is {value}; expected more than 0")


def import_dataset(
    source: str | Path, target: str | Path, config: ImportConfig | None = None, progress: bool = False
) -> ImportResult:
    """Import the dataset at `source` to a new native one at `target`. After an interruption the same call continues.

    Raises `DataError` if nothing can be imported or `target` holds something else, `ConfigError` for a missing or wrong option.
    """
    path, root, config, started = Path(source), Path(target), config or ImportConfig(), time.monotonic()
    _refuse_native(path)
    name = config.format or recognize(path)
    opened = open_source(name, path, config.robot, config.options, config.rate_hz)
    request: dict[str, Any] = {
        "format": name,
        "source": path.resolve().name,
        "robot": config.robot,
        "rate_hz": config.rate_hz,
        "instruction": config.instruction,
    }
    request |= {"options": dict(config.options), "spec": None if config.spec is None else config.spec.to_json()}
    plan = _Plan(opened, name, path.resolve().name, config.instruction, config.limit, config.spec, progress)
    before = _known_spec(root, request)
    found = before or config.spec or plan.survey(config.rate_hz)
    plan.prepare()
    if before is None:
        write_atomic(root / REQUEST, json.dumps({"request": request, "found": found.to_json()}, indent=1).encode())
    with DatasetWriter(root, found) as writer:
        already, skipped = plan.fill(writer)
    dataset = open_dataset(root)
    lengths = [len(episode) for episode in dataset]
    without_instruction = sum(not episode.instruction for episode in dataset)
    problems = tuple(map(str, check_dataset(root)))
    seconds = time.monotonic() - started
    counts = (len(dataset), sum(lengths), already, without_instruction)
    return ImportResult(str(root), name, found.name, *counts, tuple(skipped), problems, seconds)


@dataclass
class _Plan:
    """One import: the source, and the parts of its robot that are known so far."""

    source: Source
    format: str
    name: str
    instruction: str | None
    limit: int | None
    given: RobotSpec | None
    progress: bool
    state: list[known_robots.KnownComponent] = field(default_factory=list)
    action: list[known_robots.KnownComponent] = field(default_factory=list)
    first: RawEpisode | None = None  # defines the fields, and their order, of all episodes

    def items(self) -> Iterator[Item]:
        return itertools.islice(self.source.items(), self.limit)

    @property
    def total(self) -> int | None:
        counts = [count for count in (self.source.total, self.limit) if count is not None]
        return min(counts) if self.source.total is not None else None

    def survey(self, rate_hz: float | None) -> RobotSpec:
        """The spec defined by the source's fields. Unknown ranges come from a first pass over the numbers, without images."""
        rate = rate_hz or self.source.rate_hz
        if rate is None:
            raise ConfigError(f"format {self.format!r} does not record the rate of {self.name}; give --rate-hz")
        ranges, cameras, problems = _Ranges(), None, []
        with Progress("survey", self.total, "episodes", enabled=self.progress) as bar:
            for count, item in enumerate(self.items(), 1):
                try:
                    raw = item.read()
                    _check_lengths(raw)
                    if cameras is None:
                        self._define(raw)
                    vectors = self._vectors(raw)
                    if not all(np.isfinite(values).all() for values in vectors):
                        raise DataError("its numbers are not finite")
                    if cameras is None:
                        sizes = {name: read().shape[1:3] for name, read in raw.cameras.items()}
                        cameras = tuple(known_robots.camera(self.source.robot, name, *size) for name, size in sizes.items())
                    ranges.update(vectors)
                except DataError as error:
                    problems.append(f"{item.key}: {error}")
                bar.update(count)
                if cameras is not None and all(part.low is not None for part in (*self.state, *self.action)):
                    break
        if cameras is None:
            raise DataError(f"no episode of {self.name} can be imported: {'; '.join(problems[:5]) or 'it has none'}")
        state, action = (
            known_robots.components(parts, low, high)
            for parts, (low, high) in zip((self.state, self.action), ranges.found, strict=True)
        )
        return known_robots.spec_of(self.source.robot, rate, cameras, state, action)

    def _define(self, raw: RawEpisode) -> None:
        """Take the fields of `raw` as those of all episodes."""
        if raw.instructions is None and self.instruction is None:
            raise ConfigError(f"{self.name} holds no instructions; give one with --instruction, or --instruction '' for none")
        if self.given is None:
            self.state = known_robots.parts_of(self.source.robot.state, raw.state, raw.axes)
            self.action = known_robots.parts_of(self.source.robot.action, raw.action, raw.axes)
        state = {name: values[:0] for name, values in raw.state.items()}
        action = {name: values[:0] for name, values in raw.action.items()}
        self.first = RawEpisode(state, action, {}, None, axes=raw.axes)

    def prepare(self) -> None:
        """Define the fields by the first readable episode if no survey did, because the spec was given."""
        if self.first is not None:
            return
        for item in self.items():
            try:
                self._define(item.read())
                return
            except DataError:
                continue

    def fill(self, writer: DatasetWriter) -> tuple[int, list[Skipped]]:
        """Save every episode that `writer` lacks. Returns the number it had before, and the episodes that were skipped."""
        done = {episode.extras["source"]["episode"] for episode in open_dataset(writer.root)}
        already, skipped, frames = len(done), [], 0
        with Progress("import", self.total, "episodes", already, enabled=self.progress) as bar:
            for item in self.items():
                if item.key in done:
                    continue
                try:
                    record = self._record(item, writer.spec)
                    record.check(writer.spec)
                except DataError as error:
                    skipped.append(Skipped(item.key, str(error)))
                else:
                    writer.save_episode(record)
                    frames += len(record.actions)
                note = f"{frames} frames" + (f", {len(skipped)} skipped" if skipped else "")
                bar.update(len(writer) + len(skipped), note)
        return already, skipped

    def _record(self, item: Item, spec: RobotSpec) -> EpisodeRecord:
        raw = item.read()
        _check_lengths(raw)
        states, actions = self._vectors(raw)
        sentences = raw.instructions or ((self.instruction,) if self.instruction else ())
        extras: dict[str, Any] = {**raw.extras, "source": {"format": self.format, "name": self.name, "episode": item.key}}
        if len(sentences) > 1:
            extras["instructions"] = list(sentences)
        wanted = {name: raw.cameras[name] for name in spec.camera_names if name in raw.cameras} if self.given else raw.cameras
        images = {}
        for name, read in wanted.items():
            images[name] = read()
            if len(images[name]) != len(actions):
                raise DataError(f"camera {name!r} has {len(images[name])} frames for {len(actions)} actions")
        return EpisodeRecord(sentences[0] if sentences else "", states, actions, images, raw.calibration, extras)

    def _vectors(self, raw: RawEpisode) -> tuple[np.ndarray, np.ndarray]:
        length, out = _length(raw), []
        for label, parts in (("state", self.state), ("action", self.action)):
            fields = {name: self._aligned(label, name, values, raw) for name, values in getattr(raw, label).items()}
            expected = tuple(getattr(self.first, label, fields))
            if tuple(fields) != expected:
                raise DataError(
                    f"its {label} has {', '.join(fields) or 'nothing'}; the dataset's has {', '.join(expected) or 'none'}"
                )
            plain = self.given is not None or not fields
            out.append(known_robots.plain(fields, length) if plain else known_robots.vector(fields, parts))
        return out[0], out[1]

    def _aligned(self, label: str, name: str, values: np.ndarray, raw: RawEpisode) -> np.ndarray:
        """`values` of a field with its dimensions in the order of the first episode. Raises `DataError` if they differ."""
        if self.first is None or name not in getattr(self.first, label):
            return values
        shape, axes, known = getattr(self.first, label)[name].shape[1:], raw.axes.get(name, ()), self.first.axes.get(name, ())
        if values.shape[1:] != shape or set(axes) != set(known):
            found = f"{', '.join(axes)}" if axes else f"{int(np.prod(values.shape[1:], dtype=int))} numbers a frame"
            expected = f"{', '.join(known)}" if known else f"{int(np.prod(shape, dtype=int))}"
            raise DataError(f"its {label} {name!r} has {found}; the dataset's has {expected}")
        return values[:, [axes.index(axis) for axis in known]] if axes != known else values


class _Ranges:
    """The minimum and maximum of each dimension of states and actions."""

    def __init__(self) -> None:
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, vectors: tuple[np.ndarray, np.ndarray]) -> None:
        ranges = [(values.min(0, initial=np.inf), values.max(0, initial=-np.inf)) for values in vectors]
        if self.found:
            ranges = [(np.minimum(a, c), np.maximum(b, d)) for (a, b), (c, d) in zip(self.found, ranges, strict=True)]
        self.found = ranges


def _length(raw: RawEpisode) -> int:
    if not raw.action:
        raise DataError("it has no actions")
    return len(next(iter(raw.action.values())))


def _check_lengths(raw: RawEpisode) -> None:
    length = _length(raw)
    if not length:
        raise DataError("it has no frames")
    for label, fields in (("state", raw.state), ("action", raw.action)):
        for name, values in fields.items():
            if len(values) != length:
                raise DataError(f"{label} {name!r} has {len(values)} frames for {length} actions")


def _known_spec(root: Path, request: Mapping[str, Any]) -> RobotSpec | None:
    """The spec of an earlier import with the same `request`; None if there was none. Raises `DataError` if it differs."""
    path = root / REQUEST
    if not path.is_file():
        if (root / layout.INFO).is_file():
            raise DataError(f"{root} is already a dataset and not the result of an import; choose another folder")
        return None
    before = read_json(path)
    differing = [key for key in request if before["request"].get(key) != json.loads(json.dumps(request[key]))]
    if differing:
        was, now = ({key: record.get(key) for key in differing} for record in (before["request"], request))
        raise DataError(f"{root} was imported with {was}; this call has {now}. Choose another folder, or use the same arguments")
    return RobotSpec.from_json(before["found"])


def _refuse_native(path: Path) -> None:
    """Raise `DataError` for a LeRobotDataset: v2.0 to v3.0 need no import, and LeRobot itself converts older versions."""
    if not (path / layout.INFO).is_file():
        return
    info = read_json(path / layout.INFO)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version == layout.VERSION:
        raise DataError(f"{path} is a LeRobotDataset v3.0, verbot's own format; use it directly (`verbot data info {path}`)")
    if version in READ_VERSIONS:
        raise DataError(f"{path} is a LeRobotDataset {version}, which verbot reads directly: `verbot data info {path}`")
    raise DataError(
        f"{path} is a LeRobotDataset {version}; convert it to {layout.VERSION} with LeRobot, which verbot reads directly"
    )
