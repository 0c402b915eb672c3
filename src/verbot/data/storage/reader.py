"""Reads any LeRobotDataset v3.0, v2.1 or v2.0, and the episodes of verbot's journal, without LeRobot."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.storage import layout
from verbot.data.storage.arrow_rows import Rows
from verbot.data.storage.derived_spec import check_spec, derived_spec
from verbot.data.storage.episode_statistics import episode_statistics, statistics_of
from verbot.data.storage.features import FeatureMap, FeatureRoles, image_size
from verbot.data.storage.files import read_json
from verbot.data.storage.info import checksums, placed, read_info, recorded_spec
from verbot.data.storage.journal import EpisodeJournal, JournalEntry
from verbot.data.storage.origin import LOST, adopted_extras, lost_by_editing, matching_episodes, spec_of_origin
from verbot.data.storage.pictures import PictureReader
from verbot.data.storage.recorded_extras import RecordedExtras, renamed_extras
from verbot.data.storage.segments import SEGMENTS, InstructionSegment
from verbot.data.storage.stored_cameras import StoredCameras
from verbot.data.storage.stored_frames import FurtherColumns, StoredFrames
from verbot.data.storage.stored_pictures import stored_pictures
from verbot.data.storage.stored_sentences import recorded_segments, recorded_tasks, segments_of_extras
from verbot.data.storage.video import EpisodeVideo
from verbot.errors import CorruptFileError, DataError, UnknownNameError
from verbot.spec import Float64Array, FloatArray, Int64Array, RobotSpec, UInt8Array
from verbot.statistics import Statistics
from verbot.transforms import FitImage

__all__ = ["Dataset", "Episode", "checksums", "open_dataset", "read_info", "statistics_of"]


class Dataset:
    """Episodes on disk, opened with `open_dataset`; an `EpisodeSource`. Open it again to see episodes saved later.

    Numeric columns are read on first access; the last few files stay in memory. Images are decoded at each call; `FrameCache`
    keeps them.
    """

    def __init__(
        self,
        stored: StoredFrames,
        spec: RobotSpec,
        journaled: Sequence[JournalEntry],
        origin: Dataset | None = None,
        opened_with: Mapping[str, Any] | None = None,
    ):
        self.opened_with = dict(opened_with or {})  # arguments of `open_dataset` for another process that reads its images
        self.root, self.info, self.spec, self._stored = stored.root, stored.info, spec, stored
        self._journaled = tuple(journaled)
        self._committed = int(self.info["total_episodes"])
        self._camera_keys, self._cameras = stored.roles.cameras, StoredCameras(stored)
        self._checksums, self._extras = stored.checksums, RecordedExtras(stored)
        self._origin: Dataset | None = None
        lost = lost_by_editing(self.info, stored.roles, self.root)
        if origin is not None:
            self._origin_numbers = matching_episodes(self, origin)  # of episodes that have no origin yet
            self._origin, new = origin, int((self._origin_numbers < 0).sum())
            lost = f"{new} of {len(self)} episodes are not in {origin.root}: without calibration and extras" if new else ""
        self._left_out = {**stored.roles.left_out, **({LOST: lost} if lost else {})}

    def __len__(self) -> int:
        return self._committed + len(self._journaled)

    def __getitem__(self, index: int) -> Episode:
        """Raises `DataError` when the episode does not exist."""
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise DataError(f"{self.root}: there is no episode {index}; it has {len(self)}, numbered from 0")
        if number >= self._committed:
            one = self._journaled[number - self._committed]
            return Episode(self, number, one.length, one.calibration, renamed_extras(one.extras), one)
        row, extra = self._stored.metadata.row(number), self._extras.of(number)
        if self._origin is not None and self._origin_numbers[number] >= 0:
            return self._adopted(number, row, self._origin[int(self._origin_numbers[number])])
        calibration, extras = (self._extras.table(extra, key) if extra else {} for key in ("calibration", "extras"))
        return Episode(self, number, row["length"], calibration, renamed_extras(extras), row, extra)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Dataset({str(self.root)!r}: {len(self)} episodes of {self.spec.name!r})"

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(self._camera_keys)

    @property
    def left_out(self) -> Mapping[str, str]:
        """What is not read, or not as its name suggests: features, and what editing dropped; each with the reason."""
        return self._left_out

    @property
    def is_ours(self) -> bool:
        """Whether verbot wrote every merged episode, and no other software has changed their number since."""
        return self._stored.ours

    @functools.cached_property
    def lengths(self) -> Int64Array:
        """The frames of each episode: int64 (n,)."""
        journaled = np.array([entry.length for entry in self._journaled], np.int64)
        return np.concatenate([self._stored.metadata.lengths, journaled])

    @functools.cached_property
    def frame_starts(self) -> Int64Array:
        """The number of frames before each episode, and before the end: int64 (n + 1,)."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])

    def statistics(self) -> Statistics:
        """Statistics of ``"state"`` and ``"action"`` over all frames.

        They come from ``meta/stats.json`` if verbot wrote it, and are computed otherwise, see `episode_statistics`.
        """
        stored = self._stored_statistics()
        if stored is not None:
            return stored
        if not len(self):
            raise DataError(f"{self.root}: there are no statistics of an empty dataset")
        return episode_statistics(lambda: self, int(self.frame_starts[-1]), self.spec.state_size + self.spec.action_size)

    @property
    def _rows(self) -> Rows:
        """The rows of ``meta/episodes`` that ``info.json`` counts, in the order of their numbers."""
        return self._stored.metadata.rows

    def _adopted(self, number: int, row: Mapping[str, Any], origin: Episode) -> Episode:
        """An episode with the calibration and extras of its origin; with its wordings unless the sentence was edited since."""
        plain = Episode(self, number, row["length"], {}, {}, row)
        extras = adopted_extras(origin.extras, plain.tasks == origin.tasks)
        calibration = {name: each for name, each in origin.calibration.items() if name in self._camera_keys}
        return dataclasses.replace(plain, calibration=calibration, extras=extras, _extra={})

    def _foreign_identity(self, row: Mapping[str, Any]) -> str:
        """Identity of an episode written by other software: the place of its rows and the size of their file."""
        path = self._data_path(row)
        return f"{[str(path), _size(path), row['dataset_from_index'], row['length']]}"

    def _foreign_pictures(self, row: Mapping[str, Any], camera: str) -> str:
        """As `_foreign_identity`, of one camera: also its feature, the place of its pictures, and how they are read."""
        key, info, place = self._camera_keys[camera], self.info, list[Any]()
        if info["features"][key]["dtype"] == "video":
            path = self._video_path(row, key)
            bounds = (row.get(f"videos/{key}/{end}_timestamp") for end in ("from", "to"))
            place = [str(path), _size(path), *bounds]
        read = [key, info["fps"], info.get("tolerance_s"), self._stored.roles.depth.get(camera)]
        return f"{self._foreign_identity(row)}|{place}|{read}"

    def _data_path(self, row: Mapping[str, Any]) -> Path:
        return self._stored.data_path(row)

    def _video_path(self, row: Mapping[str, Any], key: str) -> Path:
        return self._stored.video_path(row, key)

    def _stored_statistics(self) -> Statistics | None:
        frames = sum(entry.length for entry in self._journaled) + int(self.info["total_frames"])
        path = placed(self.root, layout.STATS)
        if "verbot" not in self.info or not path.is_file():
            return None  # LeRobot's quantiles are averages over episodes, not quantiles
        record = read_json(path, self.info["verbot"]["derived"].get(layout.STATS))
        if not isinstance(record, dict):
            raise CorruptFileError(path, "holds no table of statistics")
        names = {"state": layout.STATE, "action": layout.ACTION}
        found = Statistics.from_json({short: record[key] for short, key in names.items() if key in record})
        return found if found["action"].count == frames else None


