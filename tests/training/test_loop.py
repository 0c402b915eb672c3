"""One loop: exact to the bit through pauses, honest about what is not a number, strict about whose folder it is."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import PLAIN, changed, toy_config

from verbot.configuration import load_yaml
from verbot.errors import ConfigError, CorruptFileError, TrainingError
from verbot.models.network import VLANetwork
from verbot.parallel.signals import Stopped
from verbot.policy.opening import load_policy
from verbot.spec import Observation
from verbot.training import TrainConfig, checkpoint, read_log, train_policy
from verbot.training.imitation import loop, session


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Everything a run ends with: the policy's weights, and the whole state of its last checkpoint."""
    _, tensors = checkpoint.load_latest(out / "checkpoints")
    return {**load_file(out / "policy" / "weights.safetensors"), **tensors}


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_log(out) if line["kind"] == "train"]


def test_a_run_leaves_policy_config_log_and_result(config, tmp_path):
    result = train_policy(config, tmp_path / "run", progress=False, card="Trained for a test.")
    assert (result.steps, result.samples, result.skipped, result.finished) == (4, 16, 0, True)
    assert load_yaml(TrainConfig, tmp_path / "run" / "config.yaml") == config
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == dataclasses.asdict(result)
    assert [line["step"] for line in read_log(tmp_path / "run") if line["kind"] == "validation"] == [2, 4]
    assert "Trained for a test." in (tmp_path / "run" / "policy" / "README.md").read_text()
    policy = load_policy(result.policy)
    image = np.zeros((16, 16, 3), np.uint8)
    (chunk,) = policy.predict([Observation({"front": image, "wrist": image}, np.zeros(4, np.float32), "touch the red cube")])
    assert chunk.values.shape == (3, 4)


@pytest.mark.parametrize("processes", [1, 2])
def test_four_steps_are_two_and_two_to_the_bit(toy, tmp_path, processes):
    config = toy_config(toy, processes=processes, accumulation=2)
    train_policy(config, tmp_path / "whole", progress=False)
    paused = train_policy(config, tmp_path / "halves", progress=False, stop_at=2)
    assert (paused.steps, paused.finished, (tmp_path / "halves" / "policy").exists()) == (2, False, False)
    train_policy(changed(config, loader_threads=2), tmp_path / "halves", progress=False)
    assert same(tmp_path / "whole", tmp_path / "halves")
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")


def test_another_seed_is_another_run(toy, tmp_path):
    for seed in (0, 1):
        train_policy(toy_config(toy, seed=seed), tmp_path / str(seed), progress=False)
    assert not same(tmp_path / "0", tmp_path / "1")


@pytest.mark.cold_workers
def test_two_processes_learn_as_one_does(toy, tmp_path):
    curves = []
    for processes in (1, 2):
        # Chunks of one action have no padding, over whose rows the two halves of a batch would average differently.
        config = toy_config(toy, processes=processes, steps=12, network=dataclasses.replace(toy_config(toy).network, chunk=1))
        train_policy(config, tmp_path / str(processes), progress=False)
        curves.append(losses(tmp_path / str(processes)))
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-2)
    assert curves[0][0] == pytest.approx(curves[1][0], rel=1e-5)


def test_the_loss_falls(toy, tmp_path):
    config = toy_config(toy, steps=120, learning_rate=5e-3, augment=PLAIN, batch_size=8, log_every=10, validate_every=1000)
    train_policy(config, tmp_path, progress=False)
    curve = losses(tmp_path)
    assert curve[-1] < 0.6 * curve[0]


def test_bf16_and_step_schedule_train(toy, tmp_path):
    config = toy_config(toy, bf16=True, schedule="step", milestones=(0.5,))
    assert np.isfinite(train_policy(config, tmp_path, progress=False).loss)
    rates = [line["rate"] for line in read_log(tmp_path) if line["kind"] == "train"]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def poison(monkeypatch, steps):
    """Losses of these calls are not numbers."""
    genuine, calls = VLANetwork.losses, []

    def losses(self, batch, generator=None):
        found = genuine(self, batch, generator)
        if self.training:
            calls.append(None)
            if len(calls) in steps:
                found["loss"] = found["loss"] * torch.nan
        return found

    monkeypatch.setattr(VLANetwork, "losses", losses)


def test_a_loss_without_a_number_skips_its_step_and_is_counted(toy, tmp_path, monkeypatch):
    poison(monkeypatch, {2, 3})
    result = train_policy(toy_config(toy, steps=6), tmp_path, progress=False)
    assert (result.skipped, result.steps) == (2, 6)
    assert all(torch.isfinite(value.float()).all() for value in weights(tmp_path).values())
    assert float(weights(tmp_path)["updates"]) == 4


def test_a_run_that_skipped_many_of_its_steps_is_an_error(toy, tmp_path, monkeypatch):
    poison(monkeypatch, {2, 4, 6, 8})
    for _ in range(2):  # called again, it says so again
        with pytest.raises(TrainingError, match=r"not a finite number in \d of \d+ steps, which is more than 10% of a run of 12"):
            train_policy(toy_config(toy, steps=12), tmp_path, progress=False)
    assert not (tmp_path / "policy").exists() and not (tmp_path / "result.json").exists()


def test_a_signal_saves_a_checkpoint_from_which_the_run_goes_on_to_the_bit(toy, tmp_path, monkeypatch):
    config = toy_config(toy, steps=6, validate_every=1000)
    train_policy(config, tmp_path / "whole", progress=False)
    genuine, calls = VLANetwork.losses, []

    def losses(self, batch, generator=None):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return genuine(self, batch, generator)

    monkeypatch.setattr(VLANetwork, "losses", losses)
    with pytest.raises(Stopped, match="ended by SIGTERM after step 3, with a checkpoint") as stopped:
        train_policy(config, tmp_path / "stopped", progress=False)
    assert stopped.value.exit_code == 143
    assert checkpoint.load_latest(tmp_path / "stopped" / "checkpoints")[0].step == 3
    train_policy(config, tmp_path / "stopped", progress=False)
    assert same(tmp_path / "whole", tmp_path / "stopped")


