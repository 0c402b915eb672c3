"""What the kinds of components and the continuous heads promise beyond the laws; bins and codes are in test_codes."""

import math

import pytest
import torch
from small_heads import ARM, KEYS, PLANE, TURN, WIDTH, batch_of, component, group, inputs, learn
from torch.distributions import Normal, kl_divergence

from verbot.errors import ConfigError
from verbot.models.action_space import (
    ActionReadout,
    Continuous,
    constrained,
    matrix_of_quaternion,
    orthonormal,
    quaternion_of_matrix,
    unit,
)
from verbot.models.heads import cvae, diffusion
from verbot.models.heads.cvae import CVAE, Transformer
from verbot.models.heads.diffusion import Diffusion, sampled_levels, squared_cosine
from verbot.models.heads.flow import Flow
from verbot.models.heads.regression import Regression
from verbot.models.tokens import TokenGroup


def turns(*shape: int) -> torch.Tensor:
    return unit(torch.randn(*shape, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


# Rotations


def test_a_quaternion_is_a_rotation_where_tanh_makes_none():
    raw = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 3
    assert ((raw.tanh().norm(dim=-1) - 1).abs() > 0.05).float().mean() > 0.9  # squashed numbers are no unit quaternion
    for readout in (ActionReadout(TURN), ActionReadout(TURN, "six")):
        found = readout.decode(torch.cat([raw, raw.roll(1, 0)], -1)[:, : readout.size])
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(500))
        assert (found[:, 0] >= 0).all()


def test_nothing_to_normalize_is_no_rotation():
    for readout in (ActionReadout(TURN), ActionReadout(TURN, "six")):
        assert readout.decode(torch.zeros(readout.size)).tolist() == [1, 0, 0, 0]
    assert constrained(TURN, torch.zeros(4)).tolist() == [1, 0, 0, 0]


def test_a_matrix_turns_vectors_as_its_quaternion_does():
    q = turns(200)
    w, u = q[:, :1], q[:, 1:]
    vector = torch.randn(200, 3, dtype=torch.float64)
    turned = vector + 2 * torch.linalg.cross(u, torch.linalg.cross(u, vector) + w * vector)  # q v q*
    torch.testing.assert_close((matrix_of_quaternion(q) @ vector.unsqueeze(-1)).squeeze(-1), turned)


def test_matrices_and_quaternions_are_one_another():
    half_turns = torch.eye(4, dtype=torch.float64)[1:]  # where the usual formula divides by w = 0
    for q in (turns(1000), half_turns, unit(half_turns + 1e-9), torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)):
        matrix = matrix_of_quaternion(q)
        torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64).expand_as(matrix))
        back = quaternion_of_matrix(matrix)
        torch.testing.assert_close((back * q).sum(-1).abs(), torch.ones(len(q), dtype=torch.float64))


def test_six_numbers_are_their_matrix_whatever_their_lengths():
    matrix = matrix_of_quaternion(turns(50))
    six = torch.cat([matrix[..., 0] * 2.5, matrix[..., 1] * 0.3 + matrix[..., 0] * 4], -1)
    torch.testing.assert_close(orthonormal(six), matrix)
    torch.testing.assert_close(torch.linalg.det(orthonormal(torch.randn(50, 6))), torch.ones(50))


def test_six_numbers_change_little_where_a_quaternion_must_jump():
    """About half a turn: the rotations differ by a hundredth, their quaternions with w ≥ 0 by two."""
    angles = torch.tensor([math.pi - 0.005, math.pi + 0.005], dtype=torch.float64)
    quaternions = torch.stack([(angles / 2).cos(), (angles / 2).sin(), angles * 0, angles * 0], -1)
    before, after = unit(quaternions)
    assert (before - after).abs().max() > 1.9
    matrices = matrix_of_quaternion(quaternions)
    assert (matrices[0, :, :2] - matrices[1, :, :2]).abs().max() < 0.011


