"""Contrasts: what their losses are, that they learn what fits what, and that nothing changes without them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from verbot.errors import ConfigError, PolicyError
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.objectives.clip import ClipContrast
from verbot.models.objectives.contrastive import similarities
from verbot.models.objectives.siglip import FITS, Siglip
from verbot.models.queries import join_texts, prepare_queries
from verbot.models.registries import Objective, Part
from verbot.models.tokens import Captions, Masked, Sizes, TextBatch, TokenGroup
from verbot.models.validation import check_acts

SIZES = Sizes(16, 2, 16, 16, 4, 3, ())
WORDS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 30), "yellow": (230, 220, 40)}
SEEING = {"vision": Part("query_conv", {"channels": 8, "features": 8, "heatmaps": 4}), "width": 16, "chunk": 3}


def contrastive(kind: str, others: tuple[str, ...] = (), **changes) -> NetworkConfig:
    """A network for this objective and others, each with a weight of 1."""
    objectives = {**dict.fromkeys(others, Objective()), "contrastive": Objective(1.0, {"kind": kind})}
    return NetworkConfig(**{**SEEING, "fusion": Part("mlp", {"hidden": 32}), "objectives": objectives, **changes})


def captions_for(network, pairs) -> Captions:
    """`pairs` (true, false) of each row."""
    nowhere = Masked(torch.zeros(len(pairs), 0, 2, 3, 2), torch.zeros(len(pairs), 0, 2, 3, dtype=torch.bool))
    return prepare_queries(network.backbone.prepare, [()] * len(pairs), nowhere, pairs)[1]


def colored(make_batch, network, rows: int, seed: int):
    """Images of a square in one of four colors, each with a caption and its hard negative."""
    g = torch.Generator().manual_seed(seed)
    batch = make_batch(network, rows=rows, seed=seed)
    images = torch.full((rows, 1, 2, 3, 16, 16), 100, dtype=torch.uint8)
    pairs, names = [], list(WORDS)
    for row in range(rows):
        color, other = torch.randperm(4, generator=g)[:2].tolist()
        x, y = torch.randint(0, 12, (2,), generator=g).tolist()
        images[row, :, :, :, y : y + 4, x : x + 4] = torch.tensor(WORDS[names[color]], dtype=torch.uint8)[:, None, None]
        pairs.append([(f"a {names[color]} cube", f"a {names[other]} cube")])
    return dataclasses.replace(batch, images=images, captions=captions_for(network, pairs)), [row[0][0] for row in pairs]


@pytest.mark.parametrize("name", ["siglip", "clip"])
def test_what_fits_is_learned_from_captions_alone(name, spec, make_batch):
    network = VLANetwork(contrastive(name).fit(["stop", *(f"a {color} cube" for color in WORDS)]), spec)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(110):
        optimizer.zero_grad()
        network.losses(colored(make_batch, network, 12, step)[0])["loss"].backward()
        optimizer.step()
    batch, said = colored(make_batch, network, 40, 999)
    found = network.losses(batch)
    assert found["separated"] > 0.9 and found["matching"] > found["mismatching"] + 0.3
    if name == "siglip":
        assert found["matching"] > FITS > found["mismatching"], "0.3 is what divides them"
    every = similarities(network, batch, network.backbone.prepare(said[:8]))
    same = torch.tensor([[a == b for b in said] for a in said[:8]])
    assert every[same].mean() > every[~same].mean() + 0.3 and every.shape == (8, 40)


def test_the_sigmoid_loss_is_half_at_a_cosine_of_three_tenths():
    match = Siglip(SIZES)
    captions = Captions(torch.tensor([0, 0]), TextBatch(torch.zeros(2, 1), torch.ones(2, 1)), torch.tensor([True, False]))
    at = {}
    for cosine in (FITS, 0.9):
        match.alignment = lambda sentences, seen, cosine=cosine: torch.tensor([cosine, cosine])
        at[cosine] = match.losses(torch.zeros(2, 16), None, captions)[0].item()
    assert at[FITS] == pytest.approx(math.log(2), abs=1e-6)
    t = match.steep.exp().item()
    assert at[0.9] == pytest.approx((math.log1p(math.exp(-t * 0.6)) + math.log1p(math.exp(t * 0.6))) / 2, rel=1e-5)


def test_infonce_is_the_mean_of_both_directions():
    """Two images, each with a caption and a hard negative. Negatives of an image are its own and the other's caption."""
    torch.manual_seed(0)
    clip = ClipContrast(SIZES, tokens=3, space=8)
    seen = TokenGroup(torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool), "seen")
    sentences, true = torch.randn(4, 16), torch.tensor([True, True, False, False])
    captions = Captions(torch.tensor([0, 1, 0, 1]), TextBatch(sentences, true), true)
    s = F.normalize(clip.say(sentences), dim=-1) @ F.normalize(clip.view(seen), dim=-1).T * clip.steep.exp()  # (4, 2)
    pictures = -(s[0, 0] - s[0].logsumexp(0) + s[1, 1] - s[1].logsumexp(0)) / 2
    first = -(s[0, 0] - torch.stack([s[0, 0], s[1, 0], s[2, 0]]).logsumexp(0))
    second = -(s[1, 1] - torch.stack([s[1, 1], s[0, 1], s[3, 1]]).logsumexp(0))
    torch.testing.assert_close(clip.losses(sentences, seen, captions)[0], (pictures + (first + second) / 2) / 2)


