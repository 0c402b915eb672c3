"""Verifies a dataset file by file and names every file that is missing, truncated or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from verbot.data.storage import layout
from verbot.data.storage.episode_statistics import check_finite
from verbot.data.storage.features import FeatureMap
from verbot.data.storage.files import read_bytes, read_json, read_parquet
from verbot.data.storage.info import checksums, is_ours, read_info
from verbot.data.storage.journal import EpisodeJournal, JournalEntry
from verbot.data.storage.metadata_comparison import compare_metadata, compare_sizes, compare_statistics
from verbot.data.storage.own_files import foreign
from verbot.data.storage.packets import frame_findings
from verbot.data.storage.ranges import RangeCounter
from verbot.data.storage.reader import Dataset, Episode, open_dataset
from verbot.data.storage.writer import ABSENT
from verbot.errors import CorruptFileError, DataError


@dataclass(frozen=True)
class Finding:
    """A problem with one file.

    Args:
        kind: ``"file"``; ``"range"`` for numbers outside the declared ranges, which training can clip; or ``"note"`` for a file
            in the dataset's folders that is not a part of it, which is no fault, and which verbot leaves alone.
    """

    path: str
    problem: str
    kind: str = "file"

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def check_dataset(path: str | Path, features: FeatureMap | None = None) -> list[Finding]:
    """All problems of the dataset at `path`, and notes on what else lies in its folders; an empty list if it is intact.

    Files that verbot wrote are compared with their checksums. In a dataset of other software what its metadata say twice is
    compared, and the time of every row with the times of the pictures in its videos, which costs one pass over their packets and
    no decoding. Numbers that are not finite or outside their declared ranges are counted in both.

    Args:
        features: as in `open_dataset`.

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
    found: dict[str, list[Finding]] = {}
    for step in (_info, _files, _derived, _journal, partial(_contents, features=features)):
        new: dict[str, list[Finding]] = {}
        for problem in step(root):
            new.setdefault(problem.path, []).append(problem)
        for name, problems in new.items():
            found.setdefault(name, problems)  # what an earlier step finds about a file is more specific
        if str(root / layout.INFO) in found or str(root) in found:
            break
    return [problem for problems in found.values() for problem in dict.fromkeys(problems)] + list(_notes(root))


def _info(root: Path) -> Iterator[Finding]:
    yield from _try(partial(read_info, root), root)


def _notes(root: Path) -> Iterator[Finding]:
    """What else lies in the folders of a dataset of verbot."""
    try:
        info = read_info(root)
    except DataError:
        return
    if is_ours(info):
        yield from (Finding(str(root / name), "not part of the dataset: left alone", "note") for name in foreign(root, info))


def _files(root: Path) -> Iterator[Finding]:
    for name, checksum in checksums(read_info(root)).items():
        yield from _try(partial(read_bytes, root / name, checksum), root)


def _derived(root: Path) -> Iterator[Finding]:
    info = read_info(root)
    if is_ours(info):
        for name, accepted in info["verbot"]["derived"].items():
            if (root / name).is_file() or ABSENT not in accepted:
                yield from _try(partial(read_bytes, root / name, accepted), root)
    elif "verbot" not in info:
        if info["codebase_version"] == layout.VERSION:
            yield from _try(partial(read_parquet, root / layout.TASKS), root)
        if (root / layout.STATS).is_file():
            yield from _try(partial(read_json, root / layout.STATS), root)


def _journal(root: Path) -> Iterator[Finding]:
    for path in EpisodeJournal(root).paths():
        yield from _try(partial(_read_entry, path), root)


def _read_entry(path: Path) -> None:
    JournalEntry.from_bytes(read_bytes(path), 0, path)


def _contents(root: Path, features: FeatureMap | None) -> Iterator[Finding]:
    if any(True for _ in _journal(root)):
        return  # already reported, and the dataset cannot be opened
    try:
        dataset = open_dataset(root, features=features, depth=True)
        yield from _read(dataset)
    except DataError as error:
        yield _finding(error, root)


def _read(dataset: Dataset) -> Iterator[Finding]:
    """What is wrong with the frames, in one pass over the episodes. Raises `DataError` if an episode has no place at all."""
    root, info, intact, counter = dataset.root, dataset.info, is_ours(dataset.info), RangeCounter(dataset.spec)
    if intact and (frames := int(dataset.frame_starts[info["total_episodes"]])) != info["total_frames"]:
        yield Finding(str(root / layout.INFO), f"counts {info['total_frames']} frames; the episodes have {frames}")
    vectors: dict[str, Finding] = {}  # the first problem of each file
    pictures: dict[str, Finding] = {}
    for episode in dataset:
        problems = list(_try(partial(_check_vectors, episode, counter), root))
        vectors |= {each.path: vectors.get(each.path, each) for each in problems}
    for camera in () if intact else dataset.camera_names:
        for video, reason in frame_findings(dataset, camera):
            pictures.setdefault(str(video), Finding(str(video), reason))
    if intact:  # those of other software are compared below
        pictures |= {path: Finding(path, problem) for path, problem in compare_sizes(dataset)}
    yield from (vectors | pictures).values()
    if vectors:
        return
    path = root if "verbot" in info else root / layout.STATS  # without a spec, the ranges are the stored statistics
    yield from (Finding(str(path), str(outside), "range") for outside in counter.found)
    if not intact:  # a file whose pictures cannot be read has been named
        yield from (finding for finding in _disagreements(dataset) if finding.path not in pictures)


def _check_vectors(episode: Episode, counter: RangeCounter) -> None:
    check_finite(episode)
    counter.add(episode.index, episode.states, episode.actions)


def _disagreements(dataset: Dataset) -> Iterator[Finding]:
    try:
        found = [*compare_metadata(dataset)]
        if "verbot" not in dataset.info and len(dataset):
            found += compare_statistics(dataset, dataset.statistics())
    except DataError as error:
        yield _finding(error, dataset.root)
        return
    yield from (Finding(path, problem) for path, problem in found)


def _try(read: Callable[[], object], root: Path) -> Iterator[Finding]:
    try:
        read()
    except DataError as error:
        yield _finding(error, root)


def _finding(error: DataError, root: Path) -> Finding:
    if isinstance(error, CorruptFileError):
        return Finding(error.path, error.reason)
    return Finding(str(root), str(error))
