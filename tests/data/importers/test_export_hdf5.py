"""The HDF5 export: robomimic's reader finds what it looks for, and importing it gives the same dataset again."""

import gc
import json
import resource
import sys

import h5py
import numpy as np
import pytest

from verbot.data import DatasetWriter, EpisodeRecord, export_hdf5, import_dataset, open_dataset
from verbot.data.importers import open_source
from verbot.data.storage.reader import Episode
from verbot.data.storage.segments import InstructionSegment
from verbot.data.storage.writer import example_dataset
from verbot.errors import UnwritableError
from verbot.spec import Camera, Component, RobotSpec

from .conftest import psnr_db

XY = Component("position", "position", ("x", "y"), "m", "base", (-1.0, -1.0), (1.0, 1.0))
SPEC = RobotSpec(
    "cart",
    10.0,
    (Camera("top", 24, 32),),
    (XY,),
    (Component("goal", "position", ("x", "y"), "m", "base", (-1.0,) * 2, (1.0,) * 2),),
)


class SequenceReader:
    """What robomimic 0.3's ``SequenceDataset`` reads of a file with its default keys, in its own order (the package itself asks
    for a simulator's libraries). It opens the file for concurrent readers, as robomimic does."""

    def __init__(self, path, obs_keys, dataset_keys=("actions", "rewards", "dones"), cache=None, filter_by=None, length=1):
        self.file = h5py.File(path, "r", swmr=True, libver="latest")
        self.obs_keys, self.dataset_keys, self.length = obs_keys, dataset_keys, length
        if filter_by is None:
            demos = list(self.file["data"].keys())
        else:
            demos = [name.decode("utf-8") for name in np.array(self.file[f"mask/{filter_by}"][:])]
        self.demos = sorted(demos, key=lambda name: int(name[5:]))
        self.lengths = {demo: int(self.file[f"data/{demo}"].attrs["num_samples"]) for demo in self.demos}
        self.index = [(demo, row) for demo in self.demos for row in range(self.lengths[demo])]
        self.cache = {}
        if cache == "low_dim":
            low = [key for key in obs_keys if not key.endswith("_image")]
            for demo in self.demos:
                for key in (*(f"{group}/{key}" for group in ("obs", "next_obs") for key in low), *dataset_keys):
                    values = self.file[f"data/{demo}/{key}"][()]
                    self.cache[demo, key] = values.astype("float32") if key in dataset_keys else values

    def __len__(self):
        return len(self.index)

    def __getitem__(self, index):
        demo, row = self.index[index]
        keys = (*self.dataset_keys, *(f"{group}/{key}" for group in ("obs", "next_obs") for key in self.obs_keys))
        return {key: self._padded(demo, key, row) for key in keys}

    def _padded(self, demo, key, row):
        data = self.cache[demo, key] if (demo, key) in self.cache else self.file[f"data/{demo}/{key}"]
        values = data[row : min(self.lengths[demo], row + self.length)]
        return np.concatenate([values, np.repeat(values[-1:], self.length - len(values), 0)])

    def metadata(self):
        first = self.file[f"data/{next(iter(self.file['data'].keys()))}"]
        shapes = {key: first[f"obs/{key}"].shape[1:] for key in sorted(self.obs_keys)}
        return json.loads(self.file["data"].attrs["env_args"]), first["actions"].shape[1], shapes


def dataset(root, count=12, success=True):
    rng = np.random.default_rng(0)
    with DatasetWriter(root, SPEC) as writer:
        for number in range(count):
            states, actions = (rng.uniform(-1, 1, (4 + number % 3, 2)).astype(np.float32) for _ in range(2))
            images = (
                np.full((len(states), 24, 32, 3), 10 * number, np.uint8)
                + np.arange(len(states), dtype=np.uint8)[:, None, None, None]
            )
            extras = {} if success is None else {"success": success}
            writer.save_episode(EpisodeRecord(f"go {number}", states, actions, {"top": images}, extras=extras))
    return open_dataset(root)


