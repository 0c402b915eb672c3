"""Every part computes the same losses and gradients where its weights are gathered block by block."""

from __future__ import annotations

import copy

import pytest
import torch

from verbot.models.network import NetworkConfig, Part
from verbot.training.distributed.fsdp import Sharded
from verbot.training.distributed.process_group import ProcessGroup


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.soak
def test_every_part_computes_the_same_when_its_weights_are_shared_out(variant, make_network, make_batch):
    check(make_network(variant), make_batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": Part("concat", {"hidden": 0}), "head": Part("flow_expert", {"hidden": 16, "layerwise": True})},
        {"fusion": Part("cross_attention")},
        {"memory": Part("temporal", {"frames": 3}), "sequence": 4},
    ],
    ids=["layerwise", "cross_attention", "temporal"],
)
def test_blocks_compute_the_same_when_their_weights_are_shared_out(changes, make_network, make_batch):
    check(make_network(NetworkConfig(width=16, chunk=3, **changes)), make_batch)


def check(network, make_batch) -> None:
    network.train()
    batch = make_batch(network)
    shared = copy.deepcopy(network)
    held, found = Sharded(shared, ProcessGroup(0, 1)), []
    for each in (network, shared):
        torch.manual_seed(0)
        losses = each.losses(batch, torch.Generator().manual_seed(0))
        losses["loss"].backward()
        found.append({name: float(value.detach()) for name, value in losses.items()})
    assert found[0] == found[1]
    named = dict(network.named_parameters())
    slopes = [named[name].grad for name in held.layout]
    expected = torch.cat(
        [torch.zeros(named[n].numel()) if g is None else g.flatten() for n, g in zip(held.layout, slopes, strict=True)]
    )
    held.all_reduce(ProcessGroup(0, 1))
    torch.testing.assert_close(held.gradient, expected, rtol=1e-5, atol=1e-7)
