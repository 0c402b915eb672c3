"""A dataset of very many episodes opens without a Python object for each."""

from __future__ import annotations

import importlib
import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verbot.data import open_dataset
from verbot.data.storage import arrow_rows, episode_statistics
from verbot.data.storage.recent import Recent

COUNT, FILES, LENGTH = 200_000, 4, 10


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Metadata of 200 000 episodes in four files of two row groups, of which the first two episodes have frames."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "cases"))
    try:
        writer = importlib.import_module("_v3")
    finally:
        sys.path.pop(0)
    root = tmp_path_factory.mktemp("many")
    writer.write(
        root, [writer.episode(LENGTH), writer.episode(LENGTH)], dtype="image", sizes={"observation.images.front": (8, 24)}
    )
    (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    for file, numbers in enumerate(np.split(np.arange(COUNT), FILES)):
        table = pa.table(
            {
                "episode_index": numbers,
                "tasks": pa.array([["pick up the cube"]] * len(numbers)),
                "length": np.full(len(numbers), LENGTH),
                "data/chunk_index": numbers // 2 // 1000,
                "data/file_index": numbers // 2 % 1000,
                "dataset_from_index": numbers * LENGTH,
                "dataset_to_index": (numbers + 1) * LENGTH,
                "stats/action/mean": pa.array([[0.0] * 7] * len(numbers)),
            }
        )
        pq.write_table(table, root / f"meta/episodes/chunk-000/file-{file:03d}.parquet", row_group_size=30_000)
    info = json.loads((root / "meta/info.json").read_text())
    info |= {"total_episodes": COUNT, "total_frames": COUNT * LENGTH}
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def test_opening_makes_no_object_for_each_episode(root, monkeypatch):
    converted = []

    class Counted(arrow_rows.Rows):
        def __getitem__(self, number):
            converted.append(number)
            return super().__getitem__(number)

    monkeypatch.setattr("verbot.data.storage.versions.Rows", Counted)
    tracemalloc.start()
    try:
        dataset = open_dataset(root)
        first = next(iter(dataset))
        starts, lengths = dataset.frame_starts, dataset.lengths
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset) == len(lengths) == COUNT
    assert (starts.dtype, starts.shape, starts[-1]) == (np.int64, (COUNT + 1,), COUNT * LENGTH)
    assert converted == [0]
    assert peak < 30e6  # three arrays of 200 000 numbers; as dictionaries the rows take 200 MB
    assert (first.instruction, first.states.shape) == ("pick up the cube", (LENGTH, 7))
    assert np.array_equal(dataset[1].images("front", rows=[3]), dataset[1].images("front")[3:4])


def test_a_row_is_read_without_the_other_files(root, monkeypatch):
    read = []
    from verbot.data.storage import versions

    original = versions.read_rows
    monkeypatch.setattr(versions, "PART", 10_000)
    monkeypatch.setattr(versions, "read_rows", lambda *args, **options: read.append(args[0].name) or original(*args, **options))
    dataset = open_dataset(root)
    assert dataset._rows[150_001]["episode_index"] == 150_001
    assert read == ["file-003.parquet"]


def test_recent_values_have_a_bound():
    recent: Recent[int, list[int]] = Recent(10)
    for number in range(100):
        assert recent.get(number, lambda number=number: [number] * 4, len) == [number] * 4
    assert len(recent) == 2


@pytest.mark.parametrize("samples", [40, 2**20])
def test_statistics_of_many_numbers_are_streamed(monkeypatch, samples):
    """Beyond the size up to which quantiles are exact, all else still is."""
    rng = np.random.default_rng(0)

    class One:
        def __init__(self, index):
            self.index = index
            self.states = rng.normal(5, 2, (30 + index, 3)).astype(np.float32)
            self.actions = rng.normal(0, 1, (30 + index, 2)).astype(np.float32)
            self.actions[:, 1] = 0.1

    episodes = [One(index) for index in range(10)]
    frames = sum(len(one.actions) for one in episodes)
    exact = episode_statistics.episode_statistics(lambda: episodes, frames, 5)
    monkeypatch.setattr(episode_statistics, "EXACT", 100)
    monkeypatch.setattr(episode_statistics, "SAMPLES", samples)
    streamed = episode_statistics.episode_statistics(lambda: episodes, frames, 5)
    for name in ("state", "action"):
        assert streamed[name].count == frames
        for kind in ("min", "max", "mean", "std"):
            assert getattr(streamed[name], kind) == pytest.approx(getattr(exact[name], kind), rel=1e-9, abs=1e-12)
        kept = np.concatenate([getattr(one, f"{name}s") for one in episodes])[:: -(-frames // samples)]
        assert streamed[name].quantiles[0.9] == pytest.approx(np.quantile(kept, 0.9, axis=0), rel=1e-6)
    assert streamed["action"].std[1] == 0.0
