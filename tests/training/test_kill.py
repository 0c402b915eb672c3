"""Kill -9 at any instant costs steps, never a bit: the resumed run ends with the same weights."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_loop import losses, same
from toys import toy_config

from verbot.configuration import dump_yaml
from verbot.training import checkpoint, train_policy
from verbot.training.checkpoint import TrainingProgress

# Imports once, then forks a trainer for every kill: most kills come while it steps, saves and validates, some while it starts.
# Prints which step's checkpoint each kill found on disk.
DRIVER = """
import json, os, pathlib, random, shutil, signal, sys, time
import torch
from verbot.configuration import load_yaml
from verbot.training import TrainConfig, checkpoint, train_policy
from verbot.training.imitation import loop
import verbot.data.storage.frame_cache, verbot.data.samples.loader

config, out, kills, seed = load_yaml(TrainConfig, sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
rng, found, genuine, steps = random.Random(seed), [], loop._compute_gradients, []

def start():
    stepping, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        def announced(session, *details):
            steps.append(0)
            if len(steps) == 2:  # the first step waits for rank workers to start
                os.write(tell, b"x")
            return genuine(session, *details)

        loop._compute_gradients = announced
        try:
            train_policy(config, out, progress=False)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(tell)  # so that a trainer which ends is heard too
    return pid, stepping

while len(found) < kills:
    pid, stepping = start()
    if rng.random() < 0.8:
        os.read(stepping, 1)
    time.sleep(rng.uniform(0.0, 0.4))
    if os.waitpid(pid, os.WNOHANG)[0]:  # it finished first: begin anew
        shutil.rmtree(out)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        saved = checkpoint.found(out / "checkpoints")
        found.append(int(saved[-1].name[5:]) if saved else 0)
    os.close(stepping)
code = os.waitpid(start()[0], 0)[1]
print(json.dumps(found))
sys.exit(code != 0)
"""


def interrupted(config, folder: Path, kills: int, seed: int = 0) -> list[int]:
    dump_yaml(config, folder / "config.yaml")
    command = [sys.executable, "-c", DRIVER, str(folder / "config.yaml"), str(folder / "killed"), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(config, folder: Path, kills: int) -> None:
    found = interrupted(config, folder, kills)
    train_policy(config, folder / "whole", progress=False)
    assert same(folder / "whole", folder / "killed")
    assert losses(folder / "whole") == losses(folder / "killed")
    assert len(found) == kills
    assert any(found), "no kill came after a checkpoint: the test tested nothing"


def test_a_checkpoint_is_there_or_not_after_a_kill_at_every_change(tmp_path, killed, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    save = lambda folder, step: checkpoint.save(folder, TrainingProgress(step), {"weights": torch.full((3,), step)})  # noqa: E731
    for number in itertools.count():
        folder = tmp_path / f"{number}"
        for step in (1, 2):
            save(folder, step)
        if not killed(lambda folder=folder: save(folder, 3), number, folder):
            break
        progress, tensors = checkpoint.load_latest(folder)
        assert progress.step in (2, 3) and (tensors["weights"] == progress.step).all(), number
        save(folder, 4)
        assert sorted(path.name for path in folder.iterdir())[-1] == "step-00000004", number
        assert len(checkpoint.found(folder)) == 2 and not [*folder.glob(".step-*.tmp")], number
    assert number > 8


def test_a_training_that_is_killed_goes_on_to_the_same_bits(toy, tmp_path, killed, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    config, out, kills = toy_config(toy, steps=6, checkpoint_every=2, validate_every=3, loader_threads=1), tmp_path / "killed", []
    train_policy(config, tmp_path / "whole", progress=False)
    for number in (0, 3, 9, 15, 20, 24, 28, 32):
        if not killed(lambda: train_policy(config, out, progress=False), number, out):
            break
        saved = checkpoint.found(out / "checkpoints")
        kills.append(int(saved[-1].name[5:]) if saved else 0)
    train_policy(config, out, progress=False)
    assert same(tmp_path / "whole", out) and losses(tmp_path / "whole") == losses(out)
    assert len(kills) >= 6 and 0 in kills and any(kills)


@pytest.mark.soak
def test_twenty_kills_of_one_process(toy, tmp_path):
    check(toy_config(toy, steps=60, checkpoint_every=3, validate_every=20, loader_threads=1), tmp_path, kills=20)


@pytest.mark.soak
def test_fifty_kills_of_one_process(toy, tmp_path):
    check(toy_config(toy, steps=60, checkpoint_every=3, validate_every=20, loader_threads=1), tmp_path, kills=50)


@pytest.mark.soak
def test_five_kills_of_two_processes(toy, tmp_path):
    check(toy_config(toy, steps=60, checkpoint_every=3, validate_every=20, processes=2), tmp_path, kills=5)
