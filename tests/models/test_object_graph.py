"""Nodes are what is pointed at, and with messages a network finds which of two things alike a relation means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from verbot.errors import ConfigError
from verbot.models.encoders.object_graph import ObjectGraph, _Messages, _Peaks
from verbot.models.keypoints import keypoint_loss
from verbot.models.layers import pixel_grid
from verbot.models.tokens import Sizes

SIZES = Sizes(width=32, views=1, height=48, width_px=48, state=4, chunk=3, action=())
GRID = SIZES.height // 4
RED, BLUE = (0.9, -0.8, -0.8), (-0.8, -0.6, 0.9)


def _scenes(count: int, generator: torch.Generator):
    """Pictures (b, 1, 3, h, w) of two red squares and a blue one; told 0 the red one nearer to it is meant, 1 the farther one."""
    places = torch.rand(20 * count, 3, 2, generator=generator) * 0.8 + 0.05  # of the blue one, a red one, the other
    ways = (places[:, 1:] - places[:, :1]).norm(dim=-1)
    apart = (places[:, 1] - places[:, 2]).norm(dim=-1) > 0.25
    places = places[apart & (ways[:, 0] > 0.25) & (ways[:, 1] > ways[:, 0] + 0.15)][:count]
    corners = (places * SIZES.height).long()  # (b, 3, 2)
    images = torch.full((len(places), 1, 3, SIZES.height, SIZES.height), 0.2)
    for row in range(len(places)):
        for (left, top), color in zip(corners[row].tolist(), (BLUE, RED, RED), strict=True):
            images[row, 0, :, top : top + 4, left : left + 4] = torch.tensor(color)[:, None, None]
    middles = (corners + 2) * 2 / SIZES.height - 1
    return images, middles, torch.randint(0, 2, (len(places),), generator=generator)


def _learn(layers: int, steps: int):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoder, words = ObjectGraph(SIZES, 8, 16, heatmaps=3, nodes=4, layers=layers, heads=3), nn.Embedding(2, 32)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *words.parameters()], 4e-3)
    known, there = torch.tensor([True, False, True]), torch.ones(64, 1, dtype=torch.bool)
    for step in range(steps):
        images, middles, told = _scenes(64, generator)
        true = torch.stack([middles[range(64), 1 + told], middles[:, 0], middles[:, 0]], 1).unsqueeze(1)
        group = encoder(images, there, words(told))[0]
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        optimizer.zero_grad()
        keypoint_loss(group, true, known.expand(64, 1, 3))["keypoint"].backward()
        optimizer.step()
    images, middles, told = _scenes(200, torch.Generator().manual_seed(2))
    with torch.no_grad():
        keypoints, nodes = encoder(images, torch.ones(200, 1, dtype=torch.bool), words(told))
    right = (keypoints.points[:, 0] - middles[range(200), 1 + told]).norm(dim=-1) < 0.2
    found = (middles[:, :, None] - nodes.points[:, None]).norm(dim=-1).min(-1).values < 2 / GRID
    return float(right.float().mean()), float(found.float().mean())
