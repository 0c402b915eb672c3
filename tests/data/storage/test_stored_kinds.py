"""What a dataset holds beside states, actions and color videos: instructions by frame, further columns, PNG and depth."""

from __future__ import annotations

import dataclasses
import io
import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from verbot.data import DatasetWriter, annotate, check_dataset, open_dataset
from verbot.data.storage.journal import EpisodeJournal
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import CorruptFileError, DataError
from verbot.spec import Camera

TWO = (InstructionSegment(0, 2, ("pick it", "grab it")), InstructionSegment(2, 5, ("put it",)))
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


def columns(length, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "next.reward": rng.normal(size=length).astype(np.float32),
        "next.done": np.arange(length) == length - 1,
        "observation.environment_state": rng.normal(size=(length, 3)),
        "force": rng.normal(size=(length, 2, 2)).astype(np.float32),
        "count": rng.integers(0, 9, (length, 1)),
        "phase": np.array([f"phase {i // 2}" for i in range(length)]),
    }


def with_depth(spec, record):
    """The robot with a depth camera, and the episode with its images, in meters, not all of them whole millimeters."""
    depth = np.random.default_rng(1).uniform(0, 5, (len(record.actions), 24, 32)).astype(np.float32)
    depth[0, 0, :3] = 0, 1.2345, 65.535
    images = {"front": record.images["front"], "depth": depth}
    cameras = (spec.cameras[0], Camera("depth", 24, 32, kind="depth"))
    return dataclasses.replace(spec, cameras=cameras), dataclasses.replace(record, images=images)


def info_of(root):
    return json.loads((root / "meta/info.json").read_text())


def test_every_frame_has_its_own_instruction(tmp_path, spec, make):
    records = [make(0), dataclasses.replace(make(0), instruction="pick it", segments=TWO)]
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for record in records:
            writer.save_episode(record)
        entry = list(EpisodeJournal(tmp_path / "d").read(0))[1]
        assert entry.segments == TWO and entry.sentences == ("pick it", "put it")
        assert open_dataset(tmp_path / "d")[1].tasks == ("pick it", "put it")
    tasks = pq.read_table(tmp_path / "d/meta/tasks.parquet").column("__index_level_0__").to_pylist()
    assert tasks == ["pick up object 0", "pick it", "put it"]
    assert pq.read_table(tmp_path / "d" / DATA).column("task_index").to_pylist() == [0] * 5 + [1, 1, 2, 2, 2]
    rows = pq.read_table(tmp_path / "d" / EPISODES).to_pylist()
    assert [row["tasks"] for row in rows] == [["pick up object 0"], ["pick it", "put it"]]
    assert rows[1]["stats/task_index/max"] == [2] and info_of(tmp_path / "d")["total_tasks"] == 3
    assert json.loads((tmp_path / "d/meta/stats.json").read_text())["task_index"]["max"] == [2.0]
    assert open_dataset(tmp_path / "d")[1].extras["segments"] == [
        {"start": 0, "stop": 2, "wordings": ["pick it", "grab it"]}, {"start": 2, "stop": 5, "wordings": ["put it"]},
    ]  # fmt: skip
    assert "segments" not in open_dataset(tmp_path / "d")[0].extras
    assert check_dataset(tmp_path / "d") == []


def test_one_segment_is_an_instruction_with_its_wordings(tmp_path, spec, make):
    extras = {key: value for key, value in make(0).extras.items() if key != "instructions"}
    segments = (InstructionSegment(0, 5, ("pick it", "grab it")),)
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(dataclasses.replace(make(0), instruction="pick it", segments=segments, extras=extras))
    episode = open_dataset(tmp_path / "d")[0]
    assert episode.instructions == ("pick it", "grab it") and "segments" not in episode.extras


