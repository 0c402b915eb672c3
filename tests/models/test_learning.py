"""Losses and heads beyond the laws."""

import dataclasses
import math

import pytest
import torch

from verbot.errors import ConfigError
from verbot.models.encoders.language.tokenizer import UNKNOWN, drop_words
from verbot.models.heads.flow import Flow, flow_times
from verbot.models.heads.regression import Regression
from verbot.models.layers.transformer import Attention, masked_mean
from verbot.models.objectives.keypoints import keypoint_loss
from verbot.models.registries import Part
from verbot.models.tokens import Batch, HeadInput, Sizes, TextBatch, TokenGroup, join
from verbot.spec import Component


def test_a_masked_mean_counts_only_what_is_valid():
    errors = torch.tensor([[1.0, 3.0], [100.0, float("nan")], [5.0, 7.0]])
    assert masked_mean(errors, torch.tensor([True, False, True])) == 4
    assert masked_mean(errors, torch.zeros(3, dtype=torch.bool)) == 0


def test_attention_honors_its_mask_and_nothing_gives_zero():
    attention = Attention(8, 2)
    queries, keys, mask = torch.randn(2, 3, 8), torch.randn(2, 4, 8), torch.tensor([[True, True, False, False], [False] * 4])
    out = attention(queries, keys, mask)
    torch.testing.assert_close(out[:1], attention(queries[:1], keys[:1, :2], mask[:1, :2]))
    assert (out[1] == 0).all()
    with pytest.raises(ConfigError, match="width 8 does not divide into 3 heads"):
        Attention(8, 3)


def test_groups_join_in_order():
    a, b = (TokenGroup(torch.full((1, n, 2), float(n)), torch.tensor([[n == 1] * n]), "x") for n in (1, 2))
    joined = join([a, b])
    assert joined.tokens[0, :, 0].tolist() == [1, 2, 2] and joined.mask.tolist() == [[True, False, False]]
    assert joined.mean().tolist() == [[1, 1]] and b.mean().tolist() == [[0, 0]]


def heatmap(x: float, y: float, side: int = 8) -> TokenGroup:
    """Two views of three heatmaps, all equal to a bilinear peak at (x, y)."""
    cells = torch.full((side, side), -30.0)
    column, row = (x + 1) * side / 2 - 0.5, (y + 1) * side / 2 - 0.5
    for i in range(side):
        for j in range(side):
            weight = max(0, 1 - abs(i - row)) * max(0, 1 - abs(j - column))
            cells[i, j] = math.log(weight) if weight else -30.0
    points = torch.tensor([x, y]).expand(1, 8, 2)
    return TokenGroup(torch.zeros(1, 8, 4), torch.ones(1, 8, dtype=torch.bool), "keypoints", points, cells.expand(1, 8, -1, -1))


def test_the_keypoint_loss_is_least_at_the_true_place():
    true, mask = torch.tensor([0.3, -0.2]).expand(1, 2, 3, 2), torch.ones(1, 2, 3, dtype=torch.bool)
    right = keypoint_loss(heatmap(0.3, -0.2), true, mask)
    assert right[1] < 1e-6
    for x, y in ((0.3, -0.1), (0.4, -0.2), (-0.3, 0.2), (-0.2, 0.3)):
        assert keypoint_loss(heatmap(x, y), true, mask)[0] > right[0] + 0.02
    far = keypoint_loss(heatmap(0.3, -0.2), torch.ones(1, 2, 3, 2), mask)
    torch.testing.assert_close(far[1], torch.tensor((0.7 + 1.2) / 2))


def test_only_the_latest_frame_and_the_first_three_heatmaps_are_taught():
    group = heatmap(0.0, 0.0)
    points = torch.stack([torch.full((2,), float(i)) for i in range(16)])[None]  # two frames of two views of four
    twice = dataclasses.replace(group, points=points, heatmaps=group.heatmaps.repeat(1, 2, 1, 1))
    true = torch.tensor([[[8.0, 9.0, 10.0], [12.0, 13.0, 14.0]]])[..., None].expand(1, 2, 3, 2)
    assert keypoint_loss(twice, true, torch.ones(1, 2, 3, dtype=torch.bool), history=2)[1] == 0


ACTION = (
    Component("turn", "quaternion", ("w", "x", "y", "z"), "1", "base", (-1.0,) * 4, (1.0,) * 4),
    Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,)),
)


def fixed_batch(actions: torch.Tensor, mask: torch.Tensor) -> Batch:
    nothing = torch.zeros(0)
    return Batch(nothing, nothing, nothing, nothing, TextBatch(nothing, nothing), actions, mask)


