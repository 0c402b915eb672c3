"""The LeRobotDataset v3.0 layout: paths, feature table and parquet schemas, with verbot's additions.

A verbot dataset is a plain v3.0 dataset with two additions that LeRobot ignores. The key ``"verbot"`` of ``meta/info.json`` holds
the robot spec and the checksum of every committed file. ``meta/verbot/`` holds the calibration and extras of each episode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from verbot.spec import Component
from verbot.statistics import QUANTILES, quantile_name

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EXTRAS_PATH = "meta/verbot/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FILES_PER_CHUNK = 1000

STATE, ACTION, IMAGES, TIME = "observation.state", "action", "observation.images.", "timestamp"
FRAME_COLUMNS = {TIME: "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
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
