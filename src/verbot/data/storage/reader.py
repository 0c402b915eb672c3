"""Reads any LeRobotDataset v3.0, and the episodes of verbot's journal, without LeRobot."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.storage import layout
from verbot.data.storage.arrow_rows import Rows
from verbot.data.storage.files import read_bytes, read_json, read_parquet
from verbot.data.storage.journal import EpisodeJournal, JournalEntry
from verbot.data.storage.pictures import PictureReader
from verbot.data.storage.segments import InstructionSegment
from verbot.data.storage.video import EpisodeVideo, row_times
from verbot.errors import CorruptFileError, DataError, UnknownNameError
from verbot.spec import FloatArray, Int64Array, RobotSpec, UInt8Array
from verbot.statistics import Statistics
from verbot.transforms import FitImage

RENAMED_EXTRAS = {"engaged_frame": "first_contact_frame"}  # as verbot 0.1 recorded them


class Dataset:
    """Episodes on disk, opened with `open_dataset`; an `EpisodeSource`. Open it again to see episodes saved later.

    Numeric columns are read on first access and kept. Images are decoded at each call; `FrameCache` keeps them.
    """

    def __init__(self, root: Path, info: Mapping[str, Any], spec: RobotSpec, journaled: Sequence[JournalEntry]):
        self.root, self.info, self.spec = root, info, spec
        self._journaled = tuple(journaled)
        self._committed = int(info["total_episodes"])
        self._camera_keys = {name: key for key, name in layout.camera_features(info["features"]).items()}
        self._checksums = checksums(info)
        self._tables: dict[Path, dict[str, Any]] = {}

    def __len__(self) -> int:
        return self._committed + len(self._journaled)

    def __getitem__(self, index: int) -> Episode:
        """Raises `DataError` when the episode does not exist."""
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise DataError(f"{self.root}: there is no episode {index}; it has {len(self)}, numbered from 0")
        if number >= self._committed:
            one = self._journaled[number - self._committed]
            return Episode(self, number, one.length, one.identity, [one.instruction], one.calibration, _renamed(one.extras), one)
        row, place = self._rows[number], self._places.get(number)
        extra = None if place is None else self._extras[place]
        identity = extra["identity"] if extra else self._foreign_identity(row)
        calibration, extras = (json.loads(extra[key]) if extra else {} for key in ("calibration", "extras"))
        return Episode(self, number, row["length"], identity, row["tasks"], calibration, _renamed(extras), row)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Dataset({str(self.root)!r}: {len(self)} episodes of {self.spec.name!r})"

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(self._camera_keys)

    @functools.cached_property
    def lengths(self) -> Int64Array:
        """Number of frames of each episode: int64 (n,)."""
        return np.concatenate([self._rows.column("length"), np.array([one.length for one in self._journaled], np.int64)])

    def statistics(self) -> Statistics:
        """Statistics of ``"state"`` and ``"action"`` over all frames, with exact quantiles.

        They come from ``meta/stats.json`` if verbot wrote it, and are computed otherwise.
        """
        stored = self._stored_statistics()
        if stored is not None:
            return stored
        if not len(self):
            raise DataError(f"{self.root}: there are no statistics of an empty dataset")
        return statistics_of([(episode.states, episode.actions) for episode in self])

    @functools.cached_property
    def _rows(self) -> Rows:
        """The rows of ``meta/episodes`` that ``info.json`` counts, by episode number."""
        listed = [self.root / name for name in self._checksums if name.startswith("meta/episodes/")]
        paths = sorted(listed or self.root.glob("meta/episodes/*/*.parquet"))
        rows = Rows([self._read(path, lambda name: not name.startswith("stats/")) for path in paths], self._committed)
        if not np.array_equal(rows.column("episode_index"), np.arange(self._committed)):
            raise CorruptFileError(
                self.root / "meta/episodes", f"has {len(rows)} episodes, or not in order; info.json counts {self._committed}"
            )
        return rows

    @functools.cached_property
    def _extras(self) -> Rows:
        names = self.info["verbot"]["files"] if "verbot" in self.info else ()
        paths = [self.root / name for name in names if name.startswith("meta/verbot/")]
        return Rows([self._read(path) for path in sorted(paths)])

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        """The row of `_extras` of each episode; the last one if there are several."""
        return {int(number): place for place, number in enumerate(self._extras.column("episode_index"))}

    def _read(self, path: Path, columns: Any = lambda name: True) -> pa.Table:
        return read_parquet(path, self._checksums.get(path.relative_to(self.root).as_posix()), columns)

    def _foreign_identity(self, row: Mapping[str, Any]) -> str:
        """Identity of an episode written by other software: its location and the file sizes, which change on rewriting."""
        places = [[self._data_path(row), row["dataset_from_index"], row["length"]]]
        for key in self._camera_keys.values():
            if f"videos/{key}/from_timestamp" in row:
                path = self._video_path(row, key)
                places.append([path, path.stat().st_size if path.is_file() else 0, row[f"videos/{key}/from_timestamp"]])
        return "|".join(f"{place}" for place in places)

    def _data_path(self, row: Mapping[str, Any]) -> Path:
        keys = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        return self.root / self.info["data_path"].format(**keys)

    def _video_path(self, row: Mapping[str, Any], key: str) -> Path:
        keys = {"chunk_index": row[f"videos/{key}/chunk_index"], "file_index": row[f"videos/{key}/file_index"]}
        return self.root / self.info["video_path"].format(video_key=key, **keys)

    def _vectors(self, row: Mapping[str, Any], key: str) -> FloatArray:
        """The frames of one episode in a vector column: (t, d)."""
        path = self._data_path(row)
        if path not in self._tables:
            table = self._read(path, lambda name: name in (layout.STATE, layout.ACTION, "timestamp", "index"))
            self._tables[path] = {name: _matrix(table.column(name)) for name in table.column_names}
        columns = self._tables[path]
        if key not in columns:
            return np.zeros((row["length"], 0), np.float32)
        first = row["dataset_from_index"] - int(columns["index"][0, 0])
        frames = columns[key][first : first + row["length"]]
        if first < 0 or len(frames) != row["length"]:
            raise CorruptFileError(path, f"lacks frames of episode {row['episode_index']}: it should have {row['length']}")
        return frames.astype(np.float32, copy=False)

    def _video(self, number: int, row: Mapping[str, Any], key: str) -> EpisodeVideo:
        """The video of one camera feature, its checksum verified once."""
        path = self._video_path(row, key)
        name = path.relative_to(self.root).as_posix()
        if name in self._checksums and name not in self._verified:
            read_bytes(path, self._checksums[name])
            self._verified.add(name)
        rate_hz, tolerance_s = float(self.info["fps"]), self.info.get("tolerance_s")
        bounds = [row.get(f"videos/{key}/{bound}_timestamp", other) for bound, other in (("from", None), ("to", np.inf))]
        if not all(isinstance(bound, (int, float)) and bound >= 0 for bound in bounds):
            reason = f"episode {number} lies from {bounds[0]} to {bounds[1]} s in the video of {key}; expected two numbers"
            raise CorruptFileError(self.root / "meta/episodes", reason)
        if tolerance_s is not None and not (isinstance(tolerance_s, (int, float)) and tolerance_s > 0):
            raise CorruptFileError(self.root / layout.INFO, f"has tolerance_s {tolerance_s!r}; expected seconds, above 0")
        times_s = bounds[0] + row_times(self._stamps(row), row["length"], rate_hz, bounds[1] - bounds[0])
        return EpisodeVideo(path, path, number, times_s, rate_hz, tolerance_s)

    def _stamps(self, row: Mapping[str, Any]) -> np.ndarray | None:
        stamps = self._vectors(row, "timestamp")
        return stamps[:, 0] if stamps.shape[1] == 1 else None

    @functools.cached_property
    def _verified(self) -> set[str]:
        return set()

    def _stored_images(self, row: Mapping[str, Any], key: str) -> UInt8Array:
        from PIL import Image

        path = self._data_path(row)
        table = self._read(path, lambda name: name in (key, "index"))
        first = row["dataset_from_index"] - table.column("index")[0].as_py()
        cells = table.column(key).slice(first, row["length"]).to_pylist()
        return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in cells])

    def _stored_statistics(self) -> Statistics | None:
        frames = sum(entry.length for entry in self._journaled) + int(self.info["total_frames"])
        path = self.root / layout.STATS
        if "verbot" not in self.info or not path.is_file():
            return None  # LeRobot's quantiles are averages over episodes, not quantiles
        record = read_json(path, self.info["verbot"]["derived"].get(layout.STATS))
        names = {"state": layout.STATE, "action": layout.ACTION}
        found = Statistics.from_json({short: record[key] for short, key in names.items() if key in record})
        return found if found["action"].count == frames else None


@dataclass(frozen=True)
class Episode:
    """One recorded episode of `length` frames, read lazily. Action `i` was executed at observation `i`, or is its label.

    Args:
        identity: a hash of the content, equal for equal content wherever it is stored.
        instructions: all known wordings of the instruction; `instruction` is the recorded one.
        calibration: ``{"intrinsics": 9 floats, "extrinsics": 16 floats, "frame": a frame of the spec}`` of each camera.
        extras: other recorded values (goal, grounding, …); JSON.
    """

    dataset: Dataset = field(repr=False)
    index: int
    length: int
    identity: str = field(repr=False)
    tasks: Sequence[str]
    calibration: Mapping[str, Any] = field(repr=False)
    extras: Mapping[str, Any] = field(repr=False)
    _source: JournalEntry | Mapping[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return self.length

    @property
    def instruction(self) -> str:
        return self.tasks[0] if self.tasks else ""

    @property
    def instructions(self) -> tuple[str, ...]:
        return tuple(self.extras.get("instructions") or self.tasks or ("",))

    @property
    def segments(self) -> tuple[InstructionSegment, ...]:
        """The instruction of every frame: segments that cover the episode in order."""
        return (InstructionSegment(0, self.length, self.instructions),)

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Further recorded values by feature name (``next.reward``, ``observation.environment_state``, …): (t, …)."""
        return {}

    @property
    def states(self) -> FloatArray:
        """float32 (t, s)."""
        return (
            self._source.states if isinstance(self._source, JournalEntry) else self.dataset._vectors(self._source, layout.STATE)
        )

    @property
    def actions(self) -> FloatArray:
        """float32 (t, a)."""
        return (
            self._source.actions if isinstance(self._source, JournalEntry) else self.dataset._vectors(self._source, layout.ACTION)
        )

    def images(self, camera: str, rows: Sequence[int] | None = None, fit: FitImage | None = None) -> UInt8Array:
        """uint8 RGB (t, h, w, 3), or float32 (t, h, w) in meters of a camera of kind ``"depth"``.

        The picture of a row is the one nearest to the row's time.

        Args:
            rows: only these frames; all of them if None.
            fit: crop and resize the pictures while they are decoded.

        Raises `UnknownNameError` for a camera that the dataset lacks, `CorruptFileError` for a row without a picture.
        """
        with PictureReader({} if fit is None else {camera: fit}) as reader:
            return reader.read(self, camera, rows)

    def video(self, camera: str) -> EpisodeVideo | None:
        """Where the camera's video lies; None if the pictures are stored one by one. Raises `UnknownNameError` as `images`."""
        dataset, source = self.dataset, self._source
        if camera not in dataset.camera_names:
            raise UnknownNameError("camera", camera, dataset.camera_names)
        if isinstance(source, JournalEntry):
            name, rate_hz = f"episode {self.index} of {dataset.root}", dataset.spec.rate_hz
            return EpisodeVideo(source.videos[camera], name, self.index, np.arange(self.length) / rate_hz, rate_hz)
        key = dataset._camera_keys[camera]
        return None if dataset.info["features"][key]["dtype"] == "image" else dataset._video(self.index, source, key)

    def stored_images(self, camera: str) -> UInt8Array:
        """The pictures of a camera that are stored one by one, uint8 RGB (t, h, w, 3)."""
        assert not isinstance(self._source, JournalEntry)
        return self.dataset._stored_images(self._source, self.dataset._camera_keys[camera])


