"""Imports datasets of other formats. Imports hold one episode in memory, resume, and report broken episodes, which they skip."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verbot.data.importers import open_source, reading, recognize, refused_items
from verbot.data.importers.limits import EPISODE_BYTES
from verbot.data.importers.plan import ImportPlan, PlanOptions
from verbot.data.importers.table import LOG, TABLE, ImportTable, RowLog, Skipped
from verbot.data.storage import layout
from verbot.data.storage.files import read_json
from verbot.data.storage.info import READ_VERSIONS
from verbot.data.storage.ranges import RangeCounter
from verbot.data.storage.reader import open_dataset
from verbot.data.storage.verify import check_dataset
from verbot.data.storage.writer import DatasetWriter
from verbot.errors import ConfigError, DataError, VerbotError
from verbot.files import lock, regular_file, remove, write_atomic
from verbot.folders import recover
from verbot.ranges import COUNT, POSITIVE, RATE_HZ, check_ranges
from verbot.spec import RobotSpec
from verbot.spec.checks import with_clean_names
from verbot.text import repaired_text

LOCK = ".lock"  # of the dataset's writer
IMPORT_LOCK = ".import.lock"  # of the whole import
GIB = 1 << 30
REQUEST = ".import.json"  # in the new dataset: the arguments and the spec found, written before the first episode


@dataclass(frozen=True)
class ImportResult:
    """The outcome of an import.

    Args:
        episodes, frames: number in the dataset now; `already` of the episodes were there before.
        skipped: episodes that could not be imported.
        without_instruction: number of episodes without any instruction.
        problems: findings of `check_dataset` on the result.
        table: what was taken as what, what was converted, and what was left out; also in the dataset's ``meta/import.json``.
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
    table: ImportTable

    @property
    def exit_code(self) -> int:
        return 1 if self.skipped or self.problems else 0

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "table": self.table.to_json()}


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
        options: options of the format; those of `verbot.data.importers.fields.FieldOptions` name fields.
        images: how color images are stored, as in `verbot.data.DatasetWriter`.
        strict: raise for the first episode that cannot be imported, instead of leaving it out. What was saved stays.
        max_episode_gb: gibibytes of decoded values that one episode may hold.

    Raises `ConfigError` for a limit, a rate or a size that is not above 0, and for a rate that is not that of `spec`.
    """

    format: str | None = None
    limit: int | None = None
    rate_hz: float | None = None
    robot: str | None = None
    spec: RobotSpec | None = None
    instruction: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    images: str | None = None
    strict: bool = False
    max_episode_gb: float = EPISODE_BYTES / GIB

    def __post_init__(self) -> None:
        check_ranges(self, limit=COUNT, rate_hz=RATE_HZ, max_episode_gb=POSITIVE)
        if None not in (self.rate_hz, self.spec) and self.spec is not None and self.rate_hz != self.spec.rate_hz:
            raise ConfigError(f"rate_hz is {self.rate_hz:g}, and the spec given has {self.spec.rate_hz:g} Hz; give one of them")


def import_dataset(
    source: str | Path, target: str | Path, config: ImportConfig | None = None, progress: bool = False
) -> ImportResult:
    """Import the dataset at `source` to a new native one at `target`. After an interruption the same call continues.

    Episodes that are broken or do not fit are left out and named in the result, in the table and in ``meta/import.json``.

    Raises `DataError` if no episode can be imported, of which nothing is left at `target`, if `target` holds something else, or
    if another process imports to it; `ConfigError` for a missing or wrong option.
    """
    with _target(Path(target)):
        return _imported(source, target, config, progress)


@contextlib.contextmanager
def _target(root: Path) -> Iterator[None]:
    """Hold a lock in the folder `root`. Folders that this makes, and that are empty at the end, are removed."""
    recover(root)  # before the lock makes the folder
    made = [folder for folder in (root / "journal", root / "meta", root, *root.parents) if not folder.exists()]
    path = root / IMPORT_LOCK
    try:
        with lock(path, wait=False, holder=f"another process is importing to {root.name}"):
            try:
                yield
            finally:
                remove(path)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def _imported(source: str | Path, target: str | Path, config: ImportConfig | None, progress: bool) -> ImportResult:
    path, root, config, started = Path(source), Path(target), config or ImportConfig(), time.monotonic()
    if path.exists() and not path.is_dir():
        regular_file(path)
    _refuse_native(path)
    name = config.format or recognize(path)
    rate_hz = config.rate_hz if config.spec is None else config.spec.rate_hz
    opened = open_source(name, path, config.robot, config.options, rate_hz)
    given = PlanOptions(
        name, repaired_text(path.resolve().name), config.rate_hz, config.robot, config.spec, config.instruction, config.limit,
        config.strict, int(config.max_episode_gb * GIB), progress,
    )  # fmt: skip
    request: dict[str, Any] = {"format": name, "source": given.name, "robot": config.robot, "rate_hz": config.rate_hz}
    request |= {"instruction": config.instruction, "options": dict(config.options), "images": config.images}
    request |= {"spec": None if config.spec is None else config.spec.to_json()}
    plan = ImportPlan(opened, given, refused=refused_items(name, path))
    before = _known_spec(root, request)
    found = before or config.spec or plan.survey()
    plan.prepare()
    if before is None:
        write_atomic(root / REQUEST, json.dumps({"request": request, "found": found.to_json()}, indent=1).encode(), follow=False)
    try:
        counts, table, already = _filled(root, found, plan, config)
    except VerbotError:
        if before is None and _is_empty(root):
            _remove_started(root)
        raise
    problems = tuple(str(finding) for finding in check_dataset(root) if finding.kind == "file")  # those are in the table
    seconds = time.monotonic() - started
    return ImportResult(str(root), name, found.name, *counts[:2], already, counts[2], table.skipped, problems, seconds, table)


def _filled(root: Path, spec: RobotSpec, plan: ImportPlan, config: ImportConfig) -> tuple[tuple[int, int, int], ImportTable, int]:
    """Save the episodes. Returns the numbers of `_counted`, the table, and the number of episodes that were there before."""
    log = RowLog(root / LOG)
    with DatasetWriter(root, spec, images=config.images) as writer:
        already, skipped = plan.fill(writer, log)
        if not len(writer):
            raise DataError(plan.nothing([str(one) for one in skipped]))
        writer.merge()
        counts, table = _counted(root, spec, plan, log, skipped)
        table = replace(table, options=dict(config.options))
        writer.attach(TABLE, table.to_bytes())
    return counts, table, already


def _remove_started(root: Path) -> None:
    """Remove the files that an import that saved nothing has written."""
    for name in (REQUEST, LOG, LOCK, layout.INFO):
        remove(root / name)


def _is_empty(root: Path) -> bool:
    """Whether no episode was saved."""
    try:
        return not (root / layout.INFO).is_file() or not len(open_dataset(root))
    except DataError:
        return False


def _counted(
    root: Path, spec: RobotSpec, plan: ImportPlan, log: RowLog, skipped: list[Skipped]
) -> tuple[tuple[int, int, int], ImportTable]:
    """The numbers of episodes, of frames and of episodes without instruction in the dataset, and the import's table."""
    dataset, counter = open_dataset(root), RangeCounter(spec)
    keys, frames, silent = set[str](), 0, 0
    for episode in dataset:
        keys.add(episode.extras["source"]["episode"])
        frames += len(episode)
        silent += not any(wording for segment in episode.segments for wording in segment.wordings)
        counter.add(episode.index, episode.states, episode.actions)
    given, rows = plan.given, log.rows(keys)
    table = ImportTable(
        given.name, given.format, {}, spec.name, plan.recognition, spec.rate_hz, plan.rate_evidence, len(keys), rows,
        tuple(skipped), counter.found,
    )  # fmt: skip
    return (len(dataset), frames, silent), table


