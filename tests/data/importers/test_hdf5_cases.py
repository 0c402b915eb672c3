"""HDF5 files of other people: what is taken as what, on which evidence, and what is left out."""

import importlib
import io
import json

import h5py
import numpy as np
import pytest
from PIL import Image

from verbot.cli import main
from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.data.importers import open_source
from verbot.data.importers.plan import ImportPlan, PlanOptions
from verbot.errors import ConfigError, CorruptFileError, DataError


def source(root, robot=None, **options):
    return open_source("hdf5", root, robot, options)


def episodes(root, robot=None, **options):
    return [item.read() for item in source(root, robot, **options).items()]


def notes_of(raw):
    return {note.field: note for note in raw.notes}


def stored(path, name):
    with h5py.File(path) as file:
        return file[name][()]


def imported(root, target, **config):
    result = import_dataset(root, target, ImportConfig(**{"instruction": "do it", **config}))
    assert result.skipped == () and result.problems == ()
    return open_dataset(target)


def numbers(episode, camera, picture_number):
    return [picture_number(frame) for frame in episode.images(camera)]


def test_aloha_is_recognized_by_its_names(case, tmp_path, picture_number):
    root = case("h01_aloha")
    opened = source(root)
    assert (opened.robot.name, opened.rate_hz) == ("aloha", 50.0)
    assert opened.recognition.startswith("qpos and action of 14 numbers and the cameras cam_high")
    dataset = imported(root, tmp_path / "out")
    for episode, length in zip(dataset, (11, 9), strict=True):
        for camera in dataset.camera_names:
            assert numbers(episode, camera, picture_number) == list(range(length))
    notes = notes_of(episodes(root)[0])
    assert notes["observations/qvel"].reason.endswith("--set state=qpos,qvel") and "compress_len" in notes


def test_other_names_and_contradicting_times_are_no_aloha(case, tmp_path):
    root = case("h01_aloha")
    for name in ("episode_0.hdf5", "episode_1.hdf5"):
        with h5py.File(root / name, "a") as file:
            file["observations/timestamps"] = np.arange(len(file["action"])) / 30
    opened = source(root)
    assert opened.rate_hz is None and opened.recognition.endswith("its timestamps say 30 Hz, not ALOHA's 50")
    with pytest.raises(ConfigError, match="give --rate-hz"):
        import_dataset(root, tmp_path / "no", ImportConfig(instruction=""))
    for name in ("episode_0.hdf5", "episode_1.hdf5"):
        with h5py.File(root / name, "a") as file:
            images = file["observations/images"]
            for camera in list(images):
                images.move(camera, camera.removeprefix("cam_"))
    opened = source(root)
    assert (opened.robot.name, opened.rate_hz, opened.recognition) == ("generic", None, "")
    with h5py.File(root / "episode_0.hdf5", "a") as file:
        file.attrs["fps"] = 30
    with pytest.raises(DataError, match=r"episode_1\.hdf5 was recorded at no rate; the first file at 30 Hz"):
        [item.read() for item in source(root).items()]


def test_the_base_of_mobile_aloha_is_said_to_be_left_out_or_taken(case, tmp_path):
    root = case("h02_mobile_aloha")
    assert notes_of(episodes(root)[0])["base_action"].reason.endswith("with --set action=action,base_action")
    assert imported(root, tmp_path / "arms").spec.action_size == 14
    dataset = imported(root, tmp_path / "whole", options={"action": "action,base_action", "state": "qpos,base_vel"})
    path = root / "episode_0.hdf5"
    expected = np.concatenate([stored(path, "action"), stored(path, "base_action")], 1).astype(np.float32)
    np.testing.assert_array_equal(dataset[0].actions, expected)
    np.testing.assert_array_equal(dataset[0].states[:, 14:], stored(path, "observations/base_vel").astype(np.float32))


