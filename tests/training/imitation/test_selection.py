"""The episodes of a dataset that a run uses: by number, task, outcome and length."""

from __future__ import annotations

import numpy as np
import pytest

import verbot
from verbot.cli import main
from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.errors import ConfigError, UnknownNameError
from verbot.spec import Camera, Component, RobotSpec
from verbot.training.imitation.records import Selection
from verbot.training.imitation.selection import selected

PLACE = Component("place", "position", ("x",), "m", "base", (-1.0,), (1.0,))
ARM = RobotSpec("arm", 10.0, (Camera("front", 16, 24),), (PLACE,), (PLACE,))


@pytest.fixture
def mixed(tmp_path):
    """Five episodes of 4 to 8 frames; numbers 1 and 3 failed; the last has another task."""
    with DatasetWriter(tmp_path / "mixed", ARM) as writer:
        for number in range(5):
            length = 4 + number
            images = {"front": np.zeros((length, 16, 24, 3), np.uint8)}
            extras = {"success": number % 2 == 0, "request": {"task": "push" if number == 4 else "pick"}}
            zeros = [np.zeros((length, 1), np.float32) for _ in range(2)]
            writer.save_episode(EpisodeRecord("do it", *zeros, images, extras=extras))
    return open_dataset(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [0, 1, 2, 3, 4]),
        (Selection(numbers=(3, 1)), [1, 3]),
        (Selection(numbers="0:2,4"), [0, 1, 4]),
        (Selection(numbers="3:"), [3, 4]),
        (Selection(success=True), [0, 2, 4]),
        (Selection(success=False, episodes=1), [1]),
        (Selection(min_length=5, max_length=7), [1, 2, 3]),
        (Selection(tasks=("push",)), [4]),
        (Selection(tasks=("pick",), success=True, min_length=5), [2]),
    ],
)
def test_selections(mixed, selection, expected):
    assert selected(selection, mixed) == expected


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        (Selection(numbers=(7,)), ConfigError, "has no episode 7; it has 5, numbered from 0"),
        (Selection(numbers="0:9"), ConfigError, "has no episode 5; it has 5, numbered from 0"),
        (Selection(numbers="some"), ConfigError, "the episodes 'some' of a selection are no numbers; expected e.g. '0:50'"),
        (Selection(numbers="1:3,"), ConfigError, "the episodes '1:3,' of a selection are no numbers; expected e.g. '0:50'"),
        (Selection(numbers=""), ConfigError, "the episodes '' of a selection are no numbers; expected e.g. '0:50'"),
        (Selection(numbers="2:2"), ConfigError, "the selection leaves no episode of .*mixed: 0 episodes"),
        (Selection(success=False, min_length=8), ConfigError, "5 episodes, 2 of these failed, 0 of these have 8 to any number"),
        (Selection(tasks=("pusch",)), UnknownNameError, "push"),
    ],
)
def test_a_selection_that_leaves_nothing_says_why(mixed, selection, error, message):
    with pytest.raises(error, match=message):
        selected(selection, mixed)


def test_a_selection_on_the_command_line(mixed, tmp_path):
    chosen = "data.selections=[{numbers: '0:4', success: true, min_length: 5}]"
    command = ["train", "tiny", "--data", str(mixed.root), "--out", str(tmp_path / "run"), "--steps", "1", "--set", chosen]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    assert verbot.load_policy(tmp_path / "run" / "policy").statistics["action"].count == 6


def test_success_that_nobody_recorded(case):
    with pytest.raises(ConfigError, match="no selected episode of .* records whether it succeeded"):
        selected(Selection(success=True), open_dataset(case("l15_camera_sizes")))


def test_an_episode_without_a_task_has_its_sentence(case):
    dataset = open_dataset(case("l07_two_tasks_in_episode"))
    sentences = sorted({sentence for episode in dataset for sentence in episode.tasks})
    for sentence in sentences:
        found = selected(Selection(tasks=(sentence,)), dataset)
        assert found == [episode.index for episode in dataset if sentence in episode.tasks]
    with pytest.raises(UnknownNameError, match="no task in .* named 'fly'"):
        selected(Selection(tasks=("fly",)), dataset)
