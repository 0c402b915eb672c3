import dataclasses
import io
import json
import struct

import h5py
import numpy as np
import pytest
from PIL import Image

from verbot.data import DatasetWriter, EpisodeRecord, ImportConfig, export_hdf5, import_dataset, open_dataset
from verbot.data.importers import known_robots
from verbot.data.importers.hdf5_file import Hdf5Pictures
from verbot.data.storage.writer import example_dataset
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.spec import Camera, EndEffector

from .conftest import decoded, encoded, psnr_db

VIEWS = ("cam_high", "cam_left_wrist")


@pytest.mark.parametrize("error", [Image.DecompressionBombError, struct.error, SyntaxError])
def test_encoded_depth_that_cannot_be_decoded_is_named(tmp_path, monkeypatch, error):
    cell = io.BytesIO()
    Image.fromarray(np.full((16, 16), 700, np.uint16)).save(cell, "PNG")
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        file["depth"] = np.frombuffer(cell.getvalue(), np.uint8)[None].repeat(2, 0)
    pictures = Hdf5Pictures(tmp_path / "file.hdf5", "depth")
    assert pictures.depth(1e-3).tolist() == np.full((2, 16, 16), np.float32(0.7)).tolist()
    monkeypatch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(error("damaged")))
    with pytest.raises(CorruptFileError, match=r"file.hdf5, depth, frame 0: is not a whole picture \(damaged"):
        pictures.depth(1e-3)


def aloha(path, one, compressed=False, task=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file["observations/qpos"] = one.states.astype(np.float64)
        file["observations/qvel"] = np.zeros_like(one.states)
        file["action"] = one.actions.astype(np.float64)
        if task:
            file.attrs["language_instruction"] = task
        for view in VIEWS:
            frames = one.images[view]
            if compressed:
                jpegs = [np.frombuffer(encoded(frame), np.uint8) for frame in frames]
                longest = max(map(len, jpegs))
                frames = np.stack([np.pad(jpeg, (0, longest - len(jpeg))) for jpeg in jpegs])
            file[f"observations/images/{view}"] = frames
        if compressed:
            file["compress_len"] = np.full((len(VIEWS), len(one)), longest)


@pytest.mark.parametrize("compressed", [False, True])
def test_aloha(tmp_path, truth, same, compressed):
    numbers = (0, 1, 2, 10)
    truths = [truth(number, 14, 14, VIEWS) for number in numbers]
    for number, one in zip(numbers, truths, strict=True):
        aloha(tmp_path / "raw" / f"episode_{number}.hdf5", one, compressed, one.instruction)
    result = import_dataset(tmp_path / "raw", tmp_path / "out")
    assert (result.format, result.robot, result.skipped) == ("hdf5", "aloha", ())
    if compressed:
        for one in truths:
            one.images.update({view: np.stack([decoded(encoded(frame)) for frame in one.images[view]]) for view in VIEWS})
    spec = same(tmp_path / "out", truths, [f"episode_{number}.hdf5" for number in numbers]).spec
    assert spec.rate_hz == 50 and [c.name for c in spec.action] == ["left_arm", "left_gripper", "right_arm", "right_gripper"]
    assert [c.kind for c in spec.action] == ["joint_position", "gripper"] * 2
    assert [camera.frame for camera in spec.cameras] == ["base", "left"]
    left, right = spec.end_effectors
    assert (left.name, left.state, right.action) == ("left", ("left_arm", "left_gripper"), ("right_arm", "right_gripper"))


def test_aloha_without_instructions_with_other_arms_and_more_states(tmp_path, truth):
    one = truth(0, 6, 6, VIEWS)
    aloha(tmp_path / "a.hdf5", one)
    with pytest.raises(ConfigError, match="holds no instructions"):
        import_dataset(tmp_path / "a.hdf5", tmp_path / "out", ImportConfig(rate_hz=30))
    import_dataset(
        tmp_path / "a.hdf5",
        tmp_path / "out",
        ImportConfig(rate_hz=30, instruction="fold it", options={"state": "qpos,qvel", "bgr": True}),
    )
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.spec.name, dataset[0].instruction) == ("generic", "fold it")
    assert [(c.name, c.size) for c in dataset.spec.state] == [("qpos", 6), ("qvel", 6)]
    assert psnr_db(dataset[0].images("cam_high"), one.images["cam_high"][..., ::-1]) > 38
    with pytest.raises(DataError, match=r"has no state field 'effort'; it has qpos, qvel"):
        import_dataset(
            tmp_path / "a.hdf5", tmp_path / "no", ImportConfig(rate_hz=30, instruction="", options={"state": "effort"})
        )
    with pytest.raises(DataError, match=r"has no pictures 'top'; it has cam_high, cam_left_wrist"):
        import_dataset(tmp_path / "a.hdf5", tmp_path / "no", ImportConfig(rate_hz=30, instruction="", options={"images": "top"}))
    with pytest.raises(DataError, match=r"field 'qpos' has 6 numbers a frame; this robot's has 14 \(--robot generic"):
        import_dataset(tmp_path / "a.hdf5", tmp_path / "no", ImportConfig(robot="aloha", instruction=""))


