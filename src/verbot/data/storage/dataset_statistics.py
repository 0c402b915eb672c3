"""Statistics as LeRobot records them: those of an episode for ``meta/episodes``, and of all for ``meta/stats.json``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.storage import episode_statistics, layout
from verbot.data.storage.files import Checksum, read_parquet
from verbot.data.storage.png import millimeters
from verbot.data.storage.schema import IMAGE, VIDEO, FeatureEntry
from verbot.files import below
from verbot.statistics import QUANTILES, FeatureStatistics, quantile_name

# Image statistics use this many evenly spaced frames of an episode, and every second row and column of each.
SAMPLED_FRAMES = 32


def column_statistics(values: np.ndarray, feature: FeatureEntry, name: str) -> dict[str, Any]:
    """Statistics of the values (t, …) of a column, in the shape of the feature; none of texts, or where nothing is finite.

    State and action must be finite. Of other columns, frames that are not are left out, and ``count`` tells.
    """
    if feature["dtype"] == "string":
        return {}
    flat = _counted(np.asarray(values, np.float64), name)
    return _in_shape(FeatureStatistics.of(flat, name).to_json(), feature) if len(flat) else {}


def _counted(values: np.ndarray, name: str) -> np.ndarray:
    """The frames (t, d) of a column that its statistics count."""
    flat = values.reshape(len(values), -1)
    return flat if name in (layout.STATE, layout.ACTION) else flat[np.isfinite(flat).all(axis=1)]


def _in_shape(record: dict[str, Any], feature: FeatureEntry) -> dict[str, Any]:
    """Statistics of flat frames in the shape of the feature."""
    shape = tuple(feature["shape"])
    if len(shape) == 1:
        return record
    return {key: value if key == "count" else np.reshape(value, shape).tolist() for key, value in record.items()}


def sampled_rows(length: int) -> range:
    """The frames of an episode that image statistics use."""
    return range(0, length, -(-length // SAMPLED_FRAMES))


def image_statistics(images: np.ndarray) -> dict[str, Any]:
    """Statistics of uint8 (t, h, w, 3) in LeRobot's form: per channel, shape (3, 1, 1), in 0..1; exact for the sampled pixels.

    Those of depth, float32 (t, h, w) in meters, are in millimeters, as it is stored: shape (1, 1, 1).
    """
    if images.ndim == 3:
        return _depth_statistics(images)
    sampled = images[sampled_rows(len(images)), ::2, ::2]
    shifted = sampled + np.array([0, 256, 512], np.uint16)
    counts = np.bincount(shifted.reshape(-1), minlength=768).reshape(3, 256)
    level, total = np.arange(256) / 255, counts[0].sum()
    mean = counts @ level / total
    cumulative = np.cumsum(counts, axis=1)
    values = {
        "min": level[np.argmax(counts > 0, axis=1)],
        "max": level[255 - np.argmax(counts[:, ::-1] > 0, axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ level**2 / total - mean**2, 0)),
    }
    values |= {quantile_name(q): level[np.argmax(cumulative >= q * total, axis=1)] for q in QUANTILES}
    return {name: value.reshape(3, 1, 1).tolist() for name, value in values.items()} | {"count": [len(sampled)]}


def _depth_statistics(depth_m: np.ndarray) -> dict[str, Any]:
    sampled = millimeters(depth_m[sampled_rows(len(depth_m)), ::2, ::2])
    record = FeatureStatistics.of(sampled.reshape(-1, 1), "depth").to_json()
    return {name: [[value]] for name, value in record.items()} | {"count": [len(sampled)]}


def combined_image_statistics(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Image statistics of a dataset from those of its episodes. Quantiles are averages over episodes, as in LeRobot."""
    arrays = {name: np.array([episode[name] for episode in episodes], float) for name in layout.STATISTICS_KEYS}
    counts = arrays.pop("count").reshape(-1, 1, 1, 1)
    share = counts / counts.sum()
    out = {name: (values * share).sum(axis=0) for name, values in arrays.items()}
    out["min"], out["max"] = arrays["min"].min(axis=0), arrays["max"].max(axis=0)
    out["std"] = np.sqrt((share * (arrays["std"] ** 2 + (arrays["mean"] - out["mean"]) ** 2)).sum(axis=0))
    return {name: value.tolist() for name, value in out.items()} | {"count": [int(counts.sum())]}


def whole_statistics(
    root: Path, features: Mapping[str, FeatureEntry], files: Mapping[str, Checksum], frames: int
) -> dict[str, Any]:
    """The content of ``meta/stats.json``: statistics over all frames, read column by column.

    Of a column of many numbers one file is in memory at a time; quantiles are then as in `episode_statistics`.

    Args:
        files: the dataset's files and their checksums.
        frames: how many frames they have.
    """
    record: dict[str, Any] = {}
    cameras = [key for key, feature in features.items() if feature["dtype"] in (VIDEO, IMAGE)]
    for key, feature in features.items():
        if key in cameras or feature["dtype"] == "string":
            continue
        if found := _column_statistics(partial(_blocks, root, files, key), feature, key, frames):
            record[key] = found
    for key in cameras:
        record[key] = combined_image_statistics(list(_of_episodes(root, files, f"stats/{key}/")))
    return record


def _column_statistics(
    blocks: Callable[[], Iterator[np.ndarray]], feature: FeatureEntry, name: str, frames: int
) -> dict[str, Any]:
    """As `column_statistics` of the joined `blocks` (t, d), which are read twice if there are many numbers."""
    if frames * int(np.prod(feature["shape"])) <= episode_statistics.EXACT:
        return column_statistics(np.concatenate(list(blocks())), feature, name)
    running, count = episode_statistics.RunningStatistics(-(-frames // episode_statistics.SAMPLES)), 0
    for block in blocks():
        if len(counted := _counted(block, name)):
            running.add(counted, count)
            count += len(counted)
    if not count:
        return {}
    for block in blocks():
        running.add_deviations(_counted(block, name))
    return _in_shape(running.statistics().to_json(), feature)


def _blocks(root: Path, files: Mapping[str, Checksum], key: str) -> Iterator[np.ndarray]:
    """A column, file by file: (t, d) each."""
    for table in _tables(root, files, "data/", partial(operator.eq, key)):
        yield _values(table.column(key))


def _of_episodes(root: Path, files: Mapping[str, Checksum], prefix: str) -> Iterator[dict[str, Any]]:
    for table in _tables(root, files, "meta/episodes/", lambda column: column.startswith(prefix)):
        for row in table.to_pylist():
            yield {column.removeprefix(prefix): value for column, value in row.items()}


def _tables(root: Path, files: Mapping[str, Checksum], folder: str, columns: Callable[[str], bool]) -> Iterator[pa.Table]:
    """Of each file below `folder`, in order, the columns for whose name `columns` is true."""
    for name in sorted(name for name in files if name.startswith(folder)):
        yield read_parquet(below(root, name), files[name], columns)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    length = len(array)
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(length, -1)
