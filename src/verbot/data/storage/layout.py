"""The LeRobotDataset v3.0 layout: paths, feature table and parquet schemas, with verbot's additions.

A verbot dataset is a plain v3.0 dataset with two additions that LeRobot ignores. The key ``"verbot"`` of ``meta/info.json`` holds
the robot spec and the checksum of every committed file. ``meta/verbot/`` holds the calibration and extras of each episode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.errors import DataError
from verbot.spec import Camera, Component, RobotSpec
from verbot.statistics import QUANTILES, quantile_name

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EXTRAS_PATH = "meta/verbot/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FILES_PER_CHUNK = 1000

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
FRAME_COLUMNS = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
STATISTICS_KEYS = ("min", "max", "mean", "std", "count", *map(quantile_name, QUANTILES))


def place(template: str, number: int, **keys: str) -> str:
    """The path of file number `number` of its kind."""
    chunk, file = divmod(number, FILES_PER_CHUNK)
    return template.format(chunk_index=chunk, file_index=file, **keys)


def fps_of(rate_hz: float) -> int | float:
    """The rate in Hz; an int if it is a whole number, as LeRobot requires."""
    return int(rate_hz) if float(rate_hz).is_integer() else rate_hz


def axis_names(components: Sequence[Component]) -> list[str]:
    """``"ee_position.x"`` for each dimension; the component's own name if it has only one."""
    return [c.name if c.size == 1 else f"{c.name}.{axis}" for c in components for axis in c.axes]


def vectors(values: np.ndarray, size: int, dtype: pa.DataType = pa.float32()) -> pa.Array:  # noqa: B008
    """(n, size) numbers as a column: LeRobot stores vectors of one number as plain numbers."""
    flat = pa.array(np.ascontiguousarray(values, dtype.to_pandas_dtype()).reshape(-1))
    return flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)


EXTRAS_SCHEMA = pa.schema(
    [("episode_index", pa.int64()), ("identity", pa.string()), ("calibration", pa.string()), ("extras", pa.string())]
)


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """``meta/tasks.parquet``. Without pandas' index metadata LeRobot would read task numbers instead of sentences."""
    index = "__index_level_0__"
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {
        "index_columns": [index],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
            {"name": None, "field_name": index, **text},
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    schema = pa.schema([("task_index", pa.int64()), (index, pa.large_string())], metadata={"pandas": json.dumps(pandas)})
    return pa.table([pa.array(range(len(tasks)), pa.int64()), pa.array(tasks, pa.large_string())], schema=schema)


def spec_of(info: Mapping[str, Any], stats: Mapping[str, Any] | None, path: Path) -> RobotSpec:
    """The recorded spec of a dataset. For a dataset written by other software, a spec derived from its feature table.

    A derived spec has one component of kind ``"other"`` per vector, with the range of the data, because LeRobot records no
    units, frames or ranges. Pass ``open_dataset(path, spec=…)`` if they are known.
    """
    if "verbot" in info:
        return RobotSpec.from_json(info["verbot"]["spec"])
    features = info["features"]
    if ACTION not in features:
        raise DataError(f"{path}: no feature named {ACTION!r}; it has {', '.join(features)}")
    cameras = []
    for key, name in camera_features(features).items():
        height, width = features[key]["shape"][:2]
        if features[key].get("names") == ["channels", "height", "width"]:
            height, width = features[key]["shape"][1:]
        cameras.append(Camera(name, height, width))
    vectors_ = {key: _derived(key, features[key], (stats or {}).get(key)) for key in (STATE, ACTION) if key in features}
    state = (vectors_[STATE],) if STATE in vectors_ else ()
    return RobotSpec(info.get("robot_type") or "unknown", float(info["fps"]), tuple(cameras), state, (vectors_[ACTION],))


def camera_features(features: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Map the feature key of every color camera to the camera's name."""
    names: dict[str, str] = {}
    for key, feature in features.items():
        depth = (feature.get("info") or {}).get("video.is_depth_map", False)
        if feature["dtype"] in ("video", "image") and not depth:
            names[key] = key.removeprefix(IMAGES) if key.startswith(IMAGES) else key.rpartition(".")[2]
    return names


def _derived(key: str, feature: Mapping[str, Any], stats: Mapping[str, Any] | None) -> Component:
    (size,) = feature["shape"]
    names = feature.get("names")
    while isinstance(names, Mapping):  # older recordings: {"motors": [...]}
        names = next(iter(names.values()), None)
    axes = tuple(map(str, names)) if isinstance(names, list) and len(names) == size else tuple(f"{i}" for i in range(size))
    low, high = np.full(size, -1.0), np.full(size, 1.0)
    if stats and np.size(stats["min"]) == np.size(stats["max"]) == size:
        low, high = np.asarray(stats["min"], float).reshape(-1), np.asarray(stats["max"], float).reshape(-1)
    spread = np.maximum(high - low, 1e-6)
    return Component(key.rpartition(".")[2], "other", axes, "", "", tuple((high - spread).tolist()), tuple(high.tolist()))
