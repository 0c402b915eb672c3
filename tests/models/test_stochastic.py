"""Draws of actions: their shares, probabilities and entropies against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from verbot.errors import ConfigError
from verbot.models.action_space import ActionReadout
from verbot.models.stochastic import ActionDistributionHead
from verbot.spec import Component

MOVE = Component("move", "position_delta", ("x", "y"), "m", "base", (-0.1, -0.1), (0.1, 0.1))
GRIP = Component("grip", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,))
STEP = Component("step", "discrete", ("way",), "1", "base", (2.0,), (4.0,))
ACTION = (MOVE, STEP, GRIP)


@pytest.fixture
def draw():
    torch.manual_seed(0)
    raw = torch.tensor([[0.5, -1.0, 0.0, math.log(2.0), math.log(5.0), math.log(3.0)]]).repeat(20000, 1)
    return ActionDistributionHead(ActionReadout(ACTION), log_std=math.log(0.2))(raw)


def test_draws_have_the_shares_that_the_outputs_say(draw):
    actions = draw.sample()
    assert actions.shape == (20000, 4)
    assert torch.allclose(actions[:, :2].mean(0), torch.tensor([0.5, -1.0]), atol=0.01)
    assert torch.allclose(actions[:, :2].std(0), torch.tensor([0.2, 0.2]), atol=0.01)
    shares = [(actions[:, 2] == way).float().mean().item() for way in (2, 3, 4)]
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.015)
    assert set(actions[:, 3].tolist()) == {0.0, 1.0}
    assert actions[:, 3].mean().item() == pytest.approx(0.75, abs=0.015)
    assert draw.mode()[0].tolist() == pytest.approx([0.5, -1.0, 4.0, 1.0])


def test_probabilities_and_entropy_are_those_of_the_product(draw):
    action = torch.tensor([0.7, -1.0, 3.0, 0.0]).repeat(20000, 1)
    normal = -0.5 * math.log(2 * math.pi) - math.log(0.2)
    expected = normal - 0.5 + normal + math.log(2 / 8) + math.log(0.25)
    assert draw.log_prob(action)[0].item() == pytest.approx(expected, abs=1e-5)
    classes = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    grip = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    continuous = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.2))
    assert draw.entropy()[0].item() == pytest.approx(classes + grip + continuous, abs=1e-5)
    sampled = -draw.log_prob(draw.sample()).mean().item()
    assert sampled == pytest.approx(classes + grip + continuous, abs=0.05)


def test_the_mode_is_what_the_head_itself_decides():
    readout = ActionReadout(ACTION)
    raw = torch.randn(50, readout.size)
    decided = readout.decode(raw)
    decided[:, 3] = decided[:, 3].round()
    assert torch.allclose(ActionDistributionHead(readout)(raw).mode(), decided)


def test_quaternions_are_refused():
    turn = Component("turn", "quaternion", ("w", "x", "y", "z"), "1", "base", (-1.0,) * 4, (1.0,) * 4)
    with pytest.raises(ConfigError, match="'turn' is a quaternion; reinforcement needs rotation deltas"):
        ActionDistributionHead(ActionReadout((turn,)))
