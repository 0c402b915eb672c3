"""An expert that reads the fusion layer by layer, as π0's does."""

import dataclasses

import pytest
import torch
from small_heads import ARM, WIDTH, batch_of, group, inputs

from verbot.errors import ConfigError
from verbot.models.fusion.concat import Concat
from verbot.models.heads.flow_expert import ExpertBlock, FlowExpert, _repeat
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.models.tokens import TokenGroup

LAYERS = 3
EXPERT = Part("flow_expert", {"hidden": 16, "layers": LAYERS, "layerwise": True})
CONCAT = Part("concat", {"hidden": 0, "layers": LAYERS})


def expert(layerwise: bool = True) -> FlowExpert:
    torch.manual_seed(0)
    return FlowExpert(inputs(ARM, count=0), hidden=16, layers=LAYERS, block=ExpertBlock(layerwise=layerwise)).eval()


def layered(rows: int = 2, count: int = 5) -> TokenGroup:
    """Every layer random; the second row's last two tokens are masked."""
    fused = group(rows, count)
    fused.mask[1, 3:] = False
    return dataclasses.replace(fused, layers=tuple(group(rows, count, seed).tokens for seed in range(1, LAYERS + 1)))


def with_layer(fused: TokenGroup, i: int, tokens: torch.Tensor) -> TokenGroup:
    return dataclasses.replace(fused, layers=(*fused.layers[:i], tokens, *fused.layers[i + 1 :]))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_every_layer_is_read_and_what_comes_after_the_last_is_not(layer):
    fused, head = layered(), expert()
    before = head.predict(fused)
    changed = with_layer(fused, layer, fused.layers[layer] + torch.randn(2, 5, WIDTH))
    assert (head.predict(changed) - before).abs().amax((1, 2)).min() > 1e-4
    assert torch.equal(head.predict(dataclasses.replace(fused, tokens=fused.tokens + 1)), before)
    plain = expert(layerwise=False)
    assert torch.equal(plain.predict(changed), plain.predict(fused)), "the other expert reads the last layer alone"


def test_block_i_reads_layer_i():
    fused, head = layered(), expert()
    found: list[torch.Tensor] = []
    for block in head.blocks:
        block.cross.register_forward_pre_hook(lambda _, args: found.append(args[1]))
    head.predict(fused)
    assert len(found) == LAYERS * head.steps
    for i, keys in enumerate(found[:LAYERS]):
        torch.testing.assert_close(keys, head.reads[i](fused.layers[i]))


def test_masked_tokens_of_any_layer_change_nothing():
    fused, head = layered(), expert()
    batch, before = batch_of(torch.randn(2, 3, 7)), head.predict(fused)
    loss = head.losses(fused, batch, torch.Generator().manual_seed(0))["action"]
    for i in range(LAYERS):
        tokens = fused.layers[i].clone()
        tokens[1, 3:] = 100
        fused = with_layer(fused, i, tokens)
    torch.testing.assert_close(head.predict(fused), before)
    torch.testing.assert_close(head.losses(fused, batch, torch.Generator().manual_seed(0))["action"], loss)


def test_the_draws_of_a_row_lie_side_by_side_in_every_layer():
    fused = layered()
    twice = _repeat(fused, 2)
    for one, both in zip((fused.mask, *fused.layers), (twice.mask, *twice.layers), strict=True):
        assert torch.equal(both, one[[0, 0, 1, 1]])
    assert torch.equal(_repeat(dataclasses.replace(fused, layers=None), 2).tokens, fused.tokens[[0, 0, 1, 1]])


def test_concat_gives_out_what_went_into_each_layer(make_network, make_batch):
    network = make_network(NetworkConfig(width=16, chunk=3, fusion=CONCAT)).eval()
    fused = network(make_batch(network)).fused
    fusion = network.backbone.fusion
    assert fusion.gives_layers == len(fused.layers) == LAYERS
    after = [block(x, fused.mask) for block, x in zip(fusion.blocks, fused.layers, strict=True)]
    for made, given in zip(after, fused.layers[1:], strict=False):
        torch.testing.assert_close(made, given)
    torch.testing.assert_close(fusion.norm(after[-1]), fused.tokens)
    one = Concat(network.sizes, {"keypoints": 4, "state": 1, "sentence": 1}, hidden=8)
    assert one.gives_layers == 0


def test_the_words_reach_the_actions_through_the_first_layers_alone(make_network, make_batch):
    """Without the last layer's weights the network acts as before: its expert reads what went into the layers."""
    network = make_network(NetworkConfig(width=16, chunk=3, fusion=CONCAT, head=EXPERT)).eval()
    batch = make_batch(network)
    before = network.predict(batch).actions
    for parameter in [*network.backbone.fusion.blocks[-1].parameters(), *network.backbone.fusion.norm.parameters()]:
        torch.nn.init.zeros_(parameter)
    assert torch.equal(network.predict(batch).actions, before)
    torch.nn.init.zeros_(network.backbone.fusion.blocks[0].feed[3].weight)
    assert not torch.allclose(network.predict(batch).actions, before)


def test_layers_that_nobody_gives_are_refused_before_anything_is_learned(make_network):
    config = NetworkConfig(width=16, chunk=3, fusion=CONCAT, head=EXPERT)
    for fusion, options in (("mlp", {}), ("concat", {}), ("perceiver", {})):
        with pytest.raises(ConfigError, match=f"'flow_expert' reads 3 layers of the fusion; {fusion!r} gives none"):
            make_network(dataclasses.replace(config, fusion=Part(fusion, options)))
    with pytest.raises(ConfigError, match="'flow_expert' reads 3 layers of the fusion; 'concat' gives 2"):
        make_network(dataclasses.replace(config, fusion=Part("concat", {"hidden": 0, "layers": 2})))
    with pytest.raises(ConfigError, match="the memory 'recurrent' comes after"):
        make_network(dataclasses.replace(config, memory=Part("recurrent"), sequence=2))
    with pytest.raises(ConfigError, match="reads at least one layer; it has layers=0"):
        FlowExpert(inputs(ARM, count=0), layers=0, block=ExpertBlock(layerwise=True))


def test_a_group_without_layers_is_refused():
    with pytest.raises(ConfigError, match="head reads 3 layers; it got none"):
        expert().predict(group(1, 4))
    with pytest.raises(ConfigError, match="head reads 3 layers; it got 1"):
        expert().predict(dataclasses.replace(group(1, 4), layers=(group(1, 4).tokens,)))