def test_depth_is_left_out_unless_its_unit_is_given(case, tmp_path):
    root = case("h03_aloha_depth")
    assert imported(root, tmp_path / "out").camera_names == ("cam_high", "cam_left_wrist", "cam_low", "cam_right_wrist")
    notes = notes_of(episodes(root)[0])
    for name in ("observations/images/cam_high_depth", "observations/images_depth"):
        assert notes[name].taken_as == "left out" and "depth_unit=mm" in notes[name].reason
    with pytest.raises(ConfigError, match="depth needs its unit.*depth_unit=mm.*got None"):
        source(root, depth="cam_high_depth")
    for wanted, camera in (("cam_high_depth", "cam_high_depth"), ("cam_high=images_depth/cam_high", "cam_high_depth")):
        opened = source(root, depth=wanted, depth_unit="mm")
        raw = next(opened.items()).read()
        depth = raw.cameras[camera]()
        assert depth.dtype == np.float32 and depth.shape == (11, 64, 96) and np.all(depth == np.float32(0.7))
        (note,) = [note for note in raw.notes if note.taken_as == f"camera {camera}"]
        assert (note.conversion, note.reason) == ("mm to meters", "depth in meters")
        view = next(
            view
            for view in ImportPlan(opened, PlanOptions("hdf5", "x", 50.0, instruction="")).survey().cameras
            if view.name == camera
        )
        assert (view.kind, view.height, view.width) == ("depth", 64, 96)
    with pytest.raises(DataError, match="has no depth 'side'"):
        episodes(root, depth="side", depth_unit="mm")


def test_an_unknown_layout_lists_its_fields_and_is_read_by_their_names(case, tmp_path, picture_number, capsys):
    root = case("h04_robotwin")
    with pytest.raises(SystemExit) as stop:
        main(["data", "import", str(root), str(tmp_path / "no"), "--instruction", "x", "--rate-hz", "25"])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and "joint_action/vector float64 (9, 14), observation/head_camera/rgb |S" in message
    assert "--set action=joint_action/vector images.head_camera=observation/head_camera/rgb" in message
    named = {"action": "joint_action/vector", "state": "joint_action/vector", "images": "head=observation/head_camera/rgb"}
    dataset = imported(root, tmp_path / "out", rate_hz=25, options=named)
    for number, episode in enumerate(dataset):
        vector = stored(root / f"episode{number}.hdf5", "joint_action/vector").astype(np.float32)
        assert np.array_equal(episode.actions, vector) and np.array_equal(episode.states, vector)
        assert numbers(episode, "head", picture_number) == list(range(9 + number))
    with pytest.raises(DataError, match=r"has no dataset 'joints'; it has joint_action/vector"):
        source(root, action="joints")
    with h5py.File(root / "all.hdf5", "w") as file:  # several episodes in one file
        for number in (0, 10, 9):
            file[f"run_{number}/cmd"] = np.full((3, 2), number)
    keys = [(item.key, item.read().action["cmd"][0, 0]) for item in source(root / "all.hdf5", action="cmd").items()]
    assert keys == [("all.hdf5, run_0", 0), ("all.hdf5, run_9", 9), ("all.hdf5, run_10", 10)]


def test_isaac_lab_is_not_taken_for_robosuite(case, tmp_path, picture_number):
    root = case("h05_isaaclab")
    opened = source(root)
    assert opened.recognition.startswith("Isaac Lab's recorder, env_name Isaac-Stack-Cube")
    with pytest.raises(ConfigError, match="give --rate-hz"):
        import_dataset(root, tmp_path / "no", ImportConfig(instruction=""))
    dataset = imported(root, tmp_path / "out", rate_hz=20)
    np.testing.assert_array_equal(dataset[0].actions, stored(root / "dataset.hdf5", "data/demo_0/actions"))
    assert [c.kind for c in dataset.spec.action] == ["other"]
    state = {c.name: c for c in dataset.spec.state}
    assert list(state) == ["eef_pos", "eef_quat", "gripper_pos", "joint_pos"] and state["eef_quat"].axes == ("w", "x", "y", "z")
    assert dataset[0].states[0, 3:7].tolist() == [1, 0, 0, 0]
    assert numbers(dataset[1], "table_cam", picture_number) == list(range(10))
    raw = episodes(root)[0]
    notes = notes_of(raw)
    assert raw.extras["success"] is True and "are kept" in notes["env_args"].reason
    for name in ("obs/datagen_info", "initial_state", "processed_actions", "obs/actions", "attributes seed"):
        assert notes[name].taken_as == "left out", name
    with h5py.File(root / "dataset.hdf5", "a") as file:
        timing = {"env_name": "Isaac-Stack", "type": 2, "sim_args": {"dt": 0.01, "decimation": 5}}
        file["data"].attrs["env_args"] = json.dumps(timing)
    assert source(root).rate_hz == 20


