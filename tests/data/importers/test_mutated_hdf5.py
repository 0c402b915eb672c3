"""Whatever an HDF5 file or a zarr buffer holds, ``verbot data import`` imports it or says in one line what is wrong."""

import contextlib
import functools
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from verbot.cli import main
from verbot.data.importers import known_robots, open_source, recognize
from verbot.errors import VerbotError

EXAMPLES, WHOLE = 100, 20  # mutations of each layout; every so many are imported by the command line too
LENGTH = 3
JUNK_TEXT = ("", "{", "[]", "3", "null", '{"a": 1}', '{"env_kwargs": 3}', "\x00", "ä" * 50, "open")
JUNK = (
    *JUNK_TEXT,
    b"\xff\xfe",
    0,
    -1,
    10**9,
    3.5,
    float("nan"),
    True,
    np.zeros(0),
    np.arange(3),
    np.zeros((2, 2)),
    h5py.Empty("f4"),
)
JSON = (None, True, -1, 0, 0.5, 1e300, "x", [], {}, [0.1] * 6, ["x"] * 6, [None] * 6, {"right": 3}, {"right": {"type": 3}})
DTYPES = ("f2", "f8", "i1", "u2", "u8", "c8", "?", "S3", "S40", "M", "compound", "text", "vlen")
VALUES = (np.nan, np.inf, -1e30, 1e38, 0, 255, -1)


def aloha():
    numbers = np.linspace(-1, 1, LENGTH * 14).reshape(LENGTH, 14)
    pictures = np.full((LENGTH, 16, 16, 3), 90, np.uint8)
    content = {"action": numbers, "observations/qpos": numbers, "observations/qvel": numbers}
    content |= {"observations/images/cam_high": pictures, "observations/timestamps": np.arange(LENGTH) / 50.0}
    content |= {"observations/image_timestamps/cam_high": np.arange(LENGTH) / 50.0, "base_action": numbers[:, :2]}
    return content, {"": {"sim": False, "language_instruction": "fold it"}}


def demonstrations(arguments, **shared):
    numbers = np.linspace(-1, 1, LENGTH * 7).reshape(LENGTH, 7)
    content, attributes = {}, {"data": {"env_args": json.dumps(arguments), "total": 2 * LENGTH, **shared}}
    for demo in ("data/demo_0", "data/demo_1"):
        content |= {f"{demo}/actions": numbers, f"{demo}/rewards": numbers[:, 0], f"{demo}/dones": np.zeros(LENGTH)}
        content |= {f"{demo}/obs/agentview_rgb": np.full((LENGTH, 16, 16, 3), 90, np.uint8), f"{demo}/states": numbers}
        attributes[demo] = {"num_samples": LENGTH, "ep_meta": json.dumps({"lang": "open it"}), "success": True}
    return content, attributes


def robosuite(**shared):
    controller = {"type": "OSC_POSE", "control_delta": True, "output_max": [0.05] * 3 + [0.5] * 3, "input_max": 1}
    arguments = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "controller_configs": controller}}
    content, attributes = demonstrations(arguments, **shared)
    for demo in ("data/demo_0", "data/demo_1"):
        numbers = content[f"{demo}/actions"]
        content |= {f"{demo}/obs/robot0_eef_pos": numbers[:, :3], f"{demo}/obs/robot0_eef_quat": numbers[:, :4]}
        content[f"{demo}/obs/robot0_gripper_qpos"] = numbers[:, :2]
    return content, attributes


def libero():
    return robosuite(problem_info=json.dumps({"language_instruction": "open it"}), macros_image_convention="opengl", num_demos=2)


def isaac_lab():
    content, attributes = demonstrations({"env_name": "Isaac-Stack", "type": 2, "sim_args": {"dt": 0.01, "decimation": 5}})
    for demo in ("data/demo_0", "data/demo_1"):
        numbers = content[f"{demo}/actions"]
        content |= {f"{demo}/processed_actions": numbers, f"{demo}/obs/eef_quat": numbers[:, :4]}
        content[f"{demo}/obs/datagen_info/eef_pose/franka"] = np.zeros((LENGTH, 4, 4))
    return content, attributes


def retyped(values, dtype):
    if dtype == "compound":
        return np.zeros(len(values) if values.ndim else 1, [("a", "f4"), ("b", "i4")])
    if dtype == "M":
        return np.void(b"opaque")
    if dtype == "text":
        return np.array(["pick", "put", "\x00"], object)
    if dtype == "vlen":
        return [np.arange(number) for number in range(1, 4)]
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(ValueError, TypeError):
        return values.astype(dtype)
    return values


