"""Verifies a dataset file by file and names every file that is missing, truncated or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from verbot.data.storage import layout
from verbot.data.storage.files import read_bytes, read_json, read_parquet
from verbot.data.storage.journal import EpisodeJournal, JournalEntry
from verbot.data.storage.packets import frame_findings
from verbot.data.storage.reader import Episode, checksums, open_dataset, read_info
from verbot.data.storage.writer import ABSENT, seal
from verbot.errors import CorruptFileError, DataError


@dataclass(frozen=True)
class Finding:
    """A problem with one file."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def check_dataset(path: str | Path) -> list[Finding]:
    """All problems of the dataset at `path`; an empty list if it is intact.

    Files that verbot wrote are compared with their checksums. For a dataset of other software the time of every row is compared
    with the times of its videos' pictures, which costs one pass over their packets and no decoding.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = example_dataset(folder)
        ...     before = check_dataset(root)
        ...     written = (root / "meta/stats.json").write_text("{}")
        ...     before, [finding.path.rpartition("/")[2] for finding in check_dataset(root)]
        ([], ['stats.json'])
    """
    root = Path(path)
    found: dict[str, Finding] = {}
    for step in (_info, _files, _derived, _journal, _contents):
        for problem in step(root):
            found.setdefault(problem.path, problem)  # the first finding about a file is the most specific
        if str(root / layout.INFO) in found or str(root) in found:
            break
    return list(found.values())


def _info(root: Path) -> Iterator[Finding]:
    try:
        info = read_info(root)
    except DataError as error:
        yield _finding(error, root)
        return
    if "verbot" in info and checksums(info) and info["verbot"].get("seal") != seal(info):
        yield Finding(str(root / layout.INFO), "is damaged, or was edited by hand: its own checksum differs")


def _files(root: Path) -> Iterator[Finding]:
    for name, checksum in checksums(read_info(root)).items():
        yield from _try(partial(read_bytes, root / name, checksum), root)


def _derived(root: Path) -> Iterator[Finding]:
    info = read_info(root)
    if checksums(info):
        for name, accepted in info["verbot"]["derived"].items():
            if (root / name).is_file() or ABSENT not in accepted:
                yield from _try(partial(read_bytes, root / name, accepted), root)
    elif "verbot" not in info:
        yield from _try(partial(read_parquet, root / layout.TASKS), root)
        yield from _try(partial(read_json, root / layout.STATS), root)


def _journal(root: Path) -> Iterator[Finding]:
    for path in EpisodeJournal(root).paths():
        yield from _try(partial(_read_entry, path), root)


def _read_entry(path: Path) -> None:
    JournalEntry.from_bytes(read_bytes(path), 0, path)


def _contents(root: Path) -> Iterator[Finding]:
    if any(True for _ in _journal(root)):
        return  # already reported, and the dataset cannot be opened
    try:
        dataset = open_dataset(root)
        episodes = list(dataset)
    except DataError as error:
        yield _finding(error, root)
        return
    frames = sum(len(episode) for episode in episodes)
    counted = dataset.info["total_frames"] + sum(len(episode) for episode in episodes[dataset.info["total_episodes"] :])
    if frames != counted:
        yield Finding(str(root / layout.INFO), f"counts {counted} frames; the episodes have {frames}")
    cameras = () if checksums(dataset.info) else dataset.camera_names
    for episode in episodes:
        yield from _try(partial(_read_vectors, episode), root)
    for camera in cameras:
        yield from (Finding(str(path), problem) for path, problem in frame_findings(dataset, camera))


def _read_vectors(episode: Episode) -> None:
    for name, values in (("states", episode.states), ("actions", episode.actions)):
        if not np.isfinite(values).all():
            raise DataError(f"the {name} of episode {episode.index} are not finite")


def _try(read: Callable[[], object], root: Path) -> Iterator[Finding]:
    try:
        read()
    except DataError as error:
        yield _finding(error, root)


def _finding(error: DataError, root: Path) -> Finding:
    if isinstance(error, CorruptFileError):
        return Finding(error.path, error.reason)
    return Finding(str(root), str(error))
