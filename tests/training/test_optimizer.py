"""One vector for all weights moves them as torch's own AdamW would move the tensors."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from verbot.errors import TrainingError
from verbot.training.distributed.optimizer import Optimizer, learning_rate
from verbot.training.imitation.records import OptimizerConfig, ScheduleConfig


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 2))


CONFIG = OptimizerConfig(clip_norm=0.5, weight_decay=0.1)


def descend(module, step):
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    loss = module(x).square().mean() * 10
    loss.backward()
    return loss


def test_updates_are_those_of_adamw_with_clipping_and_decay_of_matrices_only():
    ours, theirs = network(), network()
    optimizer = Optimizer(ours, CONFIG)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim <= 1]
    reference = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-2)
    for step in range(20):
        optimizer.gradient.zero_()
        descend(ours, step)
        norm = optimizer.step(1e-2)
        reference.zero_grad()
        descend(theirs, step)
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
        assert norm == pytest.approx(float(expected), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_average_follows_the_weights_and_is_swapped_in_and_out():
    module = network()
    optimizer = Optimizer(module, dataclasses.replace(CONFIG, ema_decay=0.5))
    for step in range(3):
        before, weights = optimizer.average.clone(), None
        optimizer.gradient.zero_()
        descend(module, step)
        optimizer.step(1e-2)
        weights, decay = optimizer.weights.clone(), min(0.5, (2 + step) / (11 + step))
        torch.testing.assert_close(optimizer.average, decay * before + (1 - decay) * weights)
    first = next(module.parameters())
    with optimizer.averaged():
        assert not torch.equal(module[0].weight.flatten(), optimizer.weights[: first.numel()])
        assert torch.equal(module[0].weight.flatten(), optimizer.average[: first.numel()])
    assert torch.equal(module[0].weight.flatten(), optimizer.weights[: first.numel()])


def test_a_gradient_without_a_number_changes_nothing():
    module = network()
    optimizer = Optimizer(module, CONFIG)
    before = {name: value.clone() for name, value in optimizer.state().items()}
    optimizer.gradient[3] = math.nan
    assert math.isnan(optimizer.step(1e-2))
    assert all(torch.equal(value, before[name]) for name, value in optimizer.state().items())


def test_restore_continues_to_the_bit():
    def steps(optimizer, module, numbers):
        for step in numbers:
            optimizer.gradient.zero_()
            descend(module, step)
            optimizer.step(1e-2)

    whole = network()
    one = Optimizer(whole, CONFIG)
    steps(one, whole, range(6))
    half = network()
    two = Optimizer(half, CONFIG)
    steps(two, half, range(3))
    kept, layout = {name: value.clone() for name, value in two.state().items()}, two.layout
    fresh = network()
    three = Optimizer(fresh, CONFIG)
    three.restore(kept, layout)
    steps(three, fresh, range(3, 6))
    assert all(torch.equal(value, three.state()[name]) for name, value in one.state().items())
    with pytest.raises(TrainingError, match="of another network"):
        three.restore(kept, {"0.weight": [1]})


def test_frozen_parameters_stay_and_none_at_all_is_an_error():
    module = network()
    module[0].requires_grad_(False)
    assert len(Optimizer(module, CONFIG).weights) == 7 + 7 + 14 + 2
    with pytest.raises(TrainingError, match="no trainable parameters"):
        Optimizer(nn.ReLU(), CONFIG)


def test_schedules():
    cosine = ScheduleConfig(warmup_steps=10)
    assert learning_rate(2.0, cosine, 0, 0.0) == pytest.approx(0.2)
    assert [learning_rate(2.0, cosine, 50, done) for done in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.0])
    step = ScheduleConfig("step", (0.5, 0.8), warmup_steps=10)
    assert [learning_rate(2.0, step, 50, done) for done in (0.49, 0.5, 0.79, 0.8)] == pytest.approx([2.0, 0.2, 0.2, 0.02])
    assert learning_rate(2.0, ScheduleConfig("constant"), 99, 0.99) == 2.0


def test_a_parameter_can_be_learned_at_a_part_of_the_rate():
    ours, theirs = network(), network()
    for p in ours[0].parameters():
        p.lr_scale = 0.1
    optimizer = Optimizer(ours, CONFIG)
    groups = [
        {"params": [p for p in layer.parameters() if (p.ndim > 1) == decays], "weight_decay": 0.1 * decays, "lr": 1e-2 * factor}
        for layer, factor in ((theirs[0], 0.1), (theirs[1], 1), (theirs[3], 1))
        for decays in (True, False)
    ]
    reference = torch.optim.AdamW([group for group in groups if group["params"]])
    for step in range(10):
        optimizer.gradient.zero_()
        descend(ours, step)
        optimizer.step(1e-2)
        reference.zero_grad()
        descend(theirs, step)
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
