"""Nodes are the objects in an image; their relative positions resolve a reference to one of two identical objects."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.encoders.vision.object_graph import ObjectGraph, _Peaks
from verbot.models.objectives.keypoints import keypoint_loss
from verbot.models.tokens import Sizes

SIZES = Sizes(width=32, views=1, height=48, width_px=48, state=4, chunk=3, action=())
CELL = 2 * 4 / SIZES.height
COLORS = torch.tensor([(0.9, -0.8, -0.8), (-0.8, -0.6, 0.9), (-0.8, 0.6, -0.7), (0.9, 0.8, -0.8)])


def _scenes(count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Images of two red squares and two of other colors, with an instruction: the red one nearer to, or farther from, one of the
    others.

    Images (b, 1, 3, h, w), the middles of all (b, 4, 2), which is the anchor (b,), which red one is meant (b,), and the words: 0
    for nearer and 1 for farther, and the anchor's color (b, 2).
    """
    places = torch.rand(12 * count, 4, 2, generator=generator) * 0.85 + 0.02
    apart = (places[:, :, None] - places[:, None]).norm(dim=-1) + torch.eye(4)
    anchor = torch.randint(2, 4, (len(places),), generator=generator)
    ways = (places[:, :2] - places[range(len(places)), anchor, None]).norm(dim=-1)
    clear = (apart.flatten(1).min(-1).values > 0.2) & ((ways[:, 0] - ways[:, 1]).abs() > 0.15)
    places, anchor, ways = places[clear][:count], anchor[clear][:count], ways[clear][:count]
    assert len(places) == count
    corners = (places * SIZES.height).long()
    others = torch.stack([1 + torch.randperm(3, generator=generator)[:2] for _ in range(count)])
    colors = torch.cat([torch.zeros(count, 2, dtype=torch.long), others], 1)  # (b, 4)
    images = torch.full((count, 1, 3, SIZES.height, SIZES.height), 0.2)
    for row in range(count):
        for (left, top), color in zip(corners[row].tolist(), COLORS[colors[row]], strict=True):
            images[row, 0, :, top : top + 4, left : left + 4] = color[:, None, None]
    farther = torch.randint(0, 2, (count,), generator=generator)
    meant = torch.where(farther.bool(), ways.argmax(-1), ways.argmin(-1))
    words = torch.stack([farther, 2 + colors[range(count), anchor]], 1)
    return images, (corners + 2) * 2 / SIZES.height - 1, anchor, meant, words


