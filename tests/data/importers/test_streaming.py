"""Imports hold one episode in memory, of any format and however many episodes there are."""

import gc
import importlib
import json
import tracemalloc
import weakref

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from verbot.data import ImportConfig, import_dataset
from verbot.data.importers import open_source
from verbot.data.importers.json_entries import PIECE, entries, read_entry
from verbot.data.importers.rlds_record import RldsRecord

LENGTH, SIDE = 8, 96
FEW, MANY = 12, 48  # episodes; the few are more than the buffers of 1 MiB hold
EPISODE = LENGTH * SIDE * SIDE * 3  # bytes of its pictures


def arrays(count):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (count * LENGTH, SIDE, SIDE, 3), np.uint8)
    return {
        "observations.front": pictures,
        "observations.state": rng.normal(size=(count * LENGTH, 4)).astype(np.float32),
        "actions": rng.normal(size=(count * LENGTH, 3)).astype(np.float32),
        "episode_indices": np.repeat(np.arange(count), LENGTH),
    }


def safetensors(root, count):
    save_file(arrays(count), root / "data.safetensors")


def npz(root, count):
    np.savez(root / "data.npz", **arrays(count))


def compressed(root, count):
    np.savez_compressed(root / "data.npz", **arrays(count))


def torch_file(root, count):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(array) for name, array in arrays(count).items()}, root / "data.pt")


def manifest(root, count):
    """Long vectors, so that the file itself is long."""
    Image.new("RGB", (8, 8)).save(root / "x.png")
    vector = [0.123456789] * (EPISODE // LENGTH // 40)
    listed = [
        {"episode_id": number // LENGTH, "image_path": "x.png", "instruction": "go", "action": vector, "robot_state": [1.0]}
        for number in range(count * LENGTH)
    ]
    (root / "manifest.json").write_text(json.dumps(listed))


def rlds(root, count):
    formats = importlib.import_module("_formats")
    pixels, features = arrays(count)["observations.front"].reshape(count, LENGTH, -1), {**formats.FLAGS}
    features |= {
        "steps/observation/image": formats.tensor("uint8", (SIDE, SIDE, 3)),
        "steps/action": formats.tensor("float32", (3,)),
    }
    features |= {"steps/language_instruction": formats.text()}
    features["steps/observation/image"]["tensor"]["encoding"] = "zlib"
    import zlib

    def record(number):
        packed = [zlib.compress(frame.tobytes(), 1) for frame in pixels[number]]
        numbers = {"steps/action": np.ones((LENGTH, 3)), "steps/language_instruction": [b"go"] * LENGTH}
        return {**formats.flags(LENGTH), **numbers, "steps/observation/image": packed}

    formats.rlds(root, "toy", [record(number) for number in range(count)], features)


def gzipped(root, count):
    import gzip

    rlds(root, count)
    (shard,) = root.glob("*/*/*.tfrecord-*")
    shard.write_bytes(gzip.compress(shard.read_bytes(), 1))


WRITERS = {
    "safetensors": (safetensors, "tensors"),
    "npz": (npz, "tensors"),
    "compressed npz": (compressed, "tensors"),
    "pt": (torch_file, "tensors"),
    "manifest": (manifest, "manifest"),
    "rlds": (rlds, "rlds"),
    "gzipped rlds": (gzipped, "rlds"),
}


def peak(root, name):
    """Peak bytes of reading every episode and decoding its pictures."""
    tracemalloc.start()
    count = 0
    for item in open_source(name, root, None, {}).items():
        raw = item.read()
        frames = [read() for read in raw.cameras.values()]
        count += len(frames)
        del raw, frames
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, count


@pytest.mark.parametrize("name", WRITERS)
def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path, case, name):
    case("r01_own")  # makes the writers of tests/cases importable
    write, source = WRITERS[name]
    peaks = []
    for count in (FEW, MANY):
        root = tmp_path / str(count)
        root.mkdir()
        write(root, count)
        peak(root, source)  # imports and caches of the first use
        found, seen = peak(root, source)
        assert seen == count
        peaks.append(found)
    assert peaks[1] < peaks[0] + 4 * EPISODE, f"{peaks[0] / EPISODE:.1f} and {peaks[1] / EPISODE:.1f} episodes of pictures"


def test_an_import_holds_one_episode(tmp_path, case, monkeypatch):
    case("r01_own")
    rlds(tmp_path, 6)
    alive, most, made = weakref.WeakSet(), [0], RldsRecord.__init__

    def counted(self, *arguments):
        gc.collect()
        alive.add(self)
        most[0] = max(most[0], len(alive))
        made(self, *arguments)

    monkeypatch.setattr(RldsRecord, "__init__", counted)
    assert import_dataset(tmp_path / "toy", tmp_path / "out", ImportConfig(rate_hz=10)).episodes == 6
    assert most[0] == 1


def test_entries_of_a_long_file_are_read_one_by_one(tmp_path):
    path = tmp_path / "long.json"
    listed = [{"number": number, "text": "é🤖" * 200, "nested": [[1, 2], {"a": "]},"}]} for number in range(PIECE // 600)]
    path.write_text('{"version": 1.5e3, "other": ["x"], "samples": ' + json.dumps(listed, ensure_ascii=False, indent=1) + " }\n")
    found = [(place, value) for key, place, value in entries(path, ("samples",)) if key == "samples" and place.size]
    assert [value for _, value in found] == listed
    assert [read_entry(path, place) for place, _ in found[::50]] == listed[::50]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "Expecting ',' at byte 5"),
        ("[1,]", "Expecting value at byte 3"),
        ("[1] 2", "Extra data at byte 4"),
        ('{"a" 1}', "Expecting ':' at byte 5"),
        ("{3: 1}", "Expecting property name enclosed in double quotes"),
        ("", "Expecting value at byte 0"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(entries(path, ("samples",)))