def test_robosuite_is_believed_where_its_controller_says_so(case, tmp_path, picture_number):
    for name, known in (("h07_robomimic_abs", False), ("h07b_robomimic_v15", True), ("h07c_lowdim", True)):
        root = case(name)
        dataset = imported(root, tmp_path / name)
        assert (dataset.spec.name, dataset.spec.rate_hz) == ("robomimic" if known else "generic", 20)
        actions = stored(root / "image_abs.hdf5", "data/demo_0/actions").astype(np.float32)
        gripper = (1 - actions[:, 6:]) / 2 if known else actions[:, 6:]
        np.testing.assert_array_equal(dataset[0].actions, np.concatenate([actions[:, :6], gripper], 1))
        assert dataset[0].states[0, 3:7].tolist() == ([1, 0, 0, 0] if known else [0, 0, 0, 1])
        assert source(root).recognition.startswith("env_args: OSC_POSE with changes of pose" if known else "")
        assert dataset.camera_names == (() if "lowdim" in name else ("agentview_image", "robot0_eye_in_hand_image"))
        for camera in dataset.camera_names:
            assert numbers(dataset[0], camera, picture_number) == list(range(10))
    note = notes_of(episodes(tmp_path / "cases/h07_robomimic_abs")[0])["env_args"]
    assert "control_delta" in note.reason and "--robot robomimic" in note.reason
    assert source(tmp_path / "cases/h07_robomimic_abs", "robomimic").robot.name == "robomimic"


@pytest.mark.parametrize(
    ("change", "reason", "rate_hz"),
    [
        ({"env_kwargs": {}}, "no controller_configs", None),
        ({"env_kwargs": None}, "no controller_configs", None),
        ({"type": 4}, "type 4", 20),
        ({"control_delta": None}, "does not say that it takes changes", 20),
        ({"output_max": None}, "other limits", 20),
        ({"output_max": [0.05, 0.05, 0.1, 0.5, 0.5, 0.5]}, "other limits", 20),
        ({"input_max": 2}, "other limits", 20),
        ({"output_min": [0.0] * 6}, "output_min", 20),
        ({"type_of_controller": "JOINT_POSITION"}, "JOINT_POSITION, not OSC_POSE", 20),
        ({"body_parts": {"left": {}, "right": {}}}, "not of one right arm", 20),
        ({"body_parts": {"arms": {"right": {"type": "IK_POSE"}}}}, "IK_POSE", 20),
    ],
)
def test_without_evidence_numbers_are_kept(case, tmp_path, change, reason, rate_hz):
    root = case("h07b_robomimic_v15")
    importlib.import_module("h07_robomimic_abs").make(tmp_path / "plain", delta=True)
    with h5py.File(tmp_path / "plain/image_abs.hdf5", "a") as file:
        arguments = json.loads(file["data"].attrs["env_args"])
        controller = arguments["env_kwargs"]["controller_configs"]
        top = {key: value for key, value in change.items() if key in ("env_kwargs", "type")}
        below = {{"type_of_controller": "type"}.get(key, key): value for key, value in change.items() if key not in top}
        controller |= below
        for key in [key for key, value in below.items() if value is None]:
            del controller[key]
        file["data"].attrs["env_args"] = json.dumps(arguments | top)
    opened = source(tmp_path / "plain")
    assert (opened.robot.name, opened.rate_hz, opened.recognition) == ("generic", rate_hz, "")
    assert reason in notes_of(next(opened.items()).read())["env_args"].reason
    assert source(root).robot.name == "robomimic"


def test_without_a_rate_robosuites_is_asked_for(case):
    root = case("h07b_robomimic_v15")
    with h5py.File(root / "image_abs.hdf5", "a") as file:
        arguments = json.loads(file["data"].attrs["env_args"])
        del arguments["env_kwargs"]["control_freq"]
        file["data"].attrs["env_args"] = json.dumps(arguments)
    opened = source(root)
    assert (opened.robot.name, opened.rate_hz) == ("robomimic", None) and "no control_freq" in opened.recognition


