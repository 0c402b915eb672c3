from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verbot.data import EditPlan, annotate, check_dataset, edit, open_dataset
from verbot.data.editing import clips
from verbot.data.editing.clips import cut_video
from verbot.data.storage import writer as store
from verbot.data.storage.encoded_video import EncodedVideo
from verbot.data.storage.features import feature_map
from verbot.errors import CorruptFileError, DataError

FIXTURE = Path(__file__).parents[2] / "fixtures/lerobot_v3"


def test_uneven_timestamps_are_resampled_or_refused(case, tmp_path, monkeypatch):
    case("l06_image_dtype")  # puts the helpers of the cases on the path
    v3 = sys.modules["_v3"]
    one = v3.episode(12)
    one["timestamp"] = [*(np.arange(6) / 10), *((np.arange(6) + 7) / 10)]
    root = v3.write(tmp_path / "gap", [one], cams=())
    with pytest.raises(DataError, match=r"frame 6 of episode 0 is at 0\.700 s, not 0\.600 s as at 10 Hz; give --rate-hz 10"):
        edit(root, EditPlan(), out=tmp_path / "out")
    edit(root, EditPlan(rate_hz=10.0), out=tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset[0]) == 13 and np.array_equal(dataset[0].states[7:], one["state"][6:])


def test_a_dataset_of_other_software(tmp_path, monkeypatch):
    copy = Path(shutil.copytree(FIXTURE, tmp_path / "theirs"))
    with pytest.raises(DataError, match="was written or changed by other software; give --out"):
        edit(copy, EditPlan(delete=(0,)))
    before = open_dataset(copy)
    monkeypatch.setattr(store, "encode_video", None)  # no video is encoded
    result = edit(copy, EditPlan(delete=(0,)), out=tmp_path / "ours")
    after = open_dataset(tmp_path / "ours")
    assert len(after) == len(before) - 1 and result.encoded == 0 and check_dataset(tmp_path / "ours") == []
    for new, old in zip(after, list(before)[1:], strict=True):
        assert np.array_equal(new.states, old.states) and np.array_equal(new.actions, old.actions)
        assert all(np.array_equal(new.images(camera), old.images(camera)) for camera in before.camera_names)
        assert new.instructions == old.instructions
    assert after.spec == before.spec and "verbot" in after.info
    feature = after.info["features"]["observation.images.front"]["info"]
    assert feature["video.codec"] == before.info["features"]["observation.images.front"]["info"]["video.codec"]
    (note,) = json.loads((tmp_path / "ours/meta/edits.json").read_text())
    assert note["plan"] == {"delete": [0]} and note["sources"][0]["written_by_verbot"] is False


# Videos can be copied unless they have B-frames, or an episode begins between two keyframes of one long video.
@pytest.mark.parametrize(
    ("name", "deleted", "copied", "encoded"),
    [
        ("l01_plain_av1", 0, 2, 2),
        ("l02_bframes", 0, 0, 2),
        ("l02_bframes", 1, 0, 2),
        ("l03_odd_size", 1, 0, 1),
        ("l06_image_dtype", 0, 2, 0),
    ],
)
def test_pictures_of_other_software_stay_those_of_their_frames(case, picture_number, tmp_path, name, deleted, copied, encoded):
    result = edit(case(name), EditPlan(delete=(deleted,)), out=tmp_path / "ours")
    assert (result.copied, result.encoded) == (copied, encoded)
    before, after = open_dataset(tmp_path / "cases" / name), open_dataset(tmp_path / "ours")
    first = 0 if deleted else len(before[0])
    for camera in after.camera_names:
        found = [picture_number(image) for image in after[0].images(camera)]
        assert found == [first + i for i in range(len(found))]
    assert after.info["features"].keys() == before.info["features"].keys()


def test_a_picture_of_another_size_is_not_unpacked():
    clip = store.encode_video(np.zeros((2, 64, 32, 3), np.uint8), 10.0)
    assert clips._first_frame(clip, (64, 32)).shape == (64, 32, 3)
    assert clips._first_frame(clip, (64, 64)) is None and clips._first_frame(clip[:200], (64, 32)) is None


def test_an_annotated_copy_of_other_software_keeps_its_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "encode_video", None)
    annotate(FIXTURE, {0: ["look"]}, tmp_path / "ours")
    before, after = open_dataset(FIXTURE)[0], open_dataset(tmp_path / "ours")[0]
    assert after.instruction == "look" and after.extras["recorded_as"] == [before.instruction]
    assert np.array_equal(after.images("wrist"), before.images("wrist"))


