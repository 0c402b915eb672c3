"""The connections of each recipe's parts in the built network, by gradients and ablations."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_networks import (
    TEXTS,
    actions,
    all_reached,
    differs,
    fused,
    learned,
    looked,
    reached,
    ready,
    sentences,
    with_sentences,
    zeroed,
)

from verbot.agents import EnsembleAgent
from verbot.contracts import TextTask
from verbot.evaluation.protocol.run import _agents
from verbot.models.layers.attention_maps import watch_attention, watch_groups
from verbot.models.layers.transformer import observation_groups, text_groups
from verbot.models.speaking import text_targets
from verbot.recipes.config import resolve

LEFT, RIGHT = "push the green ball to the left", "pick up the red cube"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# Language that scales and shifts vision


def test_film_policy_scales_and_shifts_what_is_seen_by_the_sentence():
    """Kills: film-policy without FiLM, in its vision or in its fusion."""
    network, batch = ready("film-policy")
    one, other = sentences(network)
    vision = network.backbone.vision.film
    with torch.no_grad():
        first, second = looked(network, batch, one), looked(network, batch, other)
        for name in ("tokens", "points", "heatmaps"):
            assert differs(getattr(first, name), getattr(second, name)), name
        with zeroed(vision.weight):
            assert torch.equal(looked(network, batch, one).tokens, looked(network, batch, other).tokens), "no other way in"
        late = network.backbone.fusion.film
        groups = [*network.backbone.encode_images(batch, one)[0], network.backbone.encode_state(batch.state, batch.state_mask)]
        places = sum(group.tokens.shape[1] for group in groups)

        def fuse(said):
            sentence = dataclasses.replace(groups[-1], tokens=said.unsqueeze(1), mask=groups[-1].mask[:, :1], kind="sentence")
            return network.backbone.fusion([sentence, *groups]).tokens[:, :places]

        assert differs(fuse(one), fuse(other))
        with zeroed(late.weight):
            assert torch.equal(fuse(one), fuse(other))
    learned(network, batch)
    assert (vision.weight.grad.unflatten(0, (network.sizes.views, -1)).abs().amax((1, 2)) > 0).all(), "of every view"
    blocks = late.weight.grad.chunk(2 * len(network.backbone.fusion.rise))
    assert len(blocks) == 4
    assert all(block.any() for block in blocks), "a scale and a shift of both blocks"


def test_rt1_steers_its_convolutions_and_looks_back_in_time():
    """Kills: rt1 without FiLM, without a past, without TokenLearner; bins that are not RT-1's."""
    network, batch = ready("rt1")
    learned(network, batch)
    film = network.backbone.vision.film
    scale, shift = film.weight.grad.chunk(2)
    channels = network.backbone.vision.tower.channels
    for half in (scale, shift):
        assert all(part.any() for part in half.split(channels)), "after every block"
    one, other = sentences(network)
    features = [network.backbone.vision._encode(batch.images[:, -1].float() / 127.5 - 1, said) for said in (one, other)]
    assert torch.equal(*features), "FiLM begins at nothing"
    torch.nn.init.normal_(film.weight, std=0.1)
    features = [network.backbone.vision._encode(batch.images[:, -1].float() / 127.5 - 1, said) for said in (one, other)]
    assert differs(*features)
    assert network.backbone.fusion.learn.weigh[-1].out_features == 8
    assert all_reached(network.backbone.fusion.learn)
    assert all_reached(network.backbone.fusion.blocks)
    before = batch.images.clone()
    before[:, 0] = 255 - before[:, 0]
    assert differs(fused(network, batch), fused(network, dataclasses.replace(batch, images=before))), "the frame before is read"
    binning = network.head.binning
    assert binning.edges.shape[1] == 256
    torch.testing.assert_close(binning.values.double(), binning.edges, rtol=1e-5, atol=1e-6), "a bin is read as its lower edge"


# A transformer and what it joins


def test_act_ensembles_chunks_and_learns_their_style():
    """Kills: act without ensembling, without the encoder of the style, or reading less than the whole sequence."""
    agent = _agents(resolve("act").evaluation)(None)
    assert isinstance(agent, EnsembleAgent)
    assert agent._decay == 0.01
    network, batch = ready("act")
    head = network.head
    losses = learned(network, batch)
    assert losses["kl"] > 0
    for part in (head.encoder, head.posterior, head.action, head.style, head.decoder):
        assert all_reached(part)
    group = network(batch).fused
    assert group.tokens.shape[1] > 2 * 64, "every place of both cameras is a token"
    tokens = group.tokens.detach().requires_grad_()
    z = torch.zeros(len(tokens), head.latent)
    head.decode(dataclasses.replace(group, tokens=tokens), z).square().sum().backward()
    assert (tokens.grad.abs().sum(-1) > 0)[group.mask].all(), "every token is attended to"
    with torch.no_grad():
        assert differs(head.decode(group, z), head.decode(group, z + 1))
    assert actions(network, batch).shape[1] == 20


