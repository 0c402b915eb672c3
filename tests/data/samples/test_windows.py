from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from verbot.data import DatasetWriter, Mixture, WindowConfig, Windows, open_dataset
from verbot.data.samples.keypoints import handled_points, project, projections
from verbot.data.samples.windows import DRAWS
from verbot.data.storage.reader import Episode
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import ConfigError, DataError, UnknownNameError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def dataset(written):
    return open_dataset(written)


KEYPOINTS = ("keypoints",)


def keypoints_of(batch):
    return batch.targets["keypoints"]


def test_every_window_is_cut_from_its_episode(dataset, rng):
    windows = Windows(dataset, WindowConfig(history=3, chunk=4, labels=KEYPOINTS))
    assert len(windows) == sum(len(episode) for episode in dataset)
    batch = windows.batch(np.arange(len(windows)), rng)
    row = 0
    for episode in dataset:
        images = {camera: episode.images(camera) for camera in ("front", "wrist")}
        for now in range(len(episode)):
            for i, t in enumerate(range(now - 2, now + 1)):
                assert batch.state_mask[row, i] == (t >= 0)
                assert np.array_equal(batch.state[row, i], episode.states[max(t, 0)])
                assert batch.images_mask[row, i].tolist() == [t >= 0] * 2
                for view, camera in enumerate(("front", "wrist")):
                    assert np.array_equal(batch.images[row, i, view], images[camera][max(t, 0)])
            for i, t in enumerate(range(now, now + 4)):
                assert batch.actions_mask[row, i] == (t < len(episode))
                assert np.array_equal(batch.actions[row, i], episode.actions[min(t, len(episode) - 1)])
            assert batch.instructions[row] in episode.instructions
            row += 1
    assert batch.state.dtype == batch.actions.dtype == batch.targets["keypoints"].values.dtype == np.float32
    assert batch.index.tolist() == list(range(len(windows)))


def test_every_wording_is_drawn_and_the_same_numbers_draw_the_same(dataset):
    windows = Windows(dataset)
    said = {windows.batch([0], np.random.default_rng(seed)).instructions[0] for seed in range(20)}
    assert said == {"pick up object 0", "lift object 0"}
    one, two = (windows.batch(np.arange(30), np.random.default_rng(7)) for _ in range(2))
    assert one.instructions == two.instructions


def test_keypoints_are_the_hindsight_points_seen_in_each_view(dataset, rng):
    windows = Windows(dataset, WindowConfig(labels=KEYPOINTS))
    batch = windows.batch(np.arange(len(windows)), rng)
    episode = dataset[0]
    points = handled_points(episode.states, episode.actions, dataset.spec, first_contact_frame=2)
    matrices = projections(episode.states, dataset.spec, episode.calibration, ("front", "wrist"))
    places, mask = project(matrices, points)
    found = batch.targets["keypoints"]
    ours, ours_mask = found.values[: len(episode)], found.mask[: len(episode)]
    assert np.array_equal(ours[:, :, :2], places) and np.array_equal(ours_mask[:, :, :2], mask)
    # The reference was recorded; hindsight cannot infer it.
    assert ours[:, 0, 2] == pytest.approx(np.tile([60 * 0.05 / 16, 60 * 0.1 / 12], (len(episode), 1)), abs=1e-5)
    # The front camera looks straight down from 1 m: u = 60 x / (1 − z) + 16 of 32 pixels. First contact at frame 2.
    x, y, z = episode.states[2, :3]
    expected = [(60 * x / (1 - z) + 16) / 16 - 1, (-60 * y / (1 - z) + 12) / 12 - 1]
    assert found.values[0, 0, 0] == pytest.approx(expected, abs=1e-5) and found.mask[0, 0, 0]
    assert found.mask.any(axis=0).all()


def test_grounding_gives_object_positions_until_the_first_contact(dataset, rng):
    both = (Windows(dataset, WindowConfig(keypoints=kind, labels=KEYPOINTS)) for kind in ("hindsight", "grounding"))
    hindsight, grounding = (keypoints_of(windows.batch(np.arange(5), rng)) for windows in both)
    # The goal pursued has its target at the base frame's origin, the camera's principal point, and no receptacle.
    assert grounding.values[:2, 0, 0] == pytest.approx(np.zeros((2, 2)), abs=1e-6)
    assert grounding.mask[:2, 0].tolist() == [[True, False, True]] * 2
    assert np.array_equal(grounding.values[2:], hindsight.values[2:])