def test_an_annotation_replaces_the_instructions_of_all_frames(tmp_path, spec, make):
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(dataclasses.replace(make(0), instruction="pick it", segments=TWO))
    annotate(tmp_path / "d", {0: ["move it"]})
    episode = open_dataset(tmp_path / "d")[0]
    assert episode.instruction == "move it" and "segments" not in episode.extras
    assert [s["wordings"] for s in episode.extras["recorded_segments"]] == [["pick it", "grab it"], ["put it"]]
    assert set(pq.read_table(tmp_path / "d" / DATA).column("task_index").to_pylist()) == {2}
    assert check_dataset(tmp_path / "d") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": TWO[:1]}, "the instructions hold for frames 0 to 2; expected 0 to 5 without a gap"),
        ({"segments": TWO, "instruction": "grab it"}, "instruction is 'grab it'; its first frames have 'pick it'"),
        ({"extras": {"segments": []}}, "the extras have 'segments', a name of the format"),
        ({"columns": {"next.reward": np.zeros(4)}}, "column 'next.reward' has 4 values; the episode has 5 frames"),
        ({"columns": {"action": np.zeros(5)}}, "cannot be called 'action': the name belongs to the format"),
        ({"columns": {"observation.images.side": np.zeros(5)}}, "cannot be called 'observation.images.side'"),
        ({"columns": {"a/b": np.zeros(5)}}, "cannot be called 'a/b'"),
        ({"columns": {"z": np.zeros(5, np.complex64)}}, "column 'z' has dtype complex64; expected numbers, bool, or a text"),
        ({"columns": {"z": np.array([None] * 5)}}, "column 'z' has dtype object"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, spec, make, change, message):
    with DatasetWriter(tmp_path / "d", spec) as writer:
        with pytest.raises(DataError, match=message):
            writer.save_episode(dataclasses.replace(make(0), **{"instruction": "pick it", **change}))
        assert len(writer) == 0 and writer.save_episode(make(0)) == 0
    assert check_dataset(tmp_path / "d") == []


def test_columns_are_stored_with_their_type_shape_and_statistics(tmp_path, spec, make):
    given = [columns(5 + i, seed=i) for i in range(2)]
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for number in range(2):
            writer.save_episode(dataclasses.replace(make(number), columns=given[number]))
        for number, entry in enumerate(EpisodeJournal(tmp_path / "d").read(0)):
            for name, values in given[number].items():
                assert entry.columns[name].tolist() == np.asarray(values).reshape(entry.columns[name].shape).tolist()
                assert name == "phase" or entry.columns[name].dtype == values.dtype
    features = info_of(tmp_path / "d")["features"]
    assert {name: (features[name]["dtype"], features[name]["shape"]) for name in given[0]} == {
        "next.reward": ("float32", [1]), "next.done": ("bool", [1]), "observation.environment_state": ("float64", [3]),
        "force": ("float32", [2, 2]), "count": ("int64", [1]), "phase": ("string", [1]),
    }  # fmt: skip
    table = pq.read_table(tmp_path / "d" / DATA)
    for name in given[0]:
        shape = () if features[name]["shape"] == [1] else features[name]["shape"]
        both = np.concatenate([np.asarray(each[name]).reshape(-1, *shape) for each in given])
        assert table.column(name).to_pylist() == both.tolist(), name
    described = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert described["force"] == {"shape": [2, 2], "dtype": "float32", "_type": "Array2D"}
    assert described["next.done"] == {"dtype": "bool", "_type": "Value"}
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())
    force = np.concatenate([each["force"] for each in given]).astype(float)
    assert np.array_equal(stats["force"]["mean"], force.mean(0)) and stats["next.done"]["max"] == [1.0]
    assert stats["count"]["count"] == [11] and "phase" not in stats
    row = pq.read_table(tmp_path / "d" / EPISODES).to_pylist()[1]
    assert np.array_equal(row["stats/force/q50"], np.quantile(given[1]["force"].astype(float), 0.5, axis=0))
    assert row["stats/count/max"] == [given[1]["count"].max()] and "stats/phase/max" not in row
    assert check_dataset(tmp_path / "d") == []


def test_what_is_not_finite_in_a_column_is_kept_and_not_counted(tmp_path, spec, make):
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(dataclasses.replace(make(0), columns={"f": np.array([1, np.nan, 3, np.inf, 2])}))
        writer.save_episode(dataclasses.replace(make(0), columns={"f": np.full(5, np.nan)}))
    found = pq.read_table(tmp_path / "d" / DATA).column("f").to_numpy()
    assert np.array_equal(found[:5], [1, np.nan, 3, np.inf, 2], equal_nan=True) and np.isnan(found[5:]).all()
    rows = pq.read_table(tmp_path / "d" / EPISODES).to_pylist()
    assert (rows[0]["stats/f/max"], rows[0]["stats/f/count"], rows[1]["stats/f/max"]) == ([3.0], [3], None)
    assert json.loads((tmp_path / "d/meta/stats.json").read_text())["f"]["mean"] == [2.0]


