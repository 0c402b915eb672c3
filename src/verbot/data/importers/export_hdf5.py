"""Exports a dataset to HDF5 in robomimic's layout."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.storage.reader import Episode, open_dataset
from verbot.errors import DataError
from verbot.parallel.progress import Progress


@dataclass(frozen=True)
class ExportResult:
    path: str
    episodes: int
    frames: int


def export_hdf5(source: str | Path, target: str | Path, limit: int | None = None, progress: bool = False) -> ExportResult:
    """Write the dataset at `source` to the file `target`, which appears only when it is complete.

    ``data/demo_k`` has `actions` (t, a), `dones` (t,), ``obs/<component>`` (t, s), ``obs/<camera>_image`` uint8 (t, h, w, 3), and
    the attributes `num_samples` and `language_instruction` (all wordings). ``data`` has `total`, `env_args`, and the robot's spec
    in `verbot_spec`. Importing the file gives the same dataset again.

    Args:
        limit: export only this many episodes from the start; all if None.

    Raises `DataError` if `target` exists or `source` is empty.
    """
    import h5py

    dataset, path = open_dataset(source), Path(target)
    if path.exists():
        raise DataError(f"{path} exists; choose another file")
    count = min(len(dataset), limit or len(dataset))
    if not count:
        raise DataError(f"{source} has no episodes")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        frames = 0
        with h5py.File(draft, "w") as file, Progress("export", count, "episodes", enabled=progress) as bar:
            data = file.create_group("data")
            for number in range(count):
                frames += _write(data.create_group(f"demo_{number}"), dataset[number])
                bar.update(number + 1)
            data.attrs["total"] = frames
            arguments = {"env_name": dataset.spec.name, "type": 2, "env_kwargs": {"control_freq": dataset.spec.rate_hz}}
            data.attrs["env_args"] = json.dumps(arguments)
            data.attrs["verbot_spec"] = json.dumps(dataset.spec.to_json())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return ExportResult(str(path), count, frames)


def _write(group: Any, episode: Episode) -> int:
    length, spec = len(episode), episode.dataset.spec
    group.create_dataset("actions", data=episode.actions)
    group.create_dataset("dones", data=(np.arange(length) == length - 1).astype(np.uint8))
    states, observed = episode.states, group.create_group("obs")
    for name, place in spec.state_slices().items():
        observed.create_dataset(name, data=states[:, place])
    for camera in spec.cameras:
        pictures = episode.images(camera.name)
        observed.create_dataset(f"{camera.name}_image", data=pictures, chunks=(1, *pictures.shape[1:]), compression="gzip")
    group.attrs["num_samples"] = length
    wordings = tuple(dict.fromkeys([episode.instruction, *episode.instructions]))
    group.attrs["language_instruction"] = list(wordings)
    group.attrs["verbot_calibration"] = json.dumps(dict(episode.calibration))
    group.attrs["verbot_extras"] = json.dumps(dict(episode.extras))
    return length
