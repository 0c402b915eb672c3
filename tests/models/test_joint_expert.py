"""The flow expert that attends to a language trunk's keys and values and to its own actions in one softmax (π0)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from networks import SPEC, draw_batch
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import Objective, Part
from verbot.models.trunks.decoder import DecoderBlock, rotary, rotated

TEXTS = ["pick the red cube", "push the green ball to the left", "put the small blue cup into the bowl please"]
TRUNK = {"name": "tiny", "options": {"width": 32, "layers": 3, "heads": 4, "key_heads": 2, "tokens": 300, "reserved": 8}}
HEAD = {"hidden": 16, "layers": 3, "heads": 4, "joint": True, "steps": 4}


def network(trunk: Any = TRUNK, vlm: Any = None, **head: Any) -> VLANetwork:
    backbone = Part("vlm", {"trunk": trunk, "order": ["text", "keypoints", "state"], **(vlm or {})})
    config = NetworkConfig(
        backbone, head=Part("flow_expert", {**HEAD, **head}), width=16, chunk=3, objectives={"action": Objective()}
    )
    torch.manual_seed(0)
    return VLANetwork(config.fit(TEXTS), SPEC).eval()


def batch_for(made: VLANetwork) -> Any:
    return dataclasses.replace(draw_batch(made, len(TEXTS)), text=made.backbone.prepare(TEXTS))


def together(block: DecoderBlock, x: Tensor, rotation: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (b, heads, n, h) of tokens with the weights of `block`."""
    part, normed = block.self_attn, block.input_layernorm(x)
    q, k, v = (
        layer(normed).unflatten(-1, (-1, part.head_width)).transpose(1, 2) for layer in (part.q_proj, part.k_proj, part.v_proj)
    )
    k, v = (each.repeat_interleave(part.share, 1) for each in (rotated(k, rotation), v))
    return rotated(q, rotation), k, v


def joint(made: VLANetwork, prefix: Any, actions: Tensor) -> Tensor:
    """The hidden states of the expert by one attention over [prefix; actions] in each layer: two sets of weights, one softmax."""
    trunk, expert = made.backbone.trunk.decoder, made.head.expert.decoder
    n, k = prefix.x.shape[1], actions.shape[1]
    mask = torch.cat([prefix.mask, prefix.mask.new_ones(len(actions), k)], 1)
    is_action = torch.arange(n + k) >= n
    allowed = mask[:, None, :] & (~is_action[None, :] | is_action[:, None])  # no token of the prefix reads an action
    turns = rotary((mask.cumsum(1) - 1).clamp(min=0), trunk.config.head_width, trunk.config.theta, None, torch.float32)
    both = [(prefix.x, tuple(t[:, :, :n] for t in turns)), (actions, tuple(t[:, :, n:] for t in turns))]
    streams = [prefix.x, actions]
    for blocks in zip(trunk.layers, expert.layers, strict=True):
        parts = [together(block, x, turn) for block, x, (_, turn) in zip(blocks, streams, both, strict=True)]
        q, keys, values = (torch.cat(each, 2) for each in zip(*parts, strict=True))
        scores = (q @ keys.mT / q.shape[-1] ** 0.5).masked_fill(~allowed[:, None], -torch.inf)
        read = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2).split([n, k], 1)
        for i, (block, each) in enumerate(zip(blocks, read, strict=True)):
            x = streams[i] + block.self_attn.o_proj(each)
            streams[i] = x + block.mlp(block.post_attention_layernorm(x))
    return expert.norm(streams[1])


def test_the_expert_computes_one_attention_over_prefix_and_actions() -> None:
    made = network()
    batch = batch_for(made)
    actions = torch.randn(len(TEXTS), 3, 16)
    with torch.no_grad():
        features = made(batch)
        condition = made.head.condition(features.fused)
        expected = joint(made, features.prefix, actions)
        found = made.head.expert(actions, condition)
    assert not features.fused.mask.all(), "sentences of several lengths are padded"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    other = condition.cache.changed(lambda x: x + 0.1 * torch.randn_like(x))
    assert (made.head.expert(actions, dataclasses.replace(condition, cache=other)) - found).abs().max() > 1e-3
    moved = actions.clone()
    moved[:, 2] += 1
    assert (made.head.expert(moved, condition)[:, 0] - found[:, 0]).abs().max() > 1e-4, "an action attends to later ones too"


def test_the_trunk_runs_once_in_a_prediction_and_the_expert_in_each_step() -> None:
    made, counts = network(), {"trunk": 0, "expert": 0}
    for name, module in (("trunk", made.backbone.trunk.decoder), ("expert", made.head.expert.decoder)):
        module.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    made.predict(batch_for(made))
    assert counts == {"trunk": 1, "expert": 4}


def test_a_longer_sentence_in_the_batch_changes_nothing() -> None:
    made = network()
    batch = batch_for(made)
    alone = dataclasses.replace(
        batch, **{name: getattr(batch, name)[:1] for name in ("images", "images_mask", "state", "state_mask")},
        text=made.backbone.prepare(TEXTS[:1]), actions=None, actions_mask=None, targets={}, grounding_queries=None, captions=None,
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(made.predict(batch).actions[:1], made.predict(alone).actions, rtol=0, atol=1e-5)


@pytest.mark.parametrize("insulated", [False, True])
def test_the_loss_reaches_the_trunk_unless_the_expert_is_insulated(insulated: bool) -> None:
    made = network(insulated=insulated).train()
    losses = made.losses(batch_for(made), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    trained = [p.grad is not None and bool(p.grad.abs().sum()) for p in made.backbone.trunk.decoder.layers[0].parameters()]
    assert any(trained) is not insulated
    expert = {name for name, p in made.head.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert not expert, f"without a gradient: {expert}"


def test_an_expert_whose_attention_does_not_fit_the_trunk_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 heads and 3 layers, and the language trunk 4 and 3; set head.heads=4 and head.lay"):
        network(heads=2)
    with pytest.raises(ConfigError, match="4 heads and 2 layers"):
        network(layers=2)
    with pytest.raises(ConfigError, match="use the backbone 'vlm', with readouts=0"):
        network(vlm={"readouts": 2})
    with pytest.raises(ConfigError, match="not both"):
        network(layerwise=True)
    made = network()
    with pytest.raises(ConfigError, match="the fused tokens have none"):
        made.head.predict(dataclasses.replace(made(batch_for(made)).fused, cache=None))


def test_planned_actions_are_continued() -> None:
    from verbot.models.tokens import PlannedActions

    made = network()
    batch = batch_for(made)
    values = torch.randn(len(TEXTS), 3, made.sizes.action_size)
    planned = PlannedActions(values, torch.tensor([3, 2, 0]), torch.tensor([1, 1, 0]))
    with torch.inference_mode():
        plain, continued = made.predict(batch).actions, made.predict(dataclasses.replace(batch, planned=planned)).actions
    assert (plain - continued).abs()[:2].amax((1, 2)).min() > 1e-3
    torch.testing.assert_close(plain[2], continued[2])