def test_all_episodes_have_the_same_columns(tmp_path, spec, make):
    reward = {"next.reward": np.zeros(5, np.float32)}
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(dataclasses.replace(make(0), columns=reward))
        with pytest.raises(
            DataError, match=r"the episode has the further columns none; those of every episode of .*next\.reward"
        ):
            writer.save_episode(make(0))
        with pytest.raises(DataError, match=r"'next\.reward' has float64 of shape \[1\] for each frame; .* has float32"):
            writer.save_episode(dataclasses.replace(make(0), columns={"next.reward": np.zeros(5)}))
    with DatasetWriter(tmp_path / "d", spec) as writer:
        with pytest.raises(DataError, match=r"columns next\.done, next\.reward; those of every"):
            writer.save_episode(dataclasses.replace(make(0), columns={**reward, "next.done": np.zeros(5, bool)}))
        writer.save_episode(dataclasses.replace(make(0), columns=reward))
    with pytest.raises(DataError, match="the writer was given {}"):
        DatasetWriter(tmp_path / "d", spec, columns={})
    assert len(open_dataset(tmp_path / "d")) == 2 and check_dataset(tmp_path / "d") == []


def test_a_writer_can_declare_the_columns(tmp_path, spec, make):
    reward = {"next.reward": {"dtype": "float32", "shape": [1], "names": None}}
    with DatasetWriter(tmp_path / "d", spec, columns=reward) as writer:
        assert info_of(tmp_path / "d")["features"]["next.reward"] == reward["next.reward"]
        with pytest.raises(DataError, match="the episode has the further columns none"):
            writer.save_episode(make(0))
        writer.save_episode(dataclasses.replace(make(0), columns={"next.reward": np.ones((5, 1), np.float32)}))
    assert pq.read_table(tmp_path / "d" / DATA).column("next.reward").to_pylist() == [1.0] * 5


@pytest.mark.parametrize("merge_every", [1, 2, 10])
def test_images_without_loss(tmp_path, spec, make, merge_every):
    rng = np.random.default_rng(0)
    records = [
        dataclasses.replace(r, images={name: rng.integers(0, 256, x.shape, np.uint8) for name, x in r.images.items()})
        for r in map(make, range(3))
    ]
    with DatasetWriter(tmp_path / "d", spec, merge_every=merge_every, images="image") as writer:
        for number, record in enumerate(records):
            writer.save_episode(record)
            episode = open_dataset(tmp_path / "d")[number]
            assert all(np.array_equal(episode.images(name), x) for name, x in record.images.items())
    with DatasetWriter(tmp_path / "d", spec) as writer:  # as before, without the option
        writer.save_episode(records[0])
    dataset = open_dataset(tmp_path / "d")
    for number, record in enumerate([*records, records[0]]):
        assert all(np.array_equal(dataset[number].images(name), x) for name, x in record.images.items())
    assert info_of(tmp_path / "d")["features"]["observation.images.front"]["dtype"] == "image"
    assert info_of(tmp_path / "d")["video_path"] is None and not (tmp_path / "d/videos").exists()
    table = pq.read_table(tmp_path / "d" / DATA)
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["observation.images.front"] == {"_type": "Image"}
    cell = table.column("observation.images.front")[1].as_py()
    assert cell["path"].endswith("observation.images.front/episode-000000/frame-000001.png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(cell["bytes"]))), records[0].images["front"][1])
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())["observation.images.front"]
    assert np.shape(stats["mean"]) == (3, 1, 1) and 0.4 < stats["mean"][0][0][0] < 0.6
    assert dataset.statistics()["action"].count == 23 and check_dataset(tmp_path / "d") == []


