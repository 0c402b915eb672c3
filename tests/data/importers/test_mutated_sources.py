"""Whatever a source holds, `verbot data import` answers with an exit code and a line, never with a traceback.

Every metadata field of a small RLDS folder, a manifest and tensor files is removed, renamed or replaced, one at a time, hundreds
of times. Episodes that fit are checked but not written, except every twentieth.
"""

import copy
import importlib
import io
import json
import os
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from verbot import cli
from verbot.data.storage.writer import DatasetWriter

CASES = Path(__file__).parents[2] / "cases"
JUNK = (
    None, True, -1, 0, 3, 10**30, 1.5, float("nan"), float("inf"), "", "x", "\0", "1e9", "float64", "../../etc", "é" * 40,
    [], [1], [None], ["a", 1], [[1, 2], [3]], {}, {"a": 1}, [[[]]], {"features": {}}, {"feature": 3}, 2**63, "9" * 30,
)  # fmt: skip
BYTES = ([], [b""], [b"\xff\xd8\xff"], [b"x"] * 3, [b"\x89PNG\r\n\x1a\n" + b"\0" * 40] * 3)
NUMBERS = (
    np.zeros(0), np.zeros(1), np.arange(7), np.full(3, np.nan, np.float32), np.full(12, np.inf, np.float32), np.arange(4) - 2,
    np.array([2**62, -1, 5]), np.full(48, 300), np.full(9, 1e38, np.float32),
)  # fmt: skip
SETTINGS = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)


@pytest.fixture(scope="module")
def formats():
    sys.path.insert(0, str(CASES))
    try:
        yield importlib.import_module("_formats")
    finally:
        sys.path.remove(str(CASES))


class Importing:
    """Runs `verbot data import` in this process, each time into a fresh folder."""

    def __init__(self, root):
        self.root, self.source, self.count = root, root / "source", 0
        self.codes = []

    def fresh(self):
        shutil.rmtree(self.source, ignore_errors=True)
        self.source.mkdir()
        return self.source

    def run(self, *options):
        """Import, and hold the answer against the promise."""
        self.count += 1
        out, err, target = io.StringIO(), io.StringIO(), self.root / f"out{self.count}"
        words = ["data", "import", str(self.source), str(target), "--rate-hz", "10", *options]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(os, "fsync", lambda file: None)  # nobody pulls the plug here
            if self.count % 20:
                saved = []
                patch.setattr(DatasetWriter, "save_episode", checked(saved))
                patch.setattr(DatasetWriter, "__len__", lambda writer: len(saved))  # an import of nothing ends with 2
            with pytest.raises(SystemExit) as stopped:
                cli.main(words)
        self.codes.append(stopped.value.code)
        text = re.sub(r"(survey|import): .*?(\r|\n|$)", "", err.getvalue())
        assert stopped.value.code in (0, 1, 2), text
        if stopped.value.code:
            lines = [line for line in text.splitlines() if line.strip()]
            assert lines and "Traceback" not in text and all(len(line) < 3000 for line in lines), text
            named = r"source|entry \d|episode|record|features\.json|dataset_info\.json|manifest\.json|field|format"
            assert all(re.search(named, line) for line in lines), text
        shutil.rmtree(target, ignore_errors=True)


def checked(saved):
    """In place of `DatasetWriter.save_episode`: note an episode that fits in `saved`, and write nothing."""

    def save_episode(writer, record):
        record.check(writer.spec)
        json.dumps([record.extras, record.calibration, record.instruction])
        saved.append(record.instruction)
        return len(saved) - 1

    return save_episode


@pytest.fixture(scope="module")
def importing(tmp_path_factory):
    return Importing(tmp_path_factory.mktemp("mutated"))


def places(node, path=()):
    """Every place in a JSON document."""
    yield path
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


def mutated(data, document):
    """`document` with one place removed, renamed or replaced; or its text damaged."""
    paths = list(places(document))
    how = data.draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "cut", "damage")))
    if how in ("cut", "damage"):
        text = json.dumps(document).encode()
        place = data.draw(st.integers(0, len(text) - 1))
        return text[:place] if how == "cut" else text[:place] + data.draw(st.binary(min_size=1, max_size=2)) + text[place + 1 :]
    path = data.draw(st.sampled_from(paths))
    changed = copy.deepcopy(document)
    value = data.draw(st.sampled_from(JUNK))
    if not path:
        return json.dumps(value).encode()
    node = changed
    for key in path[:-1]:
        node = node[key]
    if how == "replace":
        node[path[-1]] = value
    else:
        kept = node.pop(path[-1])
        if how == "rename" and isinstance(node, dict):
            node[data.draw(st.sampled_from(("", "x", "observation", "language_instruction", "action/x")))] = kept
    return json.dumps(changed).encode()


def a_record(formats, length, seed):
    rng = np.random.default_rng(seed)
    picture = formats.jpeg(np.full((16, 16, 3), 99, np.uint8))
    return {
        **formats.flags(length),
        "steps/observation/image": [picture] * length,
        "steps/observation/pixels": np.zeros((length, 4, 4, 3), int),
        "steps/observation/state": rng.normal(size=(length, 4)),
        "steps/observation/instruction": np.array([[103, 111, 0]] * length),
        "steps/action": rng.normal(size=(length, 3)),
        "steps/language_instruction": [b"go"] * length,
        "episode_metadata/file_path": [b"/x"],
        "episode_metadata/number": np.array([3]),
    }


