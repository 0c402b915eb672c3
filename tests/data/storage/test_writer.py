from __future__ import annotations

import dataclasses
import errno
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from verbot.cli import main
from verbot.data import DatasetWriter, EpisodeRecord, check_dataset, open_dataset
from verbot.data.storage import episode_statistics
from verbot.data.storage.dataset_statistics import whole_statistics
from verbot.data.storage.journal import EpisodeJournal
from verbot.errors import DataError, UnknownNameError, UnwritableError
from verbot.spec import Camera, Component, RobotSpec
from verbot.statistics import Statistics

FIXTURE = Path(__file__).parents[2] / "fixtures/lerobot_v3"


def same(episode, record):
    assert episode.instruction == record.instruction
    assert np.array_equal(episode.states, record.states)
    assert np.array_equal(episode.actions, record.actions)
    assert episode.states.dtype == episode.actions.dtype == np.float32
    assert json.dumps(episode.extras) == json.dumps(record.extras)
    assert json.dumps(episode.calibration) == json.dumps(record.calibration)
    for camera, images in record.images.items():
        read = episode.images(camera)
        assert read.dtype == np.uint8 and read.shape == images.shape
        assert np.abs(read.astype(int) - images).max() <= 4


def test_saved_episodes_are_read_back(written, spec, make):
    dataset = open_dataset(written)
    assert len(dataset) == 7 and dataset.spec == spec
    for number, episode in enumerate(dataset):
        same(episode, make(number))
    assert dataset[-1].extras["number"] == 6
    assert dataset[2].instructions == ("pick up object 2", "lift object 2")
    assert not (written / "journal").exists()
    assert check_dataset(written) == []


def test_episodes_are_readable_while_they_are_being_written(tmp_path, spec, make):
    with DatasetWriter(tmp_path / "d", spec, merge_every=3) as writer:
        assert len(open_dataset(tmp_path / "d")) == 0
        for number in range(5):
            assert writer.save_episode(make(number)) == number
            dataset = open_dataset(tmp_path / "d")
            assert len(dataset) == len(writer) == number + 1
            same(dataset[number], make(number))
            assert dataset.statistics()["action"].count == sum(len(make(i).actions) for i in range(number + 1))
            assert check_dataset(tmp_path / "d") == []
        early = open_dataset(tmp_path / "d")  # two of its episodes are in the journal, which is merged now
    same(early[4], make(4))
    same(early[0], make(0))


def test_adding_to_a_dataset(tmp_path, spec, make):
    for start in (0, 2, 2):
        with DatasetWriter(tmp_path / "d", spec) as writer:
            assert len(writer) in (start, start + 2)
            for _ in range(2):
                writer.save_episode(make(len(writer)))
    dataset = open_dataset(tmp_path / "d")
    assert [episode.extras["number"] for episode in dataset] == list(range(6))
    same(dataset[5], make(5))
    assert pq.read_table(tmp_path / "d/meta/tasks.parquet").column("task_index").to_pylist() == [0, 1, 2]
    assert check_dataset(tmp_path / "d") == []


def test_opening_and_closing_changes_nothing(written, spec):
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    DatasetWriter(written, spec).close()
    assert before == {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}


def test_statistics_are_exact(written, make):
    statistics = open_dataset(written).statistics()
    states = np.concatenate([make(i).states for i in range(7)])
    assert statistics["state"].quantiles[0.9] == pytest.approx(np.quantile(states.astype(float), 0.9, axis=0), abs=0)
    actions = np.concatenate([make(i).actions for i in range(7)])
    assert Statistics.of({"action": actions}).to_json() == {"action": statistics["action"].to_json()}
    assert statistics["state"].std[3] == 0