@pytest.mark.parametrize("rotation", ["quaternion", "six"])
def test_a_turn_is_learned_in_either_picture(rotation):
    head = Regression(inputs(TURN, 1), rotation=rotation)
    fused, true = group(4), turns(4, 1).float()
    signs = torch.where(torch.arange(4) % 2 == 0, 1.0, -1.0)[:, None, None]
    first = head.losses(fused, batch_of(true))["action"]
    torch.testing.assert_close(first, head.losses(fused, batch_of(true * signs))["action"])  # q and −q are one rotation
    learn(head, fused, batch_of(true * signs), 400)
    assert (head.predict(fused) * true).sum(-1).abs().min() > 0.99  # cosine of half the angle between them


def test_classes_are_chosen_not_averaged():
    readout = ActionReadout(KEYS)
    logits = torch.tensor([[3.0, 0.0, 0.0, 2.9], [0.0, 0.0, 1.0, 0.0]])
    assert readout.size == 4 and readout.decode(logits).tolist() == [[0], [2]]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([3, 2]), reduction="none")
    torch.testing.assert_close(readout.errors(logits, torch.tensor([[3.0], [2.0]])).squeeze(-1), expected)


def test_noise_space_comes_back():
    action = (*ARM, *KEYS)
    actions = torch.cat([torch.randn(5, 2), -turns(5).float(), torch.rand(5, 1), torch.tensor([[0.0], [1], [2], [3], [3]])], -1)
    space = Continuous(action)
    inside = space.forward(actions)
    assert inside[:, 6:].abs().max() <= 1 and (inside[:, 2] >= 0).all()
    torch.testing.assert_close(space.inverse(inside), constrained(action, actions))
    wild = space.inverse(inside + torch.randn_like(inside) * 2)
    assert wild[:, 6].min() >= 0 and wild[:, 6].max() <= 1 and set(wild[:, 7].tolist()) <= {0, 1, 2, 3}
    torch.testing.assert_close(wild[:, 2:6].norm(dim=-1), torch.ones(5))


def test_heads_say_what_they_cannot_be():
    with pytest.raises(ConfigError, match=r"there is no rotation 'euler' of a head; there are quaternion, six"):
        Regression(inputs(TURN), rotation="euler")
    with pytest.raises(ConfigError, match=r"'turn' is a quaternion of 3 numbers; expected 4"):
        Regression(inputs((component("turn", "quaternion", 3),)))
    with pytest.raises(ConfigError, match=r"no prior 'normal' of a cvae; there are standard, learned"):
        CVAE(inputs(PLANE), prior="normal")
    with pytest.raises(ConfigError, match=r"needs 1 ≤ steps ≤ levels and draws ≥ 1; got 9, 8 and 4"):
        Diffusion(inputs(PLANE), levels=8, steps=9)
    with pytest.raises(ConfigError, match=r"cannot predict 'score'; it predicts velocity, noise, actions"):
        Diffusion(inputs(PLANE), predict="score")


# The conditional variational autoencoder


