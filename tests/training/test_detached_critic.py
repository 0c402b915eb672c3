"""`detach_critic`: the value learns from what the network fuses, and only the policy's own loss changes the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_ppo import TOY, EnvRunner, EnvRunnerPlan, ToyEnv, toy  # noqa: F401

from verbot.configuration import replace
from verbot.rollout.collect import CollectConfig
from verbot.training.rl import ppo as running
from verbot.training.rl.actor_critic import ActorCritic, ObservationEncoder


def slopes(module):
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("detached", [True, False])
def test_the_loss_of_a_value_changes_the_network_unless_it_is_detached(toy, detached):  # noqa: F811
    """Kills the mutation that ignores `detach_critic`, and the one that always detaches."""
    policy = running.initial_policy(TOY)
    encoder, config = ObservationEncoder(policy), replace(TOY, {"ppo": {"detach_critic": detached}})
    look, _ = EnvRunner(ToyEnv(), CollectConfig(env="toy"), 0, 1, EnvRunnerPlan()).begin()
    obs = {name: torch.as_tensor(value) for name, value in encoder.encode([look]).items()}
    limits = spaces.Box(-1, 1, (1,), np.float32)
    actor = ActorCritic(encoder.space, limits, lambda left: 1e-3, policy=policy, encoder=encoder, config=config)
    torch.nn.init.ones_(actor.critic[-1].weight)  # at first it is zero, and nothing flows through it
    values, log_prob, _ = actor.evaluate_actions(obs, torch.zeros(1, 1))
    (values - 1.0).square().sum().backward(retain_graph=True)
    assert slopes(actor.critic) > 0, "the value learns either way"
    assert (slopes(policy.network) == 0) == detached
    log_prob.sum().backward()
    assert slopes(policy.network) > 0, "the policy's own loss always reaches the network"
