"""A clean dataset has no errors or warnings; each planted fault is found by its check, with episode and frame."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verbot import cli, open_dataset
from verbot.data import DatasetWriter, EpisodeRecord
from verbot.data.importers import sources  # noqa: F401
from verbot.data.quality import LintConfig, lint
from verbot.data.quality.checks import lint_checks
from verbot.data.quality.checks.sentences import one_letter
from verbot.data.quality.episode import episode_data, scales_of
from verbot.data.storage.writer import example_dataset
from verbot.errors import ConfigError, UnknownNameError
from verbot.rollout.collect import CollectConfig, run
from verbot.spec import Camera, Component, RobotSpec

XYZ = ("x", "y", "z")
EPISODES, FRAMES, RATE = 8, 80, 10.0


def spec(action="position_delta", frame="base"):
    position = Component("ee_position", "position", XYZ, "m", "base", (-1.0,) * 3, (1.0,) * 3)
    quaternion = Component("ee_quaternion", "quaternion", ("w", *XYZ), "1", "base", (-1.0,) * 4, (1.0,) * 4)
    gripper = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    low, high = ((-1.0,) * 3, (1.0,) * 3) if action == "position" else ((-0.05,) * 3, (0.05,) * 3)
    moved = Component("arm", action, XYZ, "m", frame, low, high)
    cameras = (Camera("front", 48, 64), Camera("wrist", 48, 64, frame="tool"))
    return RobotSpec("toy", RATE, cameras, (position, quaternion, gripper), (moved, gripper))


def smooth(rng, frames, size, scale):
    """A motion without rest: sums of slow waves."""
    t = np.arange(frames)[:, None] / RATE
    phases, speeds = rng.uniform(0, 6.3, (3, size)), rng.uniform(0.8, 2.5, (3, size))
    return scale * sum(np.sin(speeds[i] * t + phases[i]) for i in range(3)) / 3


def clean_arrays(number, frames=FRAMES):
    """States, actions (deltas), pictures."""
    rng = np.random.default_rng(number)
    position, angle = smooth(rng, frames + 1, 3, 0.2), smooth(rng, frames + 1, 1, 1.0)
    rotation = np.concatenate([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], axis=1)
    rotation[:, 1:3] = smooth(rng, frames + 1, 2, 0.05)
    rotation /= np.linalg.norm(rotation, axis=1, keepdims=True)
    gripper = (np.arange(frames + 1)[:, None] % 40 < 25).astype(float)
    states = np.concatenate([position, rotation, gripper], axis=1).astype(np.float32)
    actions = np.concatenate([np.diff(position, axis=0), gripper[1:]], axis=1).astype(np.float32)
    texture = rng.integers(40, 215, (2, 96, 400, 3)).astype(np.uint8)
    images = {}
    for k, camera in enumerate(("front", "wrist")):
        right, down = (160 + 700 * position[:frames, k]).astype(int), (24 + 110 * position[:frames, 2]).astype(int)
        images[camera] = np.stack([texture[k, y : y + 48, x : x + 64] for x, y in zip(right, down, strict=True)])
    return states[:-1], actions, images


def write(path, edit=None, of=None, sentence=lambda number: ("pick up the cube", "put it in the box")[number % 2], frames=None):
    """A dataset; ``edit(number, states, actions, images)`` plants a fault by changing the arrays, or returns others."""
    with DatasetWriter(path, of or spec()) as writer:
        for number in range(EPISODES):
            arrays = clean_arrays(number, FRAMES if frames is None else frames(number))
            if edit is not None:
                arrays = edit(number, *arrays) or arrays
            writer.save_episode(EpisodeRecord(sentence(number), *arrays))
    return path


def found(report, check):
    """The error or warning of a check; every other check is quiet."""
    serious = [finding for finding in report.findings if finding.severity != "info"]
    assert {finding.check for finding in serious} == {check}, report.lines()
    return serious[0]


def at(finding):
    return finding.first.episode, finding.first.frame


def test_a_clean_dataset_has_no_findings_to_mend(tmp_path):
    report = lint(write(tmp_path / "d"))
    assert report.clean, report.lines()
    assert (report.episodes, report.frames, report.pictures) == (EPISODES, EPISODES * FRAMES, EPISODES * 2 * 16)


def test_recorded_demonstrations_have_no_findings_to_mend(tmp_path):
    run(CollectConfig(env="tabletop-full", episodes=11, seed=3, workers=1), tmp_path / "d")
    report = lint(tmp_path / "d")
    assert report.clean and report.episodes == 11, report.lines()
    assert lint(example_dataset(tmp_path / "e")).clean


def test_every_check_is_exercised_here():
    text = Path(__file__).read_text()
    assert [name for name in lint_checks.names() if f'"{name}"' not in text] == []


def test_a_number_that_is_not_finite(tmp_path):
    write(tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    config = LintConfig(picture_step=40)
    episode = episode_data(dataset[2], scales_of(dataset, range(EPISODES), config), config)
    states = episode.states.copy()
    states[7, 1] = np.nan
    check = lint_checks.get("finite")()
    assert check.measure(episode, config) is None
    assert check.measure(replace(episode, states=states), config) == {"state": (7, 1, [1])}


def test_numbers_that_are_not_finite_in_a_file(case):
    report = lint(case("l17_nan"))
    (finding,) = [f for f in report.findings if f.check == "finite"]
    assert finding.severity == "error" and "action.j2.pos" in finding.message and finding.signal == ("action", 2)


def test_a_constant_dimension(tmp_path):
    def edit(number, states, actions, images):
        states[:, 2] = 0.25

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("constant",))), "constant")
    assert "1 of 8 dimensions of the state never change: ee_position.z (0.25)" in finding.message


def test_a_near_constant_dimension(tmp_path):
    def edit(number, states, actions, images):
        actions[:, 3] = 1.0
        if number == 3:
            actions[41:43, 3] = 0.0

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("constant",))), "constant")
    assert at(finding) == (3, 41) and finding.count == 2 and "action gripper leaves 1 in 2 of 640 frames" in finding.message


def test_a_wrong_unit_uses_nothing_of_its_range(tmp_path):
    def edit(number, states, actions, images):
        states[:, :3] /= 1000

    findings = lint(write(tmp_path / "d", edit), LintConfig(checks=("constant",))).findings
    assert len(findings) == 3 and "of a declared range of 2: is its unit right?" in findings[0].message


def test_a_clipped_state(tmp_path):
    def edit(number, states, actions, images):
        states[:, 0] = np.minimum(states[:, 0], 0.02)

    report = lint(write(tmp_path / "d", edit), LintConfig(checks=("saturation",)))
    finding = found(report, "saturation")
    assert "state ee_position.x is at 0.02, the end of its range, in " in finding.message and finding.signal == ("state", 0)


def test_a_gripper_that_rests_in_one_episode(tmp_path):
    def edit(number, states, actions, images):
        if number == 6:
            states[:, 7] = 1.0

    finding = found(lint(write(tmp_path / "d", edit, sentence=lambda n: "pick up the cube")), "saturation")
    assert finding.message.startswith("the gripper of the state rests in 1 episode") and at(finding) == (6, 0)


def test_a_gripper_whose_motion_is_never_seen(tmp_path):
    def edit(number, states, actions, images):
        states[:, 7] = 0.5

    report = lint(write(tmp_path / "d", edit), LintConfig(checks=("saturation",)))
    assert "the state never shows that it does" in found(report, "saturation").message


def test_an_outlier(tmp_path):
    def edit(number, states, actions, images):
        if number == 4:
            actions[17, 1] = 2.0

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("outliers",))), "outliers")
    assert at(finding) == (4, 17) and finding.signal == ("action", 1) and finding.count == 1


def test_long_tails_are_no_outliers(tmp_path):
    def edit(number, states, actions, images):
        actions[::30, 1] = 2.0

    report = lint(write(tmp_path / "d", edit), LintConfig(checks=("outliers",)))
    assert report.clean and "long tails" in report.findings[0].message


def test_a_jump(tmp_path):
    def edit(number, states, actions, images):
        if number == 5:
            states[31:, 0] += 0.4

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("jumps",))), "jumps")
    assert at(finding) == (5, 31) and finding.signal == ("state", 0)


def test_a_jump_of_the_rotation(tmp_path):
    def edit(number, states, actions, images):
        if number == 5:
            w, x, y, z = states[31:, 3:7].T  # turned by 90° about x
            states[31:, 3:7] = np.sqrt(0.5) * np.stack([w - x, w + x, y + z, z - y], axis=1)

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("jumps",))), "jumps")
    assert at(finding) == (5, 31) and "ee_quaternion" in finding.message


def test_a_quaternion_that_changes_its_sign(tmp_path):
    def edit(number, states, actions, images):
        if number == 2:
            states[11:30, 3:7] *= -1

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("jumps",))), "jumps")
    assert at(finding) == (2, 11) and "changes its sign 2 times" in finding.message


def test_an_angle_that_wraps(tmp_path):
    turning = Component("angle", "other", ("z",), "rad", "base", (-4.0,), (4.0,))
    joint = Component("angle", "other", ("z",), "rad", "base", (-4.0,), (4.0,))

    def edit(number, states, actions, images):
        angle = (np.arange(len(states)) * 0.1 + number + np.pi) % (2 * np.pi) - np.pi
        return angle[:, None].astype(np.float32), angle[:, None].astype(np.float32), images

    toy = replace(spec(), state=(turning,), action=(joint,))
    findings = lint(write(tmp_path / "d", edit, of=toy), LintConfig(checks=("jumps",))).findings
    assert any("state angle wraps by about 2π" in finding.message for finding in findings)


def test_repeated_rows(tmp_path):
    def edit(number, states, actions, images):
        if number in (1, 2):
            states[1::2] = states[::2]

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("duplicates",))), "duplicates")
    assert at(finding) == (1, 3) and finding.count == 2 * (FRAMES // 2 - 2) and "slower than the recorder" in finding.message


def test_an_episode_that_is_there_twice(tmp_path):
    def edit(number, states, actions, images):
        return clean_arrays(1) if number == 6 else None

    finding = found(lint(write(tmp_path / "d", edit)), "duplicates")
    assert at(finding) == (6, 0) and "1 = 6" in finding.message


@pytest.mark.parametrize("level", [0, 255])
def test_a_dark_or_overexposed_camera(tmp_path, level):
    def edit(number, states, actions, images):
        if number == 3:
            images["wrist"][40:] = level

    config = LintConfig(checks=("dark_camera",))
    finding = found(lint(write(tmp_path / "d", edit), config), "dark_camera")
    assert at(finding) == (3, 40) and finding.camera == "wrist"


def test_a_covered_camera(tmp_path):
    def edit(number, states, actions, images):
        images["front"][:] = 120

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("dark_camera",))), "dark_camera")
    assert finding.camera == "front" and finding.count == EPISODES


def test_a_frozen_camera(tmp_path):
    def edit(number, states, actions, images):
        if number == 6:
            images["front"][30:] = images["front"][30]

    finding = found(lint(write(tmp_path / "d", edit), LintConfig(checks=("frozen_camera",))), "frozen_camera")
    assert finding.first.episode == 6 and finding.first.frame in (30, 40)  # a video refines a picture that stays
    assert finding.camera == "front" and finding.severity == "error"


def test_a_camera_that_rests_with_the_robot_is_not_frozen(tmp_path):
    def edit(number, states, actions, images):
        images["front"][30:], states[30:], actions[30:] = images["front"][30], states[30], 0

    assert lint(write(tmp_path / "d", edit), LintConfig(checks=("frozen_camera", "repeated_pictures"))).clean


def test_a_camera_slower_than_the_recorder(tmp_path):
    def edit(number, states, actions, images):
        images["wrist"][1::2] = images["wrist"][::2]

    config = LintConfig(checks=("repeated_pictures",))
    finding = found(lint(write(tmp_path / "d", edit), config), "repeated_pictures")
    assert finding.camera == "wrist" and finding.first.episode == 0 and finding.first.frame % 10 == 1


def test_unequal_lengths(tmp_path):
    def frames(number):
        return {2: 3, 5: 400}.get(number, FRAMES)

    findings = lint(write(tmp_path / "d", frames=frames), LintConfig(checks=("lengths",))).findings
    assert [finding.first.episode for finding in findings] == [2, 5]
    assert "episode 5 has 400 frames, the median is 80" in findings[1].message


def test_idle_time(tmp_path):
    def edit(number, states, actions, images):
        states[:35], actions[:35] = states[35], 0
        if number == 4:
            states[60:], actions[60:] = states[60], 0

    start, end = lint(write(tmp_path / "d", edit), LintConfig(checks=("idle",))).findings
    assert start.severity == end.severity == "warning" or (start.severity, end.severity) == ("warning", "info")
    assert "rests at the start for 1 s or more in 8 of 8 episodes, for up to 3.5 s" in start.message and at(start) == (0, 0)
    assert "at the end" in end.message and at(end) == (4, 60)


def test_rest_within_an_episode(tmp_path):
    def edit(number, states, actions, images):
        if number == 4:
            states[40:60], actions[40:60] = states[40], 0

    (finding,) = lint(write(tmp_path / "d", edit), LintConfig(checks=("idle",))).findings
    assert "within the episode" in finding.message and at(finding) == (4, 40) and finding.worst[0].size == 19


def test_unbalanced_tasks(tmp_path):
    sentence = lambda number: "put it in the box" if number == 5 else "pick up the cube"  # noqa: E731
    finding = found(lint(write(tmp_path / "d", sentence=sentence)), "label_balance")
    assert finding.first.episode == 5 and "from 1 episodes ('put it in the box') to 7" in finding.message


def test_a_missing_instruction(tmp_path):
    sentence = lambda number: "" if number == 5 else f"pick up cube {number}"  # noqa: E731
    finding = found(lint(write(tmp_path / "d", sentence=sentence)), "label_balance")
    assert finding.first.episode == 5 and "1 of 8 episodes" in finding.message


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ("pick up the cubr", "'pick up the cubr' (1 episode) differs in one letter from 'pick up the cube'"),
        ("Pick up  the cube.", "differ in case, spaces or punctuation only"),
    ],
)
def test_a_misspelled_sentence(tmp_path, odd, message):
    sentence = lambda number: odd if number == 7 else "pick up the cube"  # noqa: E731
    config = LintConfig(checks=("sentences",))
    finding = found(lint(write(tmp_path / "d", sentence=sentence), config), "sentences")
    assert message in finding.message and finding.first.episode == 7


def test_right_sentences_that_are_close(tmp_path):
    words = ("put it in the box", "put it on the box", "pick up the left cube", "lift up the left cube")
    assert lint(write(tmp_path / "d", sentence=lambda n: words[n % 4]), LintConfig(checks=("sentences",))).clean


def test_one_letter():
    assert all(one_letter(*pair) for pair in (("cube", "cub"), ("cube", "cuube"), ("cube", "cuba"), ("cube", "ucbe")))
    assert not any(one_letter(*pair) for pair in (("cube", "cube"), ("cube", "cones"), ("lift", "left "), ("ab", "ba c")))


# What the action is.


def moved(number, states, images, actions):
    return states, np.concatenate([actions, states[:, 7:]], axis=1).astype(np.float32), images


def tool_deltas(states, steps):
    w, v = states[:, 3:4], -states[:, 4:7]  # the inverse rotation
    return steps + 2 * np.cross(v, np.cross(v, steps) + w * steps)


def statement(tmp_path, action, frame, edit):
    """What the check says about the arm."""
    report = lint(write(tmp_path / "d", edit, of=spec(action, frame)), LintConfig(checks=("action_space",)))
    return [finding for finding in report.findings if " arm " in f"{finding.message} "]


def test_a_delta_that_is_declared_as_one(tmp_path):
    (finding,) = statement(tmp_path, "position_delta", "base", None)
    assert finding.severity == "info" and "delta, as declared" in finding.message and "from t to t+1" in finding.message


def test_an_absolute_target_that_is_declared_as_a_delta(tmp_path):
    def edit(number, states, actions, images):
        return moved(number, states, images, np.roll(states[:, :3], -1, 0))

    (finding,) = statement(tmp_path, "position_delta", "base", edit)
    assert finding.severity == "error" and "it is absolute, not delta" in finding.message and "at t+1" in finding.message


def test_a_delta_that_is_declared_as_an_absolute_target(tmp_path):
    (finding,) = statement(tmp_path, "position", "base", None)
    assert finding.severity == "error" and "it is delta, not absolute" in finding.message


def test_what_to_declare_for_other(tmp_path):
    (finding,) = statement(tmp_path, "other", "base", None)
    assert "arm.x, arm.y, arm.z are delta (R² 1.00): declare position_delta" in finding.message


def test_an_action_that_is_the_state_of_its_own_frame(tmp_path):
    def edit(number, states, actions, images):
        return moved(number, states, images, states[:, :3])

    findings = statement(tmp_path, "position", "base", edit)
    assert [f.severity for f in findings] == ["warning", "info"] and "the state of its own frame" in findings[0].message


def test_a_delta_of_the_step_before(tmp_path):
    def edit(number, states, actions, images):
        return moved(number, states, images, np.roll(actions[:, :3], 1, 0))

    findings = statement(tmp_path, "position_delta", "base", edit)
    assert findings[0].severity == "warning" and "the step that led to its frame" in findings[0].message


def test_a_delta_in_the_frame_of_the_tool(tmp_path):
    def edit(number, states, actions, images):
        return moved(number, states, images, tool_deltas(states, actions[:, :3]))

    wrong = statement(tmp_path, "position_delta", "base", edit)
    assert [f for f in wrong if f.severity == "error" and "declared in frame 'base', but follows the tool's" in f.message]
    assert all(f.severity == "info" for f in statement(tmp_path / "right", "position_delta", "tool", edit))


def test_a_reversed_gripper(tmp_path):
    def edit(number, states, actions, images):
        actions[:, 3] = 1 - actions[:, 3]

    report = lint(write(tmp_path / "d", edit), LintConfig(checks=("action_space",)))
    assert "opens where the state gripper closes" in found(report, "action_space").message


# Time.


def test_irregular_times(tmp_path):
    write(tmp_path / "d")
    dataset, config = open_dataset(tmp_path / "d"), LintConfig(picture_step=40)
    episode = episode_data(dataset[0], scales_of(dataset, range(EPISODES), config), config)
    check = lint_checks.get("rate")()
    late = replace(episode, times=np.where(np.arange(FRAMES) < 50, 0, 0.2) + episode.times)
    jittery = replace(episode, times=episode.times + np.random.default_rng(0).normal(0, 0.02, FRAMES))
    slow = replace(episode, times=2 * episode.times)
    assert check.measure(episode, config)["irregular"][0] == 0
    assert check.measure(late, config)["gaps"][:2] == (1, 50)
    assert check.measure(jittery, config)["irregular"][0] > 20
    assert check.measure(slow, config)["rate"] == pytest.approx(2, rel=1e-3)


def test_times_of_another_clock_in_a_file(case):
    finding = found(lint(case("l18_hw_timestamps"), LintConfig(checks=("rate",))), "rate")
    assert finding.count > 10 and finding.first.episode == 0


def test_dropped_frames_and_a_wrong_rate_are_said(tmp_path):
    write(tmp_path / "d")
    dataset, config = open_dataset(tmp_path / "d"), LintConfig(checks=("rate",))
    times = type(dataset[0]).timestamps
    try:
        type(dataset[0]).timestamps = property(lambda self: times.fget(self) * (2 if self.index == 3 else 1))
        finding = found(lint(dataset, config), "rate")
    finally:
        type(dataset[0]).timestamps = times
    assert finding.first.episode == 3 and "recorded at another rate than 10 Hz; episode 3 at 5 Hz" in finding.message


# The whole.


def test_an_episode_that_cannot_be_read_is_a_finding(case):
    report = lint(case("l34_no_video_file"))
    assert report.findings[0].check == "reading" and report.findings[0].count == 2 and report.episodes == 0


def test_some_episodes_only(tmp_path):
    report = lint(write(tmp_path / "d"), LintConfig(episodes=3))
    assert (report.episodes, report.of_episodes) == (3, EPISODES)


def test_unknown_settings_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="there is no lint check named 'jump'. Did you mean 'jumps'"):
        lint(write(tmp_path / "d"), LintConfig(checks=("jump",)))
    with pytest.raises(ConfigError, match="picture_step is 0; expected at least 1"):
        LintConfig(picture_step=0)


def test_the_command_writes_a_page_and_json(tmp_path, capsys):
    def edit(number, states, actions, images):
        if number == 6:
            images["front"][30:] = images["front"][30]
            states[31:, 0] += 0.4

    path = write(tmp_path / "d", edit)
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "lint", str(path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"verbot data view {path} --episode 6" in printed and "2 errors" not in printed
    page = (tmp_path / "out/lint.html").read_text()
    assert page.count("data:image/png;base64,") >= 6 and "<polyline" in page and f"verbot data view {path} --episode 6" in page
    record = json.loads((tmp_path / "out/lint.json").read_text())
    assert {"jumps", "frozen_camera"} <= {finding["check"] for finding in record["findings"]}
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "lint", str(path), "--strict", "--json", "--set", "checks=[jumps]", "jump_steps=1000"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["config"]["jump_steps"] == 1000
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "lint", str(path), "--strict"])
    assert stop.value.code == 1
