"""What the writer's files contain: the feature table of ``info.json`` and the parquet schemas that follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.storage import layout
from verbot.data.storage.layout import ACTION, FRAME_COLUMNS, IMAGES, STATE, STATISTICS_KEYS, axis_names, fps_of
from verbot.data.storage.video import CODEC, PIXELS
from verbot.errors import DataError
from verbot.spec import Camera, RobotSpec

FeatureEntry = Mapping[str, Any]  # an entry of the feature table: dtype, shape, names
VIDEO, IMAGE = "video", "image"  # how the frames of a camera are stored
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NUMBERS = (*(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64")


def storage_of(spec: RobotSpec, images: str | Mapping[str, str] | None) -> dict[str, str]:
    """How the images of the robot's color cameras are to be stored, by name; empty if `images` is None.

    Raises `DataError` for another way than ``"video"`` and ``"image"``, or a camera that the robot lacks.
    """
    color = [camera.name for camera in spec.cameras if camera.kind == "color"]
    chosen = dict.fromkeys(color, images) if isinstance(images, str) else dict(images or {})
    for camera, stored in chosen.items():
        if camera not in color or stored not in (VIDEO, IMAGE):
            known = ", ".join(color) or "none"
            raise DataError(f"camera {camera!r} is to be stored as {stored!r}; expected 'video' or 'image', and cameras {known}")
    return chosen


def new_info(spec: RobotSpec, images: Mapping[str, str], columns: Mapping[str, FeatureEntry]) -> dict[str, Any]:
    """``info.json`` of a dataset without episodes; `images` is as from `storage_of`."""
    stored = dict.fromkeys(spec.camera_names, VIDEO) | dict(images)
    stored |= {camera.name: IMAGE for camera in spec.cameras if camera.kind == "depth"}
    return {
        "codebase_version": layout.VERSION,
        "robot_type": spec.name,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": layout.FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps_of(spec.rate_hz),
        "splits": {},
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH if VIDEO in stored.values() else None,
        "features": features_of(spec, stored, columns),
        "verbot": {"format": 1, "spec": spec.to_json(), "episodes": 0, "files": {}, "derived": {}},
    }


def features_of(spec: RobotSpec, stored: Mapping[str, str], columns: Mapping[str, FeatureEntry]) -> dict[str, dict[str, Any]]:
    """The feature table of ``info.json`` for a robot.

    Args:
        stored: ``"video"`` or ``"image"`` for each camera.
        columns: further features.
    """
    table: dict[str, dict[str, Any]] = {}
    for camera in spec.cameras:
        table[IMAGES + camera.name] = _of_camera(camera, stored[camera.name])
        if stored[camera.name] == VIDEO:
            table[IMAGES + camera.name]["info"] = {
                "video.height": camera.height,
                "video.width": camera.width,
                "video.codec": CODEC,
                "video.pix_fmt": PIXELS,
                "video.is_depth_map": False,
                "video.fps": fps_of(spec.rate_hz),
                "video.channels": 3,
                "has_audio": False,
            }
    for key, components in ((STATE, spec.state), (ACTION, spec.action)):
        names = axis_names(components)
        if names:
            table[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
    for key, dtype in FRAME_COLUMNS.items():
        table[key] = {"dtype": dtype, "shape": [1], "names": None}
    return table | {key: dict(feature) for key, feature in columns.items()}


def _of_camera(camera: Camera, stored: str) -> dict[str, Any]:
    channels = 1 if camera.kind == "depth" else 3
    shape = [camera.height, camera.width, channels]
    feature: dict[str, Any] = {"dtype": stored, "shape": shape, "names": ["height", "width", "channels"]}
    if camera.kind == "depth":
        feature["info"] = {"is_depth_map": True, "depth_unit": "mm"}
    return feature


def further_features(features: Mapping[str, FeatureEntry]) -> dict[str, FeatureEntry]:
    """The features that are neither cameras nor those of every dataset."""
    known = (STATE, ACTION, *FRAME_COLUMNS)
    return {key: f for key, f in features.items() if key not in known and f["dtype"] not in (VIDEO, IMAGE)}


def feature_of(name: str, values: np.ndarray) -> dict[str, Any]:
    """The entry of the feature table of a further column (t, …). Raises `DataError` for a name or a type that cannot be one."""
    if name in (STATE, ACTION, "task", *FRAME_COLUMNS) or name.startswith(IMAGES) or "/" in name or not name:
        raise DataError(f"a further column cannot be called {name!r}: the name belongs to the format; rename it")
    text = values.dtype.kind in "UOT" and all(isinstance(value, str) for value in values.reshape(-1))
    dtype = "string" if text else values.dtype.name
    if dtype not in (*NUMBERS, "bool", "string") or (text and values.ndim > 2):
        raise DataError(f"column {name!r} has dtype {values.dtype}; expected numbers, bool, or a text for each frame")
    return {"dtype": dtype, "shape": list(values.shape[1:]) or [1], "names": None}


def check_column(name: str, values: np.ndarray, feature: FeatureEntry) -> None:
    """Raise `DataError` unless `values` (t, …) are what the feature table says."""
    found = feature_of(name, values)
    if (found["dtype"], found["shape"]) != (feature["dtype"], list(feature["shape"])):
        raise DataError(
            f"column {name!r} has {found['dtype']} of shape {found['shape']} for each frame; "
            f"this dataset has {feature['dtype']} of shape {list(feature['shape'])}"
        )


def data_schema(features: Mapping[str, FeatureEntry]) -> pa.Schema:
    """The schema of ``data/*.parquet``, with the feature table that Hugging Face datasets reads back."""
    kept = {key: feature for key, feature in features.items() if feature["dtype"] not in (VIDEO, IMAGE)}
    kept |= {key: feature for key, feature in features.items() if feature["dtype"] == IMAGE}
    fields, described = [], {}
    for key, feature in kept.items():
        kind, described[key] = _column(feature)
        fields.append(pa.field(key, kind))
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": described}})})


def _column(feature: FeatureEntry) -> tuple[pa.DataType, dict[str, Any]]:
    """The Arrow type of a feature and how Hugging Face datasets describes it."""
    if feature["dtype"] == IMAGE:
        return PICTURE, {"_type": "Image"}
    shape, value = list(feature["shape"]), {"dtype": feature["dtype"], "_type": "Value"}
    kind = pa.bool_() if feature["dtype"] == "bool" else getattr(pa, feature["dtype"])()
    if shape == [1]:  # LeRobot stores a vector of one number as a plain column
        return kind, value
    if len(shape) == 1:
        return pa.list_(kind, shape[0]), {"feature": value, "length": shape[0], "_type": "List"}
    for _ in shape:
        kind = pa.list_(kind)
    return kind, {"shape": shape, "dtype": feature["dtype"], "_type": f"Array{len(shape)}D"}


def column_array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Values (n, …) as a column of `data_schema`."""
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type), kind.list_size
        )
    return pa.array(values.tolist() if pa.types.is_nested(kind) else values.reshape(-1), kind)


def episodes_schema(features: Mapping[str, FeatureEntry]) -> pa.Schema:
    """The schema of ``meta/episodes/*.parquet``, with the same columns that LeRobot writes."""
    fields = [("episode_index", pa.int64()), ("tasks", pa.list_(pa.string())), ("length", pa.int64())]
    fields += [(key, pa.int64()) for key in ("data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")]
    for key in (key for key, feature in features.items() if feature["dtype"] == VIDEO):
        fields += [(f"videos/{key}/chunk_index", pa.int64()), (f"videos/{key}/file_index", pa.int64())]
        fields += [(f"videos/{key}/from_timestamp", pa.float64()), (f"videos/{key}/to_timestamp", pa.float64())]
    for key, feature in features.items():
        if feature["dtype"] == "string":
            continue
        whole = feature["dtype"] == "int64"
        for statistic in STATISTICS_KEYS:
            integral = statistic == "count" or (whole and statistic in ("min", "max"))
            kind = pa.list_(pa.int64() if integral else pa.float64())
            if statistic != "count":
                for _ in feature["shape"][1:]:
                    kind = pa.list_(kind)
            fields.append((f"stats/{key}/{statistic}", kind))
    fields += [("meta/episodes/chunk_index", pa.int64()), ("meta/episodes/file_index", pa.int64())]
    return pa.schema(fields)