def reshaped(values, draw):
    kind = draw(st.sampled_from(("scalar", "flat", "none", "one", "shorter", "longer", "extra", "swapped", "narrow", "wide")))
    change = {
        "scalar": lambda: values.reshape(-1)[0],
        "flat": lambda: values.reshape(-1),
        "none": lambda: values[:0],
        "one": lambda: values[:1],
        "shorter": lambda: values[:-1],
        "longer": lambda: np.concatenate([values, values]),
        "extra": lambda: values[..., None],
        "swapped": lambda: np.moveaxis(values, 0, -1),
        "narrow": lambda: values[..., :0],
        "wide": lambda: np.concatenate([values, values], -1),
    }
    return change[kind]()


def inside(record, draw):
    """`record` (JSON) with one of its values replaced or removed."""
    if isinstance(record, dict) and record and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(record)))
        if draw(st.integers(0, 5)) == 0:
            return {name: value for name, value in record.items() if name != key}
        return {**record, key: inside(record[key], draw)}
    if isinstance(record, list) and record and draw(st.booleans()):
        return [inside(record[0], draw), *record[1:]]
    return draw(st.sampled_from(JSON))


def mutated_attribute(attributes, place, draw):
    name = draw(st.sampled_from(sorted(attributes[place])))
    value, kind = attributes[place][name], draw(st.integers(0, 4))
    if isinstance(value, str) and value.startswith("{") and value.endswith("}") and kind > 1:
        attributes[place][name] = json.dumps(inside(json.loads(value), draw))
    elif kind == 0:
        del attributes[place][name]
    else:
        attributes[place][name] = draw(st.sampled_from(JUNK))


def mutated_dataset(content, draw):
    path = draw(st.sampled_from(sorted(content)))
    values = content[path]
    kinds = ("delete", "rename", "type", "shape", "value", "group", "link", "outside", "empty")
    kind = draw(st.sampled_from(kinds if isinstance(values, np.ndarray) and values.size else ("delete",)))
    if kind in ("delete", "rename"):
        del content[path]
        if kind == "rename":
            content[draw(st.sampled_from((f"{path}_depth", "action", "data", "data/demo_7/actions", f"{path}ä")))] = values
    elif kind == "type":
        content[path] = retyped(values, draw(st.sampled_from(DTYPES)))
    elif kind == "shape":
        content[path] = reshaped(values, draw)
    elif kind == "value":
        changed = np.array(values)
        with warnings.catch_warnings(action="ignore"), contextlib.suppress(OverflowError, ValueError):
            changed.reshape(-1)[draw(st.integers(0, changed.size - 1))] = draw(st.sampled_from(VALUES))
        content[path] = changed
    else:
        outside = h5py.ExternalLink("other.h5", "/x")
        given = {"group": {}, "link": h5py.SoftLink("/nowhere"), "outside": outside, "empty": h5py.Empty("f4")}
        content[path] = given[kind]


def write(path, content, attributes):
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            with contextlib.suppress(ValueError, TypeError, OSError):  # a name that exists, or what HDF5 cannot hold
                if isinstance(values, dict):
                    file.create_group(name)
                elif isinstance(values, list):
                    stored = file.create_dataset(name, len(values), h5py.vlen_dtype(np.uint8))
                    for row, value in enumerate(values):
                        stored[row] = value
                elif isinstance(values, np.ndarray) and values.dtype == object:
                    file.create_dataset(name, data=values, dtype=h5py.string_dtype())
                else:
                    file[name] = values
        for name, record in attributes.items():
            for key, value in record.items() if name == "" or name in file else ():
                with contextlib.suppress(ValueError, TypeError):
                    file[name or "/"].attrs[key] = value


def attempt(source):
    """Read everything of `source`: 0, 1 if an episode is refused, 2 if all of it is. Only verbot's own errors may come."""
    code = 0
    try:
        opened = open_source(recognize(source), source, None, {})
        for item in opened.items():
            try:
                raw = item.read()
                for read in raw.cameras.values():
                    read()
                known_robots.parts_of(opened.robot.state, raw.state, raw.axes)
                known_robots.parts_of(opened.robot.action, raw.action, raw.axes)
            except VerbotError:
                code = 1
    except VerbotError:
        code = 2
    return code