def test_a_video_is_cut_only_at_a_keyframe_and_in_the_order_of_its_frames(case):
    case("l06_image_dtype")  # puts the helpers of the cases on the path
    v3 = sys.modules["_v3"]
    frames = [v3.picture(number) for number in range(24)]
    plain, reordered = (v3.video(frames, 30, "libx264", options={"g": "8", "bf": b}) for b in ("0", "3"))
    clip = cut_video(plain, 8 / 30, 10, 30.0)
    assert clip is not None and [bytes(p) for p in EncodedVideo.of(clip).packets] == EncodedVideo.of(plain).payload()[8:18]
    assert cut_video(plain, 9 / 30, 10, 30.0) is None  # no keyframe
    assert cut_video(plain, 16 / 30, 9, 30.0) is None  # a frame too many
    assert cut_video(plain, 0.0, 24, 10.0) is None  # another rate
    assert cut_video(reordered, 0.0, 24, 30.0) is None
    with pytest.raises(CorruptFileError, match="is not a video"):
        cut_video(b"nothing", 0.0, 1, 30.0)


def test_pictures_as_plain_bytes_are_copied(case, picture_number, tmp_path):
    root = case("l06_image_dtype")
    data = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    for key in ("observation.images.image", "observation.images.image2"):
        plain = pa.array([cell["bytes"] for cell in table.column(key).to_pylist()], pa.binary())
        table = table.set_column(table.column_names.index(key), key, plain)
    pq.write_table(table, data)
    result = edit(root, EditPlan(delete=(0,)), out=tmp_path / "ours")
    assert (result.copied, result.encoded) == (2, 0)
    found = [picture_number(image) for image in open_dataset(tmp_path / "ours")[0].images("image2")]
    assert found == list(range(11, 20))


def test_a_missing_picture_names_its_frame(case, tmp_path):
    root, key = case("l06_image_dtype"), "observation.images.image"
    data = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(data)
    cells = table.column(key).to_pylist()
    cells[13] = None
    pictures = pa.array(cells, table.schema.field(key).type)
    pq.write_table(table.set_column(table.column_names.index(key), key, pictures), data)
    with pytest.raises(CorruptFileError, match=f"column {key!r} holds no picture at frame 2 of episode 1"):
        edit(root, EditPlan(), out=tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["l06_image_dtype", "l01_plain_av1"])
def test_a_data_file_that_is_cut_short_is_named(case, tmp_path, name):
    root = case(name)
    data = root / "data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(CorruptFileError, match=r"file-000\.parquet.* is not a whole parquet file"):
        edit(root, EditPlan(), out=tmp_path / "ours")


@pytest.mark.parametrize("key", ["timestamp", "observation.images.image"])
def test_what_only_edits_read_may_be_damaged(case, tmp_path, key):
    """One page of a column is overwritten; the other columns are whole."""
    root = case("l06_image_dtype")
    data = root / "data/chunk-000/file-000.parquet"
    column = next(
        c for c in pq.ParquetFile(data).metadata.row_group(0).to_dict()["columns"] if c["path_in_schema"].startswith(key)
    )
    content = bytearray(data.read_bytes())
    start = column["data_page_offset"]
    content[start : start + column["total_compressed_size"] // 2] = bytes(column["total_compressed_size"] // 2)
    data.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError, match=r"file-000\.parquet.* is not a whole parquet file"):
        edit(root, EditPlan(), out=tmp_path / "ours")


def test_features_of_other_names_are_edited(case, picture_number, tmp_path):
    root = case("l08_openpi_keys")
    features = feature_map(["state=state", "action=actions", "images.front=image", "images.wrist=wrist_image"])
    edit(root, EditPlan(delete=(0,)), out=tmp_path / "ours", features=features)
    before, after = open_dataset(root, features=features), open_dataset(tmp_path / "ours")
    assert after.camera_names == ("front", "wrist") and not list(after[0].columns) and check_dataset(tmp_path / "ours") == []
    assert np.array_equal(after[0].states, before[1].states) and np.array_equal(after[0].actions, before[1].actions)
    assert [picture_number(image) for image in after[0].images("wrist")] == list(range(11, 20))
    (note,) = json.loads((tmp_path / "ours/meta/edits.json").read_text())
    assert note["sources"][0]["features"]["action"] == ["actions"]
    result = edit(root, EditPlan(merge=(root, tmp_path / "ours")), tmp_path / "all", features=features)
    assert result.episodes == 5
