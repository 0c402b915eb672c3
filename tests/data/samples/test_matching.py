"""Episodes of a mixture: rows by the closed form are those of `resample`, and what counts frames counts the new ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from verbot.data import DatasetWriter, open_dataset
from verbot.data.samples.matching import DatasetMatching, MatchedDataset, MatchedEpisode
from verbot.data.storage.resample import resample, resampled_spec
from verbot.spec import RobotSpec

RATES = (5.0, 10.0, 12.5, 15.0, 29.97, 30.0, 50.0)


@pytest.mark.parametrize("recorded_hz", RATES)
@pytest.mark.parametrize("rate_hz", RATES)
def test_lengths_and_rows_are_those_of_resampling(recorded_hz, rate_hz):
    spec = RobotSpec("arm", recorded_hz, (), (), ())
    matching = DatasetMatching(spec, dataclasses.replace(spec, rate_hz=rate_hz))
    for length in (1, 2, 3, 7, 20, 151, 1000):
        nothing = np.zeros((length, 0), np.float32)
        found = resample(np.arange(length) / recorded_hz, nothing, nothing, spec, rate_hz)
        assert matching.length(np.array(length)) == len(found.rows)
        np.testing.assert_array_equal(matching.rows(np.arange(len(found.rows)), np.array(length)), found.rows)


def test_extras_are_moved_as_by_editing(written):
    recorded = open_dataset(written)
    dataset = MatchedDataset(recorded, DatasetMatching(recorded.spec, resampled_spec(recorded.spec, 5.0)))
    length = len(recorded[0])
    extras = {"first_contact_frame": length, "unseen_frame": length, "marked_frame": 3, "observed_frames": [0, 3, 4], "n": 1}
    episode = MatchedEpisode(dataclasses.replace(recorded[0], extras=extras), dataset)
    assert episode.rows.tolist() == [0, 2, 4]
    assert episode.extras == {"first_contact_frame": None, "marked_frame": 2, "observed_frames": [0, 2], "n": 1}


def test_what_counts_frames_counts_rows(written):
    recorded = open_dataset(written)  # 10 Hz
    dataset = MatchedDataset(recorded, DatasetMatching(recorded.spec, resampled_spec(recorded.spec, 20.0)))
    assert dataset.lengths.tolist() == [len(episode) for episode in dataset]
    every = np.repeat(np.arange(len(dataset)), dataset.lengths)
    rows = np.concatenate([np.arange(length) for length in dataset.lengths])
    np.testing.assert_array_equal(dataset.recorded_rows(every, rows), np.concatenate([e.rows for e in dataset]))
    for before, after in zip(recorded, dataset, strict=True):
        assert (len(after), after.index, after.instructions) == (2 * len(before), before.index, before.instructions)
        assert after.extras["first_contact_frame"] == 4, "recorded row 2, at 0.2 s"
        assert after.extras["number"] == before.extras["number"]
        assert [(s.start, s.stop, s.wordings) for s in after.segments] == [(0, len(after), before.instructions)]
        np.testing.assert_allclose(after.actions[:, :3].sum(0), before.actions[:, :3].sum(0), atol=1e-6)
        np.testing.assert_array_equal(after.images("front"), before.images("front")[after.rows])
        np.testing.assert_array_equal(after.states, before.states[after.rows])
    assert dataset.camera_names == recorded.camera_names and dataset.spec.rate_hz == 20


def test_frames_that_no_row_is_left_of(tmp_path, spec, make):
    record = make(1)
    extras = {
        "first_contact_frame": len(record.states) - 1,
        "covered_frame": 99,
        "takeover_frame": 3,
        "observed_frames": [0, 3, 4],
    }
    with DatasetWriter(tmp_path, spec) as writer:
        writer.save_episode(dataclasses.replace(record, extras=extras))
    recorded = open_dataset(tmp_path)
    half = MatchedDataset(recorded, DatasetMatching(recorded.spec, resampled_spec(recorded.spec, 5.0)))[0]
    assert len(recorded[0]) % 2 == 0 and half.rows.tolist() == list(range(0, len(recorded[0]), 2)), "the last frame has no row"
    assert half.extras == {"first_contact_frame": None, "takeover_frame": 2, "observed_frames": [0, 2]}
