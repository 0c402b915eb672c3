"""Processes that torchrun starts train as one group; killing one costs the steps since the last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from test_loop import losses, same
from toys import SMALL, toy_config

from verbot.configuration import dump_yaml
from verbot.errors import ConfigError
from verbot.recipes.config import resolve
from verbot.training import checkpoint, train_policy
from verbot.training.distributed.launch import Launch, launched, meet
from verbot.workflows.train_evaluate import train as train_recipe

ENVIRONMENT = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip


def test_what_torchrun_says_is_read():
    assert launched(ENVIRONMENT) == Launch(3, 8, 1, 2)
    assert launched({"MASTER_ADDR": "10.0.0.1"}) is None
    with pytest.raises(ConfigError, match="sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR but not LOCAL_WORLD_SIZE, MASTER_PORT"):
        launched({name: ENVIRONMENT[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")})


def test_processes_meet_though_the_dead_have_left_their_calls():
    store = torch.distributed.HashStore()
    for rank in (1, 2):
        store.set(f"call/{rank}", "of a process that was killed")
    names = set()
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            met = set(pool.map(lambda rank: meet(store, rank, 3), (0, 2, 1)))
        assert len(met) == 1
        names |= met
    assert len(names) == 2


def test_nobody_gathers_demonstrations_eight_times(tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun starts do not collect demonstrations: give data"):
        train_recipe("tiny", out=tmp_path, steps=2, progress=False)


def start(config, folder: Path, restarts: int = 1, **settings: str) -> subprocess.Popen:
    """`verbot train` of `config` in two processes of torchrun."""
    run = resolve("tiny").with_training(config)
    folder.mkdir(exist_ok=True)
    dump_yaml(run, folder / "recipe.yaml")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--max-restarts={restarts}", "--standalone",
        "-m", "verbot", "train", str(folder / "recipe.yaml"), "--data", *config.data.datasets, "--out", str(folder / "run"),
        "--set", *(f"{name}={value}" for name, value in settings.items()),
    ]  # fmt: skip
    source = str(Path(train_recipe.__code__.co_filename).parents[2])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def members(agent: int) -> dict[int, int]:
    """Process numbers of those that torchrun started, by rank."""
    found = {}
    for number in map(int, Path(f"/proc/{agent}/task/{agent}/children").read_text().split()):
        environment = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        ranks = [int(word[5:]) for word in environment if word.startswith(b"RANK=")]
        if ranks:
            found[ranks[0]] = number
    return found


def interrupted(config, folder: Path, rank: int, kills: int = 1, **settings: str) -> None:
    """Kill the member `rank` after each of the next checkpoints; the run ends by itself."""
    agent = start(config, folder, restarts=kills, **settings)
    saved, deadline = 0, time.monotonic() + 240
    for _ in range(kills):
        while len(there := checkpoint.found(folder / "run" / "checkpoints")) == 0 or int(there[-1].name[5:]) <= saved:
            assert agent.poll() is None and time.monotonic() < deadline, agent.communicate()
            time.sleep(0.02)
        saved = int(there[-1].name[5:])
        os.kill(members(agent.pid)[rank], signal.SIGKILL)
        time.sleep(0.5)
    out, error = agent.communicate(timeout=240)
    assert agent.returncode == 0, error
    assert "Signal 9 (SIGKILL)" in error or "exitcode: -9" in error or "-9" in error, "nobody was killed"
    assert out.count("steps, ") == 1, "one of them says what came of it"


def long(toy, **changes):
    return toy_config(toy, steps=60, checkpoint_every=10, validate_every=20, processes=2, **changes)


def test_one_that_is_killed_costs_steps_and_never_a_bit(toy, tmp_path):
    config = long(toy)
    interrupted(config, tmp_path, rank=1)
    train_policy(config, tmp_path / "whole", progress=False)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole"), "two of torchrun's are as two of ours"
    assert same(tmp_path / "run", tmp_path / "whole")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 60


@pytest.mark.soak
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("parallel", ["data", "fsdp"])
def test_five_kills_of_either_rank(toy, tmp_path, rank, parallel):
    config = long(toy, network=SMALL)
    interrupted(config, tmp_path, rank, kills=5, parallel=parallel)
    train_policy(config, tmp_path / "whole", progress=False)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=0 if parallel == "data" else 1e-3)