def test_states_without_observations_have_to_be_rendered_first(case, tmp_path):
    with pytest.raises(DataError, match="extract the observations first, with robomimic's dataset_states_to_obs.py"):
        import_dataset(case("h07d_raw"), tmp_path / "out", ImportConfig(instruction=""))


def test_libero_is_flipped_on_evidence_only(case, tmp_path, picture_number):
    root = case("h09_libero")
    dataset = imported(root, tmp_path / "out", instruction=None)
    assert (dataset.spec.name, dataset[0].instruction) == ("libero", "open the drawer")
    assert np.all(dataset[0].actions[:, 6] == 1) and numbers(dataset[0], "agentview", picture_number) == list(range(10))
    raw, path = episodes(root)[0], root / "KITCHEN_SCENE1_open_the_drawer_demo.hdf5"
    note = notes_of(raw)["obs/agentview_rgb"]
    assert (note.conversion, note.reason) == ("rows flipped", "macros_image_convention")
    frames = stored(path, "data/demo_0/obs/agentview_rgb")
    np.testing.assert_array_equal(raw.cameras["agentview"](), frames[:, ::-1])
    with h5py.File(path, "a") as file:
        del file["data"].attrs["macros_image_convention"]
    raw = episodes(root)[0]
    np.testing.assert_array_equal(raw.cameras["agentview"](), frames)
    assert any("--set flip=true" in note.reason for note in raw.notes if note.field == "obs/agentview_rgb")
    np.testing.assert_array_equal(episodes(root, flip=True)[0].cameras["agentview"](), frames[:, ::-1])


def test_broken_files_are_named_and_the_good_one_imported(case, tmp_path):
    result = import_dataset(case("h11_one_broken"), tmp_path / "out", ImportConfig(instruction=""))
    assert (result.episodes, result.exit_code) == (1, 1)
    assert [skipped.episode for skipped in result.skipped] == [f"episode_{number}.hdf5" for number in (1, 2, 3)]


def test_two_tasks_of_aloha(case, tmp_path):
    root = case("h12_two_aloha_tasks")
    fold, pour = (imported(root / name, tmp_path / name, instruction=name) for name in ("fold", "pour"))
    assert (len(fold), len(pour), fold[0].instruction, pour[2].instruction) == (2, 3, "fold", "pour")
    assert [c.name for c in fold.spec.state] == [c.name for c in pour.spec.state]


def test_pictures_follow_their_own_clock(case, tmp_path, picture_number):
    root = case("h13_timestamps")
    module = importlib.import_module("h13_timestamps")
    dataset = imported(root, tmp_path / "out", rate_hz=20)
    for camera in ("front", "wrist"):
        assert numbers(dataset[0], camera, picture_number) == module.expected(camera)
    note = notes_of(episodes(root)[0])["observations/images/front"]
    assert note.conversion == "the picture nearest to each row's time"
    module.make(tmp_path / "lost", lost=(7, 8))
    with pytest.raises(
        DataError, match=r"images/wrist: row 4 at 100\.2 lies 0\.03 from the nearest picture; half a period is 0\.025"
    ):
        episodes(tmp_path / "lost")
    with h5py.File(root / "episode_0.hdf5", "a") as file:
        file.move("observations/timestamps", "clock")
    with pytest.raises(DataError, match="16 pictures at times of .*front and 12 rows without times; name the rows' times"):
        episodes(root)
    again = episodes(module.make(tmp_path / "again"))[0].cameras["front"]()
    np.testing.assert_array_equal(episodes(root, timestamps="clock")[0].cameras["front"](), again)
    with h5py.File(root / "episode_0.hdf5", "a") as file:
        file["clock"][3] = 0
    with pytest.raises(DataError, match="clock: its times are not ascending"):
        episodes(root, timestamps="clock")