def regression(out: torch.Tensor) -> tuple[Regression, TokenGroup]:
    head = Regression(HeadInput(Sizes(8, 1, 8, 8, 1, 1, ACTION), 8, 1))
    torch.nn.init.zeros_(head.out.weight)
    head.out.bias.data = out
    return head, TokenGroup(torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), "fused")


def test_a_quaternion_and_its_negative_are_one_rotation():
    head, fused = regression(torch.tensor([-2.0, 0.0, 0.0, 0.0, 30.0]))
    assert head.predict(fused).tolist() == [[[1.0, 0.0, 0.0, 0.0, 1.0]]]
    batch = fixed_batch(torch.tensor([[[1.0, 0.0, 0.0, 0.0, 1.0]]]), torch.ones(1, 1, dtype=torch.bool))
    assert head.losses(fused, batch)["action"] < 1e-6


def test_a_gripper_is_a_probability():
    head, fused = regression(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))
    assert head.predict(fused)[0, 0, 4] == 0.5
    batch = fixed_batch(torch.tensor([[[1.0, 0.0, 0.0, 0.0, 0.0]]]), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(head.losses(fused, batch)["action"], torch.tensor(math.log(2) / 5))


def test_flow_goes_from_noise_at_zero_to_data_at_one(monkeypatch):
    """With the true velocity field of one data point, sampling lands on it; and the loss asks for that field."""
    action = (Component("p", "position_delta", ("x", "y"), "m", "base", (-1.0,) * 2, (1.0,) * 2),)
    head = Flow(HeadInput(Sizes(8, 1, 8, 8, 1, 3, action), 8, 1), steps=4, draws=1)
    data = torch.tensor([[[0.3, -0.7], [1.0, 0.0], [-0.5, 0.5]]])

    def velocity(x, time, condition):
        return (data - x) / (1 - time[:, None, None])

    monkeypatch.setattr(head, "velocity", velocity)
    fused = TokenGroup(torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), "fused")
    torch.testing.assert_close(head.predict(fused, torch.Generator().manual_seed(0)), data)
    batch = fixed_batch(data, torch.ones(1, 3, dtype=torch.bool))
    assert head.losses(fused, batch, torch.Generator().manual_seed(0))["action"] < 1e-6


def test_flow_times_follow_their_distribution():
    times = flow_times(200_000, torch.Generator().manual_seed(0))
    assert times.min() >= 0 and times.max() <= 0.999
    # u ~ Beta(1.5, 1) has mean 0.6 and P(u < x) = x^1.5, so most times are noisy ones.
    assert abs(times.mean() - 0.999 * 0.4) < 2e-3
    assert abs((times < 0.999 * 0.5).float().mean() - (1 - 0.5**1.5)) < 5e-3


def test_flow_samples_differ_by_generator_alone(make_network, make_batch):
    network = make_network(dataclasses.replace(make_network().config, head=Part("flow", {"steps": 2})))
    batch = make_batch(network)

    def sample(seed):
        return network.predict(batch, torch.Generator().manual_seed(seed)).actions

    assert torch.equal(sample(1), sample(1)) and not torch.allclose(sample(1), sample(2))


@pytest.mark.parametrize("language", ["word_embedding", "minilm"])
def test_a_share_of_the_words_goes_unheard(language, make_network, make_batch):
    network = make_network(dataclasses.replace(make_network().config, language=Part(language), word_dropout=0.5))
    batch = make_batch(network, rows=32)
    text = drop_words(batch.text, 0.5, torch.Generator().manual_seed(0))
    if language == "word_embedding":
        share = ((text.values == UNKNOWN) & (batch.text.values > 3)).sum() / (batch.text.values > 3).sum()
        assert torch.equal(text.mask, batch.text.mask) and torch.equal(text.values[:, 0], batch.text.values[:, 0])
    else:
        share = 1 - text.mask[:, 1:].sum() / batch.text.mask[:, 1:].sum()
        assert text.mask[:, 0].all()
    assert 0.35 < share < 0.65


def test_words_go_unheard_in_training_alone(make_network, make_batch):
    network = make_network(dataclasses.replace(make_network().config, word_dropout=0.5))
    batch = make_batch(network)

    def loss(seed):
        return network.losses(batch, torch.Generator().manual_seed(seed))["loss"]

    network.train()
    assert torch.equal(loss(0), loss(0)) and not torch.equal(loss(0), loss(1))
    network.eval()
    assert torch.equal(loss(0), loss(1))