def test_vit_vla_joins_patches_words_and_state_in_one_sequence():
    """Kills: vit-vla without its patches, or without attention over its sequence."""
    network, batch = ready("vit-vla")
    with watch_groups(network.backbone.fusion) as given, watch_attention(network.backbone.fusion) as weights:
        fused(network, batch)
    (groups,) = given
    assert [group.kind for group in groups] == ["words", "sentence", "keypoints", "patches", "state"]
    assert next(g for g in groups if g.kind == "patches").tokens.shape[1] == 2 * (64 + 1)
    length = sum(group.tokens.shape[1] for group in groups)
    for i in range(2):
        (watched,) = weights[f"blocks.{i}.attention"]
        assert watched.shape[2:] == (length, length)
    learned(network, batch)
    assert len(network.backbone.vision.blocks) == 3
    for part in (
        network.backbone.vision.blocks,
        network.backbone.fusion.blocks,
        network.backbone.fusion.pool,
        network.backbone.fusion.marks,
    ):
        assert all_reached(part)


def test_pi0_has_an_expert_that_reads_the_fusion_layer_by_layer():
    """Kills: pi0 not layerwise, and without its overview."""
    network, batch = ready("pi0")
    head, fusion = network.head, network.backbone.fusion
    assert len(head.blocks) == len(fusion.blocks) == head.reads_layers == 3
    group = network(batch).fused
    layers = tuple(x.detach().requires_grad_() for x in group.layers)
    last = group.tokens.detach().requires_grad_()
    head.losses(dataclasses.replace(group, tokens=last, layers=layers), batch, torch.Generator().manual_seed(0))[
        "action"
    ].backward()
    for layer in layers:
        assert (layer.grad.abs().amax((1, 2)) > 0).all(), "each layer is read by itself"
    assert last.grad is None, "not what comes after the last"
    learned(network, batch)
    assert [reached(block) for block in fusion.blocks] == [True, True, False]
    assert all_reached(head.reads)
    with watch_attention(head) as weights:
        actions(network, batch)
    calls = [len(weights[f"blocks.{i}.cross"]) for i in range(3)]
    assert calls == [10] * 3, "ten steps of the integration"
    assert fusion.overview.count == 4
    assert all_reached(fusion.overview)
    one = weights["blocks.0.cross"][0].shape
    assert one[2:] == (10, group.tokens.shape[1]), "ten actions attend to all tokens, the overview's among them"


def test_the_expert_of_pi0_lm_attends_to_the_keys_and_values_of_each_layer_of_its_trunk():
    """Kills: pi0-lm whose expert reads hidden states, or not every layer."""
    network, batch = ready("pi0-lm")
    group = network(batch).fused
    leaves = group.cache.changed(lambda x: x.detach().requires_grad_())
    last = group.tokens.detach().requires_grad_()
    head, generator = network.head, torch.Generator().manual_seed(0)
    head.losses(dataclasses.replace(group, tokens=last, layers=None, cache=leaves), batch, generator)["action"].backward()
    assert len(leaves.keys) == len(head.expert.decoder.layers) == 3
    for pair in zip(leaves.keys, leaves.values, strict=True):
        assert all((each.grad.abs().amax((1, 2, 3)) > 0).all() for each in pair)
    assert last.grad is None, "not what comes after the last"
    learned(network, batch)
    assert all_reached(head.expert)
    assert not reached(network.backbone.trunk.decoder.layers[2].mlp) and reached(network.backbone.trunk.decoder.layers[1].mlp)
    texts = actions(network, with_sentences(batch, network, LEFT)), actions(network, with_sentences(batch, network, RIGHT))
    assert differs(*texts)


