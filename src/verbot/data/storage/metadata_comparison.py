"""Compares what a dataset says twice: its counts, the places of episodes, their sentences, sizes, rates and statistics.

LeRobot's metadata repeat much of what the files of frames and videos hold. Editing by hand, merging and interrupted recordings
make the two disagree. Reading uses one of them; this finds the disagreements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np

from verbot.data.storage import layout
from verbot.data.storage.containers import open_video
from verbot.data.storage.depth import picture_info
from verbot.data.storage.features import image_size
from verbot.data.storage.files import column_names, read_json
from verbot.data.storage.info import is_number
from verbot.data.storage.reader import Dataset
from verbot.data.storage.stored_frames import StoredFrames
from verbot.data.storage.stored_sentences import recorded_segments, recorded_tasks
from verbot.errors import CorruptFileError
from verbot.statistics import Statistics

RATE_TOLERANCE = 0.01  # relative
MEAN_TOLERANCE = 0.01  # of the range of a dimension


class Disagreements:
    """What was found, by file and kind: the first of each kind, and how many there are."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[str, int]] = {}

    def add(self, path: Path, kind: str, problem: str) -> None:
        first, count = self._found.get((str(path), kind), (problem, 0))
        self._found[str(path), kind] = first, count + 1

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The file and the problem of each."""
        for (path, _), (problem, count) in self._found.items():
            yield path, problem if count == 1 else f"{problem}; {count} such cases"


def compare_metadata(dataset: Dataset) -> Disagreements:
    """Everything that a dataset of other software says in two ways that do not agree, as (file, problem).

    Raises `DataError` for what cannot be read at all.
    """
    out, stored = Disagreements(), dataset._stored
    _counts(dataset, out)
    _columns(stored, out)
    for place in range(len(stored.metadata.rows)):
        row = stored.metadata.row(place)
        _frames(stored, row, out)
        _sentences(stored, row, out)
        _times(dataset, row, out)
    for path, key in _videos(stored):
        _video(stored, path, key, out)
    return out


def compare_sizes(dataset: Dataset) -> Disagreements:
    """Where the pictures of a dataset's videos have another size than ``info.json`` says, by the headers of the files."""
    out = Disagreements()
    for path, key in _videos(dataset._stored):
        _video(dataset._stored, path, key, out)
    return out


def compare_statistics(dataset: Dataset, computed: Statistics) -> Disagreements:
    """Where ``meta/stats.json`` of a dataset of other software disagrees with its data, whose statistics are `computed`."""
    out, path = Disagreements(), dataset.root / layout.STATS
    if not path.is_file():
        return out
    record = read_json(path)
    for name, keys in (("state", dataset._stored.roles.state), ("action", dataset._stored.roles.action)):
        start = 0
        for key in keys:
            size = int(np.prod(dataset.info["features"][key]["shape"], dtype=np.int64))
            place, start = slice(start, start + size), start + size
            found = {kind: getattr(computed[name], kind)[place] for kind in ("min", "max", "mean", "std")}
            for problem in _statistics_problems(record, key, found, computed[name].count):
                out.add(path, key, problem)
    return out


def _counts(dataset: Dataset, out: Disagreements) -> None:
    info, path = dataset.info, dataset.root / layout.INFO
    frames = int(dataset._stored.metadata.lengths.sum())
    if frames != info["total_frames"]:
        out.add(path, "frames", f"counts {info['total_frames']} frames; the episodes have {frames}")
    sentences, tasks_path = dataset._stored.metadata.sentences, dataset._stored.metadata.tasks_path
    if sentences and info.get("total_tasks", len(sentences)) != len(sentences):
        out.add(path, "tasks", f"counts {info['total_tasks']} sentences; {tasks_path} has {len(sentences)}")
    for key in dataset._stored.roles.cameras.values():
        fps = picture_info(info["features"][key]).get("video.fps")
        if is_number(fps) and abs(fps / info["fps"] - 1) > RATE_TOLERANCE:
            out.add(path, "rate", f"gives {key!r} {fps:g} pictures a second; the rows have {info['fps']:g}")
    if list(sentences) != list(range(len(sentences))):
        numbers = ", ".join(map(str, list(sentences)[:5]))
        out.add(tasks_path, "order", f"numbers its sentences {numbers}, …; LeRobot takes the n-th row for n")


