from __future__ import annotations

import dataclasses
import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from verbot.data import DatasetWriter, EditPlan, EpisodeRecord, check_dataset, edit, open_dataset
from verbot.data.storage import writer as store
from verbot.data.storage.encoded_video import EncodedVideo
from verbot.data.storage.resample import resample, resampled_spec
from verbot.errors import ConfigError, DataError, SpecError, UnknownNameError
from verbot.files import lock
from verbot.spec import Camera, Component, RobotSpec

FIXTURE = Path(__file__).parents[2] / "fixtures/lerobot_v3"
LENGTHS = [5, 6, 7, 8, 9, 5, 6]  # of the episodes of `written`


@pytest.fixture
def root(written, tmp_path):
    """A copy of a dataset of seven episodes in three files of each kind."""
    return Path(shutil.copytree(written, tmp_path / "dataset", ignore=shutil.ignore_patterns(".*")))


@pytest.fixture
def long(tmp_path, spec, make):
    """Two episodes of 25 frames, whose videos have a keyframe every ten; the frames tell their number."""
    with DatasetWriter(tmp_path / "long", spec) as writer:
        for number in range(2):
            writer.save_episode(long_record(make, number))
    return tmp_path / "long"


def long_record(make, number, length=25):
    record = make(number)
    rows = np.arange(length)
    images = {name: np.repeat(x[:1], length, 0) for name, x in record.images.items()}
    for x in images.values():
        x[..., 1] = (rows * 9)[:, None, None]
    states = np.tile(record.states[:1], (length, 1))
    states[:, 0] = rows / 100
    actions = np.tile(record.actions[:1], (length, 1))
    actions[:, 0] = 0.0001 * rows
    extras = {**record.extras, "first_contact_frame": 12, "unseen_frame": 18, "observed_frames": [0, 3, 12, 14, 20]}
    return dataclasses.replace(record, states=states, actions=actions, images=images, extras=extras)


def numbers(root):
    return [episode.extras["number"] for episode in open_dataset(root)]


def assert_same(one, two, extras=True):
    """Equal numbers and pixels, to the bit."""
    assert np.array_equal(one.states, two.states) and np.array_equal(one.actions, two.actions)
    for camera in two.dataset.camera_names:
        assert np.array_equal(one.images(camera), two.images(camera)), camera
    assert one.tasks == two.tasks and one.instructions == two.instructions
    assert one.calibration == two.calibration and (not extras or one.extras == two.extras)


def forbid_encoding(monkeypatch):
    def refuse(*args):
        raise AssertionError("a video was encoded")

    monkeypatch.setattr(store, "encode_video", refuse)