def _learn(layers: int, steps: int = 120, rows: int = 64) -> tuple[float, float]:
    """In unseen scenes, how often the keypoint is at the right object, and how many objects have a node within a cell."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoder, embed = ObjectGraph(SIZES, 8, 16, heatmaps=3, nodes=6, layers=layers), nn.EmbeddingBag(6, 32, mode="sum")
    parameters = [*encoder.parameters(), *embed.parameters()]
    optimizer = torch.optim.AdamW(parameters, 4e-3)
    known = torch.tensor([True, False, True]).expand(rows, 1, 3)
    for step in range(steps):
        images, middles, anchor, meant, words = _scenes(rows, generator)
        true = torch.stack([middles[range(rows), meant], middles[:, 0], middles[range(rows), anchor]], 1).unsqueeze(1)
        group = encoder(images, torch.ones(rows, 1, dtype=torch.bool), embed(words))[0]
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        optimizer.zero_grad()
        keypoint_loss(group, true, known)[0].backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    images, middles, _, meant, words = _scenes(300, torch.Generator().manual_seed(2))
    with torch.no_grad():
        keypoints, nodes = encoder(images, torch.ones(300, 1, dtype=torch.bool), embed(words))
    right = (keypoints.points[:, 0] - middles[range(300), meant]).norm(dim=-1) < 1.5 * CELL
    found = (middles[:, :, None] - nodes.points[:, None]).norm(dim=-1).min(-1).values < CELL
    return float(right.float().mean()), float(found.float().mean())


def test_with_messages_it_learns_which_of_two_identical_objects_is_meant_and_nodes_find_all_objects():
    right, found = _learn(layers=1)
    assert right > 0.8 and found > 0.95


def test_without_messages_it_does_not_in_as_many_steps():
    assert _learn(layers=0)[0] < 0.8


def test_nodes_are_the_peaks_from_left_to_right_and_there_may_be_fewer():
    places = torch.randn(1, 36, 5)
    logits = torch.zeros(1, 6, 6)
    logits += torch.arange(6) * 1e-3 + torch.arange(6)[:, None] * 1e-4  # rises to a corner: one other peak
    logits[0, 1, 4], logits[0, 4, 1] = 9.0, 8.0
    nodes = _Peaks((6, 6), 5)(logits.flatten(1), places, nn.Identity())
    there = nodes.there[0]
    points = nodes.points[0, there]
    assert there.sum() == 3 and (points[:, 0].diff() >= 0).all()
    for row, column in ((1, 4), (4, 1)):
        middle = torch.tensor([column + 0.5, row + 0.5]) / 3 - 1
        node = int((nodes.points[0] - middle).norm(dim=-1).argmin())
        assert (nodes.points[0, node] - middle).abs().max() < 0.02 and there[node]
        torch.testing.assert_close(nodes.features[0, node], places[0, 6 * row + column], atol=0.05, rtol=0.02)
        around = nodes.around[0, node].unflatten(0, (6, 6))
        torch.testing.assert_close(around.sum(), around[row - 1 : row + 2, column - 1 : column + 2].sum())
        assert around[row, column] > 0.9
    assert not nodes.around[0, ~there].any()


def test_what_is_no_node_is_heard_by_none():
    torch.manual_seed(0)
    encoder = ObjectGraph(SIZES, 8, 16, heatmaps=3, nodes=6)
    _, found = encoder._detect(torch.rand(3, 1, 3, 48, 48) * 2 - 1)
    graph, sentence, queries = encoder.graphs[0], torch.randn(3, 32), torch.randn(3, 3, 16)
    nn.init.normal_(graph.weigh.weight)
    nodes = dataclasses.replace(found[0], there=torch.tensor([True, True, False, True, False, True]).expand(3, 6))
    other = {
        name: torch.where(nodes.there.unflatten(1, (6, *[1] * (x.ndim - 2))), x, 3 * x + 1)
        for name, x in (
            ("features", nodes.features),
            ("likely", nodes.likely),
            ("states", nodes.states),
            ("points", nodes.points),
        )
    }
    for one, two in zip(
        graph(nodes, sentence, queries), graph(dataclasses.replace(nodes, **other), sentence, queries), strict=True
    ):
        kept = nodes.there[0]
        one, two = (x.transpose(1, 2) if x.shape[1] == 3 else x for x in (one, two))
        torch.testing.assert_close(one[:, kept], two[:, kept])
        assert not torch.allclose(one[:, ~kept], two[:, ~kept])


def test_to_be_left_of_something_is_a_weight_that_a_sentence_can_set():
    torch.manual_seed(0)
    encoder = ObjectGraph(SIZES, 8, 16, heatmaps=3, nodes=6)
    _, (nodes,) = encoder._detect(torch.rand(2, 1, 3, 48, 48) * 2 - 1)
    graph = encoder.graphs[0]
    for part in (graph.ask, graph.weigh):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    graph.weigh.bias.data[0] = 1.0  # of the target: x of the way to what the first head heeds, the reference
    anchor = 3
    queries = torch.zeros(2, 3, 16)
    named = dataclasses.replace(
        nodes, likely=100.0 * (torch.arange(6) == anchor).expand(2, 6), there=torch.ones(2, 6, dtype=torch.bool)
    )
    scores = graph(named, torch.randn(2, 32), queries)[0][:, 0]
    torch.testing.assert_close(scores, 6 * (named.points[:, anchor, 0, None] - named.points[..., 0]))


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match="1 to 144 nodes per view, .* an image of 48×48.*got nodes=145"):
        ObjectGraph(SIZES, nodes=145)
    with pytest.raises(ConfigError, match="at least 2 heads.*heads=1"):
        ObjectGraph(SIZES, heads=1)
