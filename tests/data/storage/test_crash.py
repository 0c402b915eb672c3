"""A writer killed at any instant leaves every saved episode readable, exactly once."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from verbot.data import DatasetWriter, check_dataset, open_dataset
from verbot.data.storage.segments import InstructionSegment

SOURCE = Path(__file__).parents[3] / "src"

# Saves episodes whose content is a function of their number, prints each number, merges often, and reopens the dataset regularly.
WRITER = """
import sys
import numpy as np
from verbot.data.storage.writer import DatasetWriter, EpisodeRecord
from verbot.spec import Camera, Component, RobotSpec

grip = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1e6,))
spec = RobotSpec("toy", 10.0, (Camera("front", 16, 16),), (grip,), (grip,))
print("ready", flush=True)
while True:
    with DatasetWriter(sys.argv[1], spec, merge_every=4) as writer:
        for _ in range(10):
            number = len(writer)
            values = np.full((3 + number % 3, 1), number, np.float32)
            images = np.full((len(values), 16, 16, 3), number % 50 * 5, np.uint8)
            saved = writer.save_episode(EpisodeRecord(f"task {number % 7}", values, values, {"front": images}, {}, {"n": number}))
            print(saved, flush=True)
"""


def run_and_kill(root: Path, seconds: float) -> int:
    """The number of episodes that the writer reported as saved before it was killed, `seconds` after its start."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        output = process.stdout.read().decode()
    numbers = [int(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return max(numbers, default=-1) + 1


def assert_whole(root: Path, saved: int, before: int) -> int:
    dataset = open_dataset(root)
    assert saved <= len(dataset) <= max(saved, before) + 1
    assert [episode.extras["n"] for episode in dataset] == list(range(len(dataset)))
    for episode in dataset:
        assert len(episode) == 3 + episode.index % 3 and episode.instruction == f"task {episode.index % 7}"
        assert (episode.actions == episode.index).all() and (episode.states == episode.index).all()
    for index in {*range(max(0, len(dataset) - 12), len(dataset)), 0} if len(dataset) else ():
        assert np.abs(dataset[index].images("front").astype(int) - index % 50 * 5).max() <= 4
    assert check_dataset(root) == []
    return len(dataset)


def survive(root: Path, times: int, seed: int) -> None:
    rng, count = np.random.default_rng(seed), 0
    for _ in range(times):
        saved = run_and_kill(root, float(rng.uniform(0, 0.25)))
        if (root / "meta/info.json").is_file():
            count = assert_whole(root, max(saved, count), count)
        else:
            assert saved == 0
    before = open_dataset(root)
    with DatasetWriter(root, before.spec):
        pass
    assert len(open_dataset(root)) == count and not (root / "journal").exists()
    assert sorted(p.name for p in root.rglob("*.tmp")) == []
    assert assert_whole(root, count, count) == count


def test_killed_twenty_times(tmp_path):
    survive(tmp_path / "d", 20, seed=0)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_killed_two_hundred_times(tmp_path):
    for folder in range(4):
        survive(tmp_path / f"{folder}", 50, seed=folder + 1)


def of_every_kind(record):
    """The episode with two instructions and a further column."""
    first, length = InstructionSegment(0, 2, (record.instruction,)), len(record.actions)
    segments = (first, InstructionSegment(2, length, ("put it down",)))
    return dataclasses.replace(record, segments=segments, columns={"next.reward": np.arange(length, dtype=np.float32)})


@pytest.mark.parametrize(("change", "images"), [(lambda record: record, "video"), (of_every_kind, "image")], ids=["plain", "all"])
def test_stopped_between_any_two_changes_on_disk(tmp_path, spec, make, monkeypatch, change, images):
    """The writer stops at each single change of a file in turn. This covers a merge, a close and the next opening."""
    from verbot import files
    from verbot.data.storage import journal
    from verbot.data.storage import writer as store

    class Stopped(BaseException):
        pass

    def count_down(function):
        def counted(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Stopped
            return function(*args, **kwargs)

        return counted

    left = 10**9
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # matters when the power fails, not when the writer does
    for module in (journal, store):
        monkeypatch.setattr(module, "write_atomic", count_down(files.write_atomic))
    for name in ("unlink", "rename", "rmdir"):
        monkeypatch.setattr(Path, name, count_down(getattr(Path, name)))
    stopped_at = 0
    while True:
        root, saved = tmp_path / f"{stopped_at}", 0
        left = stopped_at
        try:
            for _ in range(2):
                writer = DatasetWriter(root, spec, merge_every=2, images=images)
                try:
                    for number in range(saved, saved + 2):
                        writer.save_episode(change(make(number)))
                        saved = number + 1
                    writer.close()
                finally:
                    writer._open.close()
        except Stopped:
            pass
        else:
            break
        left = 10**9
        if (root / "meta/info.json").is_file():
            numbers = [episode.extras["number"] for episode in open_dataset(root)]
            assert numbers in ([*range(saved)], [*range(saved + 1)]), stopped_at
            assert check_dataset(root) == [], stopped_at
        writer = DatasetWriter(root, spec, images=images)
        writer.save_episode(change(make(len(writer))))
        writer._open.close()
        numbers = [episode.extras["number"] for episode in open_dataset(root)]
        assert numbers in ([*range(saved + 1)], [*range(saved + 2)]), stopped_at
        stopped_at += 1
    assert stopped_at > (30 if images == "video" else 25)  # the number of changes made by two sessions of writing
