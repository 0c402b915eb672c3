"""A writer killed at any instant leaves every saved episode readable, exactly once."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from verbot.data import DatasetWriter, check_dataset, open_dataset
from verbot.data.storage import writer as store
from verbot.data.storage.annotate import annotate
from verbot.data.storage.segments import InstructionSegment
from verbot.data.storage.video import encode_video
from verbot.errors import UnwritableError

SOAK = [pytest.mark.soak, pytest.mark.timeout(1200)]
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


@pytest.mark.soak
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


@pytest.fixture
def quick(monkeypatch):
    """Nothing is flushed to the disk, and a video is encoded once: neither matters when a process is killed."""
    known = {}

    def encoded(frames, rate_hz):
        key = frames.tobytes()
        if key not in known:
            known[key] = encode_video(frames, rate_hz)
        return known[key]

    monkeypatch.setattr(store, "encode_video", encoded)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def state(root):
    """What is on disk, but for the names and the content of drafts."""
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    whole = {name: hashlib.sha256(path.read_bytes()).digest() for name, path in found.items() if path.suffix != ".tmp"}
    return frozenset(whole.items()), len(whole) < len(found)


def recorded(root, log, records, spec, images):
    """Sessions of two episodes and of one. A line of `log` for each that was saved."""
    with log.open("a") as saved:
        for part in (records[:2], records[2:]):
            with DatasetWriter(root, spec, merge_every=2, images=images) as writer:
                for record in part:
                    print(writer.save_episode(record), file=saved, flush=True)


KINDS = {"all": (of_every_kind, "image"), "plain": (lambda record: record, "video")}


def every(step):
    """Kills at each `step`-th change, a prime, so that every instant of what is repeated is met; at all of them in soak."""
    return pytest.mark.parametrize("step", [step, pytest.param(1, marks=SOAK)])


@pytest.mark.parametrize(("kind", "step"), [("all", 7), ("plain", 13), *(pytest.param(k, 1, marks=SOAK) for k in KINDS)])
def test_recording_goes_on_after_a_kill_at_every_change_on_disk(tmp_path, spec, make, quick, killed, kind, step):
    """This covers the journal, merges, a close and the next opening."""
    change, images = KINDS[kind]
    spec = dataclasses.replace(spec, cameras=spec.cameras[:1])
    records = [dataclasses.replace(record, images={"front": record.images["front"]}) for record in map(make, range(3))]
    records = [change(record) for record in records]
    recorded(tmp_path / "whole", tmp_path / "whole.txt", records, spec, images)
    seen = set()
    for number in itertools.count(step=step):
        root, log = tmp_path / "killed" / f"{number}", tmp_path / f"{number}.txt"
        if not killed(partial(recorded, root, log, records, spec, images), number, root):
            break
        saved = len(log.read_text().splitlines())
        if (now := (state(root), saved)) in seen:
            continue
        seen.add(now)
        if (root / "meta/info.json").is_file():
            found = [episode.extras["number"] for episode in open_dataset(root)]
            assert found in ([*range(saved)], [*range(saved + 1)]), number
            assert check_dataset(root) == [], number
        with DatasetWriter(root, spec, images=images) as writer:
            for record in records[len(writer) :]:
                writer.save_episode(record)
        assert [episode.extras["number"] for episode in open_dataset(root)] == [0, 1, 2], number
        assert list(root.rglob("*.tmp")) == [] and not (root / "journal").exists(), number
    assert number > 80 and len(seen) > 40 // step


@every(7)
def test_an_instruction_is_old_or_new_after_a_kill_at_every_change_on_disk(tmp_path, spec, make, quick, killed, step):
    spec = dataclasses.replace(spec, cameras=())
    with DatasetWriter(tmp_path / "before", spec) as writer:
        for number in range(2):
            writer.save_episode(dataclasses.replace(make(number), images={}, calibration={}))
    old, new = open_dataset(tmp_path / "before")[1].instructions, ("put it there", "place it")
    seen = set()
    for number in itertools.count(step=step):
        root = Path(shutil.copytree(tmp_path / "before", tmp_path / f"{number}"))
        if not killed(lambda root=root: annotate(root, {1: new}), number, root):
            break
        if (now := state(root)) in seen:
            continue
        seen.add(now)
        assert open_dataset(root)[1].instructions in (old, new) and check_dataset(root) == [], number
        annotate(root, {1: new})
        assert open_dataset(root)[1].instructions == new and check_dataset(root) == [], number
    assert number > 30 and len(seen) > 15 // step


@every(5)
def test_on_a_full_disk_an_episode_is_saved_or_refused_and_never_twice(tmp_path, spec, make, quick, monkeypatch, step):
    """The disk is full from each of its writes on, for as long as one call; then the person makes room and tries again."""
    spec = dataclasses.replace(spec, cameras=())
    records = [dataclasses.replace(make(number), images={}, calibration={}) for number in range(3)]
    left = [10**9]

    def failing(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    refused = []
    for number in itertools.count(step=step):
        root, left[0] = tmp_path / f"{number}", 10**9
        writer, left[0] = DatasetWriter(root, spec, merge_every=2), number
        for record in records:
            try:
                writer.save_episode(record)
            except UnwritableError:
                refused.append(number)
                assert [episode.extras["number"] for episode in open_dataset(root)] == [*range(record.extras["number"])], number
                left[0] = 10**9
                writer.save_episode(record)
        reported = None
        try:
            writer.close()
        except UnwritableError as error:
            reported = str(error)
        assert (
            reported is None or f"{root} cannot be written (No space left on device); its 3 episodes are saved in it" in reported
        )
        if reported is None and left[0] in range(10**8):
            break
        left[0] = 10**9
        assert [episode.extras["number"] for episode in open_dataset(root)] == [0, 1, 2], number
        DatasetWriter(root, spec).close()
        assert [episode.extras["number"] for episode in open_dataset(root)] == [0, 1, 2] and check_dataset(root) == [], number
    assert number > 20 and len(refused) >= 6 // step