@pytest.mark.parametrize("cache", [None, "low_dim"])
def test_robomimics_reader_finds_what_it_looks_for(tmp_path, cache):
    source = dataset(tmp_path / "set")
    path = export_hdf5(source.root, tmp_path / "file.hdf5").path
    reader = SequenceReader(path, ("position", "top_image"), cache=cache, length=3)
    assert len(reader) == sum(len(episode) for episode in source)
    assert reader.metadata() == (
        {"env_name": "cart", "type": 2, "env_kwargs": {"control_freq": 10}}, 2, {"position": (2,), "top_image": (24, 32, 3)}
    )  # fmt: skip
    start = 0
    for episode in source:
        after = [*range(1, len(episode)), len(episode) - 1]
        images = episode.images("top")
        for row in range(len(episode)):
            rows = np.minimum(np.arange(row, row + 3), len(episode) - 1)
            one = reader[start + row]
            np.testing.assert_array_equal(one["actions"], episode.actions[rows])
            np.testing.assert_array_equal(one["obs/position"], episode.states[rows])
            np.testing.assert_array_equal(one["next_obs/position"], episode.states[after][rows])
            np.testing.assert_array_equal(one["obs/top_image"], images[rows])
            np.testing.assert_array_equal(one["next_obs/top_image"], images[after][rows])
            assert one["rewards"].tolist() == one["dones"].tolist() == (rows == len(episode) - 1).astype(float).tolist()
        start += len(episode)
    train, valid = (SequenceReader(path, ("position",), filter_by=name).demos for name in ("train", "valid"))
    assert len(valid) == 1 and sorted([*train, *valid]) == sorted(reader.demos)


def test_a_reward_needs_a_success(tmp_path):
    for name, success in (("failed", False), ("unknown", None)):
        path = export_hdf5(dataset(tmp_path / name, 1, success).root, tmp_path / f"{name}.hdf5").path
        with h5py.File(path) as file:
            assert file["data/demo_0/rewards"][()].tolist() == [0] * 4 and file["data/demo_0/dones"][()].tolist() == [0, 0, 0, 1]
            assert [text.decode() for text in file["mask/train"][()]] == ["demo_0"] and "valid" not in file["mask"]


def test_columns_segments_and_pictures_come_back_identical(tmp_path, monkeypatch):
    source = dataset(tmp_path / "set", 2)
    columns = {
        "next.reward": np.linspace(0, 1, 4, dtype=np.float32),
        "next.done": np.array([False, False, True, True]),
        "observation.environment_state": np.arange(12.0).reshape(4, 3),
        "contact": np.array([True, False, True, False]),
    }
    segments = (InstructionSegment(0, 1, ("pick it", "lift it")), InstructionSegment(1, 4, ("put it down",)))
    first = source[0].index
    monkeypatch.setattr(Episode, "columns", property(lambda self: columns if self.index == first else {}))
    whole = Episode.segments.fget
    monkeypatch.setattr(Episode, "segments", property(lambda self: segments if self.index == first else whole(self)))
    path = export_hdf5(source.root, tmp_path / "file.hdf5").path
    with h5py.File(path) as file:
        group = file["data/demo_0"]
        assert [text.decode() for text in group["language_instruction"][()]] == ["pick it"] + ["put it down"] * 3
        np.testing.assert_array_equal(group["rewards"][()], columns["next.reward"])
    one, other = (item.read() for item in open_source("hdf5", tmp_path / "file.hdf5", None, {}).items())
    assert one.columns.keys() == columns.keys() and other.columns == {}, "rewards that were made up do not come back"
    for name, values in columns.items():
        np.testing.assert_array_equal(one.columns[name], values)
        assert one.columns[name].dtype == values.dtype
    assert one.segments == segments and one.instructions == ("pick it", "lift it")
    assert other.segments == () and other.instructions == ("go 1",) and other.extras["success"] is True
    for raw, episode in ((one, source[0]), (other, source[1])):
        np.testing.assert_array_equal(raw.cameras["top"](), episode.images("top"))
        np.testing.assert_array_equal(raw.action["actions"], episode.actions)
        np.testing.assert_array_equal(raw.state["position"], episode.states)