def test_relabeled_windows_have_another_instruction_and_no_actions(dataset):
    windows = Windows(dataset, WindowConfig(chunk=3, relabel=0.5, labels=KEYPOINTS))
    plain = Windows(dataset, WindowConfig(chunk=3, labels=KEYPOINTS))
    indices = np.arange(len(windows))
    batch, original = (w.batch(indices, np.random.default_rng(3)) for w in (windows, plain))
    relabeled = np.array([text in ("take the other", "carry it") for text in batch.instructions])
    untouched = np.concatenate([np.arange(len(episode)) < 2 for episode in dataset])
    assert not relabeled[~untouched].any() and 0.2 < relabeled[untouched].mean() < 0.8
    assert np.array_equal(batch.actions_mask.any(axis=1), ~relabeled)
    for row in np.flatnonzero(~relabeled):
        assert batch.instructions[row] == original.instructions[row]
        assert np.array_equal(keypoints_of(batch).values[row], keypoints_of(original).values[row])
    places = {"take the other": (60 * 0.1 / 16, -60 * 0.05 / 12), "carry it": (-60 * 0.1 / 16, 0)}
    for row in np.flatnonzero(relabeled):
        assert keypoints_of(batch).values[row, 0, 0] == pytest.approx(places[batch.instructions[row]], abs=1e-5)
        assert keypoints_of(batch).mask[row, 0].tolist() == [True, batch.instructions[row] == "carry it", False]
    assert {batch.instructions[row] for row in np.flatnonzero(relabeled)} == set(places)
    assert np.array_equal(batch.images, original.images) and np.array_equal(batch.actions, original.actions)
    again = windows.batch(indices, np.random.default_rng(3))
    assert again.instructions == batch.instructions
    assert plain.batch(indices, np.random.default_rng(3)).actions_mask[:, 0].all()  # relabeling wrote to no shared array


def test_untouched_windows_are_asked_where_other_goals_are(dataset):
    windows = Windows(dataset, WindowConfig(chunk=3, grounding_queries=3, labels=KEYPOINTS))
    indices = np.arange(len(windows))
    batch = windows.batch(indices, np.random.default_rng(3))
    untouched = np.concatenate([np.arange(len(episode)) < 2 for episode in dataset])
    assert batch.query_keypoints.values.shape == (len(indices), 3, 2, 3, 2)
    assert batch.query_keypoints.mask.shape == (len(indices), 3, 2, 3)
    # The scenes have two other goals: each is asked about once, in any order.
    assert [len(asked) for asked in batch.grounding_queries] == [2 if free else 0 for free in untouched]
    assert not batch.query_keypoints.mask[~untouched].any() and not batch.query_keypoints.mask[:, 2].any()
    places = {"take the other": (60 * 0.1 / 16, -60 * 0.05 / 12), "carry it": (-60 * 0.1 / 16, 0)}
    for row in np.flatnonzero(untouched):
        assert set(batch.grounding_queries[row]) == set(places)
        for place, text in enumerate(batch.grounding_queries[row]):
            assert batch.query_keypoints.values[row, place, 0, 0] == pytest.approx(places[text], abs=1e-5)
            assert batch.query_keypoints.mask[row, place, 0].tolist() == [True, text == "carry it", False]
    plain = Windows(dataset, WindowConfig(chunk=3, labels=KEYPOINTS)).batch(indices, np.random.default_rng(3))
    assert batch.instructions == plain.instructions and np.array_equal(keypoints_of(batch).values, keypoints_of(plain).values)
    assert plain.grounding_queries == [()] * len(indices) and plain.query_keypoints.values.shape == (len(indices), 0, 2, 3, 2)
    again = batch.take(indices[::-1])
    assert again.grounding_queries == batch.grounding_queries[::-1] and np.array_equal(
        again.query_keypoints.mask, batch.query_keypoints.mask[::-1]
    )