def test_one_camera_without_loss_and_the_other_as_video(tmp_path, spec, make):
    with DatasetWriter(tmp_path / "d", spec, images={"wrist": "image"}) as writer:
        writer.save_episode(make(0))
    features = info_of(tmp_path / "d")["features"]
    assert [features[f"observation.images.{name}"]["dtype"] for name in ("front", "wrist")] == ["video", "image"]
    assert np.array_equal(open_dataset(tmp_path / "d")[0].images("wrist"), make(0).images["wrist"])
    assert np.abs(open_dataset(tmp_path / "d")[0].images("front").astype(int) - make(0).images["front"]).max() <= 4
    with pytest.raises(DataError, match="does not store the images of camera 'front' as 'image'"):
        DatasetWriter(tmp_path / "d", spec, images="image")
    for images in ("jpeg", {"frnt": "image"}):
        with pytest.raises(DataError, match="expected 'video' or 'image', and cameras front, wrist"):
            DatasetWriter(tmp_path / "e", spec, images=images)


@pytest.mark.parametrize("merged", [True, False])
def test_depth_is_stored_in_millimeters(tmp_path, spec, make, merged):
    robot, record = with_depth(spec, make(0))
    writer = DatasetWriter(tmp_path / "d", robot, merge_every=1 if merged else 9)
    writer.save_episode(record)
    feature = info_of(tmp_path / "d")["features"]["observation.images.depth"]
    assert (feature["dtype"], feature["shape"]) == ("image", [24, 32, 1])
    assert feature["info"] == {"is_depth_map": True, "depth_unit": "mm"}
    if merged:
        cells = [cell["bytes"] for cell in pq.read_table(tmp_path / "d" / DATA).column("observation.images.depth").to_pylist()]
    else:
        cells = next(iter(EpisodeJournal(tmp_path / "d").read(0))).pictures["depth"]
    read = open_dataset(tmp_path / "d", depth=True)[0].images("depth")
    assert read.dtype == np.float32 and np.abs(read - record.images["depth"]).max() <= 0.0005001
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(cell))) for cell in cells])
    assert pixels.dtype == np.uint16 and pixels[0, 0, :3].tolist() == [0, 1235, 65535]
    assert np.abs(pixels / 1000 - record.images["depth"]).max() <= 0.0005001
    writer.close()
    stats = json.loads((tmp_path / "d/meta/stats.json").read_text())["observation.images.depth"]
    assert np.shape(stats["max"]) == (1, 1, 1) and stats["max"] == [[[65535.0]]] and stats["count"] == [5]


@pytest.mark.parametrize("error", [Image.DecompressionBombError, struct.error, SyntaxError, EOFError, KeyError])
@pytest.mark.parametrize("camera", ["front", "depth"])
def test_a_picture_that_cannot_be_decoded_is_named(case, monkeypatch, camera, error):
    monkeypatch.setattr(Image, "open", lambda _: (_ for _ in ()).throw(error("damaged")))
    dataset = open_dataset(case("l10c_depth_png16"), depth=True)
    with pytest.raises(CorruptFileError, match="a picture that cannot be decoded at frame 3"):
        dataset[0].images("front_depth" if camera == "depth" else camera, [3])


def test_a_check_looks_at_depth(case):
    root = case("l10c_depth_png16")
    assert check_dataset(root) == []
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("observation.images.front_depth")
    cells = table.column(place).to_pylist()
    cells[12]["bytes"] = cells[12]["bytes"][:40]
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(cells, table.schema.field(place).type)), path)
    (finding,) = check_dataset(root)
    assert (finding.path, "cannot be decoded at frame 1" in finding.problem) == (str(path), True)


@pytest.mark.parametrize("wrong", [-0.001, 65.536, np.nan, np.inf])
def test_a_depth_that_cannot_be_stored_is_refused(tmp_path, spec, make, wrong):
    robot, record = with_depth(spec, make(0))
    record.images["depth"][3, 1, 2] = wrong
    message = rf"camera 'depth'.* depth of {wrong:.3f}.* frame 3, row 1, column 2; expected 0 \(unknown\) to 65\.535 m"
    with DatasetWriter(tmp_path / "d", robot) as writer:
        with pytest.raises(DataError, match=message):
            writer.save_episode(record)
        images = record.images | {"depth": np.zeros((5, 24, 32), np.uint16)}
        with pytest.raises(DataError, match=r"'depth' gave uint16 \(5, 24, 32\); expected float32 \(5, 24, 32\) in meters"):
            writer.save_episode(dataclasses.replace(record, images=images))
        assert len(writer) == 0