def test_the_divergence_is_that_of_the_two_distributions():
    g = torch.Generator().manual_seed(0)
    mean_q, log_q, mean_p, log_p = (torch.randn(50, 32, generator=g, dtype=torch.float64) for _ in range(4))
    found = cvae.kl_divergence(mean_q, log_q, mean_p, log_p)
    expected = kl_divergence(Normal(mean_q, (log_q / 2).exp()), Normal(mean_p, (log_p / 2).exp())).sum(-1)
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()  # with an added term for a subtracted one it is not
    assert (cvae.kl_divergence(mean_q, log_q, mean_q, log_q) == 0).all()
    zero = torch.zeros_like(mean_q)
    sampled = mean_q + (log_q / 2).exp() * torch.randn(20_000, 50, 32, generator=g, dtype=torch.float64)
    ratio = Normal(mean_q, (log_q / 2).exp()).log_prob(sampled) - Normal(zero, zero + 1).log_prob(sampled)
    torch.testing.assert_close(ratio.sum(-1).mean(0), cvae.kl_divergence(mean_q, log_q, zero, zero), rtol=0.02, atol=0.2)


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_the_style_in_prediction_is_the_priors_mean(prior, monkeypatch):
    head = CVAE(inputs(PLANE), prior=prior, transformer=Transformer(hidden=32))
    if head.prior is not None:
        torch.nn.init.normal_(head.prior.weight)
    used = []
    decode = head.decode
    monkeypatch.setattr(head, "decode", lambda fused, z: used.append(z) or decode(fused, z))
    fused = group(5)
    head.predict(fused)
    mean = torch.zeros(5, 32) if prior == "standard" else head.prior(fused.tokens[:, 0])[:, :32]
    assert torch.equal(used[0], mean)
    head.predict(fused, torch.Generator().manual_seed(0))
    assert not torch.allclose(used[1], mean)


def test_a_style_tells_two_ways_apart():
    """One observation, two ways of acting: with a cheap latent both are rebuilt, with a dear one it is not used."""
    fused = TokenGroup(torch.ones(16, 1, WIDTH), torch.ones(16, 1, dtype=torch.bool), "fused")
    way = torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0)[:, None, None].expand(16, 3, 2)
    found = {}
    for weight in (0.01, 10.0):
        torch.manual_seed(0)
        head = CVAE(inputs(PLANE), transformer=Transformer(hidden=32), kl_weight=weight)
        learn(head, fused, batch_of(way), 300, 3e-3)
        found[weight] = head.losses(fused, batch_of(way), torch.Generator().manual_seed(1))
    assert found[0.01]["reconstruction"] < 0.2 and found[0.01]["kl"] > 0.6  # at least the one bit, ln 2
    assert found[10.0]["reconstruction"] > 0.8 and found[10.0]["kl"] < 0.05


def test_a_learned_prior_goes_to_the_posterior():
    torch.manual_seed(0)
    fused = group(8)
    actions = torch.randn(8, 3, 2, generator=torch.Generator().manual_seed(2))
    head = CVAE(inputs(PLANE), prior="learned", transformer=Transformer(hidden=32), kl_weight=0.1)
    learn(head, fused, batch_of(actions), 300, 3e-3)
    assert (head.predict(fused) - actions).abs().mean() < 0.15