def test_a_camera_that_the_dataset_lacks_is_masked(dataset, rng):
    batch = Windows(dataset, WindowConfig(cameras=("overhead", "wrist"), labels=KEYPOINTS)).batch([0, 1], rng)
    assert batch.images.shape == (2, 1, 2, 24, 32, 3)
    assert batch.images_mask.tolist() == [[[False, True]]] * 2
    assert not batch.images[:, :, 0].any() and not keypoints_of(batch).mask[:, 0].any()


def test_windows_of_some_episodes_only(dataset, rng):
    windows = Windows(dataset, episodes=[5, 2])
    assert len(windows) == len(dataset[5]) + len(dataset[2])
    batch = windows.batch(np.arange(len(windows)), rng)
    assert np.array_equal(batch.state[:, 0], np.concatenate([dataset[5].states, dataset[2].states]))


def test_wrong_options_are_refused(dataset, spec, tmp_path):
    with pytest.raises(ConfigError, match="a history of at least 1; got 0"):
        Windows(dataset, WindowConfig(history=0))
    with pytest.raises(ConfigError, match="grounding_queries and captions are numbers of them; got -1 and 0"):
        Windows(dataset, WindowConfig(grounding_queries=-1))
    with pytest.raises(ConfigError, match="relabel is a probability; got 1.5"):
        Windows(dataset, WindowConfig(relabel=1.5))
    with pytest.raises(UnknownNameError, match="no kind of keypoints named 'hindsigt'. Did you mean 'hindsight'"):
        Windows(dataset, WindowConfig(keypoints="hindsigt"))
    DatasetWriter(tmp_path / "d", spec).close()
    with pytest.raises(DataError, match="has no episodes yet"):
        Windows(open_dataset(tmp_path / "d"))


def test_changes_of_a_batch_do_not_change_the_dataset(dataset, rng):
    windows = Windows(dataset, WindowConfig(labels=KEYPOINTS))
    before = windows.batch([0], rng)
    for name in ("images", "state", "actions", "actions_mask"):
        getattr(before, name)[:] = 0
    keypoints_of(before).values[:] = keypoints_of(before).mask[:] = 0
    after = windows.batch([0], rng)
    assert after.images.any() and after.actions.any() and after.actions_mask.any()
    assert keypoints_of(after).values.any() and keypoints_of(after).mask.any()


def test_the_past_is_a_stride_apart(dataset, rng):
    plain, strided = (
        Windows(dataset, WindowConfig(history=7)),
        Windows(dataset, WindowConfig(history=3, stride=3)),
    )
    rows = np.arange(len(plain))
    a, b = plain.batch(rows, np.random.default_rng(0)), strided.batch(rows, np.random.default_rng(0))
    for name in ("images", "images_mask", "state", "state_mask"):
        assert np.array_equal(getattr(a, name)[:, ::3], getattr(b, name)), name


def test_a_sequence_is_the_windows_of_its_past(dataset):
    plain, sequences = (
        Windows(dataset, WindowConfig(chunk=3, labels=KEYPOINTS, **more)) for more in ({}, {"stride": 2, "sequence": 3})
    )
    ends = np.cumsum([0, *(len(episode) for episode in dataset)])
    long = int(np.argmax(np.diff(ends)))
    rows = np.array([ends[long], ends[long] + 5, ends[1] + 1])
    batch = sequences.batch(rows, np.random.default_rng(0))
    assert len(batch) == 9 and batch.index.tolist() == np.repeat(rows, 3).tolist()
    assert batch.state_mask[:, 0].tolist() == [False, False, True, True, True, True, False, False, True]
    for place, frame in enumerate([1, 3, 5]):
        one = plain.batch([ends[long] + frame], np.random.default_rng(0))
        for name in ("images", "state", "actions", "actions_mask"):
            assert np.array_equal(getattr(batch, name)[3 + place], getattr(one, name)[0]), name
        assert np.array_equal(keypoints_of(batch).values[3 + place], keypoints_of(one).values[0])
        assert np.array_equal(keypoints_of(batch).mask[3 + place], keypoints_of(one).mask[0])
    gone = np.array([0, 1, 6, 7])
    masks = (batch.images_mask, batch.actions_mask, keypoints_of(batch).mask)
    assert not any(mask[gone].any() for mask in masks), "before the start there is nothing to learn"
    assert all(len(set(batch.instructions[i : i + 3])) == 1 for i in (0, 3, 6)), "one wording throughout"


