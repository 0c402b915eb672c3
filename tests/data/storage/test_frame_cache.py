from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from verbot.data import DatasetWriter, FrameCache, open_dataset
from verbot.data.storage import cached_rows, frame_cache
from verbot.data.storage.reader import Episode
from verbot.errors import DataError
from verbot.parallel.workers import cores


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """The episodes that were decoded, in order; nothing was decoded before."""
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path / "cache"))
    numbers: list[int] = []
    original = Episode.images

    def images(self, camera, rows=None, fit=None):
        numbers.append(self.index)
        return original(self, camera, rows, fit)

    monkeypatch.setattr(Episode, "images", images)
    return numbers


def copy_of(dataset, path):
    """A copy without the caches that other tests have left in a shared dataset."""
    shutil.copytree(dataset, path, ignore=shutil.ignore_patterns(".cache"))


def assert_right(dataset, camera="front"):
    frames = FrameCache(dataset, [camera]).frames(camera)
    start = 0
    for episode in dataset:
        assert np.array_equal(frames[start : start + len(episode)], episode.images(camera))
        start += len(episode)
    assert len(frames) == start


def test_frames_are_decoded_once(written, tmp_path, decoded):
    copy_of(written, tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    first = FrameCache(dataset)
    assert set(decoded) == set(range(7))
    decoded.clear()
    again = FrameCache(open_dataset(tmp_path / "d"))
    assert decoded == []
    for camera in ("front", "wrist"):
        assert np.array_equal(first.frames(camera), again.frames(camera))
        assert not again.frames(camera).flags.writeable
    assert_right(dataset)


def test_only_added_episodes_are_decoded(tmp_path, spec, make, decoded):
    """This also holds when the journal has been merged into other files meanwhile."""
    for rounds in range(3):
        with DatasetWriter(tmp_path / "d", spec, merge_every=2) as writer:
            for _ in range(3):
                writer.save_episode(make(len(writer)))
            dataset = open_dataset(tmp_path / "d")  # some of it still in the journal
            decoded.clear()
            FrameCache(dataset, ["front"])
            new = range(3 * rounds, 3 * rounds + 3)
            assert set(decoded) == set(new)
            assert_right(dataset)
    decoded.clear()
    FrameCache(open_dataset(tmp_path / "d"), ["front"])
    assert decoded == []
    assert_right(open_dataset(tmp_path / "d"))


def test_a_reader_that_opened_earlier_keeps_its_frames(tmp_path, spec, make, decoded):
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(make(0))
        early = open_dataset(tmp_path / "d")
        frames = FrameCache(early, ["front"]).frames("front")
        copy = frames.copy()
        writer.save_episode(make(1))
    FrameCache(open_dataset(tmp_path / "d"), ["front"])
    decoded.clear()
    assert len(FrameCache(early, ["front"]).frames("front")) == len(frames)
    assert decoded == [] and np.array_equal(frames, copy)


def test_another_dataset_at_the_same_path_is_decoded_again(tmp_path, spec, make, decoded):
    for numbers in ((0, 1), (2, 1)):
        with DatasetWriter(tmp_path / "d", spec) as writer:
            for number in numbers:
                writer.save_episode(make(number))
        FrameCache(open_dataset(tmp_path / "d"), ["front"], folder=tmp_path / "cache")
        assert_right(open_dataset(tmp_path / "d"))
        shutil.rmtree(tmp_path / "d")
    assert len(list((tmp_path / "cache").glob("front-*.rgb"))) == 1


def test_an_interrupted_decoding_continues(tmp_path, written, monkeypatch, decoded):
    monkeypatch.setattr(frame_cache, "BLOCK", 3)
    copy_of(written, tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    original, calls = cached_rows.write_atomic, []

    def dies_at_the_second_commit(path, content):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(path, content)

    monkeypatch.setattr(cached_rows, "write_atomic", dies_at_the_second_commit)
    with pytest.raises(KeyboardInterrupt):
        FrameCache(dataset, ["front"])
    decoded.clear()
    FrameCache(dataset, ["front"])
    assert set(decoded) == {3, 4, 5, 6}
    assert_right(dataset)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"digests": ["x"], "file": "no"}'])
def test_an_unreadable_record_is_replaced(tmp_path, written, content, monkeypatch):
    monkeypatch.delenv("VERBOT_CACHE")
    copy_of(written, tmp_path / "d")
    FrameCache(open_dataset(tmp_path / "d"), ["front"])
    record = tmp_path / "d/.cache/frames/front.json"
    record.write_text(content)
    assert_right(open_dataset(tmp_path / "d"))
    assert len(json.loads(record.read_text())["digests"]) == 7


def test_a_folder_that_cannot_be_written_is_reported(written, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be cached in .*file/frames.*choose another folder"):
        FrameCache(open_dataset(written), ["front"], folder=tmp_path / "file/frames")


def test_cores_are_counted_where_the_system_does_not_share_them_out(written, tmp_path, monkeypatch):
    """As on macOS, which has no `os.sched_getaffinity`."""
    copy_of(written, tmp_path / "d")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert FrameCache(open_dataset(tmp_path / "d"))._threads == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
