"""Memory says where about, the picture where exactly."""

from types import SimpleNamespace

import pytest
import torch

from verbot.errors import ConfigError
from verbot.models.encoders.vision import film_conv
from verbot.models.features import NetworkParts
from verbot.models.layers.transformer import pixel_grid
from verbot.models.network import NetworkConfig
from verbot.models.objectives.keypoint_memory import KeypointMemory
from verbot.models.tokens import Masked, Sizes, TokenGroup

GRID = (16, 16)
LEFT, RIGHT = torch.tensor([-0.4375, 0.0625]), torch.tensor([0.5625, 0.0625])  # centers of two cells


def heatmaps(*places, heads=16):
    """Two views whose heatmaps find the same at each of `places`."""
    distance = torch.stack([(pixel_grid(*GRID) - place).square().sum(-1) for place in places])
    logits = torch.logsumexp(-distance / 0.005, 0).view(1, 1, *GRID).expand(1, 2 * heads, -1, -1)
    mask = torch.ones(1, 2 * heads, dtype=torch.bool)
    return TokenGroup(torch.zeros(1, 2 * heads, 4), mask, "keypoints", torch.zeros(1, 2 * heads, 2), logits)


def remembering(place):
    """A memory that tells `place` for every point of both views, whatever it is given."""
    torch.manual_seed(0)
    backbone = SimpleNamespace(width=8, count=1, counts={"keypoints": 32})
    memory = KeypointMemory(NetworkParts(Sizes(8, 2, 16, 16, 4, 3, ()), backbone, torch.nn.Module()))
    torch.nn.init.zeros_(memory.tell.weight)
    memory.tell.bias.data = place.repeat(6)
    return memory, TokenGroup(torch.randn(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), "fused")


def found_by(memory, fused, keypoints):
    return memory(fused, keypoints)[2].flatten(-2).softmax(-1) @ pixel_grid(*GRID)


@pytest.mark.parametrize(("about", "exactly"), [(LEFT + 0.15, LEFT), (RIGHT - 0.2, RIGHT)])
def test_of_two_identical_objects_the_remembered_one_is_found_exactly(about, exactly):
    memory, fused = remembering(about)
    found = found_by(memory, fused, heatmaps(LEFT, RIGHT))
    assert (found - exactly).abs().max() < 0.06 < (about - exactly).abs().max()


def test_a_missing_view_keeps_the_prediction():
    memory, fused = remembering(LEFT)
    keypoints = heatmaps(RIGHT)
    blind = TokenGroup(keypoints.tokens, torch.tensor([[True] * 16 + [False] * 16]), "keypoints", None, keypoints.heatmaps)
    found = found_by(memory, fused, blind)
    assert (found[0, 1] - LEFT).abs().max() < 0.1
    assert (found[0, 0] - found[0, 1]).abs().max() > 0.1
    whatever = TokenGroup(
        blind.tokens, blind.mask, "keypoints", None, torch.where(blind.mask[..., None, None], blind.heatmaps, 1e4)
    )
    assert torch.equal(memory(fused, blind)[0].tokens, memory(fused, whatever)[0].tokens)


def test_what_is_found_reaches_the_action():
    memory, fused = remembering(LEFT)
    near, far = (memory(fused, heatmaps(place))[0].tokens for place in (LEFT, LEFT + torch.tensor([0.0, 0.25])))
    assert (near - far).abs().max() > 1e-2


def test_an_unknown_place_teaches_nothing_and_a_known_one_narrows_the_search():
    memory, fused = remembering(LEFT + 0.1)
    keypoints, true = heatmaps(LEFT, RIGHT), LEFT.expand(1, 2, 3, 2)
    _, places, logits = memory(fused, keypoints)
    nowhere = torch.zeros(1, 2, 3, dtype=torch.bool)
    assert memory.loss(places, logits, Masked(torch.full_like(true, torch.nan), nowhere)) == 0
    first = memory.loss(places, logits, Masked(true, ~nowhere))
    optimizer = torch.optim.Adam(memory.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        _, places, logits = memory(fused, keypoints)
        loss = memory.loss(places, logits, Masked(true, ~nowhere))
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * first
    assert memory.spread.exp().max() < 0.3  # narrower than it began


def test_keypoint_memory_without_heatmaps_is_refused(make_network, monkeypatch):
    monkeypatch.setattr(film_conv.FilmConv, "counts", property(lambda self: {}, lambda self, value: None), raising=False)
    with pytest.raises(ConfigError, match="keypoint_memory refines keypoints on heatmaps, and this vision encoder has none"):
        make_network(NetworkConfig(width=16).with_objectives(keypoint_memory=1.0))
