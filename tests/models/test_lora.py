"""Adapters learn, what they stand beside does not, and a saved policy has them in its weights."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from toys import SMALL, toy_config, write_toy

from verbot.data import WindowConfig, Windows, open_dataset
from verbot.errors import ConfigError
from verbot.models.lora import Adapted, LoraConfig, adapt, count, merged
from verbot.models.network import Part
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation
from verbot.training.distributed.optimizer import Optimizer

PARTS = [{}, {"vision": Part("query_conv", {"channels": 4, "features": 8, "heatmaps": 4}), "fusion": Part("concat")}]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return open_dataset(write_toy(tmp_path_factory.mktemp("data") / "toy"))


@pytest.fixture
def policy(recorded, request) -> VLAPolicy:
    network = dataclasses.replace(SMALL, **getattr(request, "param", {}))
    return VLAPolicy.create(network, recorded.spec, recorded.statistics(), [e.instruction for e in recorded])


def loss(policy: VLAPolicy, recorded) -> torch.Tensor:
    windows = Windows(recorded, WindowConfig(history=1, chunk=policy.config.chunk, cameras=("front", "wrist")))
    batch = policy.collate(windows.batch(np.arange(8), np.random.default_rng(0)))
    return policy.network.losses(batch, torch.Generator().manual_seed(0))["loss"]


def learn(policy: VLAPolicy, recorded, steps: int = 3) -> Optimizer:
    optimizer = Optimizer(policy.network, toy_config("any").optimizer)
    for _ in range(steps):
        optimizer.gradient.zero_()
        loss(policy, recorded).backward()
        optimizer.step(0.01)
    return optimizer


def chunk(policy: VLAPolicy) -> np.ndarray:
    policy.network.eval()
    images = {name: np.full((16, 16, 3), 90, np.uint8) for name in ("front", "wrist")}
    return policy.predict([Observation(images, np.full(4, 0.2, np.float32), "touch the red cube")])[0].values


def adapters(policy: VLAPolicy) -> dict[str, Adapted]:
    return {name: module for name, module in policy.network.named_modules() if isinstance(module, Adapted)}


@pytest.mark.parametrize("policy", PARTS, indirect=True)
def test_nothing_is_added_at_first_and_the_names_stay(policy):
    before, names, actions = (
        {k: v.clone() for k, v in policy.network.state_dict().items()},
        list(policy.network.state_dict()),
        chunk(policy),
    )
    adapt(policy.network, LoraConfig(rank=2))
    after = merged(policy.network)
    assert sorted(after) == sorted(names)
    assert all(torch.equal(before[name], after[name]) for name in names)
    np.testing.assert_allclose(chunk(policy), actions, rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", PARTS, indirect=True)
def test_gradients_reach_every_adapter(policy, recorded):
    adapt(policy.network, LoraConfig(rank=2))
    with torch.no_grad():
        for layer in adapters(policy).values():
            layer.up.normal_(std=0.1)
    loss(policy, recorded).backward()
    assert len(adapters(policy)) > 4
    for name, layer in adapters(policy).items():
        assert layer.down.grad is not None and layer.down.grad.abs().sum() > 0, name
        assert layer.up.grad is not None and layer.up.grad.abs().sum() > 0, name
        assert layer.base.weight.grad is None


@pytest.mark.parametrize("policy", PARTS, indirect=True)
def test_what_is_frozen_stays_to_the_bit_while_the_rest_learns(policy, recorded):
    adapt(policy.network, LoraConfig(rank=2))
    before = {name: p.detach().clone() for name, p in policy.network.named_parameters()}
    first = loss(policy, recorded).item()
    learn(policy, recorded, 10)
    for name, parameter in policy.network.named_parameters():
        learned = name.endswith((".down", ".up")) or name.startswith("head.")
        assert torch.equal(parameter, before[name]) != learned, name
    assert loss(policy, recorded).item() < first


@pytest.mark.parametrize("policy", PARTS, indirect=True)
def test_a_saved_policy_has_its_adapters_in_its_weights(policy, recorded, tmp_path):
    adapt(policy.network, LoraConfig(rank=2, train=()))
    optimizer = learn(policy, recorded)
    with optimizer.averaged():
        policy.save(tmp_path / "average")
        average = chunk(policy)
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert not adapters(again)
    assert sum(p.numel() for p in again.network.parameters()) == count(policy.network)[1]
    np.testing.assert_allclose(chunk(again), chunk(policy), rtol=0, atol=1e-5)
    np.testing.assert_allclose(chunk(load_policy(tmp_path / "average")), average, rtol=0, atol=1e-5)
    assert np.abs(chunk(again) - average).max() > 1e-5


def test_an_adapter_is_the_formula():
    """W x + b + alpha / r · B A x."""
    layer = Adapted(nn.Linear(5, 4), rank=2, alpha=6.0)
    nn.init.normal_(layer.up)
    x = torch.randn(3, 5)
    with torch.no_grad():
        expected = layer.base(x) + 3.0 * (x @ layer.down.T) @ layer.up.T
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"groups": 2, "bias": False}, {"padding_mode": "circular"}])
def test_an_adapter_of_a_convolution_is_the_formula(options):
    """W * x + b + alpha / r · B * (A * x), with A a convolution of the same kernel, stride and padding, B one of 1×1."""
    base = nn.Conv2d(4, 6, 3, **options)
    layer = Adapted(base, rank=2, alpha=6.0)
    nn.init.normal_(layer.up)
    x = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        before = base(x)
        if base.groups == 1:
            down = nn.Conv2d(4, 2, 3, bias=False, **options)
            down.weight.copy_(layer.down.view(2, 4, 3, 3))
            added = torch.einsum("or,brhw->bohw", layer.up, down(x))
        else:  # each group reads its own inputs with the same A
            halves = [
                torch.einsum("ri,bihw->brhw", layer.down, F.unfold(part, 3).unflatten(-1, (6, 6))) for part in x.chunk(2, 1)
            ]
            ups = layer.up.chunk(2)
            added = torch.cat([torch.einsum("or,brhw->bohw", up, half) for up, half in zip(ups, halves, strict=True)], 1)
        np.testing.assert_allclose(layer(x), before + 3.0 * added, rtol=1e-4, atol=1e-4)
        assert layer.weight.shape == base.weight.shape


@pytest.mark.parametrize("policy", PARTS[1:], indirect=True)
def test_convolutions_are_adapted_where_that_is_asked_for(policy, recorded, tmp_path):
    before, actions = {k: v.clone() for k, v in policy.network.state_dict().items()}, chunk(policy)
    adapt(policy.network, LoraConfig(rank=2, convolutions=True))
    convolutions = {name for name, layer in adapters(policy).items() if isinstance(layer.base, nn.Conv2d)}
    assert convolutions and all(name.startswith("vision.trunks.") for name in convolutions)
    assert not [
        n
        for n, p in policy.network.named_parameters()
        if n.startswith("vision.trunks.") and n.endswith("weight") and p.requires_grad
    ]
    np.testing.assert_allclose(chunk(policy), actions, rtol=0, atol=1e-6)
    first = loss(policy, recorded).item()
    learn(policy, recorded, 10)
    assert loss(policy, recorded).item() < first
    policy.save(tmp_path / "policy")
    after = load_policy(tmp_path / "policy").network.state_dict()
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in before.items()}
    for name in convolutions:
        added = (after[f"{name}.weight"] - before[f"{name}.weight"]).flatten(1)
        assert 1 <= torch.linalg.matrix_rank(added, rtol=1e-4) <= 2, name
        assert torch.equal(after[f"{name}.bias"], before[f"{name}.bias"])
    np.testing.assert_allclose(chunk(load_policy(tmp_path / "policy")), chunk(policy), rtol=0, atol=1e-5)


def test_factors_learn_at_the_rate_of_their_weight():
    slow, usual = nn.Linear(5, 4), nn.Linear(4, 4)
    slow.weight.lr_scale = 0.1
    network = nn.Sequential(slow, usual)
    adapt(network, LoraConfig(rank=2, train=()))
    assert [getattr(network[i].down, "lr_scale", 1.0) for i in range(2)] == [0.1, 1.0]
    assert network[0].up.lr_scale == 0.1


def test_patterns_choose_what_is_adapted_and_what_is_trained_in_full(policy):
    adapt(policy.network, LoraConfig(rank=2, adapt=("fusion.*",), train=("vision.*", "head.*")))
    assert adapters(policy) and all(name.startswith("fusion.") for name in adapters(policy))
    trained = {name.partition(".")[0] for name, p in policy.network.named_parameters() if p.requires_grad}
    assert trained == {"fusion", "vision", "head"}
    expected = sum(p.numel() for p in policy.network.parameters() if p.requires_grad)
    assert count(policy.network)[0] == expected


def test_the_head_is_adapted_where_nothing_is_trained_in_full(policy):
    adapt(policy.network, LoraConfig(rank=2, train=()))
    assert any(name.startswith("head.") for name in adapters(policy))
    assert all(name.endswith((".down", ".up")) for name, p in policy.network.named_parameters() if p.requires_grad)


def test_what_was_frozen_before_is_neither_adapted_nor_trained(policy):
    policy.network.backbone.state.requires_grad_(False)
    adapt(policy.network, LoraConfig(rank=2))
    assert not [name for name in adapters(policy) if name.startswith("state.")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train": ("haed.*",)}, r"lora\.train has 'haed\.\*', which matches no trainable parameter; the network's parts are fu"),
        ({"adapt": ("vison.*",)}, r"lora\.adapt has 'vison\.\*', which matches no linear layer .* there are fusion\."),
        ({"train": ("*",)}, r"lora\.adapt has '\*', which matches no linear layer .* there are none"),
    ],
)  # fmt: skip
def test_patterns_that_fit_nothing_say_what_there_is(policy, config, message):
    with pytest.raises(ConfigError, match=message):
        adapt(policy.network, LoraConfig(**config))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}])
def test_sizes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match="lora needs a rank of at least 1 and an alpha above 0"):
        LoraConfig(**wrong)
