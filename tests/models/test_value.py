"""The value head: what it is taught, by which rows, and that nothing changes without it."""

import dataclasses

import pytest
import torch

from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig
from verbot.models.objectives.value import Value
from verbot.models.registries import Part
from verbot.models.tokens import TokenGroup

CONFIG = NetworkConfig(width=16, chunk=3, fusion=Part("mlp", {"hidden": 32}))
VALUED = dataclasses.replace(CONFIG, value_weight=0.5)


def losses(network, batch):
    return network.losses(batch, torch.Generator().manual_seed(1))


def test_the_loss_is_least_at_the_discounted_success(make_network, make_batch):
    """Binary cross-entropy with a soft target: the best guess is the target itself, and costs its entropy."""
    torch.manual_seed(0)
    head, fused = Value(8, 1, discount=0.9), TokenGroup(torch.randn(4, 1, 8), torch.ones(4, 1, dtype=torch.bool), "fused")
    batch = dataclasses.replace(make_batch(make_network(CONFIG)), steps_left=torch.tensor([0, 1, 5, 20]))
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        loss = head.loss(fused, batch)
        loss.backward()
        optimizer.step()
    target = 0.9 ** torch.tensor([0.0, 1, 5, 20])
    torch.testing.assert_close(head(fused).detach(), target, atol=0.03, rtol=0)
    entropy = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)).mean()
    assert entropy - 1e-4 < loss < entropy + 0.02


def test_rows_told_another_goal_or_without_success_teach_no_value(make_network, make_batch):
    network = make_network(VALUED)
    batch = make_batch(network)
    batch.actions_mask[1] = False
    batch.steps_left[2] = -1
    batch.actions_mask[3, 1:] = False  # near its end, but its own
    before = losses(network, batch)["value"]
    for row, counts in enumerate((True, False, False, True)):
        steps_left = batch.steps_left.clone()
        steps_left[row] = -1 if row == 2 else 90
        changed = losses(network, dataclasses.replace(batch, steps_left=steps_left))["value"]
        assert (changed != before) == counts, row
    two = TokenGroup(network(batch)[0].tokens[[0, 3]], torch.ones(2, 1, dtype=torch.bool), "fused")
    kept = dataclasses.replace(batch, steps_left=batch.steps_left[[0, 3]], actions_mask=batch.actions_mask[[0, 3]])
    torch.testing.assert_close(network.value.loss(two, kept), before)
    batch.steps_left[:] = -1
    assert losses(network, batch)["value"] == 0


def test_the_value_is_learned_beside_the_actions_with_its_weight(make_network, make_batch):
    network = make_network(VALUED)
    batch = make_batch(network)
    found = losses(network, batch)
    rest = found["action"] + VALUED.keypoint_weight * found["keypoint"]
    torch.testing.assert_close(found["loss"], rest + 0.5 * found["value"])
    found["value"].backward()
    assert all(p.grad.any() for p in network.value.parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.vision.parameters()), "the encoders learn of it too"
    unknown = losses(network, dataclasses.replace(batch, steps_left=None))
    assert "value" not in unknown
    torch.testing.assert_close(unknown["loss"], rest)


def test_what_is_remembered_counts(make_network, make_batch):
    """The value is read after the memory."""
    network = make_network(dataclasses.replace(VALUED, memory=Part("recurrent"), sequence=2)).eval()
    batch = make_batch(network)
    first = network.predict(batch)
    second = network.predict(dataclasses.replace(batch, memory=first.memory))
    assert first.value.shape == (4,)
    assert ((first.value > 0) & (first.value < 1)).all()
    assert (first.value - second.value).abs().min() > 1e-7
    order = torch.tensor([1, 0, 3, 2])
    moved = dataclasses.replace(
        batch, images=batch.images[order], state=batch.state[order],
        text=dataclasses.replace(batch.text, values=batch.text.values[order], mask=batch.text.mask[order]),
    )  # fmt: skip
    torch.testing.assert_close(network.predict(moved).value, first.value[order])


@pytest.mark.parametrize("vision", ["film_conv", "vit"])
def test_without_it_the_network_is_the_one_it_was(vision, make_network, make_batch):
    config = dataclasses.replace(CONFIG, vision=Part(vision))
    record = {name: value for name, value in config.to_json().items() if not name.startswith("value")}
    assert NetworkConfig.from_json(record) == config
    torch.manual_seed(3)
    plain = make_network(config).eval()
    torch.manual_seed(3)
    valued = make_network(dataclasses.replace(config, value_weight=0.1)).eval()
    added = set(valued.state_dict()) - set(plain.state_dict())
    assert added and all(name.startswith("value.") for name in added)
    batch = make_batch(plain)
    assert torch.equal(plain.predict(batch).actions, valued.predict(batch).actions)
    assert plain.predict(batch).value is None
    assert "value" not in losses(plain, batch)
    assert torch.equal(losses(plain, batch)["loss"], losses(plain, dataclasses.replace(batch, steps_left=None))["loss"])


@pytest.mark.parametrize(("weight", "discount"), [(-1.0, 0.97), (0.1, 1.0), (0.1, 0.0)])
def test_what_no_value_can_be_is_refused(weight, discount):
    with pytest.raises(ConfigError, match=f"a discount between 0 and 1; got {weight:g} and {discount:g}"):
        NetworkConfig(value_weight=weight, value_discount=discount)
