"""Corrections: gathered at the right steps, from where the policy led, mixed in, and repeated to the bit."""

from __future__ import annotations

import pytest
import torch
from test_loop import same
from toys import toy_config

from verbot.data import open_dataset
from verbot.errors import TrainingError
from verbot.rollout.collect import collect
from verbot.training import DaggerConfig, TrainConfig, read_log, train_policy
from verbot.training.checkpoint import TrainingProgress
from verbot.training.imitation import dagger

OPTIONS = {"image_size": 16}


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "demos"
    collect("tabletop-starter", path, 3, workers=1, options=OPTIONS, progress=False)
    return str(path)


@pytest.fixture(scope="module")
def whole(demos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return train_policy(settings(demos), out, progress=False), out


def settings(demos, **changes) -> TrainConfig:
    correct = DaggerConfig(rounds=1, env="tabletop-starter", options=OPTIONS, episodes=2, max_steps=6, execute=2, first=0.5)
    return toy_config(demos, **{"steps": 6, "warmup_steps": 50, "validation_share": 0.0, "dagger": correct, **changes})


def test_rounds_are_spread_between_first_and_last():
    config = DaggerConfig(rounds=3, first=0.2, last=0.8)
    seen, now = [], TrainingProgress(total=100)
    while now.step < 100:
        while dagger.due(config, now):
            seen.append(now.step)
            now.rounds += 1
        now.advance()
    assert seen == [20, 50, 80]
    assert not dagger.due(DaggerConfig(), TrainingProgress(done=0.99))


def test_corrections_begin_where_the_policy_led(demos, whole):
    result, out = whole
    assert result.corrections == 1
    corrections = open_dataset(out / "corrections" / "round-1")
    assert len(corrections) == 2
    starts = torch.tensor([corrections[i].states[0, :3].tolist() for i in range(2)])
    home = torch.tensor(open_dataset(demos)[0].states[0, :3].tolist())
    assert (starts - home).abs().max() > 0.005
    (line,) = [line for line in read_log(out) if line["kind"] == "corrections"]
    assert (line["step"], line["episodes"]) == (3, 2)
    assert not (out / "corrections" / "policy").exists()


def test_a_run_interrupted_in_a_round_and_after_it_ends_the_same(demos, whole, tmp_path, monkeypatch):
    genuine = dagger.demonstrations

    def failing(*args):
        for number, attempt in enumerate(genuine(*args)):
            if number:
                raise KeyboardInterrupt
            yield attempt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dagger, "demonstrations", failing)
        train_policy(settings(demos), tmp_path, progress=False)
    train_policy(settings(demos), tmp_path, progress=False, stop_at=5)
    train_policy(settings(demos), tmp_path, progress=False)
    assert same(whole[1], tmp_path)


def test_a_round_that_gathers_nothing_is_an_error(demos, tmp_path, monkeypatch):
    monkeypatch.setattr(dagger, "demonstrations", lambda *args: (each for each in ()))
    with pytest.raises(TrainingError, match="round 1 of corrections collected nothing"):
        train_policy(settings(demos), tmp_path, progress=False)
