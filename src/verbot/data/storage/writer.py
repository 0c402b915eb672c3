"""Writes episodes as LeRobotDataset v3.0. A crash at any instant loses no saved episode.

`DatasetWriter.save_episode` commits the episode to the journal: one file that is written, fsynced and renamed. From time to time,
and at the end, the journal is merged into new v3.0 files. Readers ignore these files until ``meta/info.json`` names them; it is
replaced atomically. Only then are the journal's entries removed. At every instant an episode is in the dataset's files, in the
journal, or briefly in both, in which case the files count.

Existing files are never rewritten, with two exceptions: ``meta/tasks.parquet`` and ``meta/stats.json``, which can be derived
again, and files whose instructions are replaced (`DatasetWriter.replace`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.storage import layout, own_files
from verbot.data.storage.commit import Run, merged, runs
from verbot.data.storage.dataset_statistics import image_statistics, whole_statistics
from verbot.data.storage.files import parquet_bytes, read_parquet
from verbot.data.storage.info import read_info, recorded_spec, seal
from verbot.data.storage.journal import EpisodeJournal, JournalEntry
from verbot.data.storage.png import EncodedImages, encode_pictures
from verbot.data.storage.record import EpisodeRecord
from verbot.data.storage.schema import IMAGE, FeatureEntry, check_column, feature_of, further_features, new_info, storage_of
from verbot.data.storage.segments import SEGMENTS, segments_to_json
from verbot.data.storage.video import encode_video, encoding_of
from verbot.errors import DataError, UnwritableError
from verbot.files import lock, sha256, write_atomic
from verbot.folders import recover
from verbot.spec import Camera, Component, RobotSpec

MERGE_EPISODES, MERGE_BYTES = 256, 64 << 20  # the journal is merged when it reaches either size
ABSENT = "absent"  # used as the checksum of a derived file that need not exist yet


class DatasetWriter:
    """Creates a dataset at `path`, or extends the one there, which must have the same spec. One writer at a time.

    Use as a context manager.

    Args:
        merge_every: number of episodes after which the journal is merged.
        images: how the frames of color cameras are stored: ``"video"`` (the default), or ``"image"``: as PNG, without loss, and
            larger; for all cameras, or by name. Depth is always stored as PNG.
        columns: the further columns of every episode, as ``{"next.reward": {"dtype": "float32", "shape": [1], "names": None}}``;
            those of the first episode if None.

    Raises `DataError` when another writer has it open, or when its spec, its way to store images or its columns differ.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.reader import open_dataset
        >>> spec = RobotSpec("toy", 10.0, (), (), (Component("grip", "gripper", ("open",), "1", "tool", (0.0,), (1.0,)),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with DatasetWriter(folder, spec) as writer:
        ...         number = writer.save_episode(EpisodeRecord("open", np.zeros((3, 0)), np.ones((3, 1)), {}))
        ...     len(open_dataset(folder)), number
        (1, 0)
    """

    def __init__(
        self,
        path: str | Path,
        spec: RobotSpec,
        merge_every: int = MERGE_EPISODES,
        images: str | Mapping[str, str] | None = None,
        columns: Mapping[str, FeatureEntry] | None = None,
    ):
        self.root, self.spec, self._merge_every = Path(path), spec, merge_every
        self._images, self._columns = storage_of(spec, images), columns
        self._journal = EpisodeJournal(self.root)
        recover(self.root)  # before the lock makes the folder
        self._stale = False  # whether sentences were replaced after the statistics were computed
        self._open = contextlib.ExitStack()
        self._open.enter_context(lock(self.root / ".lock", wait=False, holder="another process is writing to this dataset"))
        try:
            own_files.refuse_links(self.root)
            self._info = self._load()
            self._tasks = self._known_tasks()
            self._clean()
        except BaseException:
            self._open.close()
            raise
        self._pending_bytes = sum(path.stat().st_size for path in self._journal.paths())
        self._count = self._info["total_episodes"] + len(self._journal.paths())
        self._merge_at = self._info["total_episodes"] + merge_every

    def __len__(self) -> int:
        """Number of saved episodes, including those of earlier writers."""
        return self._count

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def save_episode(
        self, record: EpisodeRecord, encoded: Mapping[str, EncodedImages] | None = None, identity: str | None = None
    ) -> int:
        """Save one episode and return its number. On return the episode survives a crash; if this raises, it is not there.

        If the disk is full when the journal is to be merged, the episode stays in the journal, and a later call tries again.

        Args:
            encoded: the frames of cameras that are already encoded, which `record` then lacks.
            identity: the identity of an episode that this is an unchanged copy of.

        Raises `DataError` for an episode that does not fit the robot or the dataset's columns, `UnwritableError` if the disk is
        full.
        """
        encoded = dict(encoded or {})
        record.check(self.spec, tuple(encoded))
        columns = self._fitting(record)
        for camera, frames in record.images.items():
            encoded[camera] = self._encoded(camera, np.ascontiguousarray(frames))
        extras, several = dict(record.extras), len(record.segments) > 1
        if several:
            extras[SEGMENTS] = segments_to_json(record.segments)
        elif record.segments and len(record.segments[0].wordings) > 1:
            extras.setdefault("instructions", list(record.segments[0].wordings))
        entry = JournalEntry(
            index=self._count,
            instruction=record.instruction,
            states=np.ascontiguousarray(record.states, np.float32),
            actions=np.ascontiguousarray(record.actions, np.float32),
            videos={camera: found.video for camera, found in encoded.items() if found.video is not None},
            calibration=record.calibration,
            extras=extras,
            statistics={camera: found.statistics for camera, found in encoded.items()},
            segments=record.segments if several else (),
            columns=columns,
            pictures={camera: found.pictures for camera, found in encoded.items() if found.video is None},
            copied_from=identity,
        )
        self._pending_bytes += self._journal.write(entry)
        self._count += 1
        if self._count >= self._merge_at or self._pending_bytes >= MERGE_BYTES:
            self._pending_bytes, self._merge_at = 0, self._count + self._merge_every  # of the next attempt
            with contextlib.suppress(UnwritableError):  # the episode is saved; `close` merges it, or raises
                self.merge()
        return entry.index

    def stored_as(self, camera: str) -> str:
        """``"video"`` or ``"image"``."""
        return str(self._info["features"][layout.IMAGES + camera]["dtype"])

    def _encoded(self, camera: str, frames: np.ndarray) -> EncodedImages:
        statistics = image_statistics(frames)
        if self.stored_as(camera) == IMAGE:
            return EncodedImages(None, encode_pictures(frames), statistics)
        return EncodedImages(encode_video(frames, self.spec.rate_hz), (), statistics)

    def _fitting(self, record: EpisodeRecord) -> dict[str, np.ndarray]:
        """The columns of `record` as they are stored. The first episode declares them, unless the writer was given columns."""
        features = {name: feature_of(name, np.asarray(values)) for name, values in record.columns.items()}
        known: Mapping[str, FeatureEntry] = further_features(self._info["features"])
        if not self._count and self._columns is None and features != known:
            info = json.loads(json.dumps(self._info))
            info["features"] = {key: f for key, f in info["features"].items() if key not in known} | features
            self._write_info(info, {})
            known = features
        if set(features) != set(known):
            raise DataError(
                f"the episode has the further columns {', '.join(sorted(features)) or 'none'}; those of every episode of "
                f"{self.root} are {', '.join(sorted(known)) or 'none'}"
            )
        columns = {}
        for name, values in record.columns.items():
            check_column(name, np.asarray(values), known[name])
            one = list(known[name]["shape"]) == [1]
            columns[name] = np.ascontiguousarray(np.asarray(values).reshape(len(values)) if one else values)
        return columns

    def replace(self, files: Mapping[str, bytes], tasks: Sequence[str]) -> None:
        """Replace the content of dataset files for the same episodes, and the numbered list of sentences by `tasks`.

        Until a file is replaced its old content is accepted too. The old and the new content must therefore be valid together,
        and `tasks` must begin with the present sentences. Call `merge` first; `close` updates the statistics.

        Args:
            files: the new content of each file by name.
            tasks: all sentences of the dataset, in the order of their numbers.
        """
        self._tasks = list(tasks)
        info = json.loads(json.dumps(self._info))
        info["total_tasks"], info["verbot"]["tasks"] = len(tasks), self._tasks
        for name, content in files.items():
            info["verbot"]["files"][name] = sorted({_checksum(self.root / name), sha256(content)})
        self._write_info(info, {layout.TASKS: parquet_bytes(layout.tasks_table(self._tasks))})
        for name, content in files.items():
            write_atomic(self.root / name, content, follow=False)
        self._settle()
        self._stale = True

    def attach(self, name: str, content: bytes) -> None:
        """Write a further file of the dataset, such as ``meta/import.json``, and its checksum into ``info.json``."""
        path = self.root / name
        if not path.is_file() or path.read_bytes() != content or name not in self._info["verbot"]["derived"]:
            self._write_info(json.loads(json.dumps(self._info)), {name: content})

    @property
    def tasks(self) -> tuple[str, ...]:
        """The sentences of all merged episodes, in the order of their numbers."""
        return tuple(self._tasks)

    def merge(self) -> None:
        """Move the journal's episodes into v3.0 files, which LeRobot can read too."""
        for run in runs(self._journal.read(self._info["total_episodes"])):
            self._commit(run)
        self._pending_bytes, self._merge_at = 0, self._info["total_episodes"] + self._merge_every

    def close(self) -> None:
        """Merge the journal, update ``meta/stats.json`` and release the write lock.

        Raises `UnwritableError` if the disk is full; every saved episode is kept, and merged when the dataset is next extended.
        """
        try:
            self.merge()
            self._write_statistics()
            self._settle()
            self._journal.remove()
        except UnwritableError as error:
            raise UnwritableError(self.root, error.cause, f"its {self._count} episodes are saved in it: make room, and extend it "
                                  f"or check it with `verbot data check`") from error  # fmt: skip
        finally:
            self._open.close()

    def _load(self) -> dict[str, Any]:
        if not (self.root / layout.INFO).is_file():
            if any(path.is_file() and not path.name.startswith(".") for path in self.root.rglob("*")):
                raise DataError(f"{self.root} holds files but no {layout.INFO}; choose another folder")
            info = new_info(self.spec, self._images, self._columns or {})
            write_atomic(self.root / layout.INFO, _sealed(info), follow=False)
            return info
        info = read_info(self.root)
        record = info.get("verbot")
        if record is None or record["episodes"] != info["total_episodes"]:
            raise DataError(f"{self.root} was written or changed by other software; copy its episodes to a new dataset instead")
        if recorded_spec(info, self.root) != self.spec:
            raise DataError(
                f"{self.root} has another robot spec ({record['spec']['name']!r}); episodes of {self.spec.name!r} do not fit"
            )
        for camera in self.spec.camera_names:
            if layout.IMAGES + camera not in info["features"]:
                raise DataError(f"{self.root} calls its camera {camera!r} otherwise; copy its episodes to a new dataset instead")
        for camera, stored in self._images.items():
            if stored != info["features"][layout.IMAGES + camera]["dtype"]:
                raise DataError(f"{self.root} does not store the images of camera {camera!r} as {stored!r}; leave the option out")
        known = further_features(info["features"])
        if self._columns is not None and {**self._columns} != known:
            raise DataError(f"{self.root} has the further columns {known or 'none'}; the writer was given {dict(self._columns)}")
        return info

    def _known_tasks(self) -> list[str]:
        """Task sentences in the order of their numbers: the recorded order if some were replaced, then order of appearance."""
        tasks: dict[str, None] = dict.fromkeys(self._info["verbot"].get("tasks", ()))
        for name, checksum in self._files("meta/episodes/").items():
            table = read_parquet(self.root / name, checksum, lambda column: column == "tasks")
            tasks |= dict.fromkeys(task for row in table.column("tasks").to_pylist() for task in row)
        return list(tasks)

    def _files(self, prefix: str) -> dict[str, str]:
        return {name: checksum for name, checksum in sorted(self._info["verbot"]["files"].items()) if name.startswith(prefix)}

    def _clean(self) -> None:
        """Remove uncommitted files of a writer that died, and close gaps that a user left in the journal."""
        for path in own_files.uncommitted(self.root, self._info):
            path.unlink()
        self._journal.clear(before=self._info["total_episodes"])
        self._journal.renumber(self._info["total_episodes"])
        tasks = parquet_bytes(layout.tasks_table(self._tasks))
        if self._tasks and _checksum(self.root / layout.TASKS) != sha256(tasks):
            self._write_info(json.loads(json.dumps(self._info)), {layout.TASKS: tasks})

    def _commit(self, run: Run) -> None:
        """Merge `run` into one new file of each kind. The replacement of ``info.json`` is the commit."""
        info = json.loads(json.dumps(self._info))
        tasks = list(dict.fromkeys([*self._tasks, *(sentence for entry in run.entries for sentence in entry.sentences)]))
        number = len(self._files("data/"))
        if not number:  # encoded videos may be of another codec
            for camera, clip in run.clips[0].items():
                info["features"][layout.IMAGES + camera]["info"] |= encoding_of(clip.video)
        files = merged(run, self.spec, info["features"], number, info["total_frames"], tasks)
        for name, content in files.items():
            info["verbot"]["files"][name] = write_atomic(self.root / name, content, follow=False)
        info["total_episodes"] += len(run.entries)
        info["total_frames"] += sum(entry.length for entry in run.entries)
        info["total_tasks"] = len(tasks)
        info["splits"] = {"train": f"0:{info['total_episodes']}"}
        info["verbot"]["episodes"] = info["total_episodes"]
        self._tasks = tasks
        self._write_info(info, {layout.TASKS: parquet_bytes(layout.tasks_table(tasks))})
        self._journal.clear(before=info["total_episodes"])

    def _write_info(self, info: dict[str, Any], derived: Mapping[str, bytes]) -> None:
        """Commit `info`, then replace the `derived` files. Until a file is replaced its old content is accepted too."""
        for name, content in derived.items():
            path = self.root / name
            info["verbot"]["derived"][name] = sorted({_checksum(path), sha256(content)})
        content = _sealed(info)
        try:
            write_atomic(self.root / layout.INFO, content, follow=False)
        except UnwritableError:
            if (self.root / layout.INFO).read_bytes() == content:  # the disk refused it after it had its name
                self._info = info
            raise
        self._info = info
        for name, content in derived.items():
            write_atomic(self.root / name, content, follow=False)

    def _settle(self) -> None:
        """Accept only the present content of derived and replaced files from now on."""
        info = json.loads(json.dumps(self._info))
        files = info["verbot"]["files"]
        files |= {name: _checksum(self.root / name) for name, accepted in files.items() if not isinstance(accepted, str)}
        info["verbot"]["derived"] = {name: [_checksum(self.root / name)] for name in info["verbot"]["derived"]}
        if info != self._info:
            self._write_info(info, {})

    def _write_statistics(self) -> None:
        if not self._info["total_episodes"]:
            return
        path = self.root / layout.STATS
        counted = path.is_file() and json.loads(path.read_bytes())["index"]["count"] == [self._info["total_frames"]]
        if counted and not self._stale:
            return
        info = self._info
        statistics = whole_statistics(self.root, info["features"], info["verbot"]["files"], info["total_frames"])
        self._write_info(json.loads(json.dumps(self._info)), {layout.STATS: json.dumps(statistics, indent=1).encode()})


def _checksum(path: Path) -> str:
    return sha256(path.read_bytes()) if path.is_file() else ABSENT


def _sealed(info: dict[str, Any]) -> bytes:
    """``info.json`` with a checksum of its other content."""
    info["verbot"].pop("seal", None)
    info["verbot"]["seal"] = seal(info)
    return json.dumps(info, indent=4, ensure_ascii=False).encode()


def example_dataset(folder: str | Path) -> Path:
    """A tiny dataset for examples: two episodes of 12 frames from one 32×32 camera, in which a red square moves."""
    position = Component("ee_position", "position", ("x", "y", "z"), "m", "base", (0.0, -0.5, 0.0), (1.0, 0.5, 1.0))
    grip = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    delta = Component("position_delta", "position_delta", ("x", "y", "z"), "m", "base", (-0.05,) * 3, (0.05,) * 3)
    spec = RobotSpec("toy", 10.0, (Camera("front", 32, 32),), (position, grip), (delta, grip))
    with DatasetWriter(folder, spec) as writer:
        for number, color in enumerate(("red", "blue")):
            images = np.full((12, 32, 32, 3), 90, np.uint8)
            for t in range(12):
                images[t, 10:18, t : t + 8] = (220, 40, 40) if number == 0 else (40, 40, 220)
            states = np.linspace((0.3, 0.0, 0.4, 1.0), (0.6, 0.1, 0.1, 0.0), 12, dtype=np.float32)
            actions = np.diff(states, axis=0, append=states[-1:])
            actions[:, 3] = np.arange(12) < 8
            writer.save_episode(EpisodeRecord(f"touch the {color} cube", states, actions, {"front": images}))
    return Path(folder)