def run(source, capsys):
    """Import `source` with the command line; anything but an exit with one of its codes fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["data", "import", str(source), f"{folder}/out", "--rate-hz", "20", "--instruction", "x"]
        with pytest.raises(SystemExit) as stop:
            main(arguments)
    assert stop.value.code in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err
    return stop.value.code


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


once = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("layout", [aloha, robosuite, libero, isaac_lab])
def test_an_unchanged_file_is_imported(layout, tmp_path, capsys):
    write(tmp_path / "file.hdf5", *layout())
    assert run(tmp_path / "file.hdf5", capsys) == 0


@pytest.mark.parametrize("layout", [aloha, robosuite, libero, isaac_lab])
def test_no_mutation_of_a_file_is_a_traceback(layout, tmp_path, capsys):
    codes = []

    @once(max_examples=EXAMPLES)
    @given(st.data())
    def check(data):
        content, attributes = layout()
        for _ in range(data.draw(st.integers(1, 2))):
            if data.draw(st.booleans()):
                mutated_attribute(attributes, data.draw(st.sampled_from([p for p in attributes if attributes[p]])), data.draw)
            else:
                mutated_dataset(content, data.draw)
        write(tmp_path / "file.hdf5", content, attributes)
        codes.append(attempt(tmp_path / "file.hdf5"))
        if len(codes) % WHOLE == 0:
            run(tmp_path / "file.hdf5", capsys)

    check()
    assert len(codes) >= EXAMPLES and {0, 1} <= set(codes), "some mutations are harmless, some are refused"


METADATA = ("shape", "chunks", "dtype", "compressor", "filters", "order", "fill_value", "zarr_format", "dimension_separator")
ARRAYS = ("data/action", "data/state", "data/img", "meta/episode_ends")


def mutated_store(root, draw):
    array = root / draw(st.sampled_from(ARRAYS))
    kind = draw(st.sampled_from(("field", "field", "remove", "text", "piece", "cut", "array", "ends")))
    meta, pieces = array / ".zarray", sorted(entry for entry in array.iterdir() if not entry.name.startswith("."))
    if kind == "field":
        record = json.loads(meta.read_text())
        key = draw(st.sampled_from(METADATA))
        values = (*JSON, "<f8", "|u1", "<i2", "|S4", "|O", [2], [6, 2], [3, 16, 16, 3], [6, 16, 16, 3], {"id": "zlib"}, 3)
        meta.write_text(json.dumps({**record, key: draw(st.sampled_from(values))}))
    elif kind == "remove":
        record = json.loads(meta.read_text())
        del record[draw(st.sampled_from(sorted(record)))]
        meta.write_text(json.dumps(record))
    elif kind == "text":
        meta.write_text(draw(st.sampled_from(JUNK_TEXT)))
    elif kind == "piece":
        draw(st.sampled_from(pieces)).unlink()
    elif kind == "cut":
        piece = draw(st.sampled_from(pieces))
        piece.write_bytes(piece.read_bytes()[: draw(st.integers(0, 20))])
    elif kind == "array":
        shutil.rmtree(array)
    else:
        ends = np.array(draw(st.sampled_from(([0, 0], [6, 3], [-1, 6], [2**62, 6], [3, 4]))), "<i8")
        record = json.loads((root / "meta/episode_ends/.zarray").read_text())
        (root / "meta/episode_ends/.zarray").write_text(json.dumps({**record, "compressor": None}))
        (root / "meta/episode_ends/0").write_bytes(ends.tobytes())


@pytest.fixture(scope="module")
def replay_buffer():
    zarr = pytest.importorskip("zarr")
    with tempfile.TemporaryDirectory() as folder:
        root = zarr.open_group(f"{folder}/small.zarr", mode="w", zarr_format=2)
        numbers = np.linspace(-1, 1, 2 * LENGTH * 4).reshape(2 * LENGTH, 4)
        content = {"action": numbers[:, :2], "state": numbers, "img": np.full((2 * LENGTH, 16, 16, 3), 90, np.uint8)}
        for name, values in content.items():
            root.create_array(f"data/{name}", data=values, chunks=(LENGTH, *values.shape[1:]))
        root.create_array("meta/episode_ends", data=np.array([LENGTH, 2 * LENGTH]))
        yield Path(folder) / "small.zarr"


def test_no_mutation_of_a_buffer_is_a_traceback(replay_buffer, tmp_path, capsys):
    assert run(replay_buffer, capsys) == 0
    codes = []

    @once(max_examples=EXAMPLES)
    @given(st.data())
    def check(data):
        shutil.rmtree(tmp_path / "small.zarr", ignore_errors=True)
        shutil.copytree(replay_buffer, tmp_path / "small.zarr")
        mutated_store(tmp_path / "small.zarr", data.draw)
        codes.append(attempt(tmp_path / "small.zarr"))
        if len(codes) % WHOLE == 0:
            run(tmp_path / "small.zarr", capsys)

    check()
    assert len(codes) >= EXAMPLES and set(codes) == {0, 1, 2}
