"""What the check of the action space says about actions of each kind, and what the check of times finds."""

from dataclasses import replace

import numpy as np
import pytest

from verbot import open_dataset
from verbot.data.quality import LintConfig, lint
from verbot.data.quality.checks import lint_checks
from verbot.data.quality.episode import episode_data, scales_of

from .planted import EPISODES, FRAMES, found, spec, write


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
