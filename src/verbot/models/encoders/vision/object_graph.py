"""Things as nodes, where they stand to each other as edges: a graph that the sentence steers, and that points."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.encoders.vision.query_conv import QueryConv
from verbot.models.layers.transformer import pixel_grid
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup

STEEP = 6.0  # things stand tenths of the image apart: so an edge is of the size of what a node holds
REACH = 1.5  # cells around a node that its score is told to
EDGE = 5  # numbers of an edge: the way (x, y), its size in x and y, its length
LOW = -1e4  # a logit of what is not there


@vision_encoders.register("object_graph")
class ObjectGraph(nn.Module):
    """`query_conv`, a graph of the things that it sees in each view, and a token for each of them.

    **Nodes.** To the heatmaps of the target and the reference a logit of each place is added that no sentence changes. It begins
    as how much the place differs from most of the picture, and learns from the pointing what all that was ever pointed at has in
    common. Its peaks are the nodes, as in a detector of objects as points (Zhou et al. 2019): nothing but the picture is needed.

    **Edges** are the ways from node to node. In each layer a node hears, from each of a few heads, the mean way to the nodes that
    the sentence speaks of: the first head heeds those that it takes for the reference, which the keypoint loss teaches, the
    others what they like. Graph networks: Battaglia et al. 2018; with language that chooses the edges: Hu et al. 2019.

    **Pointing.** What a node is worth as the target, the receptacle and the reference is what it holds, asked by the sentence,
    and what it heard, times weights that the sentence sets: 1 for x of the way to the reference tells how far left of it a node
    stands, −1 for the way's length how near. That is added to the heatmaps around the node.

    Args:
        channels, features, heatmaps: of `query_conv`.
        nodes: k, in each view, from left to right; where there are fewer peaks the rest is masked.
        layers: of messages; with 0 nodes do not hear of each other.
        heads: of what a node hears in each layer.
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
                f"object_graph needs 1 to {places} nodes a view, as a picture of {sizes.height}×{sizes.width_px} has so many "
                f"places, at least 2 heads and no less than 0 layers; got nodes={nodes}, heads={heads}, layers={layers}"
            )
        self.counts = {**self.base.counts, "objects": sizes.views * nodes}
        self.views = sizes.views
        self.thingness = nn.ModuleList(_Thingness(features) for _ in range(sizes.views))
        self.find = _Peaks(self.base.grid, nodes)
        self.graphs = nn.ModuleList(_Graph(sizes.width, features, layers, heads) for _ in range(sizes.views))

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self._groups(*self._look(images), mask, sentence)

    def ask_many(
        self, images: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the taught heatmaps alone for questions (q, e) of images `rows` (q,), seen once for all."""
        features, found = self._look(images)
        asked, nodes = features.index_select(0, rows), [view.take(rows) for view in found]
        more = [self._judge(v, *x, questions)[0] for v, x in enumerate(zip(asked.unbind(1), nodes, strict=True))]
        answers = self.base.point(asked, mask[rows], questions, len(POINTS), more)
        return self._groups(features, found, mask, sentence), answers

    def _look(self, images: Tensor) -> tuple[Tensor, list[_Nodes]]:
        features = self.base.see(images)
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
        """Logits (b, 3, n) of the taught heatmaps of one view, and its nodes (b, k, e)."""
        queries = self.base.ask(sentence, len(POINTS))[:, view]
        scores, states = self.graphs[view](nodes, sentence, queries)
        return scores @ nodes.around + nodes.thingness, states


class _Thingness(nn.Module):
    """The logit (b, n) that a place (b, n, f) is a thing; it begins as how much it differs from most of the picture."""

    def __init__(self, features: int):
        super().__init__()
        self.learned = nn.Linear(features, 1, bias=False)  # the same everywhere tells nothing apart
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, places: Tensor) -> Tensor:
        away = (places - places.mean(1, keepdim=True)).norm(dim=-1)
        return self.learned(places).squeeze(-1) + self.weight * away / (away.mean(1, keepdim=True) + 1e-6)


@dataclass(frozen=True)
class _Nodes:
    """What was found in one view of `b` images.

    Args:
        seen: (b, k, f), the features there.
        likely: (b, k), the logit of its being a thing.
        states: (b, k, e).
        points: (b, k, 2), x and y in [-1, 1], from left to right.
        there: (b, k) bool, False where there are no more peaks.
        around: (b, k, n), how near each place is to each node, from 1 to 0.
        thingness: (b, 3, n), what each place adds to the taught heatmaps, whatever was said.
    """

    seen: Tensor
    likely: Tensor
    states: Tensor
    points: Tensor
    there: Tensor
    around: Tensor
    thingness: Tensor

    def take(self, rows: Tensor) -> _Nodes:
        return _Nodes(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))


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
        seen = weights @ places
        states = read(torch.cat([seen, points], -1))
        near = (1 - (self.cells - points.unsqueeze(-2)).abs() / size / REACH).clamp(min=0).prod(-1) * there.unsqueeze(-1)
        return _Nodes(seen, logits.gather(-1, best), states, points, there, near, logits.unsqueeze(1) * self.pointed[:, None])


class _Graph(nn.Module):
    """Nodes that hear where they stand to what is spoken of, and what each is worth as the target, receptacle and reference."""

    def __init__(self, width: int, features: int, layers: int, heads: int):
        super().__init__()
        self.layers = nn.ModuleList(_Messages(width, features, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, len(POINTS) * width)
        self.weigh = nn.Linear(width, len(POINTS) * (heads * EDGE + 2))
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, nodes: _Nodes, sentence: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (b, 3, k) and states (b, k, e) of nodes told a sentence (b, e), whose queries are (b, 3, f)."""
        ways = nodes.points.unsqueeze(1) - nodes.points.unsqueeze(2)  # (b, i, j, 2), from i to j
        edges = STEEP * torch.cat([ways, ways.abs(), ways.norm(dim=-1, keepdim=True)], -1)
        states, score = nodes.states, self.ask(sentence).unflatten(-1, (len(POINTS), -1)) / nodes.states.shape[-1] ** 0.5
        worth = score @ self.norm(states).transpose(1, 2)
        for layer in self.layers:
            named = (queries @ nodes.seen.transpose(1, 2) + worth)[:, -1] + nodes.likely  # as the reference, of all nodes
            states, heard = layer(states, edges, nodes, sentence, named)
            worth = score @ self.norm(states).transpose(1, 2)
        if len(self.layers):
            weights = self.weigh(sentence).unflatten(-1, (len(POINTS), -1))
            worth = worth + weights @ torch.cat([heard, STEEP * nodes.points], -1).transpose(1, 2)
        return worth, states


class _Messages(nn.Module):
    """A layer of the graph: from each head a node hears the mean edge to the nodes that the sentence speaks of."""

    def __init__(self, width: int, features: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.ask = nn.Linear(width, (heads - 1) * (width + features))
        self.film = nn.Linear(width, 2 * (width + heads * EDGE))
        self.update = nn.Sequential(nn.Linear(width + heads * EDGE, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, states: Tensor, edges: Tensor, nodes: _Nodes, sentence: Tensor, named: Tensor) -> tuple[Tensor, Tensor]:
        """States (b, k, e), and what was heard (b, k, h·5)."""
        x = self.norm(states)
        asked = self.ask(sentence).unflatten(-1, (self.heads - 1, -1)) @ torch.cat([x, nodes.seen], -1).transpose(1, 2)
        logits = torch.cat([named.unsqueeze(1), asked], 1)  # (b, h, j)
        heed = logits.masked_fill(~nodes.there.unsqueeze(1), LOW).softmax(-1)
        heard = torch.einsum("bhj,bijd->bihd", heed, edges).flatten(2)
        scale, shift = self.film(sentence).unsqueeze(1).chunk(2, -1)
        return states + self.update(torch.cat([x, heard], -1) * (1 + scale) + shift), heard