def features(formats):
    tensor = formats.tensor
    return {
        **formats.FLAGS,
        "steps/observation/image": formats.image((16, 16, 3)),
        "steps/observation/pixels": tensor("uint8", (4, 4, 3)),
        "steps/observation/state": tensor("float32", (4,)),
        "steps/observation/instruction": tensor("int32", (3,)),
        "steps/action": tensor("float32", (3,)),
        "steps/language_instruction": formats.text(),
        "episode_metadata/file_path": formats.text(),
        "episode_metadata/number": tensor("int64", ()),
    }


@settings(SETTINGS, max_examples=130)
@given(data=st.data())
def test_metadata_of_rlds(importing, formats, data):
    root = formats.rlds(importing.fresh(), "toy", [a_record(formats, 3, 0), a_record(formats, 2, 1)], features(formats))
    path = root / data.draw(st.sampled_from(("features.json", "dataset_info.json")))
    path.write_bytes(mutated(data, json.loads(path.read_text())))
    importing.run()


@settings(SETTINGS, max_examples=150)
@given(data=st.data())
def test_records_of_rlds(importing, formats, data):
    records = [a_record(formats, 3, 0), a_record(formats, 2, 1)]
    changed = records[data.draw(st.integers(0, 1))]
    key = data.draw(st.sampled_from(sorted(changed)))
    value = changed.pop(key)
    how = data.draw(st.sampled_from(("remove", "rename", "bytes", "numbers", "numbers", "cut")))
    if how == "rename":
        changed[
            data.draw(st.sampled_from(("steps/", "x", "steps/action/x", "steps/observation/state", "episode_metadata/task")))
        ] = value
    elif how == "bytes":
        changed[key] = data.draw(st.sampled_from(BYTES))
    elif how == "numbers":
        changed[key] = data.draw(st.sampled_from(NUMBERS))
    elif how == "cut":
        changed[key] = value[:-1]
    described = data.draw(st.booleans())
    root = formats.rlds(importing.fresh(), "toy", records, features(formats), describe=described)
    if data.draw(st.integers(0, 4)) == 0:
        (shard,) = root.glob("*.tfrecord-*")
        content = bytearray(shard.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        shard.write_bytes(content)
    importing.run()


@settings(SETTINGS, max_examples=200)
@given(data=st.data())
def test_manifests(importing, data):
    root = importing.fresh()
    Image.new("RGB", (16, 16)).save(root / "a.png")
    entries = [
        {
            "episode_id": number // 2,
            "image_path": {"front": "a.png", "side": ["a.png"]},
            "instruction": "go",
            "action": [0.5, 1.0],
            "robot_state": [[0.1, 0.2]],
            "reward": 0.5,
            "more": {"depth": "a.png"},
        }
        for number in range(3)
    ]
    several = {"action_sequence": [[1, 2], [3, 4]], "robot_state": [1, 2], "instruction": ["a", "b"]}
    entries.append({"image_path": {"front": "a.png", "side": "a.png"}, **several})
    document = {"version": 1, "episodes": entries} if data.draw(st.booleans()) else entries
    (root / "manifest.json").write_bytes(mutated(data, document))
    importing.run("--format", "manifest")


@settings(SETTINGS, max_examples=180)
@given(data=st.data())
def test_tensor_files(importing, data):
    root = importing.fresh()
    arrays = {
        "observations.front": np.zeros((5, 16, 16, 3), np.uint8),
        "observations.depth": np.zeros((5, 16, 16), np.float32),
        "observations.state": np.ones((5, 2), np.float32),
        "actions": np.ones((5, 3), np.float32),
        "episode_indices": np.array([0, 0, 0, 1, 1]),
        "rewards": np.ones(5, np.float32),
        "language": np.array([[103, 111]], np.uint8),
    }
    key = data.draw(st.sampled_from(sorted(arrays)))
    value = arrays.pop(key)
    how = data.draw(st.sampled_from(("remove", "rename", "shape", "values", "type", "damage", "metadata")))
    if how == "rename":
        arrays[
            data.draw(st.sampled_from(("images", "observations", "state", "observations.x.y", "depth", "dones", "language")))
        ] = value
    elif how == "shape":
        shape = data.draw(st.sampled_from(((), (0,), (5,), (1, 5), (5, 0), (5, 1, 1), (5, 16, 16, 7), (4, 2), (5, 3, 8, 8))))
        arrays[key] = np.zeros(shape, value.dtype)
    elif how == "values":
        fill = data.draw(st.sampled_from((np.nan, np.inf, -1, 255, 1.5, 0.5)))
        arrays[key] = np.full(value.shape, fill).astype(value.dtype if np.isfinite(fill) else np.float32)
    elif how == "type":
        kind = data.draw(st.sampled_from(("float16", "float64", "int64", "uint16", "bool", "int8")))
        arrays[key] = value.astype(kind)
    elif how != "remove":
        arrays[key] = value
    suffix = data.draw(st.sampled_from(("safetensors", "npz", "npz compressed")))
    path = root / f"data.{suffix.split()[0]}"
    if suffix == "safetensors":
        junk = json.dumps(data.draw(st.sampled_from(JUNK))) if how == "metadata" else '["go", "on"]'
        save_file(arrays, path, {"language": junk} if how == "metadata" or data.draw(st.booleans()) else None)
    else:
        (np.savez if suffix == "npz" else np.savez_compressed)(path, **arrays)
    if how == "damage":
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, min(len(content), 900) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content[: data.draw(st.sampled_from((len(content), len(content) - 9, 40)))])
    importing.run("--format", "tensors")


def test_enough_was_mutated_and_much_of_it_was_noticed(importing):
    assert importing.count >= 600
    assert min(importing.codes.count(code) for code in (0, 1, 2)) > 100
