"""An edit that is killed at any instant leaves the old dataset or the new one, and can be done again."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verbot import folders
from verbot.data import DatasetWriter, EditPlan, check_dataset, edit, open_dataset
from verbot.data.storage import folder_swap
from verbot.errors import DataError

SOURCE = Path(__file__).parents[3] / "src"
PLAN = EditPlan(delete=(0,), trim={2: (1, 4)})
BEFORE, AFTER = (0, 1, 2), (1, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory, spec, make):
    """A small dataset, which is not to be changed."""
    root = tmp_path_factory.mktemp("small") / "dataset"
    with DatasetWriter(root, dataclasses.replace(spec, cameras=spec.cameras[:1])) as writer:
        for number in range(3):
            record = make(number)
            writer.save_episode(dataclasses.replace(record, images={"front": record.images["front"]}))
    return root


def numbers(root):
    return tuple(episode.extras["number"] for episode in open_dataset(root))


class Stopped(BaseException):
    pass


@pytest.fixture
def stop_after(monkeypatch):
    """``stop_after(n)``: the change number `n` of the disk does not happen, nor any later one. None of them counts before."""
    left = [10**9]

    def counted(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))

    def arm(count):
        left[0] = count

    return arm


@pytest.mark.parametrize(("in_place", "exchange"), [(True, True), (True, False), (False, True)])  # False: of a poor file system
def test_stopped_between_any_two_changes_on_disk(written, tmp_path, stop_after, monkeypatch, in_place, exchange):
    seen = set()
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    for count in range(10**9):
        folder = tmp_path / f"{count}"
        root = Path(shutil.copytree(written, folder / "dataset", ignore=shutil.ignore_patterns(".*")))
        out = None if in_place else folder / "edited"
        stop_after(count)
        try:
            edit(root, PLAN, out)
        except Stopped:
            stop_after(10**9)
        else:
            break
        done = out if out is not None and out.exists() else root
        state = numbers(done), any(folder_swap._beside(done, name).exists() for name in ("before", "draft"))
        assert state[0] in (BEFORE, AFTER) and check_dataset(done) == [] and (in_place or numbers(root) == BEFORE), count
        if state in seen and count % 5:  # a second edit for each kind of state, and now and then
            shutil.rmtree(folder)
            continue
        seen.add(state)
        if in_place and state[0] == AFTER:
            edit(root, EditPlan(delete=(0,)))
            assert numbers(root) == AFTER[1:]
        elif state[0] == BEFORE:
            edit(root, PLAN, out)
            assert numbers(out or root) == AFTER
        left = {path.name for path in folder.iterdir()} - {".edited.lock", ".dataset.swap", ".edited.swap"}
        assert left == ({"dataset"} if in_place else {"dataset", "edited"}), (count, left)
        shutil.rmtree(folder)
    assert count > 25
    # The time when the new dataset has its name, and the old one is there too, was among them.
    assert {(BEFORE, False), (AFTER, False)} <= seen and ((AFTER, True) in seen) == in_place


OPENERS = {
    "reader": lambda root, spec: open_dataset(root),
    "check": lambda root, spec: check_dataset(root),
    "writer": lambda root, spec: DatasetWriter(root, spec).close(),
}


@pytest.mark.parametrize("reader", OPENERS.values(), ids=OPENERS)
def test_whoever_opens_it_completes_the_change(written, tmp_path, reader):
    root = Path(shutil.copytree(written, tmp_path / "dataset", ignore=shutil.ignore_patterns(".*")))
    spec = open_dataset(root).spec
    edit(root, PLAN, tmp_path / ".dataset.edited")
    root.rename(tmp_path / ".dataset.before")
    reader(root, spec)
    assert numbers(root) == AFTER and (tmp_path / ".dataset.before").exists()
    edit(root, EditPlan(delete=(0,)))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_the_old_dataset_is_never_removed_for_something_else(written, tmp_path):
    shutil.copytree(written, tmp_path / ".dataset.before")
    (tmp_path / "dataset").mkdir()
    with pytest.raises(DataError, match=r"holds no dataset; the one that was there is .*\.dataset\.before: rename it"):
        edit(tmp_path / "dataset", PLAN)
    assert numbers(tmp_path / ".dataset.before") == BEFORE


EDITOR = """
import sys
from verbot.data import EditPlan, edit
print("ready", flush=True)
edit(sys.argv[1], EditPlan(delete=(0,), trim={2: (1, 4)}))
print("done", flush=True)
"""


def test_killed(written, tmp_path):
    rng, environment = random.Random(0), {**os.environ, "PYTHONPATH": str(SOURCE)}
    for number in range(5):
        root = Path(shutil.copytree(written, tmp_path / f"{number}/dataset", ignore=shutil.ignore_patterns(".*")))
        with subprocess.Popen([sys.executable, "-c", EDITOR, str(root)], stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
            done = process.stdout.read() == b"done\n"
        assert numbers(root) in ((AFTER,) if done else (BEFORE, AFTER)) and check_dataset(root) == []
        edit(root, EditPlan(delete=(0,)))
        assert [path.name for path in root.parent.iterdir()] == ["dataset"]
