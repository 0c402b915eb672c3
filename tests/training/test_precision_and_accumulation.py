"""What a step computes with: bfloat16 where it is asked for, and the mean gradient of the batches that it accumulates."""

from __future__ import annotations

import pytest
import torch
from test_loop import losses
from toys import PLAIN, toy_config

from verbot.models.network import VLANetwork
from verbot.policy.opening import load_policy
from verbot.training import train_policy
from verbot.training.distributed.optimizer import Optimizer
from verbot.training.imitation import loop
from verbot.training.imitation.data import TrainingData


@pytest.mark.parametrize("bf16", [True, False])
def test_products_are_of_bfloat16_where_it_is_asked_for(toy, tmp_path, monkeypatch, bf16):
    """Kills the mutation that never turns bfloat16 on; weights, losses and validation stay in full precision."""
    genuine, used = VLANetwork.losses, {True: set(), False: set()}

    def watched(self, batch, generator=None):
        used[self.training].add(torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype)
        found = genuine(self, batch, generator)
        assert all(p.dtype == torch.float32 for p in self.parameters())
        return found

    monkeypatch.setattr(VLANetwork, "losses", watched)
    result = train_policy(toy_config(toy, bf16=bf16, steps=2), tmp_path, progress=False)
    assert used == {True: {torch.bfloat16 if bf16 else torch.float32}, False: {torch.float32}}
    assert all(p.dtype == torch.float32 for p in load_policy(result.policy).network.parameters())


def test_bfloat16_rounds_the_loss_and_no_more(toy, tmp_path):
    for bf16 in (True, False):
        train_policy(toy_config(toy, bf16=bf16, steps=1, augment=PLAIN), tmp_path / str(bf16), progress=False, stop_at=1)
    rounded, exact = (losses(tmp_path / str(bf16))[0] for bf16 in (True, False))
    assert rounded != exact and rounded == pytest.approx(exact, rel=2e-2)


def first_gradient(config, out, monkeypatch, numbers):
    """Of a run whose batches are these of the dataset, one after another."""
    genuine, found = TrainingData.batch, []

    class Watched(Optimizer):
        def step(self, rate):
            found.append(self.gradient.clone())
            return super().step(rate)

    def chosen(self, step, micro):
        return genuine(self, numbers[micro] // config.optimizer.accumulation, numbers[micro] % config.optimizer.accumulation)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Optimizer", Watched)
        patch.setattr(TrainingData, "batch", chosen)
        train_policy(config, out, progress=False, stop_at=1)
    return found[0]


def test_accumulated_gradients_are_the_mean_over_the_batches(toy, tmp_path, monkeypatch):
    """Kills the mutation that adds them up: Adam hides a constant factor, and clipping does not."""

    def config(accumulation):
        return toy_config(toy, accumulation=accumulation, augment=PLAIN, clip_norm=1e9)

    alone = [first_gradient(config(1), tmp_path / f"{number}", monkeypatch, [number]) for number in (0, 1, 2)]
    together = first_gradient(config(3), tmp_path / "together", monkeypatch, [0, 1, 2])
    assert not torch.allclose(alone[0], alone[1], rtol=1e-2), "the batches differ"
    torch.testing.assert_close(together, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-6)
    means = [losses(tmp_path / name)[0] for name in ("0", "1", "2", "together")]
    assert means[3] == pytest.approx(sum(means[:3]) / 3, rel=1e-5), "so is the loss that is logged"
