"""A graph of objects with their relative positions as edges, conditioned on the sentence, which predicts keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.encoders.vision.query_conv import QueryConv
from verbot.models.layers.transformer import pixel_grid
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup

STEEP = 6.0  # scale of edges: objects are tenths of the image apart, and edges should have the magnitude of node features
REACH = 1.5  # cells around a node to which its score is added
EDGE = 5  # features of an edge: the vector (x, y), its absolute values, its length
LOW = -1e4  # logit of a missing node


@vision_encoders.register("object_graph")
class ObjectGraph(nn.Module):
    """`query_conv` with a graph of the objects in each view, and one token per object.

    **Nodes.** An objectness logit of each position, independent of the sentence, is added to the heatmaps of target and
    reference. Initially it measures how much the position differs from the rest of the image; the keypoint loss then trains it.
    Its peaks are the nodes, as in detectors of objects as points (Zhou et al. 2019). No object labels are needed.

    **Edges** are the vectors between nodes. In each layer, each attention head of a node returns the mean vector to the nodes to
    which the sentence refers. The first head attends to the predicted reference, which the keypoint loss supervises; the others
    are free. Graph networks: Battaglia et al. 2018; conditioned on language: Hu et al. 2019.

    **Scores.** The score of a node as target, receptacle and reference is the match of its features with the sentence, plus its
    messages with weights that depend on the sentence. For example, a weight of 1 on x of the vector to the reference ranks nodes
    by how far left of it they are, and −1 on its length by how near. Scores are added to the heatmaps around the nodes.

    Args:
        channels, features, heatmaps: the options of `query_conv`.
        nodes: k, the number of nodes per view, ordered from left to right; missing ones are masked.
        layers: number of layers of message passing; 0 uses no messages.
        heads: attention heads of each layer.
    """

    def __init__(
        self,
        sizes: Sizes,
        channels: int = 16,
        features: int = 32,
        heatmaps: int = 16,
        nodes: int = 8,
        layers: int = 1,
        heads: int = 3,
    ):
        super().__init__()
        self.base = QueryConv(sizes, channels, features, heatmaps)
        places = self.base.grid[0] * self.base.grid[1]
        if not 1 <= nodes <= places or heads < 2 or layers < 0:
            raise ConfigError(
                f"object_graph needs 1 to {places} nodes per view, which is the number of cells of an image "
                f"of {sizes.height}×{sizes.width_px}, at least 2 heads and at least 0 layers; got nodes={nodes}, heads={heads}, "
                f"layers={layers}"
            )
        self.counts = {**self.base.counts, "objects": sizes.views * nodes}
        self.views = sizes.views
        self.thingness = nn.ModuleList(_Objectness(features) for _ in range(sizes.views))
        self.find = _Peaks(self.base.grid, nodes)
        self.graphs = nn.ModuleList(_Graph(sizes.width, features, layers, heads) for _ in range(sizes.views))

    @staticmethod
    def side_multiple(options: Mapping[str, Any], /) -> int:
        return 8

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self._groups(*self._detect(images), mask, sentence)

    def encode_with_queries(
        self, images: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the supervised keypoint tokens for queries (q, e) about images `rows` (q,), each encoded once."""
        features, found = self._detect(images)
        of_queries, nodes = features.index_select(0, rows), [view.select(rows) for view in found]
        more = [self._judge(v, *x, queries)[0] for v, x in enumerate(zip(of_queries.unbind(1), nodes, strict=True))]
        answers = self.base.point(of_queries, mask[rows], queries, len(POINTS), more)
        return self._groups(features, found, mask, sentence), answers

    def _detect(self, images: Tensor) -> tuple[Tensor, list[_Nodes]]:
        features = self.base.encode(images)
        read = self.base.project
        found = [self.find(self.thingness[v](view), view, read) for v, view in enumerate(features.unbind(1))]
        return features, found

    def _groups(self, features: Tensor, found: list[_Nodes], mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        judged = [self._judge(v, *x, sentence) for v, x in enumerate(zip(features.unbind(1), found, strict=True))]
        more, states = zip(*judged, strict=True)
        keypoints = self.base.point(features, mask, sentence, more=more)
        tokens, points = torch.cat(states, 1), torch.cat([nodes.points for nodes in found], 1)
        there = torch.cat([nodes.there & mask[:, v : v + 1] for v, nodes in enumerate(found)], 1)
        return [keypoints, TokenGroup(tokens, there, "objects", points)]

    def _judge(self, view: int, features: Tensor, nodes: _Nodes, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """Additional logits (b, 3, n) of the supervised heatmaps of one view, and its nodes (b, k, e)."""
        queries = self.base.heatmap_queries(sentence, len(POINTS))[:, view]
        scores, states = self.graphs[view](nodes, sentence, queries)
        return scores @ nodes.around + nodes.objectness, states


class _Objectness(nn.Module):
    """The logit (b, n) that a position (b, n, f) shows an object; initially how much it differs from the rest of the image."""

    def __init__(self, features: int):
        super().__init__()
        self.learned = nn.Linear(features, 1, bias=False)  # a constant would cancel in the softmax
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, places: Tensor) -> Tensor:
        away = (places - places.mean(1, keepdim=True)).norm(dim=-1)
        return self.learned(places).squeeze(-1) + self.weight * away / (away.mean(1, keepdim=True) + 1e-6)


@dataclass(frozen=True)
class _Nodes:
    """The nodes of one view of `b` images.

    Args:
        features: (b, k, f).
        likely: (b, k), objectness logits.
        states: (b, k, e).
        points: (b, k, 2), x and y in [-1, 1], from left to right.
        there: (b, k) bool, False for missing nodes.
        around: (b, k, n), the proximity of each cell to each node, from 1 to 0.
        objectness: (b, 3, n), logits that are added to the supervised heatmaps for every sentence.
    """

    features: Tensor
    likely: Tensor
    states: Tensor
    points: Tensor
    there: Tensor
    around: Tensor
    objectness: Tensor

    def select(self, rows: Tensor) -> _Nodes:
        return _Nodes(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))


