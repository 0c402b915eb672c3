"""A clean dataset has no errors or warnings; each planted fault is found by its check, with episode and frame."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from verbot import cli, open_dataset
from verbot.data.quality import LintConfig, lint
from verbot.data.quality.checks import lint_checks
from verbot.data.quality.checks.sentences import one_letter
from verbot.data.quality.episode import episode_data, scales_of
from verbot.data.storage.writer import example_dataset
from verbot.errors import ConfigError, UnknownNameError
from verbot.rollout.collect import CollectConfig, run
from verbot.spec import Component

from .planted import EPISODES, FRAMES, at, clean_arrays, found, spec, write


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
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
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