def test_padding_is_not_read_by_the_style_encoder():
    head = CVAE(inputs(PLANE), transformer=Transformer(hidden=32))
    mask = torch.tensor([[True, True, False]])
    short, long = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    long[0, 2] = 7.0
    observed = torch.randn(1, WIDTH)
    for a, b in zip(head._encode(observed, short, mask), head._encode(observed, long, mask), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(head._encode(observed, short, mask)[0], head._encode(observed, long, ~mask | mask)[0])


# Diffusion


def test_the_schedule_is_the_squared_cosine():
    alphas = squared_cosine(100)
    t = torch.arange(1, 101, dtype=torch.float64)
    expected = torch.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(alphas[:-1].double(), expected[:-1], rtol=1e-5, atol=1e-7)
    assert 0 < alphas[-1] < 1e-6 and (alphas.diff() < 0).all()  # the last β is cut at 0.999, else nothing of the data were left
    assert sampled_levels(100, 4) == [99, 74, 49, 24] and sampled_levels(5, 5) == [4, 3, 2, 1, 0]


DATA = torch.tensor([[[0.3, -0.7], [1.0, 0.0], [-0.5, 0.5]]])


def denoiser(head: Diffusion, mean: torch.Tensor, spread: float):
    """The best guess for data from N(mean, spread²), in closed form: E[actions | x_t], or what goes with it."""

    def guess(x: torch.Tensor, level: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        kept = head.alphas[level][:, None, None]
        gain = kept.sqrt() * spread**2 / (kept * spread**2 + 1 - kept)
        actions = mean + gain * (x - kept.sqrt() * mean)
        noise = (x - kept.sqrt() * actions) / (1 - kept).sqrt()
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * actions
        return {"actions": actions, "noise": noise, "velocity": velocity}[head.predicts]

    return guess


@pytest.mark.parametrize("predict", diffusion.PREDICTS)
def test_a_perfect_denoiser_of_one_point_finds_it(predict, monkeypatch):
    head = Diffusion(inputs(PLANE), predict=predict, steps=3)
    monkeypatch.setattr(head, "guess", denoiser(head, DATA, 0.0))
    found = head.predict(group(4), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, DATA.expand(4, -1, -1), atol=2e-3, rtol=0)
    loss = head.losses(group(1), batch_of(DATA), torch.Generator().manual_seed(0))["action"]
    assert loss < 1e-4  # and the loss asks for that denoiser


@pytest.mark.parametrize("predict", diffusion.PREDICTS)
def test_a_perfect_denoiser_of_a_normal_distribution_samples_it(predict, monkeypatch):
    head = Diffusion(inputs(PLANE), predict=predict, levels=1000, steps=250)
    monkeypatch.setattr(head, "guess", denoiser(head, DATA, 0.4))
    found = head.predict(group(4000), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.mean(0), DATA[0], atol=0.03, rtol=0)
    torch.testing.assert_close(found.std(0), torch.full((3, 2), 0.4), atol=0.02, rtol=0)


def test_what_is_predicted_without_a_generator_lies_in_the_middle(monkeypatch):
    """One fixed draw of noise would give the same prediction every time too, off the middle and always to the same side."""
    fused, mean, spread = group(1), DATA, 0.4
    flow = Flow(inputs(PLANE))

    def velocity(x, time, condition):
        at = time[:, None, None]
        gain = at * spread**2 / (at**2 * spread**2 + (1 - at) ** 2)
        return (mean + gain * (x - at * mean) - x) / (1 - at)

    monkeypatch.setattr(flow, "velocity", velocity)
    torch.testing.assert_close(flow.predict(fused), mean)
    assert (flow.predict(fused, torch.Generator().manual_seed(0)) - mean).abs().mean() > 0.1
    head = Diffusion(inputs(PLANE))
    monkeypatch.setattr(head, "guess", denoiser(head, mean, spread))
    torch.testing.assert_close(head.predict(fused), mean, atol=2e-3, rtol=0)
    assert (head.predict(fused, torch.Generator().manual_seed(0)) - mean).abs().mean() > 0.1


def test_without_fresh_noise_a_start_has_one_end():
    head = Diffusion(inputs(PLANE))
    fused = group(3)

    def sample(seed):
        return head.predict(fused, torch.Generator().manual_seed(seed))

    assert torch.equal(sample(1), sample(1)) and not torch.allclose(sample(1), sample(2))
    first = TokenGroup(fused.tokens[:1], fused.mask[:1], "fused")
    torch.testing.assert_close(head.predict(fused)[:1], head.predict(first))  # whatever rows come beside it


def test_a_regression_of_each_number_reads_as_many_tokens_as_a_chunk_has_numbers():
    torch.manual_seed(0)
    head = Regression(inputs(ARM, chunk=3, count=21), per_number=True)
    fused, actions = group(4, 21), torch.rand(4, 3, 7, generator=torch.Generator().manual_seed(0))
    actions = constrained(ARM, actions)
    batch = batch_of(actions)
    before = float(head.losses(fused, batch)["action"].detach())
    assert head.predict(fused).shape == (4, 3, 7)
    assert float(learn(head, fused, batch, 150)) < 0.25 * before
    for count in (0, 1, 20):
        with pytest.raises(ConfigError, match=r"a chunk of 3 actions has 21 numbers.*use the backbone 'vlm' with readouts=21"):
            Regression(inputs(ARM, chunk=3, count=count), per_number=True)
