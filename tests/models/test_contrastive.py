"""Contrasts: what their losses are, that they learn what fits what, and that nothing changes without them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from verbot.models.objectives.queries import joined, prepare_asked

from verbot.errors import ConfigError, PolicyError
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.objectives.clip import Clip
from verbot.models.objectives.contrastive import similarities
from verbot.models.objectives.siglip import FITS, Match
from verbot.models.registries import Part
from verbot.models.tokens import Captions, Sizes, TextBatch, TokenGroup
from verbot.models.validation import check_acts

SIZES = Sizes(16, 2, 16, 16, 4, 3, ())
WORDS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 30), "yellow": (230, 220, 40)}
SEEING = {"vision": Part("query_conv", {"channels": 8, "features": 8, "heatmaps": 4}), "width": 16, "chunk": 3}
PRETRAINED = {"action_weight": 0.0, "keypoint_weight": 0.0}


def contrastive(name: str, **changes) -> NetworkConfig:
    return NetworkConfig(**{**SEEING, **PRETRAINED, "contrast": Part(name), "fusion": Part("mlp", {"hidden": 32}), **changes})


def captions_for(network, pairs) -> Captions:
    """`pairs` (true, false) of each row."""
    nowhere = (torch.zeros(len(pairs), 0, 2, 3, 2), torch.zeros(len(pairs), 0, 2, 3, dtype=torch.bool))
    return prepare_asked(network.language.prepare, [()] * len(pairs), nowhere, pairs)[1]


def colored(make_batch, network, rows: int, seed: int):
    """Pictures of a square in one of four colors somewhere, and a caption and a foil of each."""
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


@pytest.mark.parametrize("name", ["match", "clip"])
def test_what_fits_is_learned_from_captions_alone(name, spec, make_batch):
    network = VLANetwork(contrastive(name).fit(["stop", *(f"a {color} cube" for color in WORDS)]), spec)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(110):
        optimizer.zero_grad()
        network.losses(colored(make_batch, network, 12, step)[0])["loss"].backward()
        optimizer.step()
    batch, said = colored(make_batch, network, 40, 999)
    found = network.losses(batch)
    assert found["told_apart"] > 0.9 and found["matching"] > found["mismatching"] + 0.3
    if name == "match":
        assert found["matching"] > FITS > found["mismatching"], "0.3 is what divides them"
    every = similarities(network, batch, network.language.prepare(said[:8]))
    same = torch.tensor([[a == b for b in said] for a in said[:8]])
    assert every[same].mean() > every[~same].mean() + 0.3 and every.shape == (8, 40)


def test_the_sigmoid_loss_is_half_at_a_cosine_of_three_tenths():
    match = Match(SIZES)
    captions = Captions(torch.tensor([0, 0]), TextBatch(torch.zeros(2, 1), torch.ones(2, 1)), torch.tensor([True, False]))
    at = {}
    for cosine in (FITS, 0.9):
        match.alignment = lambda told, seen, cosine=cosine: torch.tensor([cosine, cosine])
        at[cosine] = match.losses(torch.zeros(2, 16), None, captions)["contrast"].item()
    assert at[FITS] == pytest.approx(math.log(2), abs=1e-6)
    t = match.steep.exp().item()
    assert at[0.9] == pytest.approx((math.log1p(math.exp(-t * 0.6)) + math.log1p(math.exp(t * 0.6))) / 2, rel=1e-5)


def test_infonce_is_the_mean_of_both_directions():
    """By hand: two pictures, a caption and a foil of each; own foils and the other's caption are what a picture is told from."""
    torch.manual_seed(0)
    clip = Clip(SIZES, tokens=3, space=8)
    seen = TokenGroup(torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool), "seen")
    told, true = torch.randn(4, 16), torch.tensor([True, True, False, False])
    captions = Captions(torch.tensor([0, 1, 0, 1]), TextBatch(told, true), true)
    s = F.normalize(clip.say(told), dim=-1) @ F.normalize(clip.view(seen), dim=-1).T * clip.steep.exp()  # (4, 2)
    pictures = -(s[0, 0] - s[0].logsumexp(0) + s[1, 1] - s[1].logsumexp(0)) / 2
    first = -(s[0, 0] - torch.stack([s[0, 0], s[1, 0], s[2, 0]]).logsumexp(0))
    second = -(s[1, 1] - torch.stack([s[1, 1], s[0, 1], s[3, 1]]).logsumexp(0))
    torch.testing.assert_close(clip.losses(told, seen, captions)["contrast"], (pictures + (first + second) / 2) / 2)


