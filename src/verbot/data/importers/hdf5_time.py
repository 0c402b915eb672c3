"""Pictures with times of their own: which one belongs to each row of an HDF5 episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from verbot.data.importers.hdf5_file import Entry, stored
from verbot.errors import DataError
from verbot.spec import Float64Array, Int64Array

NAMES = ("timestamp", "timestamps")


def nearest_rows(
    place: Any, group: Any, fields: Mapping[str, Entry], path: str, length: int, times: str
) -> tuple[Int64Array | None, tuple[str, ...]]:
    """The stored picture of the camera at `path` for each of `length` rows, and the datasets of times that decided it.

    None where the camera or the rows have no times: pictures and rows then belong together by their numbers. `times` names the
    dataset of the rows' times; if it is empty, the usual names are tried.

    Raises `DataError` where no picture lies within half a period of a row, or where times are not ascending.
    """
    of_rows, of_camera = _of_rows(place, fields, times), _of_camera(place, fields, path)
    if of_camera is None:
        return None, ()
    if of_rows is None:
        if fields[of_camera].length != length:
            text = f"{fields[of_camera].length} pictures at times of {of_camera} and {length} rows without times"
            raise DataError(f"{place}, {path} has {text}; name the rows' times with --set timestamps=DATASET")
        return None, ()
    rows, pictures = (_ascending(place, group, name) for name in (of_rows, of_camera))
    if len(rows) != length:
        raise DataError(f"{place}, {of_rows} has {len(rows)} times for {length} actions")
    if len(pictures) != fields[path].length:
        raise DataError(f"{place}, {of_camera} has {len(pictures)} times for {fields[path].length} pictures")
    after = np.clip(np.searchsorted(pictures, rows), 1, max(1, len(pictures) - 1))
    before = np.minimum(after - 1, len(pictures) - 1)
    after = np.minimum(after, len(pictures) - 1)
    found = np.where(np.abs(pictures[after] - rows) < np.abs(rows - pictures[before]), after, before)
    away = np.abs(pictures[found] - rows)
    period = float(np.median(np.diff(rows))) if length > 1 else np.inf
    if away.max() > period / 2:
        row = int(away.argmax())
        text = f"row {row} at {rows[row]:.6g} lies {away[row]:.3g} from the nearest picture; half a period is {period / 2:.3g}"
        raise DataError(f"{place}, {path}: {text} (times of {of_rows} and {of_camera})")
    return found, (of_rows, of_camera)


def _of_rows(place: Any, fields: Mapping[str, Entry], times: str) -> str | None:
    known = place.inside(fields, place.observed, "")
    if times:
        if times not in known:
            raise DataError(f"{place} has no dataset {times!r} of times; it has {', '.join(known)}")
        return known[times]
    return next((known[name] for name in NAMES if name in known and _is_times(fields[known[name]])), None)


def _of_camera(place: Any, fields: Mapping[str, Entry], path: str) -> str | None:
    parent, _, name = path.rpartition("/")
    candidates = [f"{path}_{times}" for times in NAMES]
    if parent and parent not in (place.observed, place.pictured):
        candidates += [f"{parent}/{times}" for times in NAMES]
    for folder in dict.fromkeys((parent.rpartition("/")[0], place.observed, "")):
        candidates += [f"{folder}/{times}/{name}".lstrip("/") for times in (*NAMES, *(f"image_{times}" for times in NAMES))]
    return next((one for one in candidates if one in fields and _is_times(fields[one])), None)


def _is_times(entry: Entry) -> bool:
    return entry.kind == "numbers" and entry.width == 1


def _ascending(place: Any, group: Any, name: str) -> Float64Array:
    times = np.asarray(stored(group[name], f"{place}, {name}"), np.float64).reshape(-1)
    if not len(times) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise DataError(f"{place}, {name}: its times are not ascending")
    return times