def demos(path, truths, libero=False, convention="opengl", control_freq=20, size=7):
    arguments = {"env_name": "Lift", "env_kwargs": {"control_freq": control_freq}}
    arguments["env_kwargs"]["controller_configs"] = {
        "type": "OSC_POSE", "control_delta": True, "output_max": [0.05] * 3 + [0.5] * 3
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(arguments)
        if libero:
            data.attrs["problem_info"] = json.dumps({"language_instruction": truths[0].instruction})
            data.attrs["macros_image_convention"] = convention
        for number, one in enumerate(truths):
            group = data.create_group(f"demo_{number}")
            group["actions"] = one.actions[:, :size].astype(np.float64)
            group["dones"] = np.zeros(len(one))
            names = (("ee_states", 6), ("gripper_states", 2), ("joint_states", 7))
            if not libero:
                names = (("robot0_eef_pos", 3), ("robot0_eef_quat", 4), ("robot0_gripper_qpos", 2))
            start = 0
            for name, width in names:
                group[f"obs/{name}"] = one.states[:, start : start + width].astype(np.float64)
                start += width
            group["obs/object"] = np.zeros((len(one), 10))
            for view, frames in one.images.items():
                group[f"obs/{view}"] = frames[:, ::-1] if libero and convention == "opengl" else frames


def opened(actions):
    """The gripper's −1 opens and 1 closes; in verbot 1 is open."""
    return np.concatenate([actions[:, :6], (1 - actions[:, 6:].astype(np.float64)) / 2], 1).astype(np.float32)


def test_robomimic(tmp_path, truth):
    truths = [truth(number, 9, 7, ("agentview_image", "robot0_eye_in_hand_image"), length=2) for number in range(11)]
    demos(tmp_path / "image.hdf5", truths, control_freq=10)
    result = import_dataset(tmp_path / "image.hdf5", tmp_path / "out", ImportConfig(instruction="lift the cube"))
    assert result.skipped == ()
    dataset = open_dataset(tmp_path / "out")
    assert [episode.extras["source"]["episode"] for episode in dataset][-2:] == ["image.hdf5, demo_9", "image.hdf5, demo_10"]
    spec = dataset.spec
    assert (spec.name, spec.rate_hz) == ("robomimic", 10.0)
    assert [(c.name, c.unit) for c in spec.action] == [
        ("position_delta", "0.05 m"), ("rotation_delta", "0.5 rad"), ("gripper", "1")
    ]  # fmt: skip
    assert [(c.name, c.kind) for c in spec.state][1] == ("ee_quaternion", "quaternion")
    for episode, one in zip(dataset, truths, strict=True):
        turned = one.states[:, [0, 1, 2, 6, 3, 4, 5, 7, 8]]  # robosuite's quaternions have w last
        assert episode.states.tobytes() == turned.tobytes()
        assert episode.actions.tobytes() == opened(one.actions).tobytes()
        assert psnr_db(episode.images("agentview_image"), one.images["agentview_image"]) > 38


@pytest.mark.parametrize("convention", ["opengl", "opencv"])
def test_libero(tmp_path, truth, convention):
    one = truth(0, 15, 7, ("agentview_rgb", "eye_in_hand_rgb"))
    (tmp_path / "raw").mkdir()
    demos(tmp_path / "raw" / "turn_on_the_stove_demo.hdf5", [one], libero=True, convention=convention)
    import_dataset(tmp_path / "raw", tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.spec.name, dataset.camera_names) == ("libero", ("agentview", "eye_in_hand"))
    assert dataset[0].instruction == one.instruction and dataset[0].states.tobytes() == one.states.tobytes()
    assert dataset[0].actions.tobytes() == opened(one.actions).tobytes()
    assert psnr_db(dataset[0].images("agentview"), one.images["agentview_rgb"]) > 38
    import_dataset(tmp_path / "raw", tmp_path / "as-is", ImportConfig(options={"flip": False}, robot="generic", rate_hz=20))
    other = open_dataset(tmp_path / "as-is")[0]
    stored = one.images["agentview_rgb"][:, ::-1] if convention == "opengl" else one.images["agentview_rgb"]
    assert psnr_db(other.images("agentview_rgb"), stored) > 38 and other.actions.tobytes() == one.actions.tobytes()


def test_damaged_files_are_named_and_the_rest_imported(tmp_path, truth, same):
    truths = [truth(number, 14, 14, VIEWS) for number in range(5)]
    source = tmp_path / "raw"
    for number, one in enumerate(truths):
        aloha(source / f"episode_{number}.hdf5", one, number == 3, one.instruction)
    cut = source / "episode_1.hdf5"
    cut.write_bytes(cut.read_bytes()[:-2000])
    with h5py.File(source / "episode_2.hdf5", "r+") as file:
        del file["observations/qpos"]
        file["observations/qpos"] = truths[2].states[:-1]
    with h5py.File(source / "episode_3.hdf5", "r+") as file:
        file["observations/images/cam_high"][2, 40:] = 0
    with h5py.File(source / "episode_5.hdf5", "w") as file:
        file["pixels"] = np.zeros(3)
    result = import_dataset(source, tmp_path / "out")
    problems = {skipped.episode: skipped.problem for skipped in result.skipped}
    assert set(problems) == {f"episode_{number}.hdf5" for number in (1, 2, 3, 5)} and result.exit_code == 1
    assert "episode_1.hdf5: cannot be read" in problems["episode_1.hdf5"] and "truncated" in problems["episode_1.hdf5"]
    assert problems["episode_2.hdf5"] == f"state 'qpos' has {len(truths[2]) - 1} frames for {len(truths[2])} actions"
    assert "images/cam_high, frame 2: is not a whole picture" in problems["episode_3.hdf5"]
    assert problems["episode_5.hdf5"].endswith(
        "has pixels float64 (3); expected action and observations (ALOHA) or data/demo_0 (robomimic), or the fields by name, "
        "as in --set action=pixels"
    )
    same(tmp_path / "out", [truths[0], truths[4]], ["episode_0.hdf5", "episode_4.hdf5"])


def test_a_demonstration_without_observations_is_named(tmp_path, truth):
    truths = [truth(number, 9, 7, ("agentview_image",)) for number in range(2)]
    demos(tmp_path / "low.hdf5", truths)
    with h5py.File(tmp_path / "low.hdf5", "r+") as file:
        del file["data/demo_0/obs"]
    (skipped,) = import_dataset(tmp_path / "low.hdf5", tmp_path / "out", ImportConfig(instruction="")).skipped
    assert skipped.episode == "low.hdf5, demo_0" and skipped.problem.endswith("has actions, dones; expected actions and obs")


def test_export_and_import_give_the_same_dataset(tmp_path):
    source = open_dataset(example_dataset(tmp_path / "dataset"))
    result = export_hdf5(source.root, tmp_path / "out" / "demonstrations.hdf5")
    assert (result.episodes, result.frames) == (2, 24)
    with h5py.File(result.path) as file:  # as robomimic reads it
        data = file["data"]
        assert data.attrs["total"] == 24 and json.loads(data.attrs["env_args"])["env_kwargs"]["control_freq"] == 10
        group = data["demo_1"]
        assert group.attrs["num_samples"] == 12 and group["dones"][()].tolist() == [0] * 11 + [1]
        np.testing.assert_array_equal(group["actions"][()], source[1].actions)
        np.testing.assert_array_equal(group["obs/ee_position"][()], source[1].states[:, :3])
        np.testing.assert_array_equal(group["obs/front_image"][()], source[1].images("front"))
    import_dataset(result.path, tmp_path / "again")
    again = open_dataset(tmp_path / "again")
    assert again.spec == source.spec
    for one, other in zip(source, again, strict=True):
        assert one.states.tobytes() == other.states.tobytes() and one.actions.tobytes() == other.actions.tobytes()
        assert one.instruction == other.instruction
        assert psnr_db(one.images("front"), other.images("front")) > 38
    assert export_hdf5(source.root, tmp_path / "one.hdf5", limit=1).episodes == 1
    with pytest.raises(DataError, match=r"one\.hdf5 exists; choose another file"):
        export_hdf5(source.root, tmp_path / "one.hdf5")


def test_wordings_and_calibration_survive_the_export(tmp_path, written):
    source = open_dataset(written)
    export_hdf5(written, tmp_path / "d.hdf5")
    import_dataset(tmp_path / "d.hdf5", tmp_path / "again")
    again = open_dataset(tmp_path / "again")
    for one, other in zip(source, again, strict=True):
        assert (one.instructions, one.calibration) == (other.instructions, other.calibration)
        assert {**one.extras, "source": None} == {**other.extras, "source": None}


def test_a_folder_without_files_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"has no file that ends with \.hdf5 or \.h5"):
        import_dataset(tmp_path, tmp_path / "out", ImportConfig("hdf5"))