def test_statistics_of_many_numbers_hold_one_file_at_a_time(tmp_path, make, monkeypatch):
    spec = RobotSpec("bare", 10.0, (), (), (Component("go", "discrete", ("n",), "1", "base", (0.0,), (9.0,)),))
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "d", spec, merge_every=1) as writer:
        for _ in range(30):
            actions, force = rng.integers(0, 10, (1000, 1)).astype(np.float32), rng.normal(size=(1000, 4, 5))
            force[rng.integers(0, 1000, 5), 1, 2] = np.nan
            columns = {"force": force, "unknown": np.full(1000, np.nan, np.float32)}
            writer.save_episode(EpisodeRecord("go", np.zeros((1000, 0), np.float32), actions, {}, columns=columns))
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    exact = json.loads((tmp_path / "d/meta/stats.json").read_text())
    monkeypatch.setattr(episode_statistics, "EXACT", 0)
    monkeypatch.setattr(episode_statistics, "SAMPLES", 5000)
    tracemalloc.start()
    streamed = whole_statistics(tmp_path / "d", info["features"], info["verbot"]["files"], info["total_frames"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6 < 30 * 1000 * 20 * 8  # bytes of the column "force"
    assert streamed.keys() == exact.keys() and "unknown" not in exact
    for key, values in streamed.items():
        span = np.subtract(exact[key]["max"], exact[key]["min"])
        assert {name: values[name] for name in ("min", "max", "count")} == {n: exact[key][n] for n in ("min", "max", "count")}
        for name, off in (("mean", 1e-12), ("std", 1e-12), ("q01", 0.02), ("q50", 0.02), ("q99", 0.02)):
            assert (np.abs(np.subtract(values[name], exact[key][name])) <= off * span).all(), (key, name)


def test_only_one_writer_at_a_time(tmp_path, spec):
    with DatasetWriter(tmp_path / "d", spec):
        with pytest.raises(DataError, match="another process is writing"):
            DatasetWriter(tmp_path / "d", spec)
    DatasetWriter(tmp_path / "d", spec).close()


def test_another_robot_is_refused(written, spec):
    with pytest.raises(DataError, match="another robot spec"):
        DatasetWriter(written, dataclasses.replace(spec, rate_hz=20.0))
    with pytest.raises(DataError, match="other software"):
        DatasetWriter(FIXTURE, spec)
    with pytest.raises(DataError, match="holds files but no"):
        DatasetWriter(FIXTURE / "data", spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": np.zeros((5, 3), np.float32)}, r"states have shape \(5, 3\).*\(5, 8\)"),
        ({"actions": np.full((5, 4), np.nan, np.float32)}, "actions are not finite at frame 0"),
        ({"actions": np.zeros((0, 4), np.float32)}, "without frames"),
        ({"images": {}}, "the episode has cameras none; robot 'toy' has front, wrist"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path, spec, make, change, message):
    with DatasetWriter(tmp_path / "d", spec) as writer:
        with pytest.raises(DataError, match=message):
            writer.save_episode(dataclasses.replace(make(0), **change))
        images = make(0).images | {"wrist": np.zeros((5, 4, 4, 3), np.uint8)}
        with pytest.raises(DataError, match=r"camera 'wrist' gave uint8 \(5, 4, 4, 3\); expected uint8 \(5, 24, 32, 3\)"):
            writer.save_episode(dataclasses.replace(make(0), images=images))
        assert len(writer) == 0


def test_unknown_camera_and_episode_say_what_exists(written):
    dataset = open_dataset(written)
    with pytest.raises(UnknownNameError, match="no camera named 'frnt'. Did you mean 'front'"):
        dataset[0].images("frnt")
    with pytest.raises(DataError, match="no episode 7; it has 7"):
        dataset[7]


def test_a_removed_journal_entry_does_not_hide_those_after_it(tmp_path, spec, make):
    writer = DatasetWriter(tmp_path / "d", spec)
    for number in range(4):
        writer.save_episode(make(number))
    writer._open.close()  # as if it had died
    EpisodeJournal(tmp_path / "d").paths()[1].unlink()
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(make(9))
    assert [episode.extras["number"] for episode in open_dataset(tmp_path / "d")] == [0, 2, 3, 9]


def test_a_robot_without_state_or_cameras(tmp_path):
    spec = RobotSpec("bare", 12.5, (), (), (Component("go", "discrete", ("n",), "1", "base", (0.0,), (3.0,)),))
    record = EpisodeRecord("go", np.zeros((4, 0), np.float32), np.arange(4, dtype=np.float32)[:, None], {})
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(record)
    dataset = open_dataset(tmp_path / "d")
    assert dataset[0].actions[:, 0].tolist() == [0, 1, 2, 3] and dataset[0].states.shape == (4, 0)
    assert dataset.spec.rate_hz == 12.5 and "state" not in dataset.statistics()


def test_the_layout_equals_that_of_lerobot(tmp_path):
    """A robot like that of the fixture gives the files, schemas and keys that LeRobot wrote."""
    features = json.loads((FIXTURE / "meta/info.json").read_text())["features"]
    vectors = {
        key: Component(key, "other", tuple(features[key]["names"]), "", "", (-1.0,) * n, (1.0,) * n)
        for key, n in (("observation.state", 8), ("action", 7))
    }
    cameras = (Camera("front", 64, 64), Camera("wrist", 64, 64))
    spec = RobotSpec("panda", 10.0, cameras, (vectors["observation.state"],), (vectors["action"],))
    theirs = open_dataset(FIXTURE)
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for episode in theirs:
            images = {camera: episode.images(camera) for camera in ("front", "wrist")}
            writer.save_episode(EpisodeRecord(episode.instruction, episode.states, episode.actions, images))
    for name in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        mine, other = pq.read_schema(tmp_path / "d" / name), pq.read_schema(FIXTURE / name)
        assert [(f.name, str(f.type)) for f in mine] == [(f.name, str(f.type)) for f in other], name
        assert set(mine.metadata or {}) == set(other.metadata or {}), name
    assert_same_values(tmp_path / "d", FIXTURE)
    mine, other = (json.loads((root / "meta/info.json").read_text()) for root in (tmp_path / "d", FIXTURE))
    ignored = ("video.codec", "video.pix_fmt")
    for info in (mine, other):
        for key in ("observation.images.front", "observation.images.wrist"):
            assert all(info["features"][key]["info"].pop(name) for name in ignored)
    mine.pop("verbot")
    for key in ("observation.state", "action"):
        mine["features"][key]["names"] = [name.rpartition(".")[2] for name in mine["features"][key]["names"]]
    assert mine == other
    stats, other_stats = (json.loads((root / "meta/stats.json").read_text()) for root in (tmp_path / "d", FIXTURE))
    for key, feature in other_stats.items():
        assert {n: np.shape(v) for n, v in stats[key].items()} == {n: np.shape(v) for n, v in feature.items()}
    for name in ("min", "max", "mean", "std"):
        assert stats["action"][name] == pytest.approx(other_stats["action"][name], abs=1e-6)
        key = "observation.images.front"
        if name == "std":
            continue  # LeRobot's is over means of frames, verbot's over pixels
        assert np.ravel(stats[key][name]) == pytest.approx(np.ravel(other_stats[key][name]), abs=0.02)


def assert_same_values(mine, theirs):
    data = "data/chunk-000/file-000.parquet"
    assert pq.read_table(mine / data).to_pydict() == pq.read_table(theirs / data).to_pydict()
    episodes = "meta/episodes/chunk-000/file-000.parquet"
    ours, other = (pq.read_table(root / episodes).to_pylist() for root in (mine, theirs))
    for row, reference in zip(ours, other, strict=True):
        for key, value in reference.items():
            if not key.startswith("stats/"):
                assert row[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    pandas, reference = (json.loads(pq.read_schema(root / "meta/tasks.parquet").metadata[b"pandas"]) for root in (mine, theirs))
    assert pandas["index_columns"] == reference["index_columns"]
    assert [c["field_name"] for c in pandas["columns"]] == [c["field_name"] for c in reference["columns"]]
    assert pq.read_table(mine / "meta/tasks.parquet").to_pydict() == pq.read_table(theirs / "meta/tasks.parquet").to_pydict()


@pytest.mark.parametrize("merged", [False, True])
def test_extras_under_the_names_of_an_older_version_are_read(tmp_path, spec, make, merged):
    record = make(0)
    extras = {key: value for key, value in record.extras.items() if key != "first_contact_frame"} | {"engaged_frame": 4}
    with DatasetWriter(tmp_path / "old", spec, merge_every=1 if merged else 10) as writer:
        writer.save_episode(dataclasses.replace(record, extras=extras))
        found = open_dataset(tmp_path / "old")[0].extras
    assert found["first_contact_frame"] == 4 and "engaged_frame" not in found


def test_a_full_disk_is_said_in_a_line_and_nothing_is_lost(tmp_path, spec, make, monkeypatch):
    writer = DatasetWriter(tmp_path / "d", spec)
    writer.save_episode(make(0))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UnwritableError, match=r"episode-000001.episode cannot be written \(No space left on device\)"):
            writer.save_episode(make(1))
    assert not list((tmp_path / "d/journal").glob(".*.tmp")) and len(open_dataset(tmp_path / "d")) == 1
    writer.save_episode(make(1))
    writer.close()
    assert len(open_dataset(tmp_path / "d")) == 2 and check_dataset(tmp_path / "d") == []


def test_a_command_on_a_full_disk_has_no_traceback(tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as stop:
        main(["collect", str(tmp_path / "d"), "--suite", "navigation", "--episodes", "1", "--workers", "1"])
    assert stop.value.code == 2 and "cannot be written (No space left on device)" in capsys.readouterr().err.splitlines()[-1]