def _columns(stored: StoredFrames, out: Disagreements) -> None:
    expected = {key for key, feature in stored.info["features"].items() if feature["dtype"] != "video"}
    for path in stored.data_paths():
        names = set(column_names(path))
        for key in sorted(expected - names):
            out.add(path, "absent", f"lacks the column {key!r}, which {layout.INFO} lists")
        for key in sorted(names - stored.info["features"].keys() - layout.FRAME_COLUMNS.keys()):
            out.add(path, "further", f"has the column {key!r}, which {layout.INFO} does not list")


def _frames(stored: StoredFrames, row: Mapping[str, Any], out: Disagreements) -> None:
    """The columns that number the frames."""
    number, length, path = row["episode_index"], row["length"], stored.data_path(row)
    first = row["dataset_from_index"]
    expected = {"frame_index": np.arange(length), "episode_index": np.full(length, number)}
    if first is not None:
        expected["index"] = first + np.arange(length)
    for key, values in expected.items():
        found = stored.numbers(row, key)
        if found is not None and (wrong := found != values).any():
            frame = int(np.argmax(wrong))
            out.add(path, key, f"has {key} {found[frame]:g} at frame {frame} of episode {number}; expected {values[frame]}")


def _sentences(stored: StoredFrames, row: Mapping[str, Any], out: Disagreements) -> None:
    said = set(recorded_tasks(stored, row))
    used = {segment.wordings[0] for segment in recorded_segments(stored, row)}
    if said and said != used:
        texts = [" and ".join(repr(text) for text in sorted(each)[:3]) for each in (said, used)]
        out.add(
            stored.metadata.path, "tasks",
            f"episode {row['episode_index']} lists the sentences {texts[0]}; its frames have {texts[1]} by their task_index, "
            f"which is used",
        )  # fmt: skip


def _times(dataset: Dataset, row: Mapping[str, Any], out: Disagreements) -> None:
    """Recorded times that are not used, though they say that frames were dropped."""
    gaps = (dataset._cameras.ignored_gap(row, camera) for camera in dataset.camera_names)
    frame = next((gap for gap in gaps if gap is not None), None)
    if frame is None:
        return
    stamps = dataset._stored.numbers(row, layout.TIME)
    assert stamps is not None
    out.add(
        dataset._stored.data_path(row), "times",
        f"has a gap of {stamps[frame + 1] - stamps[frame]:.3g} s after frame {frame} of episode {row['episode_index']}, in "
        f"timestamps that are not whole periods of {1 / dataset.info['fps']:.3g} s and are not used: pictures are taken by the "
        f"number of the row, which is wrong if frames were dropped there",
    )  # fmt: skip


def _videos(stored: StoredFrames) -> list[tuple[Path, str]]:
    """Every video file with its feature, once."""
    found: dict[Path, str] = {}
    for key in stored.roles.cameras.values():
        if stored.info["features"][key]["dtype"] == "video":
            for place in range(len(stored.metadata.rows)):
                found.setdefault(stored.video_path(stored.metadata.row(place), key), key)
    return list(found.items())


def _video(stored: StoredFrames, path: Path, key: str, out: Disagreements) -> None:
    """Its size by the file's header; its frames are not decoded."""
    feature = stored.info["features"][key]
    try:
        with open_video(path) as container:
            stream = container.streams.video[0]
            size = stream.codec_context.height, stream.codec_context.width
    except (av.FFmpegError, OSError, IndexError, ValueError, CorruptFileError):
        return  # reported where it is read
    said = image_size(key, feature, stored.root)
    if size != said:
        out.add(path, "size", f"has pictures of {size[0]}×{size[1]}; {layout.INFO} says {said[0]}×{said[1]}")


def _statistics_problems(record: Any, key: str, found: Mapping[str, np.ndarray], frames: int) -> Iterator[str]:
    feature = record.get(key) if isinstance(record, dict) else None
    if not isinstance(feature, dict):
        yield f"has no statistics of {key!r}"
        return
    spread = np.maximum(found["max"] - found["min"], 1e-6)
    for kind, values in found.items():
        try:
            said = np.asarray(feature[kind], np.float64).reshape(-1)
        except (KeyError, TypeError, ValueError, OverflowError):
            yield f"has no {kind} of {key!r}"
            continue
        if said.shape != values.shape:
            yield f"has {len(said)} numbers for the {kind} of {key!r}; a frame has {len(values)}"
        elif not (close := np.abs(said - values) <= MEAN_TOLERANCE * spread).all():
            axis = int(np.argmin(close))
            yield f"gives {key!r} the {kind} {said[axis]:g} in dimension {axis}; the data have {values[axis]:g}"
    count = feature.get("count")
    if isinstance(count, list) and count != [frames]:
        yield f"counts {count} frames of {key!r}; there are {frames}"
