"""Weights of losses: given, or learned until no loss drowns another."""

import dataclasses

import pytest
import torch

from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig
from verbot.models.registries import Objective, Part
from verbot.models.weighting import UncertaintyWeighting

CONFIG = NetworkConfig(width=16, chunk=3, fusion=Part("mlp", {"hidden": 32}), loss_weighting="uncertainty")


def test_given_weights_are_a_weighted_sum_of_what_comes():
    weighting = UncertaintyWeighting({"action": 1.0, "keypoints": 0.5, "value": 2.0})
    found = weighting({"action": torch.tensor(2.0), "keypoints": torch.tensor(3.0), "keypoint_l1": torch.tensor(9.0)})
    assert found["loss"] == 3.5
    assert list(found) == ["loss", "action", "keypoints", "keypoint_l1"]
    assert not list(weighting.parameters())


def test_learned_weights_begin_as_given_and_settle_at_one_over_the_loss():
    """Where L / b + log b is least, b = L: all terms weigh one, whatever their units."""
    weighting = UncertaintyWeighting({"action": 1.0, "keypoints": 0.25, "value": 0.0}, learned=True)
    losses = {"action": torch.tensor(0.1), "keypoints": torch.tensor(4.0), "value": torch.tensor(7.0)}
    before = weighting(losses)
    assert before["weight_action"] == 1
    assert before["weight_keypoints"] == pytest.approx(0.25)
    assert "weight_value" not in before, "what weighs nothing takes no part"
    optimizer = torch.optim.Adam(weighting.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        weighting(losses)["loss"].backward()
        optimizer.step()
    after = weighting(losses)
    assert after["weight_action"] == pytest.approx(10, rel=0.02)
    assert after["weight_keypoints"] == pytest.approx(0.25, rel=0.02)
    assert after["loss"].item() == pytest.approx(2 + torch.tensor([0.1, 4.0]).log().sum().item(), abs=1e-3)


def test_a_loss_without_samples_teaches_no_scale_and_none_counts_without_bound():
    weighting = UncertaintyWeighting({"action": 1.0, "task": 1.0}, learned=True)
    nothing = weighting({"action": torch.tensor(0.0, requires_grad=True), "task": torch.tensor(0.5)})
    nothing["loss"].backward()
    assert weighting.log_scales.grad.tolist() == [0.0, 0.5]
    weighting.log_scales.data[1] = -20.0
    found = weighting({"action": torch.tensor(1.0), "task": torch.tensor(1e-6)})
    assert found["weight_task"] == pytest.approx(100)
    assert found["loss"].item() == pytest.approx(1.0 + torch.tensor(0.01).log().item(), abs=1e-3)


def test_a_loss_may_keep_its_weight_among_learned_ones():
    weighting = UncertaintyWeighting({"action": 1.0, "task": 0.1, "value": 0.0}, learned=True, fixed={"task", "value"})
    losses = {"action": torch.tensor(0.5), "task": torch.tensor(3.0), "value": torch.tensor(7.0)}
    assert weighting.learned == ["action"]
    weighting.log_scales.data[0] = torch.tensor(0.5).log()
    found = weighting(losses)
    assert found["loss"].item() == pytest.approx(0.5 / 0.5 + torch.tensor(0.5).log().item() + 0.1 * 3.0)
    assert "weight_task" not in found


def test_an_uncertain_loss_teaches_what_is_shared_less(make_network):
    """One number is to be 0 by one task and 1 by another, whose labels are noise around it: the surer task prevails."""
    shared, g = torch.nn.Parameter(torch.tensor(0.5)), torch.Generator().manual_seed(0)
    learned, given = UncertaintyWeighting({"a": 1.0, "b": 1.0}, learned=True), UncertaintyWeighting({"a": 1.0, "b": 1.0})
    found = {}
    for name, weighting in (("learned", learned), ("given", given)):
        shared.data.fill_(0.5)
        optimizer = torch.optim.Adam([shared, *weighting.parameters()], 0.02)
        for _ in range(600):
            optimizer.zero_grad()
            a = (shared - 0.02 * torch.randn(64, generator=g)).abs().mean()
            b = (shared - 1 - 2 * torch.randn(64, generator=g)).abs().mean()
            weighting({"a": a, "b": b})["loss"].backward()
            optimizer.step()
        found[name] = float(shared.detach())
    assert abs(found["learned"]) < 0.02
    assert abs(found["given"]) < 0.1
    assert learned({"a": torch.tensor(0.0), "b": torch.tensor(0.0)})["weight_a"] > 20 * learned.log_scales[1].neg().exp()


def test_a_network_learns_its_weights_with_all_else(make_network, make_batch):
    network = make_network(CONFIG.with_objectives(value=0.5, grasp_state=1.0))
    found = network.losses(make_batch(network))
    assert network.weighting.learned == ["action", "keypoints", "value", "grasp_state"]
    found["loss"].backward()
    slope = network.weighting.log_scales.grad
    by_hand = 1 - torch.stack([found[f"weight_{name}"] * found[name] for name in network.weighting.learned])
    torch.testing.assert_close(slope, by_hand.detach())
    assert network.weighting.log_scales.lr_scale == 10, "a short training must move them over an order of magnitude"
    assert NetworkConfig.from_json(network.config.to_json()) == network.config


def test_a_classifier_beside_the_actions_keeps_its_weight(make_network):
    config = CONFIG.with_objectives(task_classification=0.1)
    network = make_network(dataclasses.replace(config, head=Part("multi_task", {"tasks": ("pick", "put")})))
    assert network.weighting.learned == ["action", "keypoints"]
    assert network.weighting.weights["task_classification"] == 0.1


def test_weights_that_cannot_be_are_named():
    with pytest.raises(ConfigError, match="loss_weighting is 'guessed'; expected 'fixed' or 'uncertainty'"):
        NetworkConfig(loss_weighting="guessed")
    with pytest.raises(ConfigError, match="the weight of an objective is at least 0; got -1"):
        Objective(-1.0)
    with pytest.raises(ConfigError, match="trained for at least one objective; objectives is empty"):
        NetworkConfig(objectives={})


def test_queries_share_the_learned_weight_of_the_keypoints(make_network, make_batch):
    """One kind of loss has one scale, in proportion to the given weights."""
    weights = {"action": 1.0, "keypoints": 0.5, "grounding_queries": 0.25}
    weighting = UncertaintyWeighting(weights, learned=True, shared={"grounding_queries": "keypoints"})
    assert weighting.learned == ["action", "keypoints"]
    weighting.log_scales.data = torch.tensor([0.0, -1.0])
    found = weighting({"keypoints": torch.tensor(2.0), "grounding_queries": torch.tensor(4.0)})
    assert found["loss"].item() == pytest.approx(torch.e * 2 - 1 + torch.e * 0.5 * 4)
    network = make_network(CONFIG)
    assert network.weighting.shared == {"grounding_queries": "keypoints"}