def test_depth_comes_back_in_meters(tmp_path):
    spec = RobotSpec("cart", 10.0, (Camera("top", 24, 32), Camera("far", 24, 32, kind="depth")), (XY,), SPEC.action)
    path = export_hdf5(dataset(tmp_path / "set", 1).root, tmp_path / "file.hdf5").path
    depth = np.linspace(0.2, 3, 4 * 24 * 32, dtype=np.float32).reshape(4, 24, 32, 1)
    with h5py.File(path, "a") as file:
        file["data"].attrs["verbot_spec"] = json.dumps(spec.to_json())
        file["data/demo_0/obs/far_depth"] = depth
    (item,) = open_source("hdf5", tmp_path / "file.hdf5", None, {}).items()
    raw = item.read()
    np.testing.assert_array_equal(raw.cameras["far"](), depth[..., 0])
    assert sorted(raw.cameras) == ["far", "top"]


def test_import_of_an_export_is_the_same_dataset(tmp_path):
    source = open_dataset(example_dataset(tmp_path / "set"))
    export_hdf5(source.root, tmp_path / "file.hdf5")
    assert import_dataset(tmp_path / "file.hdf5", tmp_path / "again").skipped == ()
    again = open_dataset(tmp_path / "again")
    assert again.spec == source.spec
    for one, other in zip(source, again, strict=True):
        assert one.states.tobytes() == other.states.tobytes() and one.actions.tobytes() == other.actions.tobytes()
        assert (one.instruction, one.segments) == (other.instruction, other.segments)
        assert psnr_db(one.images("front"), other.images("front")) > 38


def test_depth_cameras_and_text_columns_are_exported_and_come_back(tmp_path):
    spec = RobotSpec("cart", 10.0, (Camera("top", 24, 32), Camera("far", 24, 32, kind="depth")), (XY,), SPEC.action)
    numbers = np.zeros((4, 2), np.float32)
    depth = np.random.default_rng(0).integers(100, 5000, (4, 24, 32)).astype(np.float32) / np.float32(1000)
    phases = np.array(["reach", "reach", "grasp", "lift"])
    images = {"top": np.full((4, 24, 32, 3), 90, np.uint8), "far": depth}
    with DatasetWriter(tmp_path / "set", spec) as writer:
        writer.save_episode(EpisodeRecord("go", numbers, numbers, images, columns={"phase": phases}))
    export_hdf5(tmp_path / "set", tmp_path / "file.hdf5")
    with h5py.File(tmp_path / "file.hdf5") as file:
        assert file["data/demo_0/obs/far_depth"].shape == (4, 24, 32, 1)
    result = import_dataset(tmp_path / "file.hdf5", tmp_path / "again")
    assert result.skipped == ()
    one, other = (open_dataset(tmp_path / name, depth=True)[0] for name in ("set", "again"))
    assert other.dataset.spec == one.dataset.spec
    np.testing.assert_allclose(other.images("far"), one.images("far"), atol=2e-3)
    assert list(other.columns["phase"]) == phases.tolist()
    with h5py.File(tmp_path / "file.hdf5", "a") as file:
        del file["data/demo_0/columns/phase"]
        file["data/demo_0/columns/phase"] = np.zeros(4, np.complex64)
    (raw,) = (item.read() for item in open_source("hdf5", tmp_path / "file.hdf5", None, {}).items())
    assert {note.field: note.taken_as for note in raw.notes}["columns"] == "left out", "what cannot be taken is said"


@pytest.mark.parametrize("size", [0, 1000, 4000])
def test_a_full_disk_is_one_error_and_nothing_else_on_stderr(tmp_path, monkeypatch, size):
    source = example_dataset(tmp_path / "source")
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(UnwritableError, match=r"out.hdf5 cannot be written \(File too large\)"):
            export_hdf5(source, tmp_path / "out.hdf5", progress=False)
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert said == [] and [path.name for path in tmp_path.iterdir()] == ["source"]
