"""Things as nodes, where they stand to each other as edges: a graph network that the sentence steers, and that points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.encoders.query_conv import QueryConv
from verbot.models.keypoints import POINTS
from verbot.models.layers import pixel_grid
from verbot.models.parts import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup

STEEP = 6.0  # things stand tenths of the image apart: so an edge is of the size of what a node holds
REACH = 1.5  # cells around a node that its score is told to


@vision_encoders.register("object_graph")
class ObjectGraph(nn.Module):
    """`query_conv`, a graph of what it sees in each view, and a token for each node.

    What could be a thing is learned from the pointing itself: to the heatmaps of the target and the reference a logit of each place
    is added that no sentence changes, so that it becomes what all that was ever pointed at has in common (`thingness`). Its
    peaks are the nodes, as in a detector of objects as points (Zhou et al. 2019): no boxes, masks or simulator are needed. A node
    begins with what is seen there, and where. In each layer it gets from each other node a message made of both and of the way from
    one to the other, under gates that the sentence sets (graph networks: Battaglia et al. 2018; steered by language: Hu et al.
    2019). In the end each node is compared with a query for the target, the receptacle and the reference, and what comes out is
    added to their heatmaps around it: "left of" can be found, which no single place shows.

    Args:
        channels, features, heatmaps: of `query_conv`.
        nodes: k, in each view.
        layers: of messages; 0 has nodes that do not know of each other.
        hidden: width of a message.
    """

    def __init__(
        self,
        sizes: Sizes,
        channels: int = 16,
        features: int = 32,
        heatmaps: int = 16,
        nodes: int = 8,
        layers: int = 2,
        hidden: int = 32,
    ):
        super().__init__()
        self.base = QueryConv(sizes, channels, features, heatmaps)
        self.counts = {**self.base.counts, "objects": sizes.views * nodes}
        self.views = sizes.views
        self.thingness = nn.ModuleList(nn.Linear(features, 1) for _ in range(sizes.views))
        self.find = _Peaks(self.base.grid, nodes)
        self.graphs = nn.ModuleList(_Graph(sizes.width, layers, hidden) for _ in range(sizes.views))

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self._groups(*self._look(images), mask, sentence)

    def ask_many(
        self, images: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the taught heatmaps alone for questions (q, e) of images `rows` (q,), seen once for all."""
        features, found = self._look(images)
        asked = [view.index_select(0, rows) for view in features], [nodes.take(rows) for nodes in found]
        more = [self._judge(v, *x, questions)[0] for v, x in enumerate(zip(*asked, strict=True))]
        answers = self.base.point(asked[0], mask[rows], questions, POINTS, more)
        return self._groups(features, found, mask, sentence), answers

    def _look(self, images: Tensor) -> tuple[list[Tensor], list[_Nodes]]:
        features = self.base.features(images)
        read = self.base.project
        found = [self.find(self.thingness[v](view).squeeze(-1), view, read) for v, view in enumerate(features)]
        return features, found

    def _groups(self, features: list[Tensor], found: list[_Nodes], mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        judged = [self._judge(v, view, nodes, sentence) for v, (view, nodes) in enumerate(zip(features, found, strict=True))]
        more, states = zip(*judged, strict=True)
        keypoints = self.base.point(features, mask, sentence, more=more)
        tokens, points = torch.cat(states, 1), torch.cat([nodes.points for nodes in found], 1)
        there = torch.cat([nodes.there & mask[:, v : v + 1] for v, nodes in enumerate(found)], 1)
        return [keypoints, TokenGroup(tokens, there, "objects", points)]

    def _judge(self, view: int, features: Tensor, nodes: _Nodes, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (b, 3, n) of the taught heatmaps of one view, and its nodes (b, k, e)."""
        scores, states = self.graphs[view](nodes, sentence)
        return scores @ nodes.around + nodes.thingness, states


@dataclass(frozen=True)
class _Nodes:
    """What was found in one view of `b` images.

    Args:
        states: (b, k, e).
        points: (b, k, 2), x and y in [-1, 1], from left to right.
        there: (b, k) bool, False where there are no more peaks.
        around: (b, k, n), how near each place is to each node, from 1 to 0.
        thingness: (b, 3, n), what each place adds to the taught heatmaps, whatever was said.
    """

    states: Tensor
    points: Tensor
    there: Tensor
    around: Tensor
    thingness: Tensor

    def take(self, rows: Tensor) -> _Nodes:
        return _Nodes(*(x.index_select(0, rows) for x in (self.states, self.points, self.there, self.around, self.thingness)))


class _Peaks(nn.Module):
    """The `count` highest local peaks of a map over the places, and what is there: a mean over the cells around each peak."""

    cells: Tensor
    pointed: Tensor

    def __init__(self, grid: tuple[int, int], count: int):
        super().__init__()
        self.grid, self.count = grid, count
        self.register_buffer("cells", pixel_grid(*grid), persistent=False)
        self.register_buffer("pointed", torch.tensor([1.0, 0.0, 1.0]), persistent=False)  # a hand opens anywhere

    def forward(self, logits: Tensor, places: Tensor, read: nn.Module) -> _Nodes:
        """Of logits (b, n) and features of places (b, n, f); `read` makes states of what was found where."""
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
        states = read(torch.cat([weights @ places, points], -1))
        near = (1 - (self.cells - points.unsqueeze(-2)).abs() / size / REACH).clamp(min=0).prod(-1) * there.unsqueeze(-1)
        return _Nodes(states, points, there, near, logits.unsqueeze(1) * self.pointed[:, None])


class _Graph(nn.Module):
    """Nodes that hear of each other, and what each of them is worth as the target, the receptacle and the reference."""

    def __init__(self, width: int, layers: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(_Messages(width, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, POINTS * width)

    def forward(self, nodes: _Nodes, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (b, 3, k) and states (b, k, e) of nodes told a sentence (b, e)."""
        ways = nodes.points.unsqueeze(1) - nodes.points.unsqueeze(2)  # (b, i, j, 2), from i to j
        edges = STEEP * torch.cat([ways, ways.abs(), ways.norm(dim=-1, keepdim=True)], -1)
        states = nodes.states
        for layer in self.layers:
            states = layer(states, edges, nodes.there, sentence)
        asked = self.ask(sentence).unflatten(-1, (POINTS, -1))
        return asked @ self.norm(states).transpose(1, 2) / self.norm.normalized_shape[0] ** 0.5, states


class _Messages(nn.Module):
    """h_i + U(h_i, Σ_j relu(A h_i + B h_j + gate · C e_ij + bias)); the sentence sets gates and biases, and scales and shifts h."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.film = nn.Linear(width, 2 * width + 2 * hidden)
        self.sizes = (width, width, hidden, hidden)
        self.own, self.others = nn.Linear(width, hidden), nn.Linear(width, hidden, bias=False)
        self.ways = nn.Linear(5, hidden, bias=False)
        self.update = nn.Sequential(nn.Linear(width + hidden, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, states: Tensor, edges: Tensor, there: Tensor, sentence: Tensor) -> Tensor:
        scale, shift, gate, bias = self.film(sentence).unsqueeze(1).split(self.sizes, -1)
        x = self.norm(states) * (1 + scale) + shift  # (b, k, e)
        own = (self.own(x) + bias).unsqueeze(2)
        messages = F.relu(own + self.others(x).unsqueeze(1) + self.ways(edges) * (1 + gate).unsqueeze(1))  # (b, i, j, d)
        heard = (messages * there[:, None, :, None]).sum(2)
        return states + self.update(torch.cat([x, heard], -1))
