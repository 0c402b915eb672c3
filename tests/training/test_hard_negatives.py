"""Training of a reward model uses the negatives with the highest scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verbot.training.rl.rewards import train_reward_model
from verbot.training.rl.rewards.train_reward_model import CANDIDATES, DescribedEpisode, RewardModelConfig, Sentences

COLORS = ("red", "blue", "green", "black", "white", "gray", "pink", "brown")
END = "the robot has stopped at the red circle"


def goal(color):
    return {"verb": "go", "object": f"{color} circle"}


def said(color):
    return f"go to the {color} circle"


class Opinionated:
    """A reward model whose success score increases along `order` of the colors, and whose progress decreases."""

    def __init__(self, order):
        self.order, self.asked = list(order), []

    def forward_no_grad(self, states, goals):
        self.asked = [next(color for color in COLORS if color in text) for text in goals]
        done = torch.tensor([float(self.order.index(color)) for color in self.asked])
        assert set(states) == {END}
        return torch.stack([-done, done], -1)


@pytest.fixture
def episode():
    offered = tuple((goal(color), (said(color),)) for color in COLORS)
    return DescribedEpisode(("the robot is 1.0 m from the red circle", END), goal("red"), offered)


@pytest.mark.parametrize("order", [COLORS, COLORS[::-1]])
def test_the_two_hardest_candidates_are_learned_from(episode, order):
    """Kills the mutations that take the easiest candidates, or the hardest by nearness, or those that were drawn first."""
    config = RewardModelConfig(batch_size=1)
    for seed in range(20):
        model = Opinionated(order)
        states, goals, near, done = train_reward_model._batch(
            [episode], Sentences([episode]), config, np.random.default_rng(seed), model
        )
        false = [text for text, unknown in zip(goals, near.isnan(), strict=True) if unknown]
        assert len(model.asked) == CANDIDATES
        assert false == [said(color) for color in sorted(model.asked, key=order.index)[:-3:-1]]
        assert [state for state, unknown in zip(states, near.isnan(), strict=True) if unknown] == [END] * 2
        assert not done[near.isnan()].any() and said("red") not in false, "a false sentence is never done"


def test_each_episode_of_a_batch_has_its_own_hardest_candidates(episode):
    """The opinions are asked for together; each stays with the sentence that it is of."""
    config, model = RewardModelConfig(batch_size=3), Opinionated(COLORS)
    _, goals, near, _ = train_reward_model._batch([episode], Sentences([episode]), config, np.random.default_rng(0), model)
    false = [text for text, unknown in zip(goals, near.isnan(), strict=True) if unknown]
    shares = [model.asked[i : i + CANDIDATES] for i in range(0, 3 * CANDIDATES, CANDIDATES)]
    assert false == [said(color) for share in shares for color in sorted(share, key=COLORS.index)[:-3:-1]]