@pytest.mark.parametrize(
    ("plan", "left"),
    [
        (EditPlan(delete=(0, 3, 6)), [1, 2, 4, 5]),
        (EditPlan(delete=("1:4", "-1:")), [0, 4, 5]),
        (EditPlan(keep=("5", 2)), [2, 5]),
        (EditPlan(keep=(":3",), delete=(1,)), [0, 2]),
        (EditPlan(delete=("length<6", "number=3")), [1, 2, 4, 6]),
        (EditPlan(delete=("length<7 and number>4",)), [0, 1, 2, 3, 4]),
        (EditPlan(where=("length>=7", "number!=3")), [2, 4]),
        (EditPlan(where=("instruction=lift object 1",)), [1, 4]),
        (EditPlan(keep=("seconds>0.75",)), [3, 4]),
    ],
)
def test_some_episodes_are_left(root, written, monkeypatch, plan, left):
    forbid_encoding(monkeypatch)
    result = edit(root, plan)
    assert numbers(root) == left and check_dataset(root) == []
    before, after = open_dataset(written), open_dataset(root)
    for new, old in zip(after, left, strict=True):
        assert_same(new, before[old])
        assert new.identity == before[old].identity
    assert (result.episodes, result.frames) == (len(left), sum(LENGTHS[number] for number in left))
    assert (result.copied, result.encoded) == (2 * len(left), 0)
    assert [path.name for path in root.parent.iterdir()] == ["dataset"]
    assert after.statistics()["action"].count == result.frames
    row = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[0]
    old = pq.read_table(sorted(written.glob("meta/episodes/*/*"))[left[0] // 3]).to_pylist()[left[0] % 3]
    assert row["stats/observation.images.front/mean"] == old["stats/observation.images.front/mean"]


def test_conditions_on_recorded_values(tmp_path, spec, make):
    extras = [{"success": True, "request": {"task": "pick"}}, {"success": False, "goal": {"verb": "push"}}, {}]
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for number, more in enumerate(extras):
            writer.save_episode(dataclasses.replace(make(number), extras={"number": number, **more}))
    cases = {
        "success=false": [1], "success=true": [0], "success!=false": [0, 2], "task=pick": [0], "task=push": [1],
        "request.task=pick": [0], "task=pick up object 2": [2], "success=0": [], "goal.verb!=push": [0, 2],
    }  # fmt: skip
    for condition, expected in cases.items():
        out = tmp_path / "out"
        if expected:
            edit(tmp_path / "d", EditPlan(where=(condition,)), out=out)
            assert numbers(out) == expected, condition
            shutil.rmtree(out)
        else:
            with pytest.raises(DataError, match="none of the 3 episodes would be left"):
                edit(tmp_path / "d", EditPlan(where=(condition,)), out=out)


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (EditPlan(), DataError, "nothing is to change"),
        (EditPlan(delete=(7,)), DataError, "there is no episode 7; there are 7, numbered from 0"),
        (EditPlan(delete=("5:9",)), DataError, "there are no episodes 5:9; there are 7"),
        (EditPlan(delete=("0:7",)), DataError, "none of the 7 episodes would be left; nothing was changed"),
        (EditPlan(trim={9: (0, 2)}), DataError, "there is no episode 9"),
        (EditPlan(trim={1: (0, 40)}), DataError, "episode 1 cannot be trimmed at frame 40; it has 6 frames"),
        (EditPlan(trim={1: (4, 4)}), DataError, "nothing of episode 1 is left of frames 4 to 4; it has 6"),
        (EditPlan(split={1: (0,)}), DataError, "episode 1 cannot be split at frame 0; expected a frame between 0 and 6"),
        (EditPlan(delete=("succes=true",)), UnknownNameError, "no value of an episode named 'succes'"),
        (EditPlan(delete=("abc",)), ConfigError, "the condition 'abc' is none: expected NAME=VALUE"),
        (EditPlan(delete=("length<abc",)), ConfigError, "compares with 'abc'; expected a number after <"),
        (EditPlan(rename_cameras={"frnt": "top"}), UnknownNameError, "no camera to rename named 'frnt'. Did you mean 'front'"),
        (EditPlan(rename_cameras={"front": "wrist"}), SpecError, "has a camera name twice: wrist, wrist"),
        (EditPlan(rename_features={"reward": "x"}), UnknownNameError, "no feature to rename named 'reward'"),
        (EditPlan(replacements={"pick up object 9": ("x",)}), UnknownNameError, "named 'pick up object 9'. Did you mean"),
        (EditPlan(merge=(Path("nowhere"),)), DataError, "nowhere holds no dataset"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_carried_out_changes_nothing(root, plan, error, message):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(error, match=message):
        edit(root, plan)
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before and [path.name for path in root.parent.iterdir()] == ["dataset"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate_hz": -1.0}, "rate_hz is -1.0; expected more than 0"),
        ({"subsample": 0}, "subsample is 0; expected at least 1"),
        ({"subsample": 2, "rate_hz": 5.0}, "give either a rate to resample to or a number of frames"),
        ({"rename_cameras": {"front": "a/b"}}, "expected a name without a slash"),
        ({"replacements": {"a": ()}}, "the sentence 'a' is to become"),
        ({"instructions": {1: ("a\nb",)}}, "episode 1: a sentence is one line of 1 to 300 printable characters"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises((ConfigError, DataError), match=message):
        EditPlan(**fields)


def test_trimming_at_a_keyframe_copies_the_video(long, monkeypatch):
    before = [open_dataset(long)[i].images("front") for i in range(2)]
    forbid_encoding(monkeypatch)
    result = edit(long, EditPlan(trim={0: (10, 22), 1: (None, -3)}))
    dataset = open_dataset(long)
    assert [len(episode) for episode in dataset] == [12, 22] and (result.copied, result.encoded) == (4, 0)
    assert np.array_equal(dataset[0].images("front"), before[0][10:22])
    assert np.array_equal(dataset[1].images("front"), before[1][:22])
    assert np.allclose(dataset[0].states[:, 0], np.arange(10, 22) / 100) and check_dataset(long) == []
    statistics = json.loads((long / "meta/stats.json").read_text())["observation.images.front"]
    assert statistics["max"][1][0][0] == pytest.approx(21 * 9 / 255, abs=0.02)
    assert EncodedVideo.of((long / "videos/observation.images.front/chunk-000/file-000.mp4").read_bytes()).packets[12].is_keyframe


def test_trimming_elsewhere_encodes_only_that_video_again(long):
    result = edit(long, EditPlan(trim={0: (7, 20)}))
    dataset = open_dataset(long)
    assert (result.copied, result.encoded) == (2, 2) and dict(result.lines)["trimmed"] == "episode 0 to frames 7 to 20"
    green = dataset[0].images("wrist")[:, 12, 16, 1].astype(int)
    assert np.abs(green - 9 * np.arange(7, 20)).max() <= 5 and check_dataset(long) == []


def test_extras_with_frame_numbers_are_moved_along(long):
    edit(long, EditPlan(split={0: (10, 15)}, trim={1: (13, 25)}))
    found = [
        {key: episode.extras.get(key) for key in ("first_contact_frame", "unseen_frame", "observed_frames", "number", "success")}
        for episode in open_dataset(long)
    ]
    assert [list(each.values())[:4] for each in found] == [
        [None, None, [0, 3], 0], [2, None, [2, 4], 0], [0, 3, [5], 0], [0, 5, [1, 7], 1],
    ]  # fmt: skip
    assert [len(episode) for episode in open_dataset(long)] == [10, 5, 10, 12]
    assert "unseen_frame" not in open_dataset(long)[0].extras and "first_contact_frame" in open_dataset(long)[0].extras
    assert all(len(episode.extras["grounding"]) == 3 for episode in open_dataset(long))


def test_splitting_keeps_every_frame_once(long):
    before = open_dataset(long)[0].actions
    edit(long, EditPlan(split={0: (15, 4)}))
    dataset = open_dataset(long)
    assert np.array_equal(np.concatenate([dataset[i].actions for i in range(3)]), before)
    assert [dataset[i].identity for i in range(3)] != [dataset[0].identity] * 3 and len(dataset) == 4


@pytest.mark.parametrize("plan", [EditPlan(subsample=5), EditPlan(rate_hz=2.0), EditPlan(rate_hz=4.0), EditPlan(rate_hz=25.0)])
def test_another_rate(long, spec, make, plan):
    rate_hz = plan.rate_hz or 10 / plan.subsample
    before, frames = open_dataset(long)[1], open_dataset(long)[1].images("front").astype(int)
    expected = resample(np.arange(25) / 10, before.states, before.actions, spec, rate_hz)
    edit(long, plan)
    dataset = open_dataset(long)
    assert dataset.spec == resampled_spec(spec, rate_hz) and dataset.info["fps"] == rate_hz
    assert np.array_equal(dataset[1].actions, expected.actions) and np.array_equal(dataset[1].states, expected.states)
    assert np.abs(dataset[1].images("front") - frames[expected.rows]).max() <= 8
    assert dataset[1].extras["first_contact_frame"] == np.searchsorted(expected.rows, 12)
    assert check_dataset(long) == []


def test_merging_joins_ranges_and_numbers_the_episodes_through(root, tmp_path, spec, make):
    wide = dataclasses.replace(spec.state[0], low=(-2.0, -0.5, -1.0))
    other = dataclasses.replace(spec, state=(wide, *spec.state[1:]))
    with DatasetWriter(tmp_path / "other", other) as writer:
        for number in (20, 21):
            writer.save_episode(make(number))
    before = open_dataset(tmp_path / "other")[1]
    result = edit(root, EditPlan(merge=(tmp_path / "other",), delete=(0, 7), instructions={8: ("do it",)}))
    dataset = open_dataset(root)
    assert numbers(root) == [1, 2, 3, 4, 5, 6, 21] and (result.episodes_before, result.encoded) == (9, 0)
    assert dataset.spec.state[0].low == (-2.0, -1.0, -1.0) and dataset.spec.state[1:] == spec.state[1:]
    assert np.array_equal(dataset[6].images("front"), before.images("front")) and dataset[6].instruction == "do it"
    assert len(open_dataset(tmp_path / "other")) == 2 and check_dataset(root) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dataclasses.replace(s, rate_hz=20.0), "have different rates: 20 Hz in "),
        (lambda s: dataclasses.replace(s, cameras=s.cameras[:1]), "the cameras are front 24×32 in "),
        (lambda s: dataclasses.replace(s, state=s.state[1:]), "the state consists of ee_position, "),
    ],
)
def test_another_robot_is_not_merged(root, tmp_path, spec, change, message):
    DatasetWriter(tmp_path / "other", change(spec)).close()
    with pytest.raises(ConfigError, match=f"other and .*{message}"):
        edit(root, EditPlan(merge=(tmp_path / "other",)))


def test_a_camera_gets_another_name(root, written, monkeypatch):
    forbid_encoding(monkeypatch)
    edit(root, EditPlan(rename_cameras={"front": "top"}))
    before, after = open_dataset(written), open_dataset(root)
    assert after.camera_names == after.spec.camera_names == ("top", "wrist")
    assert list(after[3].calibration) == ["top", "wrist"] and after[3].calibration["top"] == before[3].calibration["front"]
    assert np.array_equal(after[3].images("top"), before[3].images("front"))
    assert sorted(path.name for path in (root / "videos").iterdir()) == ["observation.images.top", "observation.images.wrist"]
    assert check_dataset(root) == []


def test_other_instructions(root, written):
    edit(root, EditPlan(instructions={5: ("go there", "walk there")}, replacements={"pick up object 1": ("take the ball",)}))
    dataset = open_dataset(root)
    old = [f"pick up object {number % 3}" for number in range(7)]
    words = [old[0], "take the ball", *old[2:4], "take the ball", "go there", old[6]]
    assert [episode.instruction for episode in dataset] == words
    assert dataset[5].instructions == ("go there", "walk there") and dataset[1].instructions == ("take the ball",)
    assert dataset[1].extras["recorded_as"] == ["pick up object 1", "lift object 1"] and "recorded_as" not in dataset[0].extras
    tasks = pq.read_table(root / "meta/tasks.parquet").column("__index_level_0__").to_pylist()
    assert set(tasks) == {"pick up object 0", "pick up object 2", "take the ball", "go there"}
    assert np.array_equal(dataset[5].images("front"), open_dataset(written)[5].images("front"))


def test_to_another_folder(root, tmp_path):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    result = edit(root, EditPlan(delete=(0,)), out=tmp_path / "new/place")
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert numbers(result.path) == [1, 2, 3, 4, 5, 6] and [p.name for p in (tmp_path / "new").iterdir()] == ["place"]
    with pytest.raises(DataError, match="place exists already; choose another folder"):
        edit(root, EditPlan(delete=(0,)), out=tmp_path / "new/place")
    edit(root, EditPlan(), out=tmp_path / "copy")
    assert numbers(tmp_path / "copy") == list(range(7))


def test_episodes_of_the_journal_are_edited_too(root, spec, make):
    writer = DatasetWriter(root, spec)
    for number in (7, 8):
        writer.save_episode(make(number))
    with pytest.raises(DataError, match="another process is writing to this dataset"):
        edit(root, EditPlan(delete=(0,)))
    writer._open.close()  # as if it had died
    images = open_dataset(root)[8].images("front")
    edit(root, EditPlan(delete=(0,), trim={7: (2, 5)}))
    assert numbers(root) == [1, 2, 3, 4, 5, 6, 7, 8] and len(open_dataset(root)[6]) == 3
    assert np.array_equal(open_dataset(root)[7].images("front"), images) and not (root / "journal").exists()


def test_one_edit_at_a_time(root):
    with (
        lock(root.parent / ".dataset.lock", wait=False, holder="taken"),
        pytest.raises(DataError, match="another process is edit"),
    ):
        edit(root, EditPlan(delete=(0,)))


def test_images_without_loss_are_copied(tmp_path, spec, make, monkeypatch):
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "d", spec, merge_every=2, images={"front": "image"}) as writer:
        for number in range(3):
            images = {name: rng.integers(0, 256, x.shape, np.uint8) for name, x in make(number).images.items()}
            writer.save_episode(dataclasses.replace(make(number), images=images))
    before = [episode.images("front") for episode in open_dataset(tmp_path / "d")]
    monkeypatch.setattr(store, "encode_pictures", None)
    edit(tmp_path / "d", EditPlan(delete=(0,), trim={2: (2, 6)}, subsample=2), out=tmp_path / "half")
    half = open_dataset(tmp_path / "half")
    assert np.array_equal(half[0].images("front"), before[1][::2]) and np.array_equal(half[1].images("front"), before[2][2:6:2])
    assert half.info["features"]["observation.images.front"]["dtype"] == "image"
    assert half.info["features"]["observation.images.wrist"]["dtype"] == "video" and check_dataset(tmp_path / "half") == []


def test_other_files_are_kept_and_edits_are_noted(root):
    (root / "README.md").write_text("mine")
    (root / "meta/import.json").write_text('{"source": "bags"}')
    (root / ".cache").mkdir()
    (root / ".cache/frames").write_text("large")
    edit(root, EditPlan(delete=(0,)))
    edit(root, EditPlan(trim={0: (1, 4)}))
    assert (root / "README.md").read_text() == "mine" and (root / "meta/import.json").is_file()
    assert not (root / ".cache").exists()
    notes = json.loads((root / "meta/edits.json").read_text())
    assert [note["plan"] for note in notes] == [{"delete": [0]}, {"trim": {"0": [1, 4]}}]
    assert [note["sources"][0]["episodes"] for note in notes] == [7, 6]


def test_a_dataset_can_be_extended_after_an_edit(root, spec, make):
    edit(root, EditPlan(delete=(0,)))
    with DatasetWriter(root, spec) as writer:
        writer.save_episode(make(9))
    assert numbers(root) == [1, 2, 3, 4, 5, 6, 9] and check_dataset(root) == []


def test_a_disk_without_room_is_noticed_before(root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: namedtuple("Usage", "total used free")(10, 0, 1000))
    with pytest.raises(DataError, match=r"has 0\.00 GB of free space; the edited dataset needs up to 0\.\d+ GB"):
        edit(root, EditPlan(delete=(0,)))


def test_an_edited_dataset_that_is_damaged_is_discarded(root, monkeypatch):
    finished = DatasetWriter.close

    def damaging(writer):
        finished(writer)
        path = next(writer.root.glob("data/*/*"))
        path.write_bytes(path.read_bytes()[:-9])

    monkeypatch.setattr(DatasetWriter, "close", damaging)
    with pytest.raises(DataError, match="the edited dataset is not whole, and was discarded"):
        edit(root, EditPlan(delete=(0,)))
    assert numbers(root) == list(range(7)) and [path.name for path in root.parent.iterdir()] == ["dataset"]


def test_a_robot_without_cameras_or_state(tmp_path):
    spec = RobotSpec("bare", 10.0, (), (), (Component("go", "discrete", ("n",), "1", "base", (0.0,), (30.0,)),))
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(EpisodeRecord("go", np.zeros((20, 0), np.float32), np.arange(20, dtype=np.float32)[:, None], {}))
    edit(tmp_path / "d", EditPlan(trim={0: (2, 12)}, subsample=2))
    assert open_dataset(tmp_path / "d")[0].actions[:, 0].tolist() == [3, 5, 7, 9, 11]


def test_depth_is_copied(tmp_path, spec, make):
    robot = dataclasses.replace(spec, cameras=(Camera("depth", 24, 32, kind="depth"),))
    depth = np.random.default_rng(0).uniform(0, 5, (5, 24, 32)).astype(np.float32)
    with DatasetWriter(tmp_path / "d", robot) as writer:
        writer.save_episode(dataclasses.replace(make(0), images={"depth": depth}))
    name, key = "data/chunk-000/file-000.parquet", "observation.images.depth"
    before = [cell["bytes"] for cell in pq.read_table(tmp_path / "d" / name).column(key).to_pylist()]
    result = edit(tmp_path / "d", EditPlan(instructions={0: ("look",)}))
    after = [cell["bytes"] for cell in pq.read_table(tmp_path / "d" / name).column(key).to_pylist()]
    assert after == before and (result.copied, result.encoded) == (1, 0)