def test_captions_and_queries_are_encoded_together_and_change_neither(make_network, make_batch):
    network = make_network(contrastive("siglip", ("action", "keypoints", "grounding_queries")))
    batch = make_batch(network)
    places = Masked(torch.rand(4, 1, 2, 3, 2), torch.ones(4, 1, 2, 3, dtype=torch.bool))
    goals, pairs = [("stop",), (), ("push the green ball",), ()], [(), [("red cube", "red ball")], [("stop", "push")], ()]
    asked, said = prepare_queries(network.backbone.prepare, goals, places, pairs)
    assert asked.rows.tolist() == [0, 2] and torch.equal(asked.keypoints.values, places.values[[0, 2], 0])
    assert said.rows.tolist() == [1, 2, 1, 2] and said.true.tolist() == [True, True, False, False]
    longer = network.backbone.prepare(["push the green ball to the left"])
    both = join_texts([asked.text, longer])
    assert both.mask.sum(1).tolist() == [*asked.text.mask.sum(1).tolist(), *longer.mask.sum(1).tolist()]
    plain = network.losses(dataclasses.replace(batch, grounding_queries=asked, captions=None))
    beside = network.losses(dataclasses.replace(batch, grounding_queries=asked, captions=said))
    alone = network.losses(dataclasses.replace(batch, captions=said))
    torch.testing.assert_close(plain["keypoints"], beside["keypoints"])
    torch.testing.assert_close(plain["grounding_queries"], beside["grounding_queries"])
    torch.testing.assert_close(alone["contrastive"], beside["contrastive"])
    assert plain["contrastive"] == 0 and set(plain) == set(beside), "every batch tells the same losses"
    total = beside["action"] + beside["keypoints"] + beside["grounding_queries"] + beside["contrastive"]
    torch.testing.assert_close(beside["loss"], total)


@pytest.mark.parametrize("name", ["siglip", "clip"])
def test_a_prediction_tells_how_picture_and_sentence_fit(name, make_network, make_batch):
    network = make_network(contrastive(name, ("action",))).eval()
    batch = make_batch(network)
    found = network.predict(batch).extras["alignment"].values
    torch.testing.assert_close(found, similarities(network, batch, batch.text).diagonal(), atol=1e-5, rtol=0)
    assert "alignment" not in make_network(contrastive(name, objectives={"action": Objective()})).predict(batch).extras


def test_pretraining_leaves_fusion_and_head_alone_and_its_policy_cannot_act(make_network, make_batch):
    network = make_network(contrastive("siglip"))
    batch = dataclasses.replace(make_batch(network), captions=captions_for(network, [[("red cube", "stop")]] * 4))
    network.losses(batch)["loss"].backward()
    assert all(p.grad is None for p in (*network.backbone.fusion.parameters(), *network.head.parameters()))
    assert any(p.grad.any() for p in network.backbone.vision.parameters()) and any(
        p.grad.any() for p in network.backbone.sentence.parameters()
    )
    with pytest.raises(PolicyError, match=r"pretrained without actions \(objectives.action\) and cannot act: train from it"):
        check_acts(network.config)


def test_without_actions_what_comes_after_the_fusion_still_learns(make_network, make_batch):
    network = make_network(contrastive("siglip", ("grasp_state",)))
    found = network.losses(make_batch(network))
    torch.testing.assert_close(found["loss"], found["grasp_state"] + found["contrastive"])
    found["loss"].backward()
    assert any(p.grad.any() for p in network.backbone.fusion.parameters())
    assert all(p.grad is None or not p.grad.any() for p in network.head.parameters())


def test_a_memory_that_nothing_teaches_is_refused(make_network):
    with pytest.raises(ConfigError, match="no objective with a weight reads the fused features here, and the memory 'external'"):
        make_network(contrastive("siglip", memory=Part("external"), sequence=4))


def test_a_network_without_contrast_compares_nothing(make_network, make_batch):
    network = make_network(NetworkConfig(**SEEING))
    with pytest.raises(ConfigError, match="this network has no contrastive objective: train it with objectives.contrastive"):
        similarities(network, make_batch(network), network.backbone.prepare(["stop"]))
