"""A dataset that is edited: its episodes as records, with the changes of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from verbot.data.editing.clips import StoredImages
from verbot.data.editing.plan import EditPlan, Piece
from verbot.data.storage.journal import JournalEntry
from verbot.data.storage.moved import moved_column, moved_extras, moved_segments
from verbot.data.storage.png import EncodedImages
from verbot.data.storage.reader import Dataset, Episode
from verbot.data.storage.record import EpisodeRecord
from verbot.data.storage.resample import resample, resampled_spec
from verbot.data.storage.schema import IMAGE, NUMBERS, VIDEO, FeatureEntry, further_features
from verbot.data.storage.segments import InstructionSegment
from verbot.data.storage.sentences import reworded
from verbot.errors import DataError
from verbot.spec import Float64Array, FloatArray, Int64Array

NOT_KEPT, NO_CAMERA = "its type is not written", "it is not read as a camera"


class EditSource:
    """The episodes of `dataset` as `plan` changes them.

    Args:
        dataset: of any software that writes LeRobotDataset.
    """

    def __init__(self, dataset: Dataset, plan: EditPlan):
        self.dataset, self._plan, self._images = dataset, plan, StoredImages(dataset)
        self.recorded_columns = {
            name: feature
            for name, feature in further_features(dataset.info["features"]).items()
            if feature["dtype"] in (*NUMBERS, "bool", "string") and all(isinstance(size, int) for size in feature["shape"])
        }
        self._rate_hz = plan.rate_hz or dataset.spec.rate_hz / plan.subsample
        spec = dataset.spec if self._rate_hz == dataset.spec.rate_hz else resampled_spec(dataset.spec, self._rate_hz)
        cameras = tuple(dataclasses.replace(c, name=plan.rename_cameras.get(c.name, c.name)) for c in spec.cameras)
        self.spec = dataclasses.replace(spec, cameras=cameras)

    @property
    def ours(self) -> bool:
        """Whether verbot wrote every episode."""
        record = self.dataset.info.get("verbot")
        return record is not None and (self._images.ours or not self.dataset.info["total_episodes"])

    @property
    def columns(self) -> dict[str, FeatureEntry]:
        """The further columns by their new names."""
        renamed = self._plan.rename_features
        return {renamed.get(name, name): {key: f.get(key) for key in ("dtype", "shape", "names")} for name, f in
                self.recorded_columns.items()}  # fmt: skip

    @property
    def left_out(self) -> dict[str, str]:
        """Features that are not written, each with the reason."""
        features = self.dataset.info["features"]
        columns = {name: NOT_KEPT for name in further_features(features) if name not in self.recorded_columns}
        used = {self.dataset._camera_keys[name] for name in self.dataset.spec.camera_names if name in self.dataset._camera_keys}
        cameras = [key for key, feature in features.items() if feature["dtype"] in (IMAGE, VIDEO) and key not in used]
        return columns | dict.fromkeys(cameras, NO_CAMERA)

    @property
    def rate_change(self) -> str:
        """What happens to the rate; empty if it stays."""
        if self._rate_hz == self.dataset.spec.rate_hz:
            return ""
        return f"{self.dataset.root.name} from {self.dataset.spec.rate_hz:g} Hz to {self._rate_hz:g} Hz"

    def stored_as(self, camera: str) -> str:
        """How the images of a camera, by its new name, are stored: ``"video"`` or ``"image"``."""
        key = self.dataset._camera_keys[self._recorded(camera)]
        return str(self.dataset.info["features"][key]["dtype"])

    def record(self, piece: Piece, stored_as: Callable[[str], str]) -> tuple[EpisodeRecord, dict[str, EncodedImages], str | None]:
        """A piece of an episode, the images of it that are copied, and its identity if nothing of it changes.

        Args:
            stored_as: how the images of a camera are to be stored.
        """
        episode = self.dataset[piece.episode]
        rows, states, actions = self._rows(episode, piece)
        segments, extras = self._words(episode, piece.number, rows)
        columns = {
            self._plan.rename_features.get(name, name): moved_column(name, self._column(episode, name), rows, piece.stop)
            for name in self.recorded_columns
        }
        copied, images = {}, {}
        for camera in self.spec.camera_names:
            old = self._recorded(camera)
            found = self._images.copied(episode, old, rows) if stored_as(camera) == self.stored_as(camera) else None
            if found is None:
                images[camera] = np.ascontiguousarray(episode.images(old, rows.tolist()))
            else:
                copied[camera] = found
        calibration = {self._plan.rename_cameras.get(name, name): value for name, value in episode.calibration.items()}
        several = segments if len(segments) > 1 else ()
        record = EpisodeRecord(segments[0].wordings[0], states, actions, images, calibration, extras, several, columns)
        same = self.ours and piece.whole and not images and self._rate_hz == self.dataset.spec.rate_hz
        return record, copied, episode.identity if same else None

    def _recorded(self, camera: str) -> str:
        """The name that a camera has in this dataset."""
        names = self.dataset.spec.camera_names
        return next((old for old in names if self._plan.rename_cameras.get(old, old) == camera), camera)

    def _rows(self, episode: Episode, piece: Piece) -> tuple[Int64Array, FloatArray, FloatArray]:
        """The frames that are kept, their states and actions."""
        part = slice(piece.start, piece.stop)
        times = self._times(episode)[part]
        states, actions = episode.states[part], episode.actions[part]
        rate_hz = self.dataset.spec.rate_hz
        uneven = np.abs(times - times[0] - np.arange(len(times)) / rate_hz) > 0.5 / rate_hz
        if uneven.any() and self._plan.rate_hz is None:
            frame = int(np.flatnonzero(uneven)[0])
            raise DataError(
                f"{self.dataset.root}: frame {piece.start + frame} of episode {piece.episode} is at {times[frame]:.3f} s, not "
                f"{times[0] + frame / rate_hz:.3f} s as at {rate_hz:g} Hz; give --rate-hz {rate_hz:g} to resample"
            )
        if self._rate_hz == rate_hz and not uneven.any():
            return np.arange(piece.start, piece.stop), states, actions
        found = resample(times, states, actions, self.dataset.spec, self._rate_hz)
        return piece.start + found.rows, found.states, found.actions

    def _times(self, episode: Episode) -> Float64Array:
        """The timestamps (t,) of an episode in seconds."""
        even = np.arange(len(episode)) / self.dataset.spec.rate_hz
        source = episode._source
        if self.ours or isinstance(source, JournalEntry) or "timestamp" not in self.dataset.info["features"]:
            return even
        path: Path = self.dataset._data_path(source)
        chosen = pc.field("episode_index") == source["episode_index"]
        table = pq.read_table(path, columns=["timestamp", "episode_index"], filters=chosen)
        times = np.asarray(table.column("timestamp").to_numpy(), np.float64)
        return times if len(times) == len(even) else even

    def _column(self, episode: Episode, name: str) -> np.ndarray:
        """A further column in the type and shape that the feature table says."""
        feature = self.recorded_columns[name]
        values = episode.columns[name]
        if feature["dtype"] == "string":
            return np.asarray(values, object).reshape(len(episode))
        shape = () if list(feature["shape"]) == [1] else tuple(feature["shape"])
        return np.asarray(values, feature["dtype"]).reshape(len(episode), *shape)

    def _words(self, episode: Episode, number: int, rows: Int64Array) -> tuple[tuple[InstructionSegment, ...], dict[str, Any]]:
        """The instruction of every frame that is kept, and the extras."""
        extras: Mapping[str, Any] = episode.extras
        segments = episode.segments
        if len(segments) == 1:  # the recorded sentence, which need not be the first of the wordings
            wordings = tuple(dict.fromkeys((episode.instruction, *segments[0].wordings)))
            segments = (dataclasses.replace(segments[0], wordings=wordings),)
        texts = self._plan.instructions.get(number)
        if texts is not None:
            extras, segments = reworded(extras, texts, episode.tasks), (InstructionSegment(0, len(episode), tuple(texts)),)
        elif any(segment.wordings[0] in self._plan.replacements for segment in segments):
            segments = tuple(
                dataclasses.replace(s, wordings=tuple(self._plan.replacements.get(s.wordings[0], s.wordings))) for s in segments
            )
            extras = reworded(extras, segments[0].wordings, episode.tasks) if len(segments) == 1 else extras
        moved = moved_extras(extras, rows)
        found = moved_segments(segments, rows)
        if len(found) == 1 and len(found[0].wordings) > 1:
            moved.setdefault("instructions", list(found[0].wordings))
        return found, moved
