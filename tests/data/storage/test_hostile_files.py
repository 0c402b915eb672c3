"""What verbot wrote is what is read, and small files that unpack to much are refused before they do."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from verbot.data import DatasetWriter, EpisodeRecord, check_dataset, open_dataset
from verbot.data.storage.info import seal
from verbot.data.storage.video import encode_video
from verbot.errors import CorruptFileError, DataError, VerbotError
from verbot.files import sha256
from verbot.spec import Camera, Component, RobotSpec

INFO, DATA = "meta/info.json", "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two episodes with a video, pictures and texts."""
    vector = (Component("arm", "joint_position", ("a", "b"), "rad", "base", (-2.0, -2.0), (2.0, 2.0)),)
    spec, root = (
        RobotSpec("tiny", 10.0, (Camera("front", 16, 16), Camera("wrist", 8, 8)), vector, vector),
        tmp_path_factory.mktemp("d"),
    )
    with DatasetWriter(root / "made", spec, images={"wrist": "image"}) as writer:
        for number in range(2):
            images = {"front": np.full((4, 16, 16, 3), 90, np.uint8), "wrist": np.full((4, 8, 8, 3), 9, np.uint8)}
            values = np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2) + number
            columns = {"note": np.array(["word"] * 4, object)}
            writer.save_episode(EpisodeRecord(f"touch {number}", values, values, images, columns=columns))
    return root / "made"


@pytest.fixture
def root(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dataset"))


@pytest.fixture
def foreign(root) -> Path:
    """The dataset as other software leaves it."""
    info = json.loads((root / INFO).read_text())
    del info["verbot"]
    (root / INFO).write_text(json.dumps(info))
    return root


def content(root: Path) -> str:
    dataset = open_dataset(root)
    values = [(e.states.tolist(), e.actions.tolist(), e.tasks, e.segments, e.extras, e.calibration) for e in dataset]
    return repr((dataset.spec, dataset.lengths, values, dataset.statistics().to_json()))


def test_every_flipped_byte_of_the_metadata_is_an_error_or_changes_nothing(root):
    rng, expected, changed = np.random.default_rng(0), content(root), 0
    for number in range(80):
        path = root / (INFO if number % 4 else "meta/tasks.parquet")
        before = path.read_bytes()
        after = bytearray(before)
        after[rng.integers(len(after))] ^= 1 << rng.integers(8)
        path.write_bytes(after)
        try:
            assert content(root) == expected
        except VerbotError:
            changed += 1
        path.write_bytes(before)
    assert changed > 50


@pytest.mark.parametrize("change", [{"episodes": 1}, {"seal": "0" * 64}, {"tasks": ["other"]}])
def test_a_record_that_was_changed_is_named(root, change):
    info = json.loads((root / INFO).read_text())
    (root / INFO).write_text(json.dumps({**info, "verbot": {**info["verbot"], **change}}))
    with pytest.raises(CorruptFileError, match=r"info.json: is damaged, or was edited by hand: .*remove its key 'verbot'"):
        open_dataset(root)
    (root / INFO).write_text(json.dumps({("verbit" if key == "verbot" else key): value for key, value in info.items()}))
    with pytest.raises(CorruptFileError, match="calls verbot's record 'verbit'"):
        open_dataset(root)


def test_episodes_of_other_software_open_with_a_record_of_verbot(root):
    """As LeRobot appends: it keeps the record, and changes the counts."""
    info = json.loads((root / INFO).read_text())
    record = {**info, "total_episodes": 1, "total_frames": 4, "verbot": {**info["verbot"], "episodes": 1}}
    info["verbot"] |= {"episodes": 1, "seal": seal(record)}
    (root / INFO).write_text(json.dumps(info))
    assert len(open_dataset(root)) == 2 and not open_dataset(root).is_ours


def column(path: Path, name: str, values: Any) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, values), path, compression="zstd")


def vectors(size: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8 * size, np.float32)), size).cast(pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("action", lambda: vectors(10**6)),
        ("note", lambda: pa.array(["x" * 10**7] * 8)),
        ("timestamp", lambda: vectors(10**6)),
    ],
)
def test_a_column_that_unpacks_to_far_more_than_declared_is_not_read(foreign, name, make):
    column(foreign / DATA, name, make())
    assert (foreign / DATA).stat().st_size < 50_000
    before = pa.total_allocated_bytes()
    with pytest.raises(CorruptFileError, match=f"column '{name}' unpacks to .* MB or more; its rows have room for 17"):
        dataset = open_dataset(foreign)
        assert dataset[0].actions.size and dataset[0].timestamps.size and dataset[0].columns["note"].size
    assert pa.total_allocated_bytes() - before < 10e6


