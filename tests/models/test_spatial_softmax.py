"""Where a network looks: how a place becomes a token, and how it is asked for."""

import dataclasses

import pytest
import torch
from torch import nn

from verbot.models.encoders.state.proprioception import Proprioception
from verbot.models.encoders.vision.query_conv import QueryConv
from verbot.models.encoders.vision.spatial_softmax import place_reader
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes

SIZES = Sizes(width=16, views=2, height=16, width_px=24, state=4, chunk=3, action=())


def test_where_a_heatmap_looks_weighs_more_than_what_it_finds():
    torch.manual_seed(0)
    found, places = torch.randn(500, 48) * 0.3, torch.rand(500, 2) * 2 - 1  # as large as they are in a network that begins
    project = place_reader(48, 64)
    still = project(torch.cat([found, torch.zeros(500, 2)], -1)).var(0).sum()
    moving = project(torch.cat([torch.zeros(500, 48), places], -1)).var(0).sum()
    assert moving > 3 * still


@pytest.mark.parametrize("name", vision_encoders.names())
def test_every_encoder_that_points_begins_with_places_that_count(name):
    sizes = dataclasses.replace(SIZES, height=32, width_px=32)
    encoder = vision_encoders.get(name)(sizes)
    readers = [m for m in encoder.modules() if isinstance(m, nn.Linear) and m.weight[:, -2:].std() > 5 * m.weight[:, :-2].std()]
    assert len(readers) == 1


def test_where_the_hand_is_weighs_as_much_as_where_it_looks():
    """Moved by one standard deviation, the state token moves as far as a keypoint's that moves by a quarter of the image."""
    torch.manual_seed(0)
    sizes = dataclasses.replace(SIZES, width=64, state=11)
    encoder, project = Proprioception(sizes), place_reader(48, 64)
    state, there = torch.randn(300, 11), torch.ones(300, dtype=torch.bool)
    moved = state + torch.eye(11)[0]
    felt = (encoder(moved, there).tokens - encoder(state, there).tokens).norm(dim=-1).mean()
    seen = 0.5 * project.weight[:, -2].norm()
    assert 0.3 < felt / seen < 3


def test_a_place_can_be_asked_for_and_nothing_else_changes_before_it_is():
    torch.manual_seed(0)
    images, mask, sentence = torch.rand(5, 2, 3, 16, 24) * 2 - 1, torch.ones(5, 2, dtype=torch.bool), torch.randn(5, 16)
    torch.manual_seed(1)
    plain = QueryConv(SIZES, channels=4, features=8, heatmaps=3)
    torch.manual_seed(1)
    asked = QueryConv(SIZES, channels=4, features=8, heatmaps=3, by_place=True)
    asked.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(images, mask, sentence)[0].points, asked(images, mask, sentence)[0].points)
    place, steep = torch.tensor([0.5, -0.4]), 4.0
    with torch.no_grad():
        asked.where.ask.bias.copy_(torch.cat([steep * place, torch.tensor([steep])]).repeat(6))
    found = asked(images, mask, sentence)[0].points
    assert (found - place).abs().max() < 0.12  # a cell is a sixth of the image wide


def _half_dark_lines(count, seed):
    """Two lines of two pixels' width (n, 1, 3, 32, 32), dark up to somewhere; and where the first one's dark part ends (n, 2)."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(14, generator=random)[:2] * 2 + 2 for _ in range(count)])
    ends = torch.randint(4, 28, (count, 2), generator=random)
    images, column = torch.full((count, 1, 3, 32, 32), -0.6), torch.arange(32)
    for line in range(2):
        for row in (rows[:, line], rows[:, line] + 1):
            images[torch.arange(count), 0, line, row] = torch.where(column >= ends[:, line, None], 0.9, -0.8)
    return images, torch.stack([ends[:, 0], rows[:, 0] + 1], -1) / 16 - 1


def test_a_stem_finds_where_a_line_of_two_pixels_turns_bright():
    torch.manual_seed(0)
    encoder = QueryConv(Sizes(16, 1, 32, 32, 4, 3, ()), channels=16, features=16, heatmaps=3, stem=8)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    for step in range(201):
        images, true = _half_dark_lines(64 if step < 200 else 512, step)
        seen = torch.ones(len(images), 1, dtype=torch.bool)
        error = (encoder(images, seen, torch.ones(len(images), 16))[0].points[:, 0] - true).abs().mean()
        if step < 200:
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
    assert error.item() * 16 < 0.1, "pixels"


@pytest.mark.parametrize("stem", [0, 8])
def test_only_a_stem_takes_more_of_a_cell_than_weighted_sums_of_its_pixels(stem):
    torch.manual_seed(0)
    first = QueryConv(SIZES, channels=4, features=8, heatmaps=3, stem=stem).trunks[0].stem
    one, other = torch.randn(2, 1, 3, 16, 24)
    together = first(one) + first(other) - first(torch.zeros_like(one))
    assert torch.allclose(first(one + other), together, atol=1e-4) == (stem == 0)
