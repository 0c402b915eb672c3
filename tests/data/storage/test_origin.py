"""A dataset that LeRobot's edit tool made of one of verbot's: spec, calibration, grounding and wordings come from its origin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verbot.data import open_dataset
from verbot.errors import DataError
from verbot.training.imitation.mixing import Recordings
from verbot.training.imitation.records import DataConfig


@pytest.fixture
def edited(written, tmp_path) -> Path:
    """`written` as LeRobot's `delete_episodes` leaves it: episodes 0 and 3 are gone, the rest is numbered anew in new files."""
    source, root, kept = open_dataset(written), tmp_path / "edited", [1, 2, 4, 5, 6]
    frames = pa.concat_tables([pq.read_table(path) for path in sorted(written.glob("data/*/*.parquet"))])
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(written.glob("meta/episodes/*/*.parquet"))]).to_pylist()
    parts, listed, start = [], [], 0
    for new, old in enumerate(kept):
        length = len(source[old])
        part = frames.filter(pa.compute.equal(frames.column("episode_index"), old))
        for key, values in {"episode_index": np.full(length, new), "index": start + np.arange(length)}.items():
            part = part.set_column(part.schema.get_field_index(key), key, pa.array(values))
        row = {**rows[old], "episode_index": new, "dataset_from_index": start, "dataset_to_index": start + length}
        listed.append({**row, "data/chunk_index": 0, "data/file_index": 0})
        parts.append(part)
        start += length
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / folder).mkdir(parents=True)
    pq.write_table(pa.concat_tables(parts), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(listed), root / "meta/episodes/chunk-000/file-000.parquet")
    shutil.copytree(written / "videos", root / "videos")
    shutil.copy(written / "meta/tasks.parquet", root / "meta/tasks.parquet")
    info = json.loads((written / "meta/info.json").read_text())
    del info["verbot"]
    (root / "meta/info.json").write_text(json.dumps(info | {"total_episodes": len(kept), "total_frames": start}))
    return root


def test_what_was_lost_is_said_and_taken_from_the_origin(edited, written):
    alone, source = open_dataset(edited), open_dataset(written)
    assert "open_dataset(…, origin=PATH), or --set data.origin=PATH in training, takes them" in alone.left_out["meta/verbot"]
    assert (alone[0].extras, alone.spec.action[0].kind) == ({}, "other")
    dataset = open_dataset(edited, origin=written)
    assert (dataset.spec, dict(dataset.left_out)) == (source.spec, {})
    for episode, old in zip(dataset, (1, 2, 4, 5, 6), strict=True):
        assert episode.extras == source[old].extras
        assert episode.calibration == source[old].calibration
        assert episode.instructions == source[old].instructions
        assert episode.segments == source[old].segments
        assert np.array_equal(episode.images("wrist"), source[old].images("wrist"))
        assert episode.identity == alone[episode.index].identity


def test_an_edited_sentence_has_no_old_wordings(edited, written):
    table = pq.read_table(edited / "meta/tasks.parquet")
    place = table.schema.get_field_index("__index_level_0__")
    texts = ["grasp the object" if text == "pick up object 1" else text for text in table.column(place).to_pylist()]
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(texts, pa.large_string())), edited / "meta/tasks.parquet"
    )
    dataset = open_dataset(edited, origin=written)
    assert dataset[0].instructions == ("grasp the object",)
    assert "grounding" in dataset[0].extras
    assert dataset[1].instructions == ("pick up object 2", "lift object 2")


def test_episodes_without_an_origin_are_counted(edited, written):
    path = edited / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("action")
    actions = np.array(table.column(place).to_pylist(), np.float32)
    actions[0] += 0.01
    changed = pa.FixedSizeListArray.from_arrays(pa.array(actions.reshape(-1)), actions.shape[1])
    pq.write_table(table.set_column(place, table.schema.field(place), changed), path)
    dataset = open_dataset(edited, origin=written)
    assert dataset.left_out["meta/verbot"].startswith("1 of 5 episodes are not in")
    assert (dataset[0].extras, dataset[0].instructions) == ({}, ("pick up object 1",))
    assert dataset[1].extras


def test_another_robot_is_no_origin(edited, written, case):
    with pytest.raises(DataError, match="observation.state has the numbers ee_position.x, .*; the origin's are"):
        open_dataset(edited, origin=case("l20_bimanual"))
    info = json.loads((edited / "meta/info.json").read_text())
    (edited / "meta/info.json").write_text(json.dumps(info | {"fps": 5}))
    with pytest.raises(DataError, match="has 5 frames a second; its origin has 10"):
        open_dataset(edited, origin=written)


def test_training_takes_the_origin_too(edited, written):
    found = Recordings.open(DataConfig((str(edited),), origin=str(written), out_of_range="widen"))
    assert [c.kind for c in found.spec.action] == [c.kind for c in open_dataset(written).spec.action]
