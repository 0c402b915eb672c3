"""Gradient checkpointing: the same gradients, to the bit, from fewer kept activations."""

from __future__ import annotations

import torch
from torch import nn
from toys import PLAIN, toy_config

from verbot.models.network import VLANetwork
from verbot.training import train_policy
from verbot.training.imitation.recompute import recomputed, repeated_layers


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 16)) for _ in range(4)
        )

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return x.square().mean()


def kept_and_gradients(network, enabled, x):
    """How many numbers the graph keeps for the backward pass beside the weights, and the gradients."""
    weights, kept = {p.data_ptr() for p in network.parameters()}, {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    network.zero_grad()
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), recomputed(network, enabled):
        loss = network(x)
    before = sum(kept.values())
    loss.backward()
    return before, [p.grad.clone() for p in network.parameters()]


def test_gradients_are_the_same_to_the_bit_and_less_is_kept():
    torch.manual_seed(0)
    network, x = Toy().train(), torch.randn(32, 8)
    (plain, genuine), (less, again) = (kept_and_gradients(network, enabled, x) for enabled in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(genuine, again, strict=True))
    assert less < plain / 2
    assert not any("forward" in vars(block) for block in network.blocks)  # nothing is left behind


def test_layers_inside_another_are_not_taken_twice():
    inner = nn.ModuleList([nn.Linear(2, 2)])
    outer = nn.ModuleList([nn.ModuleDict({"inner": inner})])
    assert repeated_layers(nn.ModuleDict({"outer": outer})) == [outer[0]]


def test_a_run_with_checkpointing_learns_the_same_weights(toy, tmp_path, monkeypatch):
    calls, genuine = [], VLANetwork.losses

    def watched(self, batch, generator=None):
        calls.append(any("forward" in vars(layer) for layer in repeated_layers(self)))
        return genuine(self, batch, generator)

    monkeypatch.setattr(VLANetwork, "losses", watched)
    found = []
    for enabled in (False, True):
        config = toy_config(toy, steps=2, augment=PLAIN, checkpointing=enabled)
        found.append(train_policy(config, tmp_path / str(enabled), progress=False).policy)
    assert True in calls and False in calls
    first, second = ((folder / "weights.safetensors").read_bytes() for folder in map(type(tmp_path), found))
    assert first == second
