"""``meta/info.json``: read, and checked field by field, so that what follows can rely on it."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verbot.data.storage import layout
from verbot.data.storage.files import read_json
from verbot.errors import CorruptFileError, DataError, SpecError
from verbot.files import below, sha256
from verbot.folders import recover
from verbot.spec import RobotSpec
from verbot.spec.checks import LONGEST_SIDE, with_clean_names

READ_VERSIONS = (layout.VERSION, "v2.1", "v2.0")
MOST = 10**12  # episodes or frames; more is a damaged number
LARGEST_FEATURE = 10**7  # numbers of one frame

_REQUIRED = ("data_path", "features", "fps", "total_episodes", "total_frames")
_PLACEHOLDERS = {"chunk_index", "file_index", "episode_chunk", "episode_index", "video_key"}


def read_info(root: Path) -> dict[str, Any]:
    """``meta/info.json`` of a LeRobotDataset v3.0, v2.1 or v2.0.

    Raises `DataError` for anything else, `CorruptFileError` that names the first field that is not as it should be.
    """
    path = root / layout.INFO
    if not path.is_file() and not (recover(root) and path.is_file()):
        raise DataError(f"{root} holds no dataset: there is no {layout.INFO}")
    info = read_json(below(root, layout.INFO))
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in READ_VERSIONS:
        raise DataError(f"{root} is a dataset of version {version!r}; verbot reads {', '.join(READ_VERSIONS)}")
    missing = set(_REQUIRED) - info.keys()
    if missing:
        raise CorruptFileError(path, f"lacks {', '.join(sorted(missing))}")
    for problem in itertools.chain(_problems(info), _seal_problems(info)):  # the seal only of what has no other problem
        raise CorruptFileError(path, problem)
    return info


def checksums(info: Mapping[str, Any]) -> dict[str, Any]:
    """The accepted sha256 of each file by name; two of them if a writer died while it replaced the file.

    Empty if other software has changed the dataset since verbot wrote it.
    """
    return dict(info["verbot"]["files"]) if is_ours(info) else {}


def seal(info: Mapping[str, Any]) -> str:
    """Checksum of an ``info.json`` without its own ``"seal"``."""
    record = {key: value for key, value in info["verbot"].items() if key != "seal"}
    return sha256(json.dumps({**info, "verbot": record}, sort_keys=True).encode())


def is_ours(info: Mapping[str, Any]) -> bool:
    """Whether verbot wrote every merged episode of a dataset, and no other software has changed their number since."""
    return info.get("verbot", {}).get("episodes") == info["total_episodes"]


def recorded_spec(info: Mapping[str, Any], root: Path) -> RobotSpec:
    """The spec that verbot recorded. Raises `CorruptFileError` if it is damaged."""
    record = info["verbot"]["spec"]
    try:
        for key in ("cameras", "state", "action", "groups"):
            if not isinstance(record.get(key, []), list) or not all(isinstance(each, dict) for each in record.get(key, [])):
                raise SpecError(f"its {key} are no list of records")
        spec = RobotSpec.from_json(with_clean_names(record))
        numbers = [spec.rate_hz, *(x for c in (*spec.state, *spec.action) for x in (*c.low, *c.high))]
        texts = [spec.name, *(x for c in (*spec.state, *spec.action) for x in (c.name, c.unit, c.frame, *c.axes))]
        sides = [side for c in spec.cameras for side in (c.height, c.width)]
        good = all(is_number(x) for x in numbers) and all(isinstance(x, str) for x in (*texts, *spec.camera_names))
        if not good or not all(is_count(side, 1, LONGEST_SIDE) for side in sides):
            raise SpecError("a name is no text, or a number is not finite")
    except (SpecError, TypeError, ValueError, KeyError) as error:
        raise CorruptFileError(root / layout.INFO, f"verbot.spec is damaged: {error}") from error
    return spec


def place_of(root: Path, template: object, keys: Mapping[str, Any]) -> Path:
    """The file that a template of ``info.json``, such as its ``data_path``, names. Raises `CorruptFileError` if it names none."""
    if not isinstance(template, str):
        raise CorruptFileError(root / layout.INFO, f"names no file: its template is {template!r}")
    try:
        name = template.format(**keys)
    except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
        raise CorruptFileError(root / layout.INFO, f"has the template {template!r}, which cannot be filled ({error})") from error
    try:
        return placed(root, name)
    except DataError as error:
        raise CorruptFileError(
            root / layout.INFO, f"has the template {template!r}, which leads out of the dataset: {error}"
        ) from error


@functools.lru_cache(maxsize=1 << 14)
def placed(root: Path, name: str) -> Path:
    """As `verbot.files.below`, for a file of the dataset at `root`; its links are resolved once."""
    return below(root, name, layout.INFO)


def is_number(value: object) -> bool:
    """Whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)