def test_captions_are_asked_behind_questions_and_change_neither(make_network, make_batch):
    network = make_network(dataclasses.replace(contrastive("match"), **{"action_weight": 1.0, "keypoint_weight": 1.0}))
    batch = make_batch(network)
    points, mask = torch.rand(4, 1, 2, 3, 2), torch.ones(4, 1, 2, 3, dtype=torch.bool)
    goals, pairs = [("stop",), (), ("push the green ball",), ()], [(), [("red cube", "red ball")], [("stop", "push")], ()]
    asked, said = prepare_asked(network.language.prepare, goals, (points, mask), pairs)
    assert asked.rows.tolist() == [0, 2] and torch.equal(asked.keypoints, points[[0, 2], 0])
    assert said.rows.tolist() == [1, 2, 1, 2] and said.true.tolist() == [True, True, False, False]
    both = joined(asked, said, 2, 3)
    assert len(both.rows) == 6 and both.mask[:2].all() and not both.mask[2:].any()
    plain = network.losses(dataclasses.replace(batch, grounding_queries=asked, captions=None))
    beside = network.losses(dataclasses.replace(batch, grounding_queries=asked, captions=said))
    alone = network.losses(dataclasses.replace(batch, captions=said))
    torch.testing.assert_close(plain["keypoint"], beside["keypoint"])
    torch.testing.assert_close(alone["contrast"], beside["contrast"])
    assert plain["contrast"] == 0 and set(plain) == set(beside), "every batch tells the same losses"
    torch.testing.assert_close(beside["loss"], beside["action"] + beside["keypoint"] + beside["contrast"])


@pytest.mark.parametrize("name", ["match", "clip"])
def test_a_prediction_tells_how_picture_and_sentence_fit(name, make_network, make_batch):
    network = make_network(contrastive(name, action_weight=1.0)).eval()
    batch = make_batch(network)
    found = network.predict(batch).alignment
    torch.testing.assert_close(found, similarities(network, batch, batch.text).diagonal(), atol=1e-5, rtol=0)
    assert make_network(contrastive(name, contrast=None, action_weight=1.0)).predict(batch).alignment is None


def test_pretraining_leaves_fusion_and_head_alone_and_its_policy_cannot_act(make_network, make_batch):
    network = make_network(contrastive("match"))
    batch = dataclasses.replace(make_batch(network), captions=captions_for(network, [[("red cube", "stop")]] * 4))
    network.losses(batch)["loss"].backward()
    assert all(p.grad is None for p in (*network.fusion.parameters(), *network.head.parameters()))
    assert any(p.grad.any() for p in network.vision.parameters()) and any(p.grad.any() for p in network.sentence.parameters())
    with pytest.raises(PolicyError, match=r"pretrained without actions \(action_weight 0\) and cannot act: begin a training"):
        check_acts(network.config)


def test_without_actions_what_comes_after_the_fusion_still_learns(make_network, make_batch):
    network = make_network(contrastive("match", grasp_weight=1.0))
    found = network.losses(make_batch(network))
    torch.testing.assert_close(found["loss"], found["contrast"] + found["grasp"])
    found["loss"].backward()
    assert any(p.grad.any() for p in network.fusion.parameters())
    assert all(p.grad is None or not p.grad.any() for p in network.head.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast_weight": -1.0}, "weights of losses are at least 0; got action_weight 0, grasp_weight 0, contrast_weight -1"),
        (
            {"memory": Part("external"), "sequence": 4},
            "action_weight 0 trains neither fusion nor head here, and the memory 'external' comes after the fusion",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, message, make_network):
    with pytest.raises(ConfigError, match=message):
        make_network(contrastive("match", **changes))


def test_a_network_without_contrast_compares_nothing(make_network, make_batch):
    network = make_network(contrastive("match", contrast=None))
    with pytest.raises(ConfigError, match="this network compares nothing: train it with network.contrast.name=match"):
        similarities(network, make_batch(network), network.language.prepare(["stop"]))
