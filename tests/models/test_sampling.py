"""Heads draw actions from their distributions: by a seed of each row, whatever the other rows are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from networks import BASE, NEEDED, SPEAKING, SPEAKS, SPEC, TEXTS, draw_batch

from verbot.errors import ConfigError
from verbot.models.network import VLANetwork
from verbot.models.registries import Part, heads
from verbot.models.stochastic import categorical
from verbot.spec import Component

MOVE = Component("move", "position_delta", ("x", "y", "z"), "m", "base", (-0.1,) * 3, (0.1,) * 3)
GRIP = Component("grip", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,))
HAND = dataclasses.replace(SPEC, action=(MOVE, GRIP))
WAYS = dataclasses.replace(SPEC, action=(Component("way", "discrete", ("way",), "1", "base", (0.0,), (4.0,)),))
WITHOUT = ("latent",)  # heads that predict one chunk and no distribution


def network(name: str, spec=HAND) -> VLANetwork:
    torch.manual_seed(0)
    base = BASE.with_objectives(task_classification=0.1) if name == "multi_task" else BASE
    base = dataclasses.replace(base, backbone=SPEAKS) if name in SPEAKING else base
    config = dataclasses.replace(base, head=Part(name, NEEDED.get(name, {})))
    found = VLANetwork(config.fit(list(TEXTS), torch.randn(200, 3, spec.action_size).numpy()), spec).eval()
    with torch.no_grad():
        for parameter in found.head.parameters():  # heads begin near zero, where all draws are alike
            parameter.add_(0.3 * torch.randn_like(parameter))
    return found


@pytest.mark.parametrize("name", [name for name in heads.names() if name not in WITHOUT])
def test_a_row_is_drawn_by_its_own_seed(name):
    """Kills the mutations in which a seed is ignored, is shared by the rows, or draws where there is none."""
    net = network(name)
    batch = draw_batch(net)
    drawn = net.predict(batch, seeds=[3, 4, None, 3]).actions
    assert torch.equal(drawn, net.predict(batch, seeds=[3, 4, None, 3]).actions)
    assert torch.allclose(drawn[2], net.predict(batch).actions[2], atol=1e-4), "without a seed it is the prediction"
    changed = net.predict(batch, seeds=[3, 5, 6, 9]).actions
    assert torch.equal(drawn[0], changed[0]), "whatever the other rows' seeds are"
    if name != "sequence":  # two of its codes may be the same
        assert not torch.equal(drawn[1], changed[1]) and not torch.equal(drawn[3], changed[3])
    same = [net.predict(batch, seeds=[seed] * 4).actions[0] for seed in range(12)]
    assert len({tuple(actions.flatten().tolist()) for actions in same}) > 1


def test_classes_are_drawn_with_their_probabilities():
    net = network("regression", WAYS)
    batch = draw_batch(net, rows=1)
    ways = [int(net.predict(batch, seeds=[seed]).actions[0, 0, 0]) for seed in range(600)]
    with torch.no_grad():
        chances = net.head(net(batch).fused)[0, 0].softmax(-1)
    shares = torch.bincount(torch.tensor(ways), minlength=5) / len(ways)
    assert torch.allclose(shares, chances, atol=0.07), f"{shares} drawn, {chances} expected"
    assert int(net.predict(batch).actions[0, 0, 0]) == int(chances.argmax())


def test_a_head_without_a_distribution_says_so():
    net = network("latent")
    with pytest.raises(ConfigError, match="head 'latent' has no distribution to sample actions from"):
        net.predict(draw_batch(net), seeds=[1, 2, 3, 4])


def test_indices_have_the_shape_of_their_probabilities():
    chances = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(3, 2, 2)
    assert categorical(chances, torch.Generator()).tolist() == [[1, 0]] * 3