def is_count(value: object, least: int = 0, most: int = MOST) -> bool:
    """Whether a value from JSON or Arrow is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _problems(info: Mapping[str, Any]) -> Iterator[str]:
    for key in ("total_episodes", "total_frames"):
        if not is_count(info[key]):
            yield f"{key} is {_short(info[key])}; expected a count"
    if not is_number(info["fps"]) or not 1e-3 <= info["fps"] <= 1e5:
        yield f"fps is {_short(info['fps'])}; expected a rate in Hz"
    if not is_count(info.get("chunks_size", 1), 1):
        yield f"chunks_size is {_short(info['chunks_size'])}; expected a count of at least 1"
    tolerance = info.get("tolerance_s")
    if tolerance is not None and not (is_number(tolerance) and tolerance > 0):
        yield f"has tolerance_s {_short(tolerance)}; expected seconds, above 0"
    if not isinstance(info.get("robot_type"), str | None):
        yield f"robot_type is {_short(info['robot_type'])}; expected a name"
    for key in ("data_path", "video_path"):
        if key == "data_path" or info.get(key) is not None:
            yield from (f"{key} is {_short(info[key])}; {problem}" for problem in _template_problems(info[key]))
    if not isinstance(info["features"], dict):
        yield f"features is {_short(info['features'])}; expected a table of features"
    else:
        yield from _feature_problems(info["features"], info.get("video_path"))
    if "verbot" in info:
        yield from _record_problems(info["verbot"])


def _seal_problems(info: Mapping[str, Any]) -> Iterator[str]:
    """Whether what verbot wrote has changed since. Other software, which adds episodes, changes several counts at once."""
    hidden = [key for key, value in info.items() if isinstance(value, dict) and {"seal", "spec", "files"} <= value.keys()]
    if "verbot" not in info:
        if hidden:
            yield f"is damaged: it calls verbot's record {hidden[0]!r}; restore it from a copy"
        return
    record = info["verbot"]
    if is_ours(info):
        damaged = bool(record["files"] or "seal" in record) and record.get("seal") != seal(info)
    else:
        one = {**info, "verbot": {**record, "episodes": info["total_episodes"]}}
        damaged = record.get("seal") in (seal(one), seal({**info, "total_episodes": record["episodes"]}))
    if damaged:
        yield (
            "is damaged, or was edited by hand: its own checksum differs; restore it from a copy, or remove its key 'verbot' "
            "to read the dataset without verbot's spec and checksums"
        )


def _template_problems(template: object) -> Iterator[str]:
    """Only plain numbers and names are filled in, so that a template stays below the dataset and short."""
    if not isinstance(template, str) or not template.isprintable() or len(template) > 300:
        yield "expected the place of a file"
        return
    if template.startswith("/") or ".." in template.split("/"):
        yield "expected a place below the dataset"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        yield f"expected a template ({error})"
        return
    for _, name, form, conversion in parts:
        if name is not None and (name not in _PLACEHOLDERS or conversion or not re.fullmatch(r"(0?\d)?d?", form or "")):
            yield f"expected the placeholders {', '.join(sorted(_PLACEHOLDERS))}"
            return


def _feature_problems(features: Mapping[str, Any], video_path: object) -> Iterator[str]:
    for key, feature in features.items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            yield f"features[{key!r}] has no dtype"
            continue
        parts = key.split("/") if feature["dtype"] in ("video", "image") else [key]  # pictures may lie in folders of their own
        if "\0" in key or any(part in ("", ".", "..") or "/" in part for part in parts):
            yield f"features[{key!r}] has a name that no file can have"
        shape, dtype = feature.get("shape"), feature["dtype"]
        if dtype == "language":
            continue
        if not isinstance(shape, list | tuple) or not all(is_count(side, 1, LARGEST_FEATURE) for side in shape):
            yield f"features[{key!r}] has shape {_short(shape)}; expected whole numbers of at least 1"
        elif math.prod(shape) > (LARGEST_FEATURE if dtype not in ("video", "image") else 4 * LONGEST_SIDE**2):
            yield f"features[{key!r}] has shape {_short(shape)}, which is too large"
        elif dtype in ("video", "image") and (len(shape) not in (2, 3) or max(shape) > LONGEST_SIDE):
            yield f"features[{key!r}] has shape {_short(shape)}; expected (height, width, channels)"
        if dtype == "video" and not isinstance(video_path, str):
            yield f"video_path is {_short(video_path)}; expected a template, because features[{key!r}] is a video"
        for name in ("info", "video_info"):
            if not isinstance(feature.get(name), dict | None):
                yield f"features[{key!r}][{name!r}] is {_short(feature[name])}; expected a table"


def _record_problems(record: object) -> Iterator[str]:
    """Problems of what verbot recorded in addition."""
    if not isinstance(record, dict) or not isinstance(record.get("spec"), dict):
        yield "verbot is damaged: it holds no spec"
        return
    if not is_count(record.get("episodes")):
        yield f"verbot.episodes is {_short(record.get('episodes'))}; expected a count"
    for key in ("files", "derived"):
        files = record.get(key)
        if not isinstance(files, dict) or not all(_is_checksum(value) for value in files.values()):
            yield f"verbot.{key} is damaged; expected the sha256 of each file"
        elif any(name.startswith("/") or ".." in name.split("/") or "\0" in name for name in files):
            yield f"verbot.{key} names a file that is not below the dataset"


def _is_checksum(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