@dataclass(frozen=True)
class Episode:
    """One recorded episode of `length` frames, read lazily. Action `i` was executed at observation `i`, or is its label.

    Args:
        calibration: ``{"intrinsics": 9 floats, "extrinsics": 16 floats, "frame": a frame of the spec}`` of each camera.
        extras: other recorded values (goal, grounding, …); JSON.
    """

    dataset: Dataset = field(repr=False)
    index: int
    length: int
    calibration: Mapping[str, Any] = field(repr=False)
    extras: Mapping[str, Any] = field(repr=False)
    _source: JournalEntry | Mapping[str, Any] = field(repr=False)
    _extra: Mapping[str, Any] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.length

    @property
    def identity(self) -> str:
        """A hash of the content, equal for equal content wherever it is stored; of an episode of other software, its place."""
        if isinstance(self._source, JournalEntry):
            return self._source.identity
        return self._extra["identity"] if self._extra else self.dataset._foreign_identity(self._source)

    def pictures_identity(self, camera: str) -> str:
        """As `identity`, for the pictures of one camera: it differs where they may differ."""
        if isinstance(self._source, JournalEntry) or self._extra:
            return self.identity
        return self.dataset._foreign_pictures(self._source, camera)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The recorded sentences in the order of their frames; wordings of one instruction are in `instructions`."""
        if isinstance(self._source, JournalEntry):
            return self._source.sentences
        intact = self._extra and self.dataset.is_ours  # otherwise LeRobot's task_index counts
        if intact and len(tasks := recorded_tasks(self.dataset._stored, self._source)) == 1:
            return tasks
        found = recorded_segments(self.dataset._stored, self._source)
        return tuple(dict.fromkeys(segment.wordings[0] for segment in found))

    @property
    def instruction(self) -> str:
        """The recorded sentence of the first frame; may be empty."""
        return self.tasks[0]

    @property
    def instructions(self) -> tuple[str, ...]:
        """All known wordings, of all segments."""
        return tuple(dict.fromkeys(words for segment in self.segments for words in segment.wordings))

    @property
    def segments(self) -> tuple[InstructionSegment, ...]:
        """The instruction of every frame: segments that cover the episode in order.

        In a dataset that verbot wrote, ``extras["segments"]`` hold them, and ``extras["instructions"]`` are wordings of an
        episode's one instruction. Otherwise the ``task_index`` of each frame says which sentence is its own.

        Raises `CorruptFileError` if a ``task_index`` has no sentence, `DataError` if the extras are damaged.
        """
        if SEGMENTS in self.extras:
            return segments_of_extras(self.extras, self.length, f"episode {self.index} of {self.dataset.root}")
        ours = isinstance(self._source, JournalEntry) or self._extra is not None
        if ours and len(tasks := self.tasks) == 1:
            wordings = tuple(self.extras.get("instructions") or tasks)
            edited = self._extra is not None and not self.dataset.is_ours and tasks[0] not in wordings  # by other software
            return (InstructionSegment(0, self.length, tasks if edited else wordings),)
        assert not isinstance(self._source, JournalEntry)
        return recorded_segments(self.dataset._stored, self._source)

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Further recorded values by feature name (``next.reward``, ``observation.environment_state``, …): (t, …).

        Single numbers are (t,). What is no number (text, LeRobot's language columns) is an array of Python objects. Each column
        is read when it is asked for.
        """
        return (
            self._source.columns if isinstance(self._source, JournalEntry) else FurtherColumns(self.dataset._stored, self._source)
        )

    @property
    def states(self) -> FloatArray:
        """float32 (t, s). Raises `CorruptFileError` if the files lack a frame."""
        if isinstance(self._source, JournalEntry):
            return self._source.states
        return self.dataset._stored.vectors(self._source, self.dataset._stored.roles.state)

    @property
    def actions(self) -> FloatArray:
        """float32 (t, a). Raises `CorruptFileError` if the files lack a frame."""
        if isinstance(self._source, JournalEntry):
            return self._source.actions
        return self.dataset._stored.vectors(self._source, self.dataset._stored.roles.action)

    @property
    def timestamps(self) -> Float64Array:
        """Seconds as recorded: float64 (t,); those of the control rate where none were recorded."""
        stored = self.dataset._stored
        recorded = None if isinstance(self._source, JournalEntry) else stored.numbers(self._source, layout.TIME)
        return np.arange(self.length) / self.dataset.spec.rate_hz if recorded is None else recorded.astype(np.float64)

    def images(self, camera: str, rows: Sequence[int] | None = None, fit: FitImage | None = None) -> Any:
        """uint8 RGB (t, h, w, 3), or float32 (t, h, w) in meters of a camera of kind ``"depth"``.

        The picture of a row is the one nearest to the row's time.

        Args:
            rows: only these frames; all of them if None.
            fit: crop and resize the pictures while they are decoded.

        Raises `UnknownNameError` for a camera that the dataset lacks, `CorruptFileError` for a row without a picture near its
        time and for pictures that are not as recorded.
        """
        with PictureReader({} if fit is None else {camera: fit}) as reader:
            return reader.read(self, camera, rows)

    def video(self, camera: str) -> EpisodeVideo | None:
        """Where the camera's video lies; None if the pictures are stored one by one. Raises `UnknownNameError` as `images`."""
        dataset, source = self.dataset, self._source
        if camera not in dataset.camera_names:
            raise UnknownNameError("camera", camera, dataset.camera_names)
        if isinstance(source, JournalEntry):
            if camera in source.pictures:
                return None
            name, rate_hz = f"episode {self.index} of {dataset.root}", dataset.spec.rate_hz
            return EpisodeVideo(
                source.videos[camera], name, self.index, np.arange(self.length) / rate_hz, rate_hz, size=self._size(camera)
            )
        return dataset._cameras.video(self.index, source, camera)

    def stored_images(self, camera: str, rows: Sequence[int] | None = None) -> UInt8Array | FloatArray:
        """The pictures of a camera that are stored one by one: uint8 RGB (t, h, w, 3), or float32 (t, h, w) meters of depth.

        Args:
            rows: only these frames, ascending; all of them if None.
        """
        if isinstance(self._source, JournalEntry):
            code, cells = self.dataset._stored.roles.depth.get(camera), self._source.pictures[camera]
            chosen = ((row, cells[row]) for row in (range(len(cells)) if rows is None else rows))
            return stored_pictures(chosen, f"episode {self.index} of {self.dataset.root}", camera, code, self._size(camera))
        return self.dataset._cameras.stored_images(self._source, camera, rows)

    def _size(self, camera: str) -> tuple[int, int]:
        """(height, width) as ``info.json`` has it."""
        key = self.dataset._camera_keys[camera]
        return image_size(key, self.dataset.info["features"][key], self.dataset.root)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def open_dataset(
    path: str | Path,
    spec: RobotSpec | None = None,
    features: FeatureMap | None = None,
    depth: bool = False,
    origin: str | Path | None = None,
) -> Dataset:
    """Open a LeRobotDataset v3.0, v2.1 or v2.0 for reading, also while it is being written.

    Args:
        spec: the robot's spec, for a dataset recorded without one. If None, ranges are those of the data.
        features: which features are the state, the action and the cameras, where they have other names than LeRobot's, as from
            `feature_map`: ``{"observation.state": ("arm", "gripper"), "observation.images.front": ("image0",)}``.
        depth: whether depth cameras are read. If not, they are in `Dataset.left_out`.
        origin: the dataset of verbot that this one was edited from with other software. Its spec, and the calibration, extras and
            wordings of each episode that is found again by its states and actions, are taken from there.

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
    if "verbot" in info and features:
        raise DataError(f"{root} holds verbot's own spec, so its features need no map; it has {', '.join(info['features'])}")
    roles = FeatureRoles.of(info["features"], root, features, depth)
    stored = StoredFrames(root, info, roles)
    source = open_dataset(origin, depth=depth) if origin is not None else None
    if spec is None and source is not None:
        spec = spec_of_origin(source.spec, info, roles, root)
    if spec is None:
        own = "verbot" in info
        spec = recorded_spec(info, root) if own else derived_spec(info, roles, root, stored.metadata.data_range, stored.ranges)
    if not depth:
        spec = dataclasses.replace(spec, cameras=tuple(camera for camera in spec.cameras if camera.kind != "depth"))
    check_spec(spec, info, roles, root)
    return Dataset(stored, spec, journaled, source, {"spec": spec, "features": features, "depth": depth})
