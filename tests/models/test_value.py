"""The value head: what it is trained on, which rows count, and that nothing changes without it."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from verbot.errors import ConfigError
from verbot.models.features import NetworkParts
from verbot.models.network import NetworkConfig
from verbot.models.objectives.value import Value
from verbot.models.registries import Objective, Part
from verbot.models.tokens import Masked, Sizes, TokenGroup

CONFIG = NetworkConfig(width=16, chunk=3, fusion=Part("mlp", {"hidden": 32}))
VALUED = CONFIG.with_objectives(value=0.5)


def left(batch, steps):
    """The batch with so many steps left in each row; −1 where that is unknown."""
    return dataclasses.replace(batch, targets={**batch.targets, "steps_left": Masked(steps, steps >= 0)})


def without(batch):
    return dataclasses.replace(batch, targets={name: x for name, x in batch.targets.items() if name != "steps_left"})


def losses(network, batch):
    return network.losses(batch, torch.Generator().manual_seed(1))


def test_the_loss_is_least_at_the_discounted_success(make_network, make_batch):
    """Binary cross-entropy with a soft target: the best guess is the target itself, and costs its entropy."""
    torch.manual_seed(0)
    parts = NetworkParts(Sizes(8, 2, 16, 16, 4, 3, ()), SimpleNamespace(width=8, count=1), torch.nn.Module())
    head, fused = Value(parts, discount=0.9), TokenGroup(torch.randn(4, 1, 8), torch.ones(4, 1, dtype=torch.bool), "fused")
    batch = left(make_batch(make_network(CONFIG)), torch.tensor([0, 1, 5, 20]))
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


def test_relabeled_rows_and_failures_do_not_train_the_value(make_network, make_batch):
    network = make_network(VALUED)
    batch = make_batch(network)
    batch.actions_mask[1] = False
    batch.targets["steps_left"].mask[2] = False
    batch.actions_mask[3, 1:] = False  # near its end, but its own
    before = losses(network, batch)["value"]
    for row, counts in enumerate((True, False, False, True)):
        steps_left = torch.where(batch.targets["steps_left"].mask, batch.targets["steps_left"].values, -1)
        steps_left[row] = -1 if row == 2 else 90
        changed = losses(network, left(batch, steps_left))["value"]
        assert (changed != before) == counts, row
    two = TokenGroup(network(batch).fused.tokens[[0, 3]], torch.ones(2, 1, dtype=torch.bool), "fused")
    kept = left(dataclasses.replace(batch, actions_mask=batch.actions_mask[[0, 3]]), batch.targets["steps_left"].values[[0, 3]])
    torch.testing.assert_close(network.objectives["value"].loss(two, kept), before)
    batch.targets["steps_left"].mask[:] = False
    assert losses(network, batch)["value"] == 0


def test_the_value_is_learned_beside_the_actions_with_its_weight(make_network, make_batch):
    network = make_network(VALUED)
    batch = make_batch(network)
    found = losses(network, batch)
    rest = found["action"] + found["keypoints"]
    torch.testing.assert_close(found["loss"], rest + 0.5 * found["value"])
    found["value"].backward()
    assert all(p.grad.any() for p in network.objectives["value"].parameters())
    assert any(p.grad is not None and p.grad.any() for p in network.backbone.vision.parameters()), "the encoders learn of it too"
    unknown = losses(network, without(batch))
    assert "value" not in unknown
    torch.testing.assert_close(unknown["loss"], rest)


def test_what_is_remembered_counts(make_network, make_batch):
    """The value is read after the memory."""
    network = make_network(dataclasses.replace(VALUED, memory=Part("recurrent"), sequence=2)).eval()
    batch = make_batch(network)
    first = network.predict(batch)
    second = network.predict(dataclasses.replace(batch, memory=first.memory))
    assert first.extras["value"].values.shape == (4,)
    assert ((first.extras["value"].values > 0) & (first.extras["value"].values < 1)).all()
    assert (first.extras["value"].values - second.extras["value"].values).abs().min() > 1e-7
    order = torch.tensor([1, 0, 3, 2])
    moved = dataclasses.replace(
        batch, images=batch.images[order], state=batch.state[order],
        text=dataclasses.replace(batch.text, values=batch.text.values[order], mask=batch.text.mask[order]),
    )  # fmt: skip
    torch.testing.assert_close(network.predict(moved).extras["value"].values, first.extras["value"].values[order])


@pytest.mark.parametrize("vision", ["film_conv", "vit"])
def test_without_it_the_network_is_the_one_it_was(vision, make_network, make_batch):
    config = dataclasses.replace(CONFIG, vision=Part(vision))
    torch.manual_seed(3)
    plain = make_network(config).eval()
    torch.manual_seed(3)
    valued = make_network(config.with_objectives(value=0.1)).eval()
    added = set(valued.state_dict()) - set(plain.state_dict())
    assert added and all(name.startswith("objectives.value.") for name in added)
    batch = make_batch(plain)
    assert torch.equal(plain.predict(batch).actions, valued.predict(batch).actions)
    assert "value" not in plain.predict(batch).extras
    assert "value" not in losses(plain, batch)
    assert torch.equal(losses(plain, batch)["loss"], losses(plain, without(batch))["loss"])


@pytest.mark.parametrize("discount", [1.0, 0.0])
def test_a_discount_that_cannot_be_is_refused(discount, make_network):
    config = CONFIG.with_objectives(value=Objective(0.1, {"discount": discount}))
    with pytest.raises(ConfigError, match=f"a discount between 0 and 1; got {discount:g}"):
        make_network(config)
