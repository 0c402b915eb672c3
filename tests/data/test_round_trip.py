"""What a writer saves is what a reader gives, from the journal and from the dataset's files, before and after an edit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from verbot.data import DatasetWriter, EditPlan, check_dataset, edit, open_dataset
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import DataError
from verbot.spec import Camera

LENGTH = 12
SEGMENTS = (
    InstructionSegment(0, 4, ("pick it", "grab it")),
    InstructionSegment(4, 7, ("",)),
    InstructionSegment(7, 12, ("put it", "drop it")),
)


@pytest.fixture
def robot(spec):
    return dataclasses.replace(spec, cameras=(*spec.cameras, Camera("depth", 24, 32, kind="depth")))


@pytest.fixture
def recorded(spec, make):
    """Two episodes of 12 frames with everything that a record can hold; a function of their number."""

    def record(number):
        rng = np.random.default_rng(number)
        images = {name: rng.integers(0, 256, (LENGTH, 24, 32, 3), np.uint8) for name in ("front", "wrist")}
        millimeters = rng.integers(0, 65536, (LENGTH, 24, 32))
        states, actions = (rng.uniform(0, 0.01, (LENGTH, size)).astype(np.float32) for size in (8, 4))
        return dataclasses.replace(
            make(number),
            instruction="pick it",
            states=states,
            actions=actions,
            images={**images, "depth": (millimeters * np.float64(1e-3)).astype(np.float32)},
            extras={"number": number, "first_contact_frame": 6},
            segments=SEGMENTS,
            columns={
                "next.reward": rng.normal(size=LENGTH).astype(np.float32),
                "next.done": np.arange(LENGTH) == LENGTH - 1,
                "observation.environment_state": rng.normal(size=(LENGTH, 3)),
                "force": rng.normal(size=(LENGTH, 2, 2)).astype(np.float32),
                "count": rng.integers(0, 9, LENGTH),
                "phase": np.array([f"phase {i // 3}" for i in range(LENGTH)], object),
            },
        )

    return record


def assert_equals(episode, record):
    assert np.array_equal(episode.states, record.states) and np.array_equal(episode.actions, record.actions)
    assert tuple(episode.segments) == record.segments and episode.instruction == record.instruction
    assert episode.tasks == tuple(dict.fromkeys(segment.wordings[0] for segment in record.segments))
    assert set(episode.columns) == set(record.columns)
    for name, values in record.columns.items():
        found = np.asarray(episode.columns[name])
        assert np.array_equal(found, values), name
        assert found.shape == values.shape and (values.dtype == object or found.dtype == values.dtype), name
    for name, images in record.images.items():
        found = episode.images(name)
        assert found.dtype == images.dtype and np.array_equal(found, images), name
        assert np.array_equal(episode.images(name, [1, 5]), images[[1, 5]]), name


@pytest.mark.parametrize("merge_every", [1, 9])
def test_everything_is_read_back(tmp_path, robot, recorded, merge_every):
    with DatasetWriter(tmp_path / "d", robot, merge_every=merge_every, images="image") as writer:
        for number in range(2):
            writer.save_episode(recorded(number))
        for number, episode in enumerate(open_dataset(tmp_path / "d", depth=True)):
            assert_equals(episode, recorded(number))
    dataset = open_dataset(tmp_path / "d", depth=True)
    assert dataset.spec == robot and set(dataset.camera_names) == {"front", "wrist", "depth"}
    for number, episode in enumerate(dataset):
        assert_equals(episode, recorded(number))
    assert check_dataset(tmp_path / "d") == []


@pytest.fixture
def root(tmp_path, robot, recorded):
    with DatasetWriter(tmp_path / "d", robot, images="image") as writer:
        for number in range(2):
            writer.save_episode(recorded(number))
    return tmp_path / "d"


def test_a_copy_has_everything(root, tmp_path, recorded):
    edit(root, EditPlan(), out=tmp_path / "copy")
    for number, episode in enumerate(open_dataset(tmp_path / "copy", depth=True)):
        assert_equals(episode, recorded(number))
        assert episode.identity == open_dataset(root, depth=True)[number].identity


def test_a_part_has_its_part_of_everything(root, recorded):
    edit(root, EditPlan(trim={0: (3, 11)}, delete=(1,), rename_features={"force": "torque"}))
    whole = recorded(0)
    columns = {"torque" if name == "force" else name: values[3:11] for name, values in whole.columns.items()}
    part = dataclasses.replace(
        whole,
        states=whole.states[3:11],
        actions=whole.actions[3:11],
        images={name: images[3:11] for name, images in whole.images.items()},
        segments=(
            InstructionSegment(0, 1, ("pick it", "grab it")),
            InstructionSegment(1, 4, ("",)),
            InstructionSegment(4, 8, ("put it", "drop it")),
        ),
        columns=columns,
    )
    (episode,) = open_dataset(root, depth=True)
    assert_equals(episode, part)
    assert episode.extras["first_contact_frame"] == 3 and check_dataset(root) == []


def test_a_part_with_one_instruction_is_an_episode_with_one(root):
    edit(root, EditPlan(split={0: (4, 7)}))
    dataset = open_dataset(root, depth=True)
    assert [episode.instruction for episode in dataset] == ["pick it", "", "put it", "pick it"]
    assert [episode.instructions for episode in dataset][:3] == [("pick it", "grab it"), ("",), ("put it", "drop it")]
    assert [len(episode.segments) for episode in dataset] == [1, 1, 1, 3]


def test_rewards_are_added_up_where_frames_are_left_out(root, recorded):
    edit(root, EditPlan(subsample=5))
    whole, episode = recorded(0), open_dataset(root, depth=True)[0]
    reward = whole.columns["next.reward"]
    expected = [reward[:5].sum(), reward[5:10].sum(), reward[10:].sum()]
    assert np.allclose(episode.columns["next.reward"], expected, atol=1e-6)
    assert episode.columns["next.done"].tolist() == [False, False, True]
    assert np.array_equal(episode.columns["count"], whole.columns["count"][::5])
    assert [(s.start, s.stop, s.wordings[0]) for s in episode.segments] == [(0, 1, "pick it"), (1, 2, ""), (2, 3, "put it")]
    assert np.array_equal(episode.images("depth"), whole.images["depth"][::5])


def test_recorded_sentences_are_replaced_where_they_hold(root):
    edit(root, EditPlan(replacements={"put it": ("lay it down",)}, instructions={1: ("tidy up",)}))
    first, second = open_dataset(root, depth=True)
    assert [segment.wordings for segment in first.segments] == [("pick it", "grab it"), ("",), ("lay it down",)]
    assert [segment.wordings for segment in second.segments] == [("tidy up",)]
    assert [s["wordings"][0] for s in second.extras["recorded_segments"]] == ["pick it", "", "put it"]


def test_datasets_with_other_columns_are_not_merged(root, tmp_path, robot, recorded):
    with DatasetWriter(tmp_path / "e", robot, images="image") as writer:
        writer.save_episode(dataclasses.replace(recorded(3), columns={"next.reward": np.zeros(LENGTH, np.float32)}))
    with pytest.raises(DataError, match=r"e has the further columns next\.reward; .*d has count, force, .*they must be the same"):
        edit(root, EditPlan(merge=(tmp_path / "e",)))
