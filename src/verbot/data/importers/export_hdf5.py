"""Exports a dataset to HDF5 in robomimic's layout, as its ``SequenceDataset`` reads it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers.hdf5_notes import COLUMNS
from verbot.data.importers.hdf5_sentences import WORDINGS
from verbot.data.storage.features import FeatureMap
from verbot.data.storage.reader import Episode, open_dataset
from verbot.errors import DataError
from verbot.files import replacing
from verbot.parallel.progress import Progress

VALID, SEED = 0.1, 0  # the part of the episodes that mask/valid lists, and the seed that draws them
GYM = 2  # the type of an environment that is none of robosuite's


@dataclass(frozen=True)
class ExportResult:
    path: str
    episodes: int
    frames: int


def export_hdf5(
    source: str | Path,
    target: str | Path,
    limit: int | None = None,
    progress: bool = False,
    features: FeatureMap | None = None,
) -> ExportResult:
    """Write the dataset at `source` to the file `target`, which appears only when it is complete.

    ``data/demo_k`` has

    - `actions` (t, a), `obs` and `next_obs`: ``<component>`` (t, s), ``<camera>_image`` uint8 (t, h, w, 3), or ``<camera>_depth``
      float32 (t, h, w, 1) in meters. The last frame is its own next one.
    - `rewards` and `dones` (t,): the columns ``next.reward`` and ``next.done`` if the dataset has them. Otherwise the reward is 1
      at the last frame of an episode whose ``extras["success"]`` is true and 0 elsewhere, and the last frame is done.
    - `states` (t, n): the column ``observation.environment_state``, if the dataset has it. Other columns are in `columns`.
    - `language_instruction`, one sentence per frame, if the instruction changes within the episode.
    - the attributes `num_samples` and `language_instruction` (all wordings).

    ``data`` has `total`, `env_args`, and the robot's spec in `verbot_spec`; ``mask/train`` and ``mask/valid`` list the
    demonstrations, a tenth of them in `valid` if there are several. Importing the file gives the same dataset again.

    Args:
        limit: export only this many episodes from the start; all if None.
        features: as in `verbot.open_dataset`.

    Raises `DataError` if `target` exists or `source` is empty, `UnwritableError` if the disk is full.
    """
    dataset, path = open_dataset(source, features=features, depth=True), Path(target)
    if path.exists():
        raise DataError(f"{path} exists; choose another file")
    count = min(len(dataset), limit or len(dataset))
    if not count:
        raise DataError(f"{source} has no episodes")
    frames = 0
    with (
        replacing(path) as draft,
        _new_file(draft) as (file, disk),
        Progress("export", count, "episodes", enabled=progress) as bar,
    ):
        data = file.create_group("data")
        for number in range(count):
            frames += _write(data.create_group(f"demo_{number}"), dataset[number])
            disk.check()
            bar.update(number + 1)
        data.attrs["total"] = frames
        arguments = {"env_name": dataset.spec.name, "type": GYM, "env_kwargs": {"control_freq": dataset.spec.rate_hz}}
        data.attrs["env_args"] = json.dumps(arguments)
        data.attrs["verbot_spec"] = json.dumps(dataset.spec.to_json())
        for name, numbers in _parts(count).items():
            file[f"mask/{name}"] = np.array([f"demo_{number}" for number in numbers], "S")
    return ExportResult(str(path), count, frames)


class _PatientFile:
    """A new file for h5py's driver of Python files that keeps the first error of the disk instead of raising it.

    HDF5 writes again as each of its objects is deleted, and after a write that failed it may crash the process. Here no write
    fails for it: after the first error nothing more is written, and `check` raises that error.
    """

    def __init__(self, path: Path):
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error."""
        if self._error is not None:
            raise OSError(self._error.errno, os.strerror(self._error.errno or 0))

    def write(self, data: memoryview) -> int:
        left = memoryview(data).cast("B")
        while left and self._error is None:
            with self._keeping_errors():
                left = left[self._file.write(left) or 0 :]
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        with self._keeping_errors():
            self._file.truncate(size)
        return size or 0

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        with self._keeping_errors():
            self._file.close()

    @contextlib.contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[tuple[Any, _PatientFile]]:
    """An open HDF5 file and what it is written to. Raises the first error of the disk, in place of h5py's text about it."""
    import h5py

    disk = _PatientFile(path)
    try:
        with h5py.File(disk, "w") as file:
            yield file, disk
    finally:
        disk.close()
        disk.check()