def test_large_texts_that_were_saved_are_read(tmp_path):
    spec = RobotSpec("tiny", 10.0, (), (), (Component("arm", "joint_position", ("a",), "rad", "base", (-2.0,), (2.0,)),))
    boxes = "ab" * 450_000  # which parquet stores once
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for _ in range(30):
            writer.save_episode(EpisodeRecord("a", np.zeros((1, 0)), np.ones((1, 1)), {}, extras={"boxes": boxes}))
    assert all(episode.extras["boxes"] == boxes for episode in open_dataset(tmp_path / "d"))


def test_large_texts_of_other_software_are_read(foreign):
    texts = [np.random.default_rng(number).bytes(13 * 10**5).hex() for number in range(8)]
    column(foreign / DATA, "note", pa.array(texts))
    assert open_dataset(foreign)[0].columns["note"].tolist() == texts[:4]


def test_more_rows_than_the_episodes_can_have_are_not_read(foreign):
    table = pq.read_table(foreign / DATA).select(["index"])
    pq.write_table(pa.concat_tables([table] * 65_000).combine_chunks(), foreign / DATA, compression="zstd")
    with pytest.raises(CorruptFileError, match="has 520000 rows; the dataset has place for 500032 at most"):
        _ = open_dataset(foreign)[0].states


def test_a_picture_of_another_size_is_not_unpacked(foreign):
    sink = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(sink, "PNG")
    cell = {"bytes": sink.getvalue(), "path": None}
    column(foreign / DATA, "observation.images.wrist", pa.array([cell] * 8))
    with pytest.raises(CorruptFileError, match=r"has pictures of 4000×4000 \(frame 0\); meta/info.json says 8×8"):
        open_dataset(foreign)[0].images("wrist")


def test_the_check_compares_the_size_of_videos_that_verbot_wrote(root):
    (root / VIDEO).write_bytes(encode_video(np.zeros((8, 32, 32, 3), np.uint8), 10.0))
    info = json.loads((root / INFO).read_text())
    info["verbot"]["files"][VIDEO] = sha256((root / VIDEO).read_bytes())
    info["verbot"]["seal"] = seal(info)
    (root / INFO).write_text(json.dumps(info))
    assert [f.problem for f in check_dataset(root)] == ["has pictures of 32×32; meta/info.json says 16×16"]
    with pytest.raises(CorruptFileError, match="has pictures of 32×32; meta/info.json says 16×16"):
        open_dataset(root)[0].images("front")


@pytest.mark.parametrize("name", ["meta/tasks.parquet", "meta/stats.json", DATA])
def test_a_pipe_in_place_of_a_file_is_named(foreign, name):
    (foreign / name).unlink()
    os.mkfifo(foreign / name)
    if name != "meta/stats.json":  # which need not be there
        with pytest.raises(DataError, match=Path(name).name):
            for episode in open_dataset(foreign):
                assert len(episode.actions) and episode.tasks
    assert any(finding.path.endswith(name) for finding in check_dataset(foreign)) or name == "meta/stats.json"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 10**5, b"\xff\xfe{", b"", b'{"a":' * 50_000])
def test_metadata_that_are_no_metadata_are_named(root, content):
    (root / INFO).write_bytes(content)
    with pytest.raises(DataError, match=r"info.json|holds no dataset|version"):
        open_dataset(root)
    assert check_dataset(root)


@pytest.mark.parametrize(
    ("file", "name", "make", "message"),
    [
        (DATA, "action", lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())), "'action' holds map.*numbers"),
        (
            "meta/episodes/chunk-000/file-000.parquet",
            "late",
            lambda n: pa.array([1] * n, pa.timestamp("ns")),
            "'late' .timestamp",
        ),
    ],
)
def test_columns_of_types_that_no_dataset_has_are_named(foreign, file, name, make, message):
    table = pq.read_table(foreign / file)
    if name in table.column_names:
        table = table.drop_columns([name])
    pq.write_table(table.append_column(name, make(len(table))), foreign / file)
    with pytest.raises(DataError, match=message):
        content(foreign)