def test_oft_reads_one_placeholder_for_each_number_in_one_pass():
    """Kills: oft without its placeholders, or with a causal mask among them."""
    network, batch = ready("oft")
    group = network(batch).fused
    assert group.tokens.shape[1] == 70 == network.backbone.fusion.readouts.shape[0]
    calls = []
    network.backbone.trunk.decoder.register_forward_hook(lambda *_: calls.append(1))
    before = actions(network, batch)
    assert len(calls) == 1
    changed = dataclasses.replace(group, tokens=group.tokens.clone())
    changed.tokens[:, 7:14] *= torch.linspace(-1, 1, 7)[:, None]  # of the second action
    with torch.no_grad():
        apart = (network.head.predict(changed) - network.head.predict(group)).abs().amax((0, 2))
    assert apart[1] > 1e-4 and (apart[[0, *range(2, 10)]] == 0).all()
    with torch.no_grad():
        network.backbone.fusion.readouts[69] += 1
    assert differs(actions(network, batch)[:, :1], before[:, :1]), "the first action reads the last placeholder"
    learned(network, batch)
    assert all_reached(network.head) and network.backbone.fusion.readouts.grad.abs().amax(1).min() > 0


def test_octo_has_readouts_a_diffusion_head_a_past_and_goals_in_pictures():
    """Kills: octo without goal, readout, past, noise or stem."""
    network, batch = ready("octo")
    learned(network, batch)
    for part in (network.backbone.goal, network.backbone.vision.stem, network.backbone.fusion.blocks, network.head.denoiser):
        assert all_reached(part)
    assert network.backbone.fusion.readouts.grad.any()
    assert len(network.backbone.vision.stem) == 2
    assert (len(network.head.alphas), network.head.steps, network.head.shape[0]) == (20, 20, 4)
    shown = actions(network, batch)
    assert differs(shown, actions(network, dataclasses.replace(batch, goal=255 - batch.goal)))
    hidden = dataclasses.replace(batch, goal_mask=torch.zeros_like(batch.goal_mask))
    assert torch.equal(actions(network, hidden), actions(network, dataclasses.replace(hidden, goal=255 - batch.goal)))
    before = batch.images.clone()
    before[:, 0] = 255 - before[:, 0]
    assert differs(shown, actions(network, dataclasses.replace(batch, images=before))), "the frame before is read"
    with torch.no_grad():
        others = network.predict(batch, torch.Generator().manual_seed(1)).actions
    assert differs(shown, others), "each sample begins at a noise of its own"
    with watch_attention(network.backbone.fusion) as weights:
        fused(network, batch)
    (watched,) = weights["blocks.0.attention"]
    assert (watched[:, :, :-1, -1] == 0).all(), "nothing reads the readout"
    assert (watched[:, :, -1, -1] > 0).all()


def test_resnet_bert_attends_from_words_to_places_and_tells_a_value():
    """Kills: resnet-bert without its value head, or without cross-attention."""
    network, batch = ready("resnet-bert")
    assert type(network.backbone.vision.tower.model).__name__ == "ResNetModel"
    assert network.backbone.language.frozen.depth == 6
    with watch_groups(network.backbone.fusion) as given, watch_attention(network.backbone.fusion) as weights, torch.no_grad():
        prediction = network.predict(batch)
    count = {
        kind: sum(g.tokens.shape[1] for g in pick(given[0]))
        for kind, pick in (("text", text_groups), ("seen", observation_groups))
    }
    for i in range(2):
        assert weights[f"look.{i}.attention"][0].shape[2:] == (count["text"], count["seen"])
        assert weights[f"talk.{i}.attention"][0].shape[2:] == (count["text"], count["text"])
    value = prediction.extras["value"].values
    assert value.shape == (4,)
    assert ((value > 0) & (value < 1)).all()
    with torch.no_grad():
        other = network.predict(dataclasses.replace(batch, images=255 - batch.images)).extras["value"].values
        assert (other != value).all()
        with zeroed(*(p for block in network.backbone.fusion.look for p in block.attention.out.parameters())):
            assert differs(network.predict(batch).actions, prediction.actions)
    losses = learned(network, batch)
    assert losses["value"] > 0
    for part in (
        network.objectives["value"],
        network.backbone.fusion.look,
        network.backbone.fusion.talk,
        network.backbone.vision.tower,
    ):
        assert all_reached(part)