def test_a_signal_before_a_round_of_corrections_ends_the_run(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.dagger, "due", lambda config, state: True)
    monkeypatch.setattr(session.TrainingSession, "save", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="ended by SIGTERM after step 0, with a checkpoint"):
        train_policy(toy_config(toy, steps=6), tmp_path, progress=False)


def test_a_torn_result_is_named(toy, tmp_path):
    loop._claim(toy_config(toy, steps=6), tmp_path, True)
    (tmp_path / "result.json").write_text('{"steps": 6')
    with pytest.raises(CorruptFileError, match=r"result\.json: is not JSON"):
        train_policy(toy_config(toy, steps=6), tmp_path, progress=False)


def test_ten_in_a_row_roll_back_and_stop(toy, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(4, 100)))
    with pytest.raises(TrainingError, match=r"not a finite number for 10 steps in a row, up to step 13; rolled back to the\s"):
        train_policy(toy_config(toy, steps=40, checkpoint_every=2), tmp_path, progress=False)
    progress, tensors = checkpoint.load_latest(tmp_path / "checkpoints")
    assert float(tensors["updates"]) == 3
    assert progress.skipped == progress.skipped_in_a_row <= 10
    assert not (tmp_path / "policy").exists()


def test_a_budget_in_minutes_is_kept_to_and_the_schedule_ends_with_it(toy, tmp_path, monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: seconds[0])
    genuine = loop._compute_gradients

    def timed(run, *details):
        seconds[0] += 1.0 if run.state.step < 20 else 0.5  # twice as fast once caches are warm
        return genuine(run, *details)

    monkeypatch.setattr(loop, "_compute_gradients", timed)
    config = toy_config(toy, steps=None, minutes=1.0, validate_every=10_000, checkpoint_every=10)
    paused = train_policy(config, tmp_path, progress=False, stop_at=15)
    assert not paused.finished
    result = train_policy(config, tmp_path, progress=False)
    assert 90 <= result.steps <= 110  # 20 slow ones and 80 fast ones
    assert 55 <= result.seconds <= 65
    rates = [line["rate"] for line in read_log(tmp_path) if line["kind"] == "train"]
    assert rates[5] > 0.9e-3
    assert rates[-1] < 2e-5
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(rates))


@pytest.mark.parametrize("log_every", [1, 7, 1000])
def test_a_run_by_minutes_says_at_the_end_that_it_is_over(toy, tmp_path, monkeypatch, capsys, log_every):
    seconds = [0.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: seconds[0])
    genuine = loop._compute_gradients

    def timed(run, *details):
        seconds[0] += 1.0 if run.state.step < 20 else 1.5  # slower than the first estimate says
        return genuine(run, *details)

    monkeypatch.setattr(loop, "_compute_gradients", timed)
    config = toy_config(toy, steps=None, minutes=0.9, validate_every=10_000, checkpoint_every=10, log_every=log_every)
    result = train_policy(config, tmp_path, progress=True)
    *_, closing = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train: ")]
    assert closing.startswith(f"train: {result.steps}/{result.steps} steps, ") and ", 0:00 left, loss " in closing


def test_the_best_validation_is_kept_and_patience_ends_the_run(toy, tmp_path):
    # A rate that ruins the weights makes every later validation worse than the first.
    config = toy_config(
        toy, steps=40, learning_rate=0.3, schedule="constant", warmup_steps=1, validate_every=1, patience=3, keep="best",
        ema_decay=0.0,
    )  # fmt: skip
    result = train_policy(config, tmp_path, progress=False)
    measured = [line["loss"] for line in read_log(tmp_path) if line["kind"] == "validation"]
    best = int(np.argmin(measured))
    assert result.steps == len(measured) == best + 4 < 40
    assert result.validation_loss == pytest.approx(min(measured))
    _, tensors = checkpoint.load_latest(tmp_path / "checkpoints")
    saved = load_file(tmp_path / "policy" / "weights.safetensors")
    assert sum(float(v.double().sum()) for v in saved.values()) == pytest.approx(float(tensors["best"].double().sum()), rel=1e-4)


def test_a_finished_run_is_not_repeated(config, tmp_path):
    first = train_policy(config, tmp_path, progress=False)
    before = (tmp_path / "log.jsonl").read_bytes()
    assert train_policy(config, tmp_path, progress=False) == first
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_folder_of_another_run_is_refused(config, tmp_path):
    train_policy(config, tmp_path, progress=False, stop_at=1)
    with pytest.raises(ConfigError, match="contains a training run already"):
        train_policy(config, tmp_path, resume=False)
    with pytest.raises(ConfigError, match="a run with another optimizer.learning_rate, seed; resuming needs the same"):
        train_policy(changed(config, learning_rate=0.5, seed=3, log_every=7), tmp_path)


def test_validation_episodes_are_never_trained_on(toy, tmp_path):
    config = toy_config(toy)
    training_data = loop.TrainingData(config, tmp_path, 0, 0)
    windows = training_data._train[0]
    shown = set(windows.locate(np.arange(len(windows)))[0].tolist())
    hidden = training_data._held_out.source.sources[0]
    assert shown.isdisjoint(hidden.locate(np.arange(len(hidden)))[0].tolist())
    assert len(shown) == 5