def _known_spec(root: Path, request: Mapping[str, Any]) -> RobotSpec | None:
    """The spec of an earlier import with the same `request`; None if there was none. Raises `DataError` if it differs."""
    path = root / REQUEST
    if not path.is_file():
        if (root / layout.INFO).is_file():
            raise DataError(f"{root} is already a dataset and not the result of an import; choose another folder")
        return None
    before = read_json(path)
    with reading(path, KeyError, TypeError, AttributeError, ValueError):
        return _same_request(root, before, request)


def _same_request(root: Path, before: Mapping[str, Any], request: Mapping[str, Any]) -> RobotSpec:
    differing = [key for key in request if before["request"].get(key) != json.loads(json.dumps(request[key]))]
    if differing:
        was, now = ({key: record.get(key) for key in differing} for record in (before["request"], request))
        raise DataError(f"{root} was imported with {was}; this call has {now}. Choose another folder, or use the same arguments")
    return RobotSpec.from_json(with_clean_names(before["found"]))


def _refuse_native(path: Path) -> None:
    """Raise `DataError` for a LeRobotDataset: v2.0 to v3.0 need no import, and LeRobot itself converts older versions."""
    if not (path / layout.INFO).is_file():
        return
    info = read_json(path / layout.INFO)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version in READ_VERSIONS:
        raise DataError(f"{path} is a LeRobotDataset {version}, which verbot reads as it is (`verbot data info {path}`)")
    raise DataError(
        f"{path} is a LeRobotDataset {version}; convert it to {layout.VERSION} with LeRobot, which verbot reads directly"
    )