def open_dataset(path: str | Path, spec: RobotSpec | None = None) -> Dataset:
    """Open a LeRobotDataset v3.0 for reading, also while it is being written.

    Args:
        spec: the robot's spec, for a dataset recorded without one. If None, ranges are derived from the data.

    Raises `DataError` when `path` holds no such dataset, `CorruptFileError` (naming the file) when it is damaged.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dataset = open_dataset(example_dataset(folder))
        ...     dataset[0].instruction, dataset[0].actions.shape, dataset[0].images("front").shape
        ('touch the red cube', (12, 4), (12, 32, 32, 3))
    """
    root = Path(path)
    while True:
        info = read_info(root)
        journaled = list(EpisodeJournal(root).read(info["total_episodes"]))
        if read_info(root)["total_episodes"] == info["total_episodes"]:
            break  # otherwise a writer merged its journal between the two reads
    if spec is None:
        stats = root / layout.STATS
        spec = layout.spec_of(info, read_json(stats) if stats.is_file() and "verbot" not in info else None, root)
    return Dataset(root, info, spec, journaled)


def read_info(root: Path) -> dict[str, Any]:
    """``meta/info.json`` of a v3.0 dataset. Raises `DataError` for anything else."""
    path = root / layout.INFO
    if not path.is_file():
        raise DataError(f"{root} holds no dataset: there is no {layout.INFO}")
    info = read_json(path)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != layout.VERSION:
        raise DataError(f"{root} is a dataset of version {version!r}; verbot reads {layout.VERSION!r}")
    missing = {"features", "fps", "total_episodes", "total_frames", "data_path"} - info.keys()
    if missing:
        raise CorruptFileError(path, f"lacks {', '.join(sorted(missing))}")
    return info


def checksums(info: Mapping[str, Any]) -> dict[str, Any]:
    """The accepted sha256 of each file by name; two of them if a writer died while it replaced the file.

    Empty if other software has changed the dataset since verbot wrote it.
    """
    record = info.get("verbot", {})
    return dict(record["files"]) if record.get("episodes") == info["total_episodes"] else {}


def statistics_of(vectors: Sequence[tuple[FloatArray, FloatArray]]) -> Statistics:
    """Statistics of the states (t, s) and actions (t, a) of some episodes."""
    states, actions = (np.concatenate(arrays) for arrays in zip(*vectors, strict=True))
    return Statistics.of({"state": states, "action": actions} if states.shape[1] else {"action": actions})


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    flat = array if not pa.types.is_nested(array.type) else array.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(array), -1)


def _renamed(extras: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED_EXTRAS.get(key, key): value for key, value in extras.items()}