def test_each_demonstration_has_its_own_sentence_and_columns(case, tmp_path):
    root = case("h14_robocasa")
    dataset = imported(root, tmp_path / "out", instruction=None)
    assert [episode.instruction for episode in dataset] == ["open the left cabinet", "close the drawer"]
    raw = episodes(root)[1]
    assert raw.columns["next.reward"].tolist() == [0] * 9 + [1] and raw.columns["next.reward"].dtype == np.float32
    assert raw.columns["next.done"].tolist() == [False] * 9 + [True]
    assert raw.columns["observation.environment_state"].shape == (10, 30)
    assert notes_of(raw)["states"].taken_as == "column observation.environment_state"


def test_files_of_two_controllers_are_not_mixed(case, tmp_path):
    result = import_dataset(case("h15_two_controllers"), tmp_path / "out", ImportConfig(instruction=""))
    (skipped,) = result.skipped
    assert (result.episodes, skipped.episode) == (2, "b_abs.hdf5")
    assert "has no evidence of a robot; the first file has env_args: OSC_POSE" in skipped.problem


def test_counts_that_contradict_are_named(case, tmp_path):
    result = import_dataset(case("h16_contradictions"), tmp_path / "out", ImportConfig(instruction=""))
    problems = {skipped.episode: skipped.problem for skipped in result.skipped}
    assert result.episodes == 1 and problems.keys() == {"image_abs.hdf5, demo_1", "image_abs.hdf5"}
    assert "num_samples is 12, but it has 10 actions" in problems["image_abs.hdf5, demo_1"]
    assert "total is 30, but it has 22 frames" in problems["image_abs.hdf5"]
    root = case("h01_aloha")
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        lengths = file["compress_len"][()]
        del file["compress_len"]
        file["compress_len"] = lengths[:, :-1]
    (skipped,) = import_dataset(root, tmp_path / "aloha", ImportConfig(instruction="")).skipped
    assert skipped.problem.endswith("compress_len is (4, 8); expected (4, 9): 4 compressed cameras, 9 actions")


def test_an_incomplete_demonstration_and_a_broken_count_cost_only_themselves(case, tmp_path):
    root = case("h07b_robomimic_v15")
    with h5py.File(root / "image_abs.hdf5", "a") as file:
        del file["data/demo_0/actions"]
        file["data"].attrs["total"] = "many"
    result = import_dataset(root, tmp_path / "out", ImportConfig(instruction=""))
    assert (result.robot, result.episodes) == ("robomimic", 1)
    problems = {skipped.episode: skipped.problem for skipped in result.skipped}
    assert problems["image_abs.hdf5"].endswith("attribute total is 'many'; expected a count")
    assert "expected actions and obs" in problems["image_abs.hdf5, demo_0"]


def test_a_sentence_per_frame_is_the_frames_own(tmp_path, case):
    root = case("h01_aloha")
    for number, length in enumerate((11, 9)):
        with h5py.File(root / f"episode_{number}.hdf5", "a") as file:
            file["language_instruction"] = [b"pick it"] * 4 + [b"put it"] * (length - 4)
            file.attrs["task"] = "sim_transfer_cube"
    raw = episodes(root)[0]
    assert [(s.start, s.stop, s.wordings) for s in raw.segments] == [(0, 4, ("pick it",)), (4, 11, ("put it",))]
    assert raw.instructions == ("pick it",) and notes_of(raw)["attribute task"].taken_as == "left out"


def test_a_depth_picture_that_cannot_be_decoded_is_named(tmp_path, monkeypatch):
    content = io.BytesIO()
    Image.fromarray(np.full((16, 24), 700, np.uint16)).save(content, "PNG")
    broken = content.getvalue()[:-30]
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["cmd"] = np.zeros((2, 3))
        for name, images in (("depth", [content.getvalue()] * 2), ("depth_cut", [content.getvalue(), broken])):
            stored = file.create_dataset(name, (2,), h5py.vlen_dtype(np.uint8))
            for row, image in enumerate(images):
                stored[row] = np.frombuffer(image, np.uint8)
    (raw,) = episodes(tmp_path, action="cmd", depth="depth,depth_cut", depth_unit="mm")
    assert np.all(raw.cameras["depth"]() == np.float32(0.7))
    with pytest.raises(CorruptFileError, match="depth_cut, frame 1: is not a whole picture"):
        raw.cameras["depth_cut"]()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a picture that says it is huge
    with pytest.raises(CorruptFileError, match="depth, frame 0: is not a whole picture"):
        raw.cameras["depth"]()