class _Peaks(nn.Module):
    """The `count` highest local peaks of a map, each with the mean features of the cells around it."""

    cells: Tensor
    pointed: Tensor

    def __init__(self, grid: tuple[int, int], count: int):
        super().__init__()
        self.grid, self.count = grid, count
        self.register_buffer("cells", pixel_grid(*grid), persistent=False)
        self.register_buffer("pointed", torch.tensor([1.0, 0.0, 1.0]), persistent=False)  # a receptacle need not be an object

    def forward(self, logits: Tensor, places: Tensor, read: nn.Module) -> _Nodes:
        """Peaks of logits (b, n) with features (b, n, f); `read` maps features and positions to states."""
        map_ = logits.unflatten(-1, self.grid).unsqueeze(1)
        peaks = (map_ == F.max_pool2d(map_, 3, 1, 1)).flatten(1)
        best = logits.masked_fill(~peaks, -torch.inf).topk(self.count, -1).indices
        best = best.gather(-1, self.cells[best][..., 0].argsort(-1))  # from left to right
        there = peaks.gather(-1, best)
        size = torch.tensor([2 / self.grid[1], 2 / self.grid[0]], device=logits.device)
        away = (self.cells - self.cells[best].unsqueeze(-2)).abs() / size  # (b, k, n, 2), in cells
        beside = (away < REACH).all(-1)
        weights = logits.unsqueeze(1).masked_fill(~beside, -torch.inf).softmax(-1)  # (b, k, n)
        points = weights @ self.cells
        features = weights @ places
        states = read(torch.cat([features, points], -1))
        near = (1 - (self.cells - points.unsqueeze(-2)).abs() / size / REACH).clamp(min=0).prod(-1) * there.unsqueeze(-1)
        return _Nodes(features, logits.gather(-1, best), states, points, there, near, logits.unsqueeze(1) * self.pointed[:, None])


class _Graph(nn.Module):
    """Message passing between nodes, and the score of each node as target, receptacle and reference."""

    def __init__(self, width: int, features: int, layers: int, heads: int):
        super().__init__()
        self.layers = nn.ModuleList(_Messages(width, features, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, len(POINTS) * width)
        self.weigh = nn.Linear(width, len(POINTS) * (heads * EDGE + 2))
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, nodes: _Nodes, sentence: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (b, 3, k) and states (b, k, e) of nodes for sentences (b, e) with heatmap queries (b, 3, f)."""
        ways = nodes.points.unsqueeze(1) - nodes.points.unsqueeze(2)  # (b, i, j, 2), from i to j
        edges = STEEP * torch.cat([ways, ways.abs(), ways.norm(dim=-1, keepdim=True)], -1)
        states, score = nodes.states, self.ask(sentence).unflatten(-1, (len(POINTS), -1)) / nodes.states.shape[-1] ** 0.5
        worth = score @ self.norm(states).transpose(1, 2)
        for layer in self.layers:
            reference = (queries @ nodes.features.transpose(1, 2) + worth)[:, -1] + nodes.likely  # logits of the reference (b, k)
            states, messages = layer(states, edges, nodes, sentence, reference)
            worth = score @ self.norm(states).transpose(1, 2)
        if len(self.layers):
            weights = self.weigh(sentence).unflatten(-1, (len(POINTS), -1))
            worth = worth + weights @ torch.cat([messages, STEEP * nodes.points], -1).transpose(1, 2)
        return worth, states


class _Messages(nn.Module):
    """A layer of message passing: each head returns the mean edge to the nodes to which the sentence refers."""

    def __init__(self, width: int, features: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.ask = nn.Linear(width, (heads - 1) * (width + features))
        self.film = nn.Linear(width, 2 * (width + heads * EDGE))
        self.update = nn.Sequential(nn.Linear(width + heads * EDGE, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, states: Tensor, edges: Tensor, nodes: _Nodes, sentence: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """States (b, k, e) and messages (b, k, h·5)."""
        x = self.norm(states)
        others = self.ask(sentence).unflatten(-1, (self.heads - 1, -1)) @ torch.cat([x, nodes.features], -1).transpose(1, 2)
        logits = torch.cat([reference.unsqueeze(1), others], 1)  # (b, h, j)
        attention = logits.masked_fill(~nodes.there.unsqueeze(1), LOW).softmax(-1)
        messages = torch.einsum("bhj,bijd->bihd", attention, edges).flatten(2)
        scale, shift = self.film(sentence).unsqueeze(1).chunk(2, -1)
        return states + self.update(torch.cat([x, messages], -1) * (1 + scale) + shift), messages
