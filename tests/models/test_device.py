"""No part makes a tensor on the CPU where its network is elsewhere."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from one_device import OneDevice, Recorded
from verbot.models.action_space import normal
from verbot.models.tokens import GoalQueries, Masked, TokenGroup


def everything(network, batch):
    """Losses with their gradients, and both kinds of prediction."""
    found = network.train().losses(batch, torch.Generator().manual_seed(0))
    found["loss"].backward()
    network.eval()
    with torch.inference_mode():
        sampled = network.predict(batch, torch.Generator().manual_seed(0))
        predicted = network.predict(batch)
    slopes = [p.grad for p in network.parameters() if p.grad is not None]
    return [
        *found.values(),
        *slopes,
        sampled.actions,
        predicted.actions,
        *(x.values for x in predicted.extras.values()),
        *(predicted.memory or {}).values(),
    ]


def test_a_network_elsewhere_computes_there(variant, make_network, make_batch):
    if variant.head.name == "fast":
        pytest.skip("its tokens are made on the CPU, by numpy")
    network = make_network(variant)
    batch = make_batch(network)
    rows, places = torch.tensor([0, 3]), torch.rand(2, 2, 3, 2)
    text = network.backbone.prepare(["put the green box to the left", "stop"])
    queries = GoalQueries(rows, text, Masked(places, torch.ones(2, 2, 3, dtype=torch.bool)))
    batch = dataclasses.replace(batch, grounding_queries=queries)
    with Recorded() as read:
        here = everything(network, batch)
    network.zero_grad()
    network, batch = network.to("meta"), batch.to("meta")
    with OneDevice(read.values):
        there = everything(network, batch)
    assert {x.device.type for x in there} == {"meta"}
    assert [x.shape for x in there] == [x.shape for x in here]


def test_the_guard_sees_what_a_gpu_would_refuse():
    here, there = torch.ones(3), torch.ones(3, device="meta")
    with OneDevice():
        with pytest.raises(RuntimeError, match=r"add was given tensors on \['cpu', 'meta'\]"):
            there + here
        with pytest.raises(RuntimeError, match="tensors on"):
            torch.cat([there, here])
        with pytest.raises(RuntimeError, match="randn draws on meta from a generator on cpu"):
            torch.randn(3, generator=torch.Generator(), device="meta")
        assert (there * torch.tensor(2.0)).device.type == "meta"


def test_noise_is_a_function_of_the_seed_wherever_it_goes():
    """The bits that a draw on the CPU always gave."""
    found = normal((2, 3), torch.Generator().manual_seed(4), torch.device("cpu"))
    assert torch.equal(found, torch.randn((2, 3), generator=torch.Generator().manual_seed(4)))
    assert normal((2, 3), torch.Generator(), torch.device("meta")).device.type == "meta"


def test_a_group_of_tokens_has_no_device_of_its_own():
    group = TokenGroup(torch.ones(1, 2, 3, device="meta"), torch.ones(1, 2, dtype=torch.bool, device="meta"), "words")
    with OneDevice():
        assert group.mean().device.type == "meta"