def test_a_mixture_keeps_sequences_whole(dataset):
    sources = [Windows(dataset, WindowConfig(stride=2, sequence=3), episodes=[e]) for e in (0, 1)]
    mixture, rows = Mixture(sources), np.array([len(dataset[0]) + 4, 4, len(dataset[0]) + 5])
    batch = mixture.gather(rows, np.zeros((3, DRAWS)))
    assert batch.index.tolist() == np.repeat(rows, 3).tolist()
    for i, (source, row) in enumerate(((1, 4), (0, 4), (1, 5))):
        alone = sources[source].gather(np.array([row]), np.zeros((1, DRAWS)))
        assert np.array_equal(batch.state[3 * i : 3 * i + 3], alone.state)


def test_the_end_of_the_episode_is_its_goal(dataset, rng):
    windows = Windows(dataset, WindowConfig(goals=True))
    batch = windows.batch([0, 3, len(dataset[0])], rng)
    assert batch.goal_mask.all()
    for row, episode in enumerate((0, 0, 1)):
        assert np.array_equal(batch.goal[row], dataset[episode].images("front")[-1])
    assert not Windows(dataset).batch([0], rng).goal_mask.any()


def test_a_window_has_the_previous_action_of_its_own_episode(dataset, rng):
    windows = Windows(dataset, WindowConfig(chunk=3, previous_action=True))
    batch, row = windows.batch(np.arange(len(windows)), rng), 0
    assert batch.previous_action.dtype == np.float32
    for episode in dataset:
        for now in range(len(episode)):
            assert batch.previous_action_mask[row] == (now > 0)
            assert np.array_equal(batch.previous_action[row], episode.actions[max(now - 1, 0)])
            row += 1
    batch.previous_action[:] = 0
    assert windows.batch([1], rng).previous_action.any(), "changes of a batch do not change the dataset"
    plain = Windows(dataset, WindowConfig(chunk=3)).batch([0, 1], rng)
    assert plain.previous_action.shape == (2, 0)
    assert not plain.previous_action_mask.any()


def test_each_row_of_a_sequence_has_its_own_previous_action(dataset):
    plain, sequences = (
        Windows(dataset, WindowConfig(previous_action=True)),
        Windows(dataset, WindowConfig(stride=2, sequence=3, previous_action=True)),
    )
    start = len(dataset[0])
    mixture = Mixture([sequences, sequences])
    batch = mixture.gather(np.array([start + 4, start + 3 + len(sequences)]), np.zeros((2, DRAWS)))
    alone = plain.batch([start, start + 2, start + 4, start, start + 1, start + 3], np.random.default_rng(0))
    assert batch.previous_action_mask.tolist() == [False, True, True, False, True, True]
    assert np.array_equal(batch.previous_action_mask, alone.previous_action_mask)
    assert np.array_equal(batch.previous_action[batch.previous_action_mask], alone.previous_action[alone.previous_action_mask])
    with pytest.raises(ConfigError, match=r"differ in .*previous_action, cameras"):
        Mixture([plain, Windows(dataset)])


def test_every_window_knows_how_many_steps_its_episode_still_takes(written, dataset, make, spec, tmp_path, rng):
    windows = Windows(dataset, WindowConfig(labels=("steps_left",)))
    left = windows.batch(np.arange(len(windows)), rng).targets["steps_left"].values
    assert left.tolist() == [n for episode in dataset for n in range(len(episode) - 1, -1, -1)]
    later = Windows(dataset, WindowConfig(sequence=2, stride=3, labels=("steps_left",)), episodes=[2]).batch([0, 4], rng)
    length = len(dataset[2])
    assert later.targets["steps_left"].values.tolist() == [length - 1, length - 1, length - 2, length - 5]
    assert not later.actions_mask[0].any(), "before the start there is nothing, whatever it says"
    with DatasetWriter(tmp_path / "failed", spec) as writer:
        for number, success in enumerate((True, False, None)):
            record = make(number)
            writer.save_episode(dataclasses.replace(record, extras={**record.extras, "success": success}))
    windows = Windows(open_dataset(tmp_path / "failed"), WindowConfig(labels=("steps_left",)))
    left = windows.batch(np.arange(len(windows)), rng).targets["steps_left"].values
    assert left.tolist() == [4, 3, 2, 1, 0, *[-1] * 6, *range(6, -1, -1)]


