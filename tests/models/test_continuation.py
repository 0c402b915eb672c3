"""Continuing a chunk: guidance by an exact product with the Jacobian, and heads that were trained with a prefix."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from small_heads import ARM, PLANE, batch_of, group, inputs, learn

from verbot.errors import ConfigError
from verbot.models.action_space import Continuous
from verbot.models.continuation import (
    Continuation,
    gain,
    integrate_guided,
    prefix_lengths,
    pull,
    soft_mask,
)
from verbot.models.heads.diffusion import Diffusion, DiffusionGuidance
from verbot.models.heads.flow import Flow
from verbot.models.heads.flow_expert import FlowExpert
from verbot.models.registries import heads
from verbot.models.stochastic import ContinuingHead, sampled
from verbot.models.tokens import PlannedActions

K = 4
SMALL = {"flow": {"hidden": 32, "steps": 3}, "flow_expert": {"hidden": 16, "steps": 3}, "diffusion": {"hidden": 32, "steps": 3}}


def plan(values: torch.Tensor, known: list[int], committed: list[int]) -> PlannedActions:
    return PlannedActions(values, torch.tensor(known), torch.tensor(committed))


def test_the_weights_are_those_of_the_paper():
    def weights(schedule: str, start: int = 2, end: int = 6, total: int = 10) -> list[float]:
        return soft_mask(torch.tensor([start]), torch.tensor([end]), total, schedule)[0].tolist()

    linear = [1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0, 0, 0, 0]
    assert weights("linear") == pytest.approx(linear)
    assert weights("exp") == pytest.approx([w * math.expm1(w) / (math.e - 1) for w in linear])
    assert weights("ones") == [1] * 6 + [0] * 4
    assert weights("zeros") == [1] * 2 + [0] * 8
    assert weights("zeros", start=9) == [1] * 6 + [0] * 4  # no more are committed than there are
    for schedule in ("exp", "linear", "ones", "zeros"):
        assert weights(schedule, 0, 0) == [0] * 10


def test_the_gain_is_clipped_at_the_noise_and_vanishes_at_the_data():
    assert gain(0.0, 5.0) == 5 and gain(0.1, 5.0) == 5
    assert gain(0.5, 5.0) == pytest.approx(1 * (0.25 + 0.25) / 0.25)
    assert gain(0.8, 50.0) == pytest.approx(0.25 * (0.64 + 0.04) / 0.04)


def test_the_correction_is_the_product_with_the_jacobian_of_the_whole_network():
    """v = A·x with A far from the identity: the correction is (I + (1 − τ)·A)ᵀe, also in inference mode with frozen weights."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(2 * K, 2 * K, generator=g) * 2
    with torch.inference_mode():
        x, y = torch.randn(3, K, 2, generator=g), torch.randn(3, K, 2, generator=g)
        weights, time = torch.rand(3, K, generator=g), 0.25

        def estimate(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = (at.flatten(1) @ a.T).view_as(at)
            return at + (1 - time) * found, found

        output, found = pull(estimate, x, y, weights)
        velocity = (x.flatten(1) @ a.T).view_as(x)
        error = (y - (x + (1 - time) * velocity)) * weights.unsqueeze(-1)
        expected = (error.flatten(1) @ (torch.eye(2 * K) + (1 - time) * a)).view_as(x)
    torch.testing.assert_close(output, velocity)
    torch.testing.assert_close(found, expected)
    assert (found - error).abs().max() > 1, "an identity in place of the Jacobian would give the error itself"


def test_guided_steps_are_those_of_the_formula():
    g = torch.Generator().manual_seed(1)
    a, x, y = torch.randn(2 * K, 2 * K, generator=g) * 0.5, torch.randn(1, K, 2, generator=g), torch.randn(1, K, 2, generator=g)

    def velocity(at: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return (at.flatten(1) @ a.T).view_as(at) * (1 + time[:, None, None])

    found = integrate_guided(velocity, x, 4, y, plan(y, [3], [1]), Continuation(schedule="linear", beta=2.0))
    at = x.flatten()
    weights = torch.tensor([1, 3 / 4, 2 / 4, 0]).repeat_interleave(2)
    assert soft_mask(torch.tensor([1]), torch.tensor([3]), K, "linear")[0].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    weights = torch.tensor([1, 2 / 3, 1 / 3, 0]).repeat_interleave(2)
    for time in (0.0, 0.25, 0.5, 0.75):
        jacobian = torch.eye(2 * K) + (1 - time) * (1 + time) * a
        error = (y.flatten() - jacobian @ at) * weights
        r = (time**2 + (1 - time) ** 2) / (1 - time) ** 2
        factor = min(2.0, ((1 - time) / time if time else math.inf) * r)
        at = at + ((1 + time) * (a @ at) + factor * (jacobian.T @ error)) / 4
    torch.testing.assert_close(found.flatten(), at)


@pytest.mark.parametrize("name", SMALL)
def test_rows_without_planned_actions_are_predicted_as_ever_to_the_bit(name):
    torch.manual_seed(0)
    head = heads.build(name, inputs(ARM, K, 2), **SMALL[name]).eval().requires_grad_(False)
    fused, values = group(3, 2), torch.rand(3, K, 7)
    with torch.inference_mode():
        plain = head.predict(fused)
        found = head.continued(fused, plan(values, [0, K, 0], [0, 2, 0]))
        torch.testing.assert_close(found[[0, 2]], plain[[0, 2]], rtol=0, atol=0)
        assert not torch.equal(found[1], plain[1])
        elsewhere = values.clone()
        elsewhere[1, 3:] = 1e6
        cut = plan(values, [0, 3, 0], [0, 2, 0]), plan(elsewhere, [0, 3, 0], [0, 2, 0])
        torch.testing.assert_close(*(head.continued(fused, each) for each in cut), rtol=0, atol=0)  # padding has no weight
        seeds = [None, 4, 4]
        drawn = sampled(head, fused, seeds, plan(values, [0, K, 0], [0, 2, 0]))
        torch.testing.assert_close(drawn[2], sampled(head, fused, seeds)[2], rtol=0, atol=0)
        assert not torch.equal(drawn[1], sampled(head, fused, seeds)[1])
    assert isinstance(head, ContinuingHead)


@pytest.mark.parametrize("name", SMALL)
def test_guidance_draws_the_first_actions_to_the_planned_ones_and_the_rest_less(name):
    torch.manual_seed(0)
    options = {**SMALL[name], "steps": 8}
    head = heads.build(name, inputs(PLANE, 8), **options)
    fused, actions = group(2), torch.zeros(2, 8, 2)
    learn(head, fused, batch_of(actions), 60)
    planned = plan(torch.full((2, 8, 2), 0.7), [6, 6], [3, 3])
    head.eval()
    before, after = ((x - 0.7).abs().mean((0, 2)) for x in (head.predict(fused).detach(), head.continued(fused, planned)))
    assert after[:3].mean() < 0.6 * before[:3].mean()
    assert after[:3].mean() < after[6:].mean()


def test_a_guided_step_of_diffusion_is_one_of_the_flow_on_the_same_line():
    """DDIM on x_t is Euler on x_t / (√ᾱ + √(1 − ᾱ)): with the exact velocity of one chunk both give the same chunk."""
    torch.manual_seed(0)
    head = Diffusion(inputs(PLANE, K), steps=3, predict="actions", clip=1e6, guidance=DiffusionGuidance("linear", 2.0))
    a = torch.randn(2 * K, 2 * K) * 0.3
    kept = [head.alphas[now].item() for now, _ in head._levels()]
    scales = {now: math.sqrt(k) + math.sqrt(1 - k) for (now, _), k in zip(head._levels(), kept, strict=True)}
    head.guess = lambda x, level, condition: (x.flatten(1) @ a.T).view_as(x) / scales[int(level[0])]  # f(x_t) = A·x_τ
    y = torch.randn(1, K, 2)
    start = torch.Generator().manual_seed(5)
    found = head.continued(group(1), plan(y, [3], [1]), start)
    x = torch.randn(1, K, 2, generator=torch.Generator().manual_seed(5)).flatten() / scales[head._levels()[0][0]]
    weights = torch.tensor([1, 2 / 3, 1 / 3, 0]).repeat_interleave(2)
    times = [math.sqrt(k) / (math.sqrt(k) + math.sqrt(1 - k)) for k in kept] + [1.0]
    for time, then in itertools.pairwise(times):
        velocity = (a @ x - x) / (1 - time)
        x = x + (then - time) * (velocity + gain(time, 2.0) * (a.T @ ((y.flatten() - a @ x) * weights)))
    torch.testing.assert_close(found.flatten(), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Flow, FlowExpert])
def test_a_prefix_is_kept_and_is_what_the_rest_is_predicted_from(kind):
    """Two ways at once: the prefix says which of them goes on."""
    torch.manual_seed(0)
    head = kind(inputs(PLANE, K), hidden=32, steps=4, draws=8, continuation=Continuation(prefix=2))
    ways = torch.tensor([1.0, -1.0]).repeat(2)[:, None, None].expand(4, K, 2).contiguous()
    fused = group(1)
    many = type(fused)(fused.tokens.expand(4, -1, -1).contiguous(), fused.mask.expand(4, -1).contiguous(), "fused")
    learn(head, many, batch_of(ways), 100)
    head.eval()
    with torch.inference_mode():
        found = head.continued(many, plan(ways, [K] * 4, [2] * 4))
        torch.testing.assert_close(found[:, :2], ways[:, :2])
        assert (found[:, 2:] - ways[:, 2:]).abs().mean() < 0.3
        longer = head.continued(many, plan(ways, [K] * 4, [3] * 4))  # no longer than in training
        torch.testing.assert_close(longer, found)
        free = head.continued(many, plan(ways, [K] * 4, [0] * 4))
        torch.testing.assert_close(free, head.predict(many), rtol=0, atol=0)


def test_a_prefix_has_no_loss_and_padding_is_not_taken_for_one():
    torch.manual_seed(0)
    head = Flow(inputs(PLANE, K), hidden=16, draws=64, continuation=Continuation(prefix=3))
    actions, mask = torch.rand(2, K, 2), torch.tensor([[True] * 4, [True, False, False, False]])
    seen = []

    def velocity(x: torch.Tensor, time: torch.Tensor, condition: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        seen.append((x, clean))
        return torch.where(clean.unsqueeze(-1), torch.full_like(x, 1e6), torch.zeros_like(x))

    head.velocity = velocity
    loss = head.losses(group(2), batch_of(actions, mask), torch.Generator().manual_seed(0))["action"]
    assert loss < 10, "what is predicted where the actions are given does not count"
    (x, clean), known = seen[0], Continuous(PLANE).forward(actions).repeat_interleave(64, 0)
    assert torch.equal(x[clean], known[clean]) and set(clean[:64].sum(1).tolist()) == {0, 1, 2, 3}
    assert clean[64:, 1:].sum() == 0


def test_shorter_prefixes_are_more_likely():
    counts = torch.bincount(prefix_lengths(20_000, 8, torch.Generator().manual_seed(0)), minlength=9).float()
    assert len(counts) == 9 and (counts.diff() < 0).all()
    assert counts[8] / counts[0] == pytest.approx(math.exp(-2), rel=0.2)


def test_without_a_prefix_training_draws_the_same_numbers():
    losses = []
    for options in ({}, {"prefix": 0, "schedule": "linear", "beta": 9.0}):
        torch.manual_seed(0)
        head = heads.build("flow", inputs(PLANE, K), **options)
        losses.append(head.losses(group(2), batch_of(torch.rand(2, K, 2)), torch.Generator().manual_seed(0))["action"])
    assert losses[0] == losses[1]


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"no schedule 'cosine' of guidance; there are exp, linear, ones, zeros"):
        Continuation(schedule="cosine")
    with pytest.raises(ConfigError, match=r"needs prefix ≥ 0 and a finite beta ≥ 0; got -1 and 5.0"):
        Continuation(prefix=-1)
    with pytest.raises(ConfigError, match=r"prefix is 4; expected less than the 4 actions of a chunk"):
        heads.build("flow", inputs(PLANE, K), prefix=4)
