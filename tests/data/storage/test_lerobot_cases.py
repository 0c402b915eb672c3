"""LeRobotDatasets as other software leaves them: the inputs ``tests/cases/l*.py``, whose first lines say what is right."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from verbot.data import check_dataset, open_dataset
from verbot.data.storage.features import feature_map
from verbot.errors import ConfigError, CorruptFileError, DataError, UnknownNameError

CASES = Path(__file__).parents[2] / "cases"
FRONT = "videos/observation.images.front/chunk-000/file-000.mp4"
WRIST = "videos/observation.images.wrist/chunk-000/file-000.mp4"


@pytest.fixture
def case_module():
    sys.path.insert(0, str(CASES))
    yield importlib.import_module
    sys.path.remove(str(CASES))


def stored(root: Path, key: str) -> np.ndarray:
    """A column of all data files, read without verbot."""
    tables = [pq.read_table(path, columns=[key]) for path in sorted(root.glob("data/*/*.parquet"))]
    return np.concatenate([np.array(table.column(key).to_pylist(), np.float32) for table in tables])


def ranges(components) -> tuple[np.ndarray, np.ndarray]:
    return np.array([x for c in components for x in c.low]), np.array([x for c in components for x in c.high])


@pytest.mark.parametrize(
    "name",
    [
        "l01_plain_av1", "l02_bframes", "l03_odd_size", "l04_gaps", "l06_image_dtype", "l15_camera_sizes", "l18_hw_timestamps",
        "l19_one_short_episode", "l20_bimanual", "l21_camera_names", "l22_channels_first", "l26_names_dict", "l29_hevc_rotated",
        "l30_fps_29_97", "l32_84", "l36_vga", "l38_video_files", "l41_index_from_zero",
    ],
)  # fmt: skip
def test_every_picture_is_the_one_of_its_row(case, picture_number, name):
    dataset = open_dataset(case(name))
    states = stored(dataset.root, "observation.state")
    assert np.array_equal(np.concatenate([episode.states for episode in dataset]), states)
    assert dataset.frame_starts.tolist() == np.cumsum([0, *dataset.lengths]).tolist()
    assert dataset.frame_starts[-1] == len(states)
    for camera in dataset.spec.cameras:
        for episode, start in zip(dataset, dataset.frame_starts, strict=False):
            images = episode.images(camera.name)
            assert images.shape == (len(episode), camera.height, camera.width, 3)
            assert [picture_number(image) for image in images] == list(range(start, start + len(episode)))


def test_episodes_with_gaps_are_read_by_place(case):
    dataset = open_dataset(case("l04_gaps"))
    assert [len(episode) for episode in dataset] == [11, 9, 12]
    assert check_dataset(dataset.root) == []


@pytest.mark.parametrize("name", ["l11_no_stats", "l39_old_stats_no_quantiles", "l16c_float16", "l17c_constant", "l20_bimanual"])
def test_a_range_that_nobody_declared_is_that_of_the_data(case, name):
    dataset = open_dataset(case(name))
    for components, key in ((dataset.spec.state, "observation.state"), (dataset.spec.action, "action")):
        values, (low, high) = stored(dataset.root, key), ranges(components)
        assert values.dtype == np.float32
        moves = values.min(0) < values.max(0)
        assert low[moves] == pytest.approx(values.min(0)[moves], rel=1e-6)
        assert high[moves] == pytest.approx(values.max(0)[moves], rel=1e-6)
        assert (low.astype(np.float32) < values.min(0))[~moves].all()
        assert (high - low)[~moves] == pytest.approx(0, abs=1e-4)
    assert dataset.statistics()["action"].quantiles[0.5] == pytest.approx(np.median(stored(dataset.root, "action"), axis=0))
    assert check_dataset(dataset.root) == []


def test_statistics_without_a_range_are_not_trusted(case):
    root = case("l11_no_stats")
    found = open_dataset(root).spec
    for useless in ({}, {"action": {"mean": [0.0] * 7}}, {"action": {"min": [float("nan")] * 7, "max": [1.0] * 7}}):
        (root / "meta/stats.json").write_text(json.dumps(useless))
        assert open_dataset(root).spec == found
    assert ranges(found.action)[1].max() > 20  # degrees


def test_an_action_of_two_rows_is_flattened(case):
    dataset = open_dataset(case("l16_action_2d"))
    (action,) = dataset.spec.action
    assert (action.size, action.axes[0], action.axes[13]) == (14, "0.0", "1.6")
    assert np.array_equal(dataset[1].actions.reshape(-1, 2, 7), stored(dataset.root, "action")[11:])
    assert check_dataset(dataset.root) == []


def test_names_that_name_nothing_are_numbers(case):
    dataset = open_dataset(case("l26_names_dict"))
    assert dataset.spec.name == "unknown"
    assert dataset.spec.action[0].axes == dataset.spec.state[0].axes == tuple("0123456")


def test_every_frame_has_the_sentence_of_its_task_index(case):
    dataset = open_dataset(case("l07_two_tasks_in_episode"))
    first, second = dataset[0], dataset[1]
    drawer, spoon = "open the drawer", "put the spoon in the drawer"
    assert [(s.start, s.stop, s.wordings) for s in first.segments] == [(0, 10, (drawer,)), (10, 20, (spoon,))]
    assert (first.instruction, first.instructions, first.tasks) == (drawer, (drawer, spoon), (drawer, spoon))
    assert [(s.start, s.stop, s.wordings) for s in second.segments] == [(0, 12, (drawer,))]
    assert check_dataset(dataset.root) == []


def test_sentences_come_from_the_frames_not_from_the_list_of_episodes(case):
    assert [episode.instruction for episode in open_dataset(case("l13_tasks_only_by_index"))] == [
        "pick up the cube",
        "put it down",
    ]
    root = case("l13d_tasks_edited")
    assert [episode.instructions for episode in open_dataset(root)] == [("grasp the red block",), ("put it down",)]
    (finding,) = check_dataset(root)
    assert finding.path == str(root / "meta/episodes")
    assert "episode 0 lists the sentences 'pick up the cube'; its frames have 'grasp the red block'" in finding.problem


def test_a_task_index_without_a_sentence_is_named(case, case_module):
    root = case("l07_two_tasks_in_episode")
    case_module("_v3").tasks_table(root, ["open the drawer"])
    with pytest.raises(CorruptFileError, match=r"tasks.parquet: has no sentence for the task_index 1 of frames of episode 0"):
        _ = open_dataset(root)[0].segments
    (root / "meta/tasks.parquet").unlink()
    with pytest.raises(CorruptFileError, match="episode 0 has 2 sentences, and no task_index says which frames"):
        _ = open_dataset(root)[0].instruction
    assert open_dataset(root)[1].instruction == "open the drawer"


def test_other_names_are_given_by_the_user(case, picture_number):
    root = case("l08_openpi_keys")
    with pytest.raises(DataError, match=r"--map action=actions observation.state=state .*There are image, wrist_image, state"):
        open_dataset(root)
    dataset = open_dataset(root, features=feature_map(["action=actions", "state=state", "images.hand=wrist_image"]))
    assert dataset.camera_names == ("image", "hand")
    assert [picture_number(image) for image in dataset[1].images("hand")] == list(range(11, 20))
    assert np.array_equal(dataset[1].actions, stored(root, "actions")[11:])
    assert [component.name for component in (*dataset.spec.state, *dataset.spec.action)] == ["state", "action"]
    without = open_dataset(root, features={"action": ("actions",)})
    assert (without.spec.state, without[0].states.shape) == ((), (11, 0))
    assert (
        without.left_out["state"]
        == "is no state unless you say so (--map observation.state=state); it is read as a further column"
    )
    assert np.array_equal(without[0].columns["state"], stored(root, "state")[:11])
    with pytest.raises(UnknownNameError, match="no feature of .* named 'action'.*Did you mean 'actions'"):
        open_dataset(root, features={"action": ("action",)})
    with pytest.raises(DataError, match="feature 'image' holds image; expected numbers for 'action'"):
        open_dataset(root, features={"action": ("image",)})
    with pytest.raises(DataError, match="'state' is given as the camera|state is given as the camera"):
        open_dataset(root, features={"action": ("actions",), "observation.images.a": ("state",)})


def test_parts_are_joined_in_the_users_order(case):
    root = case("l08b_split_features")
    with pytest.raises(DataError, match=r"--map action=action.arm observation.state=observation.state.arm"):
        open_dataset(root)
    lines = ["state=observation.state.gripper,observation.state.arm", "action=action.arm,action.gripper"]
    dataset = open_dataset(root, features=feature_map(lines))
    assert [(c.name, c.size) for c in (*dataset.spec.state, *dataset.spec.action)] == [
        ("gripper", 1), ("arm", 6), ("arm", 6), ("gripper", 1),
    ]  # fmt: skip
    gripper, arm = stored(root, "observation.state.gripper"), stored(root, "observation.state.arm")
    assert np.array_equal(dataset[1].states, np.column_stack([gripper, arm])[11:])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["action"], "expected TARGET=FEATURE"),
        (["reward=r"], "expected TARGET=FEATURE"),
        (["action=a,,b"], "expected TARGET=FEATURE"),
        (["images.front=a,b"], "a camera is one feature, not 2"),
        (["state=a", "observation.state=b"], "says twice what 'observation.state' is: a and b"),
    ],
)
def test_a_wrong_map_is_explained(lines, message):
    with pytest.raises(ConfigError, match=message):
        feature_map(lines)


def test_depth_is_no_color_camera(case):
    root = case("l10_depth_video")
    dataset = open_dataset(root)
    assert dataset.camera_names == ("front",)
    reason = "is a depth camera; open_dataset(…, depth=True), or --set data.depth=true in training, reads it"
    assert dataset.left_out == {"observation.images.front_depth": reason}
    info = json.loads((root / "meta/info.json").read_text())
    feature = info["features"]["observation.images.front_depth"]
    feature["info"] = {"video.is_depth_map": True}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert open_dataset(root).camera_names == ("front",)
    with pytest.raises(CorruptFileError, match="is in yuv420p, whose pixels are no distances; 12 or 16 bits are needed"):
        open_dataset(root, depth=True)[0].images("front_depth")
    feature["info"]["video.pix_fmt"] = "yuv420p"
    (root / "meta/info.json").write_text(json.dumps(info))
    left_out = open_dataset(root, depth=True).left_out["observation.images.front_depth"]
    assert left_out == "is depth in yuv420p, whose pixels are no distances; 12 or 16 bits are needed"


def test_codes_of_depth_are_meters(case, case_module):
    root = case("l10b_depth_codes")
    dataset = open_dataset(root, depth=True)
    assert [(c.name, c.kind, c.height, c.width) for c in dataset.spec.cameras] == [
        ("front", "color", 64, 96), ("front_depth", "depth", 64, 96),
    ]  # fmt: skip
    depth_m = case_module("l10b_depth_codes").depth_m
    for episode, start in zip(dataset, dataset.frame_starts, strict=False):
        images = episode.images("front_depth")
        assert (images.dtype, images.shape) == (np.float32, (len(episode), 64, 96))
        expected = np.stack([depth_m(start + i) for i in range(len(episode))])
        assert np.abs(images - expected)[..., 1:].max() < 0.0015  # half a step at 3.2 m
        assert not images[..., 0].any()
        assert np.array_equal(episode.images("front_depth", rows=[2, 5]), images[[2, 5]])
    assert open_dataset(root).camera_names == ("front",)
    assert check_dataset(root) == []


def test_pictures_of_16_bits_are_meters_or_an_error(case):
    dataset = open_dataset(case("l10c_depth_png16"), depth=True)
    images = dataset[1].images("front_depth")
    assert images[:, 0, 0] == pytest.approx((500 + np.arange(11, 20)) / 1000)
    root = case("l10d_depth_unmarked")
    with pytest.raises(
        CorruptFileError, match=r"front_depth' holds I;16 pictures, which are no colors; .*\"is_depth_map\": true"
    ):
        open_dataset(root)[0].images("front_depth")
    assert any("which are no colors" in finding.problem for finding in check_dataset(root))


def test_depth_without_a_unit_is_left_out(case):
    root = case("l10c_depth_png16")
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["observation.images.front_depth"]["info"]["depth_unit"]
    (root / "meta/info.json").write_text(json.dumps(info))
    reason = open_dataset(root, depth=True).left_out["observation.images.front_depth"]
    assert reason == "has the depth unit None; write info.depth_unit, mm or m, into meta/info.json"
    info["features"]["observation.images.front_depth"]["info"]["depth_unit"] = ["mm"]
    (root / "meta/info.json").write_text(json.dumps(info))
    assert "has the depth unit ['mm']" in open_dataset(root, depth=True).left_out["observation.images.front_depth"]


@pytest.mark.parametrize(
    ("name", "camera", "message"),
    [
        ("l12c_short_video", "front", rf"{FRONT}: holds 6 frames from 1.100 s on; 9 were recorded"),
        ("l24_missing_video", "wrist", rf"{WRIST}: is a pointer of Git LFS; fetch it with `git lfs pull`"),
        ("l34_no_video_file", "front", rf"{FRONT}: is not there: it holds episode 1"),
        ("l42_wrong_size", "front", rf"{FRONT}: has pictures of 64×96; meta/info.json says 48×64"),
    ],
)
def test_a_video_that_is_not_as_recorded_is_named(case, name, camera, message):
    root = case(name)
    with pytest.raises(CorruptFileError, match=message):
        open_dataset(root)[1].images(camera)
    assert str(root / (WRIST if camera == "wrist" else FRONT)) in {finding.path for finding in check_dataset(root)}


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("l24b_lfs_parquet", "data/chunk-000/file-000.parquet", "is a pointer of Git LFS, not the file"),
        ("l40_unfinished", "meta/episodes", "has 2 episodes.*counts 3.*the recording may be unfinished"),
        ("l41b_wrong_bounds", "data/chunk-000/file-000.parquet", "gives rows 9 to 18 to episode 0 by their episode_index"),
    ],
)
def test_files_that_do_not_hold_the_episodes_are_named(case, name, path, message):
    root = case(name)
    with pytest.raises(CorruptFileError, match=message) as error:
        _ = open_dataset(root)[1].states
    assert error.value.path == str(root / path)
    assert str(root / path) in {finding.path for finding in check_dataset(root)}


def test_a_number_that_is_not_finite_is_named(case):
    root = case("l17_nan")
    (finding,) = check_dataset(root)
    assert "the actions of episode 1 are not finite: nan at frame 4, dimension 2" in finding.problem
    with pytest.raises(DataError, match="actions of episode 1 are not finite: nan at frame 4"):
        open_dataset(root).statistics()


def test_ranges_and_statistics_that_are_not_those_of_the_data_are_found(case):
    root = case("l43_stale_stats")
    problems = [finding.problem for finding in check_dataset(root) if finding.path == str(root / "meta/stats.json")]
    assert any(problem.startswith("action action.j0.pos: ") and "numbers are outside" in problem for problem in problems)
    assert any("gives 'action' the min" in problem for problem in problems)


def test_counts_and_columns_that_disagree_are_found(case):
    root = case("l25_language_columns")
    info = json.loads((root / "meta/info.json").read_text())
    info |= {"total_frames": 30, "total_tasks": 4}
    del info["features"]["next.done"]
    info["features"]["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    problems = "\n".join(map(str, check_dataset(root)))
    for expected in (
        "counts 30 frames; the episodes have 20", "counts 4 sentences",
        "lacks the column 'next.success', which meta/info.json lists",
        "has the column 'next.done', which meta/info.json does not list",
    ):  # fmt: skip
        assert expected in problems


def test_rates_that_disagree_are_found(case):
    root = case("l02_bframes")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.front"]["info"]["video.fps"] = 15
    (root / "meta/info.json").write_text(json.dumps(info))
    said = "gives 'observation.images.front' 15 pictures a second; the rows have 30"
    assert said in str(check_dataset(root)[0])
    feature = info["features"]["observation.images.front"]
    feature["video_info"] = feature.pop("info")  # as version 2.0 calls it
    (root / "meta/info.json").write_text(json.dumps(info))
    assert said in str(check_dataset(root)[0])


def test_frames_that_number_themselves_otherwise_are_found(case):
    root = case("l41_index_from_zero")
    (finding,) = check_dataset(root)
    assert finding.path.endswith("file-001.parquet")
    assert finding.problem == "has index 0 at frame 0 of episode 1; expected 11"


def test_further_columns_reach_python(case):
    episode = open_dataset(case("l25_language_columns"))[1]
    assert sorted(episode.columns) == ["language_persistent", "next.done", "next.reward"]
    assert (episode.columns["next.done"].dtype, episode.columns["next.reward"].dtype) == (np.bool_, np.float32)
    assert episode.columns["next.reward"].shape == (9,)
    assert episode.columns["language_persistent"][3] == [
        {"role": "user", "content": "grasp", "style": "subtask", "timestamp": 0.0}
    ]
    with pytest.raises(KeyError):
        episode.columns["action"]


def test_older_versions_are_read_directly(case, picture_number):
    dataset = open_dataset(case("l27_v21"))
    assert (dataset.spec.name, [len(e) for e in dataset], [e.instruction for e in dataset]) == (
        "so100", [11, 9], ["pick up the cube", "put it down"],
    )  # fmt: skip
    for episode in dataset:
        assert [picture_number(image) for image in episode.images("front")] == list(range(len(episode)))
    actions = stored(dataset.root, "action")
    assert np.array_equal(np.concatenate([e.actions for e in dataset]), actions)
    assert ranges(dataset.spec.action)[1] == pytest.approx(actions.max(0))
    assert check_dataset(dataset.root) == []


def test_version_2_0_has_sentences_by_frame(case):
    dataset = open_dataset(case("l27b_v20"))
    assert [(s.start, s.stop, s.wordings[0]) for s in dataset[1].segments] == [(0, 5, "pick up the cube"), (5, 9, "put it down")]
    assert ranges(dataset.spec.action)[0] == pytest.approx(stored(dataset.root, "action").min(0))
    assert check_dataset(dataset.root) == []


def test_version_2_1_with_pictures_and_gaps(case, picture_number):
    dataset = open_dataset(case("l27c_v21_images"))
    assert (dataset.spec.cameras[0].height, dataset.spec.cameras[0].width) == (64, 96)
    assert [picture_number(image) for image in dataset[1].images("front")] == list(range(100, 105))
    assert dataset[1].instruction == "put it down"
    assert check_dataset(dataset.root) == []


def test_the_range_of_version_2_1_is_that_of_all_its_episodes(case):
    root = case("l27_v21")
    stats = [{"action": {"min": [-float(i)] * 7, "max": [1.0 + i] * 7}} for i in range(2)]
    lines = [json.dumps({"episode_index": i, "stats": each}) for i, each in enumerate(stats)]
    (root / "meta/episodes_stats.jsonl").write_text("\n".join(lines))
    (action,) = open_dataset(root).spec.action
    assert (action.low, action.high) == ((-1.0,) * 7, (2.0,) * 7)


@pytest.mark.parametrize("name", ["l01_plain_av1", "l06_image_dtype", "l27_v21"])
def test_a_dataset_without_state_or_cameras_opens(case, name):
    root = case(name)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] = {key: f for key, f in info["features"].items() if key != "observation.state" and "images" not in key}
    (root / "meta/info.json").write_text(json.dumps(info))
    dataset = open_dataset(root)
    assert (dataset.spec.state, dataset.spec.cameras, dataset.camera_names) == ((), (), ())
    assert dataset[1].states.shape == (len(dataset[1]), 0)
    assert "state" not in dataset.statistics()


def test_a_given_spec_must_fit(case):
    small = open_dataset(case("l01_plain_av1")).spec
    with pytest.raises(DataError, match=r"has 7 numbers of state; the dataset has 14 \(observation.state\)"):
        open_dataset(case("l20_bimanual"), spec=small)