@pytest.mark.parametrize("change", [{"control_delta": False}, {"type": "JOINT_VELOCITY"}, {"input_type": "absolute"}])
def test_other_controllers_are_not_taken_for_changes_of_pose(tmp_path, truth, change):
    one = truth(0, 9, 7, ("agentview_image",))
    demos(tmp_path / "abs.hdf5", [one], control_freq=10)
    with h5py.File(tmp_path / "abs.hdf5", "r+") as file:
        arguments = json.loads(file["data"].attrs["env_args"])
        arguments["env_kwargs"]["controller_configs"] |= change
        file["data"].attrs["env_args"] = json.dumps(arguments)
    import_dataset(tmp_path / "abs.hdf5", tmp_path / "out", ImportConfig(instruction=""))
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.spec.rate_hz, [c.kind for c in dataset.spec.action]) == (10.0, ["other"])
    assert dataset[0].actions.tobytes() == one.actions.tobytes()


def test_end_effectors_and_frames_survive_the_export(tmp_path, two_arms):
    spec = dataclasses.replace(two_arms, cameras=(*two_arms.cameras, Camera("head", 24, 32, frame="head")), frames=("head",))
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 255, (6, c.height, c.width, 3), np.uint8) for c in spec.cameras}
    states, actions = (rng.uniform(0, 0.01, (6, size)).astype(np.float32) for size in (spec.state_size, spec.action_size))
    with DatasetWriter(tmp_path / "set", spec) as writer:
        writer.save_episode(EpisodeRecord("fold it", states, actions, images))
    export_hdf5(tmp_path / "set", tmp_path / "d.hdf5")
    import_dataset(tmp_path / "d.hdf5", tmp_path / "again")
    assert open_dataset(tmp_path / "again").spec == open_dataset(tmp_path / "set").spec == spec


def test_of_a_robots_end_effectors_those_stay_that_were_recorded(two_arms):
    robot = known_robots.robot_of_spec(two_arms)
    left_alone = known_robots.spec_of(robot, 10.0, two_arms.cameras, two_arms.state[:3], two_arms.action[:2])
    assert left_alone.groups == (EndEffector("left", two_arms.groups[0].state, two_arms.groups[0].action[:2]),)
    assert left_alone.frames == ("right",), "a camera is still mounted there"
