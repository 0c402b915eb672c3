"""What is clipped on its way into a network or out of it, and that a goal image is compared with what is seen now."""

from __future__ import annotations

import pytest
import torch
from small_heads import PLANE, TURN, component, group, inputs

from verbot.models.encoders.state.proprioception import Proprioception
from verbot.models.encoders.vision.goal_conv import GoalConv
from verbot.models.heads import diffusion
from verbot.models.heads.bins import Binning
from verbot.models.heads.diffusion import Diffusion, sampled_levels
from verbot.models.objectives.keypoints import heatmap_loss
from verbot.models.tokens import Sizes

SIZES = Sizes(width=16, views=1, height=16, width_px=16, state=4, chunk=3, action=TURN)


def pictures(rows: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# The goal image


def test_a_goal_is_read_beside_the_present_picture():
    """Kills: a goal encoder that is blind to the present picture, or to the goal."""
    torch.manual_seed(0)
    encoder, everything = GoalConv(SIZES, channels=8, tokens=4), torch.ones(3, dtype=torch.bool)
    now, goal = pictures(seed=1).requires_grad_(), pictures(seed=2).requires_grad_()
    tokens = encoder(goal, everything, now, everything).tokens
    tokens.square().sum().backward()
    for picture in (now, goal):
        assert (picture.grad.abs().amax((1, 2, 3)) > 1e-5).all()
    with torch.no_grad():
        elsewhere = encoder(goal, everything, pictures(seed=3), everything).tokens
        reached = encoder(goal, everything, goal, everything).tokens
    for other in (elsewhere, reached):
        assert ((tokens - other).abs().amax((1, 2)) > 1e-3).all()


def test_a_missing_present_picture_is_not_a_gray_one():
    torch.manual_seed(0)
    encoder, everything = GoalConv(SIZES, channels=8, tokens=4), torch.ones(3, dtype=torch.bool)
    goal = pictures(seed=2)
    with torch.no_grad():
        missing = [encoder(goal, everything, pictures(seed=s), ~everything).tokens for s in (1, 3)]
        gray = encoder(goal, everything, torch.zeros_like(goal), everything).tokens
    assert torch.equal(*missing)
    assert ((missing[0] - gray).abs().amax((1, 2)) > 1e-3).all()


# Diffusion


@pytest.mark.parametrize("predict", diffusion.PREDICTS)
def test_the_predicted_sample_is_clipped_at_every_level(predict, monkeypatch):
    """Kills: a sampler without the clip, and one that clips only at its end.

    The network takes 100 for the actions at every level. The sample of the next level is then √ᾱ·clip + √(1 − ᾱ)·ε with the ε
    that goes with the clipped actions.
    """
    head = Diffusion(inputs(PLANE), predict=predict, steps=4, clip=2.0)
    given = []

    def guess(x, level, condition):
        given.append(x)
        kept = head.alphas[level][:, None, None]
        actions = torch.full_like(x, 100.0)
        noise = (x - kept.sqrt() * actions) / (1 - kept).sqrt()
        return {"actions": actions, "noise": noise, "velocity": kept.sqrt() * noise - (1 - kept).sqrt() * actions}[predict]

    monkeypatch.setattr(head, "guess", guess)
    found = head.predict(group(5), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, torch.full((5, 3, 2), 2.0))
    levels = sampled_levels(len(head.alphas), 4)
    for i in range(3):
        kept, left = head.alphas[levels[i]], head.alphas[levels[i + 1]]
        noise = (given[i] - kept.sqrt() * 2.0) / (1 - kept).sqrt()
        torch.testing.assert_close(given[i + 1], left.sqrt() * 2.0 + (1 - left).sqrt() * noise, rtol=1e-3, atol=1e-3)


def test_the_clip_is_symmetric(monkeypatch):
    head = Diffusion(inputs(PLANE), predict="actions", steps=2, clip=2.0)
    monkeypatch.setattr(head, "guess", lambda x, level, condition: torch.full_like(x, -100.0))
    torch.testing.assert_close(head.predict(group(2)), torch.full((2, 3, 2), -2.0))


# States, bins and cells


def test_a_state_beyond_the_limit_is_held_there():
    """Kills: a state without its clamp."""
    torch.manual_seed(0)
    encoder, here = Proprioception(SIZES, hidden=8, limit=4.0), torch.ones(2, dtype=torch.bool)
    inside = torch.tensor([[4.0, -4.0, 3.9, 0.0], [-4.0, 4.0, -3.9, 1.0]])
    beyond = torch.tensor([[400.0, -4.1, 3.9, 0.0], [-400.0, 7.0, -3.9, 1.0]])
    assert torch.equal(encoder(beyond, here).tokens, encoder(inside, here).tokens)
    within = torch.where(inside.abs() == 4, inside * 0.9, inside)
    assert not torch.allclose(encoder(within, here).tokens, encoder(inside, here).tokens), "what lies within is not held"


@pytest.mark.parametrize("convention", ["openvla", "rt1"])
def test_values_outside_the_range_fall_into_the_outermost_bins(convention):
    """Kills: discretized values without their clip: below the range the bin would be −1."""
    binning = Binning((component("move", "position_delta", 1),), -1.0, 1.0, bins=8, convention=convention)
    index = binning.encode(torch.tensor([[-1e6], [-1.001], [-1.0], [1.0], [1.001], [1e6]]))
    assert index.flatten().tolist() == [0, 0, 0, 7, 7, 7]


def test_a_keypoint_outside_the_image_is_taught_as_the_nearest_place_inside():
    """Kills: a place discretized into cells without its clamp."""
    logits = torch.randn(1, 1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    points, mask = torch.zeros(1, 1, 3, 2), torch.ones(1, 1, 3, dtype=torch.bool)

    def entropy(true):
        losses = heatmap_loss(points, logits, true.expand(1, 1, 3, 2), mask)
        return losses[0] - losses[1]

    for outside, inside in (
        ((-3.0, 0.2), (-1.0, 0.2)),
        ((5.0, 0.2), (1.0, 0.2)),
        ((0.1, -2.0), (0.1, -1.0)),
        ((0.1, 9.0), (0.1, 1.0)),
    ):
        torch.testing.assert_close(entropy(torch.tensor(outside)), entropy(torch.tensor(inside)))