def test_the_instruction_is_that_of_the_latest_frame(dataset, monkeypatch):
    """And a wording is drawn among those of that instruction alone."""
    segments = {
        0: (InstructionSegment(0, 2, ("open it", "pull it")), InstructionSegment(2, 5, ("close it",))),
        1: (InstructionSegment(0, 6, ("wipe it", "clean it", "rub it")),),
    }
    genuine = Episode.segments.fget
    monkeypatch.setattr(Episode, "segments", property(lambda self: segments.get(self.index) or genuine(self)))
    windows = Windows(dataset, WindowConfig(history=2, relabel=0.3))
    draws = np.random.default_rng(0).random((400, DRAWS))
    draws[:, 1] = 1  # nothing is relabeled
    said = [set(windows.gather(np.full(400, row), draws).instructions) for row in range(11)]
    assert said == [{"open it", "pull it"}] * 2 + [{"close it"}] * 3 + [{"wipe it", "clean it", "rub it"}] * 6
    whole = windows.batch(np.arange(len(windows)), np.random.default_rng(0))
    assert set(whole.instructions[11:18]) <= {"pick up object 2", "lift object 2", "take the other", "carry it"}


def test_instructions_with_a_gap_are_refused(dataset, monkeypatch):
    monkeypatch.setattr(Episode, "segments", property(lambda self: (InstructionSegment(0, 2, ("open it",)),)))
    with pytest.raises(DataError, match="the instructions hold for frames 0 to 2; expected 0 to 5 without a gap"):
        Windows(dataset)


def test_a_window_has_states_and_actions_of_later_moments(dataset, rng):
    plain, ahead = (Windows(dataset, WindowConfig(chunk=3, labels=KEYPOINTS, ahead=steps)) for steps in (0, 6))
    assert (plain.draws, ahead.draws, Mixture([ahead]).draws) == (DRAWS, DRAWS + 3, DRAWS + 3)
    every, used = np.arange(len(ahead)), set()
    draws = rng.random((len(every), DRAWS + 3))
    before, found = plain.gather(every, draws[:, :DRAWS]), ahead.gather(every, draws)
    for field in dataclasses.fields(before):
        if "ahead" not in field.name and field.name not in ("targets", "query_keypoints", "text_tasks"):
            assert np.array_equal(getattr(before, field.name), getattr(found, field.name))  # the frame itself is as ever
    assert np.array_equal(keypoints_of(before).values, keypoints_of(found).values)
    assert before.ahead.shape == (len(every), 0, 8) and before.ahead_mask.shape == (len(every), 0, 3)
    frames = [(episode, now) for episode in dataset for now in range(len(episode))]
    for row, (episode, now) in enumerate(frames):
        for place in range(3):
            then = now + 1 + int((place + draws[row, DRAWS + place]) / 3 * 6)
            used.add(then - now)
            last = min(then, len(episode) - 1)
            assert found.ahead_mask[row, place].tolist() == [t < len(episode) for t in range(then, then + 3)]
            wanted = [episode.actions[min(t, len(episode) - 1)] for t in range(then, then + 3)]
            assert np.array_equal(found.ahead_actions[row, place], wanted)
            assert np.array_equal(found.ahead[row, place, :3], episode.states[last, :3])
            assert np.array_equal(found.ahead[row, place, 3:7], episode.states[now, 3:7])  # no action turns this robot
            commanded = episode.actions[last - 1, 3] if last > now else episode.states[now, 7]
            assert found.ahead[row, place, 7] == commanded
    assert used == {1, 2, 3, 4, 5, 6}
    relabeled = Windows(dataset, WindowConfig(relabel=1.0, ahead=2)).batch([0], rng)
    assert relabeled.ahead_mask.shape == (1, 2, 10) and not relabeled.ahead_mask.any()
    with pytest.raises(ConfigError, match="ahead is -1"):
        WindowConfig(ahead=-1)