def _parts(count: int) -> dict[str, list[int]]:
    """The numbers of the episodes to train on, and of those to validate on unless there is only one episode."""
    held = sorted(np.random.default_rng(SEED).permutation(count)[: max(1, round(VALID * count))].tolist()) if count > 1 else []
    parts = {"train": [number for number in range(count) if number not in set(held)], "valid": held}
    return {name: numbers for name, numbers in parts.items() if numbers}


def _write(group: Any, episode: Episode) -> int:
    length, spec = len(episode), episode.dataset.spec
    group.create_dataset("actions", data=episode.actions)
    states = episode.states
    observed, following = group.create_group("obs"), group.create_group("next_obs")
    after = np.minimum(np.arange(length) + 1, length - 1)
    for name, place in spec.state_slices().items():
        observed.create_dataset(name, data=states[:, place])
        following.create_dataset(name, data=states[after, place])
    for camera in spec.cameras:
        pictures = episode.images(camera.name)
        deep = camera.kind == "depth"
        name = f"{camera.name}_depth" if deep else f"{camera.name}_image"
        _write_pictures(observed, following, name, pictures[..., None] if deep else pictures)
    _write_columns(group, episode.columns, length, episode.extras.get("success") is True)
    _write_sentences(group, episode)
    group.attrs["num_samples"] = length
    group.attrs["verbot_calibration"] = json.dumps(dict(episode.calibration))
    group.attrs["verbot_extras"] = json.dumps(dict(episode.extras))
    return length


def _write_pictures(observed: Any, following: Any, name: str, pictures: np.ndarray) -> None:
    """The pictures of a camera, and those of the next frames, which copy the compressed chunks."""
    layout = {"chunks": (1, *pictures.shape[1:]), "compression": "gzip"}
    stored = observed.create_dataset(name, data=pictures, **layout)
    copied = following.create_dataset(name, pictures.shape, pictures.dtype, **layout)
    corner = (0,) * (pictures.ndim - 1)
    for row in range(len(pictures)):
        mask, content = stored.id.read_direct_chunk((min(row + 1, len(pictures) - 1), *corner))
        copied.id.write_direct_chunk((row, *corner), content, mask)


def _write_columns(group: Any, columns: Mapping[str, np.ndarray], length: int, success: bool) -> None:
    import h5py

    names = {column: name for name, column in COLUMNS.items()}
    places = {column: names.get(column, f"columns/{column}") for column in columns}
    for column, name in places.items():
        values = np.asarray(columns[column])
        values = values.reshape(length) if name in ("rewards", "dones") else values
        if values.dtype.kind in "OUT" and all(isinstance(value, str) for value in values.reshape(-1)):
            group.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype())
        else:
            group.create_dataset(name, data=values.astype(np.uint8) if name == "dones" else values)
    last = np.arange(length) == length - 1
    if "rewards" not in group:
        group.create_dataset("rewards", data=(last & success).astype(np.float32))
    if "dones" not in group:
        group.create_dataset("dones", data=last.astype(np.uint8))
    group.attrs["verbot_columns"] = json.dumps({name: column for column, name in places.items()})


def _write_sentences(group: Any, episode: Episode) -> None:
    import h5py

    wordings = tuple(dict.fromkeys([episode.instruction, *episode.instructions]))
    segments = episode.segments
    if len(segments) > 1:
        wordings = segments[0].wordings
        sentences = [segment.wordings[0] for segment in segments for _ in range(segment.start, segment.stop)]
        group.create_dataset("language_instruction", data=sentences, dtype=h5py.string_dtype())
        group.attrs[WORDINGS] = json.dumps({segment.wordings[0]: list(segment.wordings) for segment in segments})
    group.attrs["language_instruction"] = list(wordings)