def test_clip_clip_has_two_towers_and_embeddings_of_tasks():
    """Kills: clip-clip without its text tower, or without its embeddings of tasks."""
    network, batch = ready("clip-clip")
    text = network.backbone.language.model
    assert type(text).__name__ == "CLIPTextModel"
    assert type(network.backbone.vision.tower.model).__name__ == "CLIPVisionModel"
    learned(network, batch)
    assert all_reached(text)
    assert all_reached(network.backbone.task_embeddings)
    assert reached(network.backbone.vision.tower)
    assert network.backbone.task_embeddings.embeddings.shape[0] == 8
    assert (network.backbone.task_embeddings.embeddings.grad.abs().amax(1) > 0).all(), "all embeddings are mixed"
    left, right = (actions(network, with_sentences(batch, network, said)) for said in (LEFT, RIGHT))
    assert differs(left, right)
    with zeroed(network.backbone.task_embeddings.embeddings):
        assert differs(actions(network, with_sentences(batch, network, LEFT)), left)
    with torch.no_grad():
        words, _ = network.backbone.encode_text(batch.text)
        text.eval()
        kept = [p.clone() for p in text.parameters()]
        for p in text.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        assert differs(network.backbone.encode_text(batch.text)[0].tokens, words.tokens), "words are what the tower makes of them"
        for p, value in zip(text.parameters(), kept, strict=True):
            p.copy_(value)


# Queries


@pytest.mark.parametrize("name", ["starter", "occluded", "sentences", "relations", "starter-random", "full-hour", "navigation"])
def test_sentences_become_queries_of_places_that_are_seen_once(name):
    """Kills: a starter whose sentence does not point, or whose features hang on what was said."""
    network, batch = ready(name)
    one, other = sentences(network)
    with torch.no_grad():
        first, second = looked(network, batch, one), looked(network, batch, other)
        assert differs(first.heatmaps, second.heatmaps)
        assert differs(first.points, second.points)
        with zeroed(network.backbone.vision.queries.weight):
            assert torch.equal(looked(network, batch, one).heatmaps, looked(network, batch, other).heatmaps)
    learned(network, batch)
    assert all_reached(network.backbone.vision.queries)
    left, right = (fused(network, with_sentences(batch, network, said)) for said in (LEFT, RIGHT))
    assert differs(left, right)


def test_navigation_reads_the_verb_four_times_and_sees_fine_lines():
    """Kills: navigation without its readings of the words, or without its finer stem."""
    network, batch = ready("navigation")
    learned(network, batch)
    readings = network.backbone.fusion.readings
    assert len(readings) == 4
    assert all(all_reached(reading) for reading in readings)
    before = fused(network, batch)
    for reading in readings:
        with zeroed(*reading.parameters()):
            assert differs(fused(network, batch), before)
    assert isinstance(network.backbone.vision.trunks[0].stem, torch.nn.Sequential)
    assert all_reached(network.backbone.vision.trunks)


def test_tiny_is_the_default_network():
    network, batch = ready("tiny")
    assert learned(network, batch)["loss"].isfinite()
    left, right = (fused(network, with_sentences(batch, network, said)) for said in (TEXTS[0], TEXTS[1]))
    assert differs(left, right)


# A language model that says its actions


def test_rt2_reads_pictures_in_its_sentence_and_says_actions_and_text_with_one_trunk():
    """Kills: rt2 without objects or state in its prefix, without words of its own, without text or keypoints in its loss; a
    sentence without order for its vision."""
    run = resolve("rt2")
    network, batch = ready("rt2")
    backbone, head = network.backbone, network.head
    assert set(backbone.fusion.projectors) == {"keypoints", "objects", "state"}
    trunk, tokenizer = backbone.trunk, backbone.tokenizer
    assert head.words.tolist() == tokenizer.reserved(256), "words that no text uses"
    tasks = [TextTask(TEXTS[0], "red cube", "question", 0), *[None] * (len(batch.state) - 1)]
    trained_on = dataclasses.replace(batch, text_targets=text_targets(backbone, tasks))
    losses = learned(network, trained_on)
    assert {"action", "keypoints", "text"} <= set(losses)
    assert all_reached(backbone.fusion.projectors) and all_reached(trunk) and all_reached(backbone.language.readers)
    network.zero_grad(set_to_none=True)
    network.train().losses(trained_on)["text"].backward()
    assert reached(backbone.fusion.projectors["objects"]) and reached(trunk), "an answer reads the objects"
    network.eval()
    with torch.no_grad():
        seen = network.predict(batch).actions
        said = network(batch).fused.tokens
        for kind in ("keypoints", "objects", "state"):
            with zeroed(*backbone.fusion.projectors[kind].parameters()):
                assert differs(said, network(batch).fused.tokens), kind
    assert seen.shape == (4, 2, network.sizes.action_size)
    assert run.collection.truth and run.training.data.text.parts == ("plan", "subtask", "move")
    assert run.training.data.text.question > 0 and run.training.data.text.reasoning > 0
