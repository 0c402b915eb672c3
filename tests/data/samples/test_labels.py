"""Tasks and grasps, read off finished episodes."""

import dataclasses

import numpy as np
import pytest

from verbot.data import DatasetWriter, EpisodeRecord, WindowConfig, Windows, open_dataset
from verbot.data.editing.conditions import Condition
from verbot.data.samples.episode_arrays import task_number, task_of
from verbot.data.samples.labels import MaskedArray, labels
from verbot.data.samples.labels.grasp_state import grasps
from verbot.errors import DataError, UnknownNameError
from verbot.spec import Camera, Component, RobotSpec

POSITION = Component("ee_position", "position", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
GRIP = Component("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,))
DELTA = Component("position_delta", "position_delta", ("x", "y", "z"), "m", "base", (-0.05,) * 3, (0.05,) * 3)
SPEC = RobotSpec("hand", 10.0, (Camera("front", 8, 8),), (POSITION, GRIP), (DELTA, GRIP))

LABELS = ("task", "grasp_state")


def episode(commands: str, openings: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """States and actions of a hand that moves on by 1 cm a step; ``o`` opens, ``c`` closes."""
    states = np.zeros((len(commands), 4), np.float32)
    states[:, 0], states[:, 3] = 0.01 * np.arange(len(commands)), openings
    actions = np.zeros((len(commands), 4), np.float32)
    actions[:, 3] = [command == "o" for command in commands]
    return states, actions


def test_a_grasp_is_the_state_in_which_the_hand_closes_on_something():
    states, actions = episode("ooocccccoo", [1, 1, 1, 1, 0.7, 0.6, 0.6, 0.6, 0.6, 1])
    label = grasps(states, actions, SPEC)
    found, mask = label.values, label.mask
    assert mask.tolist() == [True] * 4 + [False] * 6
    np.testing.assert_allclose(found[:4], [[0.03, 0, 0, 0.6]] * 4, atol=1e-6)
    assert not found[4:].any()


def test_a_hand_that_closes_on_nothing_takes_no_hold_and_each_grasp_has_its_own_frames():
    states, actions = episode("occccocccc", [1, 1, 0.2, 0, 0, 0.3, 1, 0.5, 0.4, 0.4])
    label = grasps(states, actions, SPEC)
    found, mask = label.values, label.mask
    assert mask.tolist() == [False] * 2 + [True] * 5 + [False] * 3, "after the first closing the second is ahead"
    np.testing.assert_allclose(found[2], [0.06, 0, 0, 0.4], atol=1e-6)


def test_a_robot_without_a_gripper_grasps_nothing():
    spec = dataclasses.replace(SPEC, state=(POSITION,), action=(DELTA,))
    states, actions = episode("ooccc", [1, 1, 1, 0.5, 0.5])
    label = grasps(states[:, :3], actions[:, :3], spec)
    assert not label.mask.any() and label.values.shape == (5, 3)


def test_windows_have_labels_of_task_and_grasp(tmp_path):
    records = [
        {"request": {"task": "put"}, "goal": {"verb": "stack"}},
        {"goal": {"verb": "pick"}},
        {},
        {"request": {"task": "push"}},
        {"request": ["put"], "goal": "cube"},
    ]
    with DatasetWriter(tmp_path, SPEC) as writer:
        for extras in records:
            states, actions = episode("ooccccc", [1, 1, 1, 0.5, 0.5, 0.5, 0.5])
            image = np.zeros((7, 8, 8, 3), np.uint8)
            writer.save_episode(EpisodeRecord("go", states, actions, {"front": image}, extras=extras))
    dataset = open_dataset(tmp_path)
    assert [task_of(each) for each in dataset] == ["put", "pick", None, "push", None]
    assert [task_number(task_of(each), ("pick", "put")) for each in dataset] == [1, 0, -1, -1, -1]
    assert [Condition.parse("task=go").holds(each) for each in dataset] == [False, False, True, False, True]
    batch = Windows(dataset, WindowConfig(chunk=2, tasks=("pick", "put"), labels=LABELS), episodes=range(4)).batch(
        np.arange(28), np.random.default_rng(0)
    )
    assert batch.targets["task"].values.reshape(4, 7)[:, 0].tolist() == [1, 0, -1, -1]
    assert batch.targets["grasp_state"].mask.reshape(4, 7)[0].tolist() == [True] * 3 + [False] * 4
    np.testing.assert_allclose(batch.targets["grasp_state"].values[0], [0.02, 0, 0, 0.5], atol=1e-6)


def test_relabeled_windows_have_neither_label(tmp_path):
    goals = [{"instructions": [words], "target_base_m": [0.1, 0, 0]} for words in ("go", "come")]
    extras = {"request": {"task": "put"}, "grounding": goals, "first_contact_frame": 2}
    with DatasetWriter(tmp_path, SPEC) as writer:
        states, actions = episode("ooccccc", [1, 1, 1, 0.5, 0.5, 0.5, 0.5])
        writer.save_episode(EpisodeRecord("go", states, actions, {"front": np.zeros((7, 8, 8, 3), np.uint8)}, extras=extras))
    windows = Windows(open_dataset(tmp_path), WindowConfig(chunk=2, tasks=("put",), relabel=1.0, labels=LABELS))
    batch = windows.batch(np.arange(3), np.random.default_rng(0))
    assert batch.instructions == ["come", "come", "go"]
    assert batch.targets["task"].mask.tolist() == [False, False, True]
    assert batch.targets["task"].values[2] == 0
    assert batch.targets["grasp_state"].mask.tolist() == [False, False, True]


def write_one(path, length=7):
    with DatasetWriter(path, SPEC) as writer:
        states, actions = episode("o" * length, [1.0] * length)
        writer.save_episode(EpisodeRecord("go", states, actions, {"front": np.zeros((length, 8, 8, 3), np.uint8)}))
    return open_dataset(path)


def test_a_label_from_outside_reaches_every_window(tmp_path, monkeypatch):
    monkeypatch.setitem(labels._factories, "height", lambda e: MaskedArray(e.states[:, 2], e.states[:, 0] > 0.02))
    batch = Windows(write_one(tmp_path), WindowConfig(labels=("height",))).batch(np.arange(7), np.random.default_rng(0))
    assert batch.targets["height"].mask.tolist() == [False] * 3 + [True] * 4
    assert batch.take(np.array([6, 0])).targets["height"].mask.tolist() == [True, False]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda e: MaskedArray(e.states[1:], np.ones(6, bool)), r"'wrong' gave values \(6, 4\) .* for an episode of 7 frames"),
        (lambda e: MaskedArray(e.states, np.ones(7)), "a mask .* of float64"),
        (lambda e: MaskedArray(e.states, np.ones((7, 3), bool)), r"with a mask \(7, 3\)"),
    ],
)
def test_a_label_that_does_not_fit_its_episode_is_named(label, message, tmp_path, monkeypatch):
    monkeypatch.setitem(labels._factories, "wrong", label)
    with pytest.raises(DataError, match=message):
        Windows(write_one(tmp_path), WindowConfig(labels=("wrong",)))
    with pytest.raises(UnknownNameError, match="no label named 'keypoint'. Did you mean 'keypoints'"):
        Windows(open_dataset(tmp_path), WindowConfig(labels=("keypoint",)))
