"""AIRL on descriptions that carry their own numbers: what a step earns, and what the discriminator learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_ppo import NOWHERE
from torch import nn

from verbot.configuration import replace
from verbot.training.rl import ReinforceConfig
from verbot.training.rl.config import EnvConfig, PPOConfig
from verbot.training.rl.envs import VecTransition
from verbot.training.rl.rewards import airl
from verbot.training.rl.rewards.airl import ExpertTrajectory
from verbot.training.rl.rewards.base import rewards

CONFIG = ReinforceConfig(env=EnvConfig("toy", num_envs=1), ppo=PPOConfig(num_steps=8, batch_size=8, gamma=0.9))
REACH, STAYS = 5.0, 8.0


class Written(nn.Module):
    """A discriminator whose reward g and potential h are written in the description: ``"g h"``."""

    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, states, goals):
        return torch.tensor([[float(number) for number in state.split()] for state in states]) + self.bias


class Table(nn.Module):
    """A discriminator that learns the g of each description by itself; it has no potential."""

    def __init__(self, width):
        super().__init__()
        self.known = nn.ParameterDict({name: torch.zeros(()) for name in ("start", "expert", "policy", "both")})

    def forward(self, states, goals):
        g = torch.stack([self.known[state] for state in states])
        return torch.stack([g, torch.zeros_like(g)], -1)


def shown(*states):
    """A demonstration that passes through these descriptions."""
    steps = len(states) - 1
    return ExpertTrajectory("go", (NOWHERE,) * (steps + 1), states, np.zeros((steps, 1), np.float32), np.ones(steps, bool))


def transition(state, last=False, truncated=False):
    return VecTransition(NOWHERE, np.nan, {"state_text": state}, NOWHERE if last else None, truncated)


def begin(reward, state):
    reward.reset([0], [{"state_text": state, "instruction": "go"}], [NOWHERE])


@pytest.fixture
def make(monkeypatch):
    def made(matcher, *demonstrations, config=CONFIG, **options):
        monkeypatch.setattr(airl, "demonstrate", lambda *args: list(demonstrations))
        monkeypatch.setattr(airl, "Matcher", matcher)
        return rewards.build("adversarial", config, reward_clip=REACH, absorbing_steps=STAYS, **options)

    return made


def earned(reward, step):
    return float(reward([step], np.zeros((1, 1), np.float32))[0])


def test_a_step_earns_the_reward_and_the_gain_in_potential(make):
    """(g(s') + h(s') - h(s)) / reward_clip, cut off at 1. Kills the mutation that pays minus the recovered reward."""
    reward = make(Written)
    begin(reward, "0.5 1.0")
    assert earned(reward, transition("2.0 1.5")) == pytest.approx((2.0 + 1.5 - 1.0) / REACH)
    assert earned(reward, transition("-1.0 1.5")) == pytest.approx(-1.0 / REACH), "the state before is the one just reached"
    assert earned(reward, transition("9.0 1.5")) == pytest.approx(1.0)
    assert earned(reward, transition("-9.0 1.5")) == pytest.approx(-1.0)


def test_an_end_earns_the_reward_of_staying_there(make):
    """Kills the mutation that drops the bonus of an end, which is `absorbing_steps` steps from it to itself."""
    for g in (2.0, -1.0):
        reward = make(Written)
        begin(reward, "0.5 1.0")
        assert earned(reward, transition(f"{g} 1.5", last=True)) == pytest.approx((g + 1.5 - 1.0) / REACH + STAYS * g / REACH)
        begin(reward, "0.5 1.0")
        assert earned(reward, transition(f"{g} 1.5", last=True, truncated=True)) == pytest.approx((g + 1.5 - 1.0) / REACH), (
            "a time limit"
        )


def learn(reward, state, log_prob, expert_log_prob):
    """The discriminator after a rollout of steps from the start to `state`, all of the same probability."""
    for _ in range(CONFIG.ppo.num_steps):
        begin(reward, "start")
        earned(reward, transition(state))
    reward.learn(
        lambda looks, actions: np.full(len(looks), expert_log_prob, np.float32),
        np.full((CONFIG.ppo.num_steps, 1), log_prob, np.float32),
    )


def test_what_the_expert_does_comes_to_earn_more_than_what_the_policy_does(make):
    """Kills a reward of the wrong sign wherever it arises: in the labels, in the loss or in the payment."""
    reward = make(Table, shown("start", "expert"), updates=50, learning_rate=0.05)
    learn(reward, "policy", -1.0, -1.0)
    worth = {}
    for state in ("expert", "policy"):
        begin(reward, "start")
        worth[state] = earned(reward, transition(state))
    assert worth["expert"] > worth["policy"] + 0.1, worth


@pytest.mark.parametrize("log_prob", [-3.0, 1.5])
def test_where_expert_and_policy_do_the_same_the_reward_is_the_log_probability(make, log_prob):
    """D = exp f / (exp f + π) is one half where the two are equal, so f = log π; a density's logarithm may be above 0.

    Kills the mutation that leaves log π(a|s) out of the discriminator: then f = 0.
    """
    reward = make(Table, shown("start", "both"), updates=300, learning_rate=0.05, decay=0.0, absorbing_fraction=0.0)
    learn(reward, "both", log_prob, log_prob)
    assert reward.matcher.known["both"].item() == pytest.approx(log_prob, abs=0.1)


def test_the_discriminator_asks_for_the_probabilities_of_both_sides(make):
    """Kills the mutations that leave log π out for the expert's steps alone, or for the policy's."""
    for ours, theirs in ((-2.0, 0.0), (0.0, -2.0)):
        reward = make(Table, shown("start", "both"), updates=300, learning_rate=0.05, decay=0.0, absorbing_fraction=0.0)
        learn(reward, "both", ours, theirs)
        assert reward.matcher.known["both"].item() == pytest.approx(-1.0, abs=0.1), "half way between the two"


def test_ends_are_judged_without_a_probability(make):
    """Nobody acts at an end: with ends alone the discriminator finds 0 where both sides end alike, whatever π was on the way."""
    reward = make(Table, shown("start", "both"), updates=100, learning_rate=0.05, decay=0.0, absorbing_fraction=1.0)
    with torch.no_grad():
        reward.matcher.known["both"].fill_(1.0)
    for _ in range(CONFIG.ppo.num_steps):
        begin(reward, "start")
        earned(reward, transition("both", last=True))
    reward.learn(lambda looks, actions: pytest.fail("no look is judged"), np.full((CONFIG.ppo.num_steps, 1), -3.0, np.float32))
    assert reward.matcher.known["both"].item() == pytest.approx(0.0, abs=0.1)


def test_the_payment_does_not_depend_on_the_discount_of_the_run(make):
    """The potential is paid undiscounted: a critic that has learned a discounted one would take it out again."""
    reward = make(Written, config=replace(CONFIG, {"ppo": {"gamma": 0.5}}))
    begin(reward, "0 2.0")
    assert earned(reward, transition("0 2.0")) == pytest.approx(0.0)
