"""Datasets of other people train: of several sizes, rates, orders and ranges, and without what verbot's own always have."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import verbot
from verbot.cli import main
from verbot.data import DatasetWriter, EpisodeRecord, ImportConfig, WindowConfig, Windows, import_dataset, open_dataset
from verbot.data.storage.info import seal
from verbot.errors import ConfigError, DataError
from verbot.spec import Camera, Component, Observation, RobotSpec
from verbot.training import read_log
from verbot.training.imitation.mixing import Recordings
from verbot.training.imitation.records import DataConfig

SMALL = {"steps": 2, "progress": False, "validation.share": 0.0}
JOINTS = Component("joints", "joint_position", ("a", "b"), "rad", "base", (-1.0, -1.0), (1.0, 1.0))
GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
SHIFT = Component("shift", "position_delta", ("x", "y"), "m", "base", (-0.1, -0.1), (0.1, 0.1))
ARM = RobotSpec("arm", 10.0, (Camera("front", 16, 24),), (JOINTS, GRIPPER), (JOINTS, SHIFT))


def train(out, *data, **settings):
    return verbot.train("tiny", out=out, data=[str(path) for path in data], **{**SMALL, **settings})


def command(*words):
    """The exit code of `verbot train tiny …`."""
    with pytest.raises(SystemExit) as ended:
        main(["train", "tiny", *map(str, words)])
    return ended.value.code


def notes(out):
    return [line["text"] for line in read_log(out) if line["kind"] == "note"]


def policy_of(result):
    return verbot.load_policy(result.policy)


def look(policy, instruction="pick up the cube"):
    """A prediction from black images and the mean state."""
    images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in policy.spec.cameras}
    state = policy.statistics["state"].mean.astype(np.float32) if policy.spec.state else np.zeros(0, np.float32)
    (chunk,) = policy.predict([Observation(images, state, instruction)])
    assert np.isfinite(chunk.values).all()
    return chunk


def record(path, spec=ARM, episodes=2, length=9, seed=0, scale=0.9, extras=None, instruction="move"):
    """Episodes in which every number is within `scale` of the range of its component."""
    rng = np.random.default_rng(seed)

    def values(components):
        low, high = (np.array([x for c in components for x in getattr(c, bound)]) for bound in ("low", "high"))
        middle, half = (low + high) / 2, (high - low) / 2
        return (middle + scale * rng.uniform(-1, 1, (length, len(low))) * half).astype(np.float32)

    with DatasetWriter(path, spec) as writer:
        for number in range(episodes):
            images = {c.name: rng.integers(0, 255, (length, c.height, c.width, 3)).astype(np.uint8) for c in spec.cameras}
            found = EpisodeRecord(instruction, values(spec.state), values(spec.action), images)
            writer.save_episode(dataclasses.replace(found, extras=(extras or [{}] * episodes)[number]))
    return path


# Sizes.


def test_cameras_of_several_sizes_get_one(case, tmp_path):
    root = case("l15_camera_sizes")
    policy = policy_of(train(tmp_path / "run", root))
    assert policy.config.image_size == (64, 96)
    assert [(c.height, c.width) for c in policy.spec.cameras] == [(72, 128), (64, 96)]
    assert [n for n in notes(tmp_path / "run") if "64×96, 72×128 are resized to 64×96, crop" in n]
    look(policy)


@pytest.mark.parametrize(
    ("name", "size"), [("l32_84", (80, 80)), ("l03_odd_size", (64, 96)), ("l22_channels_first", None), ("l20_bimanual", None)]
)
def test_sides_that_the_encoder_cannot_take_are_rounded_down(case, tmp_path, name, size):
    policy = policy_of(train(tmp_path / "run", case(name), steps=1))
    assert policy.config.image_size == size
    look(policy)


def test_one_small_camera_of_two_large_ones(case, tmp_path):
    root = case("l36_vga")
    settings = {"network.image_size": [96, 128], "cameras": ["wrist"], "steps": 1}
    policy = policy_of(train(tmp_path / "run", root, **settings))
    assert policy.spec.camera_names == ("wrist",) and policy.config.image_size == (96, 128)
    look(policy)


def test_a_bimanual_robot_cannot_start_from_the_shipped_policy(case, tmp_path):
    with pytest.raises(ConfigError, match="starter cannot be trained on .*: its state is .*, and theirs is .* of 'aloha'"):
        train(tmp_path / "run", case("l20_bimanual"), init_from="starter")


# Missing kinds of data.


def test_a_robot_without_state(case, tmp_path):
    import_dataset(case("m01_no_state"), tmp_path / "data", ImportConfig(rate_hz=10.0))
    policy = policy_of(train(tmp_path / "run", tmp_path / "data"))
    assert policy.spec.state_size == 0 and notes(tmp_path / "run") == [
        "there is no state: the policy sees only the images and the instruction"
    ]
    black = look(policy).values
    assert black.shape == (4, 7)
    white = {c.name: np.full((c.height, c.width, 3), 255, np.uint8) for c in policy.spec.cameras}
    (seen,) = policy.predict([Observation(white, np.zeros(0, np.float32), "pick up the cube")])
    assert (seen.values != black).any(), "the images are all that it sees"


def test_a_robot_without_cameras(case, tmp_path):
    import_dataset(case("h07c_lowdim"), tmp_path / "data", ImportConfig(instruction="lift the cube"))
    policy = policy_of(train(tmp_path / "run", tmp_path / "data"))
    assert policy.spec.cameras == () and "keypoints" not in look(policy).extras
    assert notes(tmp_path / "run") == ["there are no cameras: the policy sees only the instruction and the state"]


def test_a_broken_number_is_found(case, tmp_path):
    with pytest.raises(DataError, match=r"l17_nan: the action action\.j2\.pos is nan in episode 1, frame 4"):
        train(tmp_path / "run", case("l17_nan"))
    part = train(tmp_path / "part", tmp_path / "cases" / "l17_nan", **{"data.selections": [{"numbers": [0]}]})
    policy, data = policy_of(part), open_dataset(tmp_path / "cases" / "l17_nan")
    assert policy.spec.action_high()[2] == pytest.approx(data[0].actions[:, 2].max()), "the recorded statistics say 0"
    assert "ranges are those of the data, which its recorded statistics do not hold" in notes(tmp_path / "part")[0]


def test_constants_are_predicted_exactly(case, tmp_path):
    values = look(policy_of(train(tmp_path / "run", case("l17c_constant")))).values
    assert (values[:, 2] == 0).all() and (values[:, 5] == 37.5).all()


def test_one_episode_shorter_than_a_chunk(case, tmp_path):
    result = train(tmp_path / "run", case("l19_one_short_episode"), chunk=10, **{"validation.share": 0.2})
    assert result.finished and result.validation_loss is None and np.isfinite(result.loss)
    assert look(policy_of(result)).values.shape[0] == 10


def test_a_base_among_the_actions(case, tmp_path):
    import_dataset(case("h02_mobile_aloha"), tmp_path / "data", ImportConfig(robot="aloha", instruction="wipe"))
    dataset = open_dataset(tmp_path / "data")
    policy = policy_of(train(tmp_path / "run", tmp_path / "data", steps=1))
    values = look(policy, "wipe").values
    assert [c.name for c in policy.spec.action] == [c.name for c in dataset.spec.action] and values.shape[
        1
    ] == dataset.spec.action_size
    actions = np.concatenate([episode.actions for episode in dataset])
    np.testing.assert_allclose(policy.action_transform.inverse(policy.action_transform.forward(actions)), actions, atol=1e-4)
    assert (policy.spec.action_low() <= actions.min(0)).all() and (actions.max(0) <= policy.spec.action_high()).all()


# Foreign names.


def test_features_with_other_names(case, tmp_path, capsys):
    root, out = case("l08_openpi_keys"), tmp_path / "run"
    assert command("--data", root, "--out", out, "--steps", "1") == 2
    assert "--map" in capsys.readouterr().err
    named = ["observation.state=state", "action=actions", "images.front=image"]
    assert command("--data", root, "--out", out, "--steps", "1", "--map", *named) == 0
    policy = verbot.load_policy(out / "policy")
    assert policy.spec.camera_names == ("front", "wrist_image") and policy.spec.state_size == 7


def test_a_robot_of_verbots_own_beside_a_foreign_one(case, tmp_path):
    own, out = record(tmp_path / "own"), tmp_path / "run"
    words = ["--map", "state=state", "action=actions", "--out", out, "--steps", "1"]
    assert command("--data", own, "--embodiments", case("l08_openpi_keys"), *words) == 0
    assert notes(out)[0] == f"{own}: has names of its own, which the map of features leaves"
    assert verbot.load_policy(out / "policy").spec == ARM
    (other,) = out.glob("policy-*")
    assert verbot.load_policy(other).spec.camera_names == ("image", "wrist_image")


# Several datasets.


def test_two_tasks_of_one_robot(case, tmp_path):
    root = case("h12_two_aloha_tasks")
    for name in ("fold", "pour"):
        import_dataset(root / name, tmp_path / name, ImportConfig(robot="aloha", instruction=f"{name} it"))
    policy = policy_of(train(tmp_path / "run", tmp_path / "fold", tmp_path / "pour"))
    specs = [open_dataset(tmp_path / name).spec for name in ("fold", "pour")]
    lows = [np.concatenate([c.low for c in spec.action]) for spec in specs]
    highs = [np.concatenate([c.high for c in spec.action]) for spec in specs]
    assert (lows[0] != lows[1]).any(), "ranges are those of the data"
    np.testing.assert_allclose(policy.spec.action_low(), np.minimum(*lows), rtol=1e-6)
    np.testing.assert_allclose(policy.spec.action_high(), np.maximum(*highs), rtol=1e-6)
    look(policy, "fold it")


def test_two_rates_are_refused_and_resampled_when_asked(case, tmp_path, capsys):
    root = case("w01_two_rates")
    words = ["--data", root / "slow", root / "fast", "--out", tmp_path / "run", "--steps", "1"]
    assert command(*words) == 2
    refusal = capsys.readouterr().err
    assert "30 Hz in" in refusal and "10 Hz in" in refusal and "--set data.rate_hz=10" in refusal
    assert command(*words, "--set", "data.rate_hz=10") == 0
    said = capsys.readouterr().err
    assert "fast: resampled from 30 to 10 Hz" in said and "fast: has no camera wrist, which is masked there" in said
    assert said.count("masked there") == 1
    policy = verbot.load_policy(tmp_path / "run" / "policy")
    assert policy.spec.rate_hz == 10 and policy.spec.camera_names == ("front", "wrist")


def test_pictures_of_resampled_rows_are_those_of_their_time(case, picture_number):
    root = case("w01_two_rates")
    recordings = Recordings.open(DataConfig((str(root / "slow"), str(root / "fast")), rate_hz=10.0))
    episode = next(iter(recordings.every[1]))
    assert len(episode) == 7 and [picture_number(i) for i in episode.images("front")] == [0, 3, 6, 9, 12, 15, 18]
    assert [picture_number(i) for i in episode.images("front", [1, 5])] == [3, 15]
    recording = recordings.every[1]
    windows = Windows(recording.source, WindowConfig(chunk=2, cameras=("front", "wrist")))
    batch = windows.batch(np.arange(len(windows)), np.random.default_rng(0))
    assert len(windows) == 14 and [picture_number(i) for i in batch.images[:, 0, 0]] == 2 * [0, 3, 6, 9, 12, 15, 18]
    assert batch.images_mask[:, 0].tolist() == [[True, False]] * 14
    np.testing.assert_allclose(batch.state[:, 0, 0], np.tile(np.arange(7) / 10, 2), atol=1e-6)
    np.testing.assert_allclose(batch.actions[:6, 0, 0], np.arange(1, 7) / 10, atol=1e-6)  # the target of the next instant


def test_components_and_axes_in_another_order_are_matched_by_name(tmp_path):
    turned = dataclasses.replace(JOINTS, axes=("b", "a"), low=(-0.5, -1.0), high=(2.0, 1.0))
    other = dataclasses.replace(ARM, state=(GRIPPER, turned), action=(SHIFT, JOINTS))
    one, two = record(tmp_path / "one"), record(tmp_path / "two", other, seed=1)
    result = train(tmp_path / "run", one, two)
    policy = policy_of(result)
    assert policy.spec.state == (dataclasses.replace(JOINTS, low=(-1.0, -1.0), high=(1.0, 2.0)), GRIPPER)
    first, second = (open_dataset(path) for path in (one, two))
    states = np.concatenate([e.states for e in first] + [e.states[:, [2, 1, 0]] for e in second])
    actions = np.concatenate([e.actions for e in first] + [e.actions[:, [2, 3, 0, 1]] for e in second])
    np.testing.assert_allclose(policy.statistics["state"].mean, states.mean(0), atol=1e-6)
    np.testing.assert_allclose(policy.statistics["action"].max, actions.max(0), atol=1e-6)
    assert [n for n in notes(tmp_path / "run") if "two: its numbers are in another order than those of" in n]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "joint_velocity"},
            "the kind of the state component 'joints' is 'joint_position' in .*one and 'joint_v",
        ),
        ({"unit": "deg"}, "the unit of the state component 'joints' is 'rad' in .*one and 'deg' in .*two"),
        ({"frame": "left"}, "the frame of the state component 'joints' is 'base' in .*one and 'left' in .*two"),
        ({"axes": ("a", "c")}, r"the axes of the state component 'joints' is \('a', 'b'\) in .*one and \('a', 'c'\) in .*two"),
        ({"name": "arm"}, "the state consists of joints, gripper in .*one and of arm, gripper in .*two"),
    ],
)
def test_what_differs_is_named(tmp_path, change, message):
    other = dataclasses.replace(ARM, state=(dataclasses.replace(JOINTS, **change), GRIPPER))
    one, two = record(tmp_path / "one"), record(tmp_path / "two", other)
    with pytest.raises(ConfigError, match=message) as raised:
        train(tmp_path / "run", one, two)
    assert "\n" not in str(raised.value) and f"--embodiments {two}" in str(raised.value)


def test_images_of_two_sizes_in_two_datasets(tmp_path):
    large = dataclasses.replace(ARM, cameras=(Camera("front", 32, 48), Camera("top", 24, 24)))
    one, two = record(tmp_path / "one"), record(tmp_path / "two", large)
    policy = policy_of(train(tmp_path / "run", one, two, **{"network.image_fit": "letterbox"}))
    assert policy.spec.camera_names == ("front", "top") and policy.config.image_size == (16, 24)
    assert (policy.spec.cameras[0].height, policy.spec.cameras[1].height) == (16, 24)
    assert [n for n in notes(tmp_path / "run") if "one: has no camera top, which is masked there" in n]
    look(policy)


def test_two_robots_get_a_policy_each(tmp_path, capsys):
    rover = RobotSpec("rover", 5.0, (Camera("eye", 16, 16),), (), (dataclasses.replace(SHIFT, name="drive"),))
    one, two, out = record(tmp_path / "one"), record(tmp_path / "two", rover, instruction="drive"), tmp_path / "run"
    words = ["--out", out, "--steps", "2", "--data", one]
    assert command(*words, two) == 2
    refusal = capsys.readouterr().err
    assert f"--data {one} --embodiments {two}" in refusal and f"cotraining=[{{robot: rover, datasets: [{two}]}}]" in refusal
    assert command(*words, "--embodiments", two) == 0
    arm, other = (verbot.load_policy(out / name) for name in ("policy", "policy-rover"))
    assert arm.spec == ARM and other.spec == rover
    look(arm, "move"), look(other, "drive")
    ours, theirs = (dict(policy.network.named_parameters()) for policy in (arm, other))
    assert (ours["language.embed.weight"] == theirs["language.embed.weight"]).all()
    written = f"cotraining=[{{robot: rover, datasets: [{two}]}}]"
    assert command("--out", tmp_path / "again", "--steps", "1", "--data", one, "--set", written, "data.rate_hz=5") == 0
    again = [verbot.load_policy(tmp_path / "again" / name).spec for name in ("policy", "policy-rover")]
    assert (again[0].rate_hz, again[1]) == (5, rover), "a rate is that of one robot"


# Ranges.


def test_numbers_outside_the_ranges_are_refused_clipped_or_given_ranges(tmp_path, capsys):
    data = record(tmp_path / "data", length=20)
    info = json.loads((data / "meta/info.json").read_text())
    narrow = dataclasses.replace(ARM, action=(JOINTS, dataclasses.replace(SHIFT, low=(-0.05, -0.1), high=(0.05, 0.1))))
    info["verbot"]["spec"] = narrow.to_json()
    info["verbot"]["seal"] = seal(info)
    (data / "meta/info.json").write_text(json.dumps(info))
    actions = np.concatenate([e.actions for e in open_dataset(data)])[:, 2]
    count = int((np.abs(actions) > 0.05).sum())
    with pytest.raises(ConfigError) as raised:
        train(tmp_path / "run", data)
    message = str(raised.value)
    assert f"action shift.x: {count} of 40 numbers are outside -0.05 to 0.05 m" in message and "shift.y" not in message
    assert "data.out_of_range=widen" in message and "data.out_of_range=clip" in message
    clipped = train(tmp_path / "clip", data, **{"data.out_of_range": "clip"})
    assert policy_of(clipped).spec == narrow and f"{count} of 40" in notes(tmp_path / "clip")[0]
    wide = policy_of(train(tmp_path / "wide", data, **{"data.out_of_range": "widen"}))
    shift = wide.spec.action[1]
    assert shift.low[0] == pytest.approx(min(-0.05, actions.min())) and shift.high[0] == pytest.approx(max(0.05, actions.max()))
    assert shift.low[1] == -0.1


def test_rounding_is_not_outside(tmp_path):
    whole = dataclasses.replace(ARM, action=(JOINTS, dataclasses.replace(SHIFT, low=(-0.1, -0.1), high=(0.1, 0.1))))
    train(tmp_path / "run", record(tmp_path / "data", whole, scale=1.0000001), steps=1)
