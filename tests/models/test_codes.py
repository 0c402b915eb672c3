"""Actions as bins and as sequences of codes."""

import json
import math

import numpy as np
import pytest
import torch
from small_heads import KEYS, PLANE, batch_of, component, group, inputs, learn

from verbot.errors import ConfigError
from verbot.models.heads.bins import Binning, Bins, openvla_token
from verbot.models.heads.sequence import CodeSequence, k_means, piece_lengths
from verbot.models.tokens import TokenGroup


def test_bins_and_codes_say_what_they_cannot_be():
    with pytest.raises(ConfigError, match=r"'key' is discrete from \(0.5,\) to \(3.0,\); expected whole numbers"):
        Bins(inputs((component("key", "discrete", 1, 0.5, 3.0),)))
    with pytest.raises(ConfigError, match=r"no convention 'rt2' of bins; there are openvla, rt1"):
        Bins(inputs(PLANE), convention="rt2")
    with pytest.raises(ConfigError, match=r"bins need one low and one high, or 2 of each; got \(3,\) and \(\)"):
        Bins(inputs(PLANE), low=[0.0, 1.0, 2.0])
    with pytest.raises(ConfigError, match=r"bins have a low above its high: \[-3.0, 4.0\]"):
        Bins(inputs(PLANE), low=[-3.0, 4.0])
    with pytest.raises(ConfigError, match=r"cannot be decoded by 'sampling'; there are median, argmax, expectation"):
        Bins(inputs(PLANE), decode="sampling")
    with pytest.raises(ConfigError, match=r"a chunk of 3 actions cannot be cut into 4 steps; expected 1 to 3"):
        CodeSequence(inputs(PLANE), steps=4)
    with pytest.raises(ConfigError, match=r"codebook has shape \(2, 1, 3\); 3 steps of this robot need \(actions, 1, 2\)"):
        CodeSequence(inputs(PLANE), codes=[[[0.0] * 3]] * 2)


# Bins


def openvla(values: np.ndarray, vocabulary: int) -> np.ndarray:
    """OpenVLA's documented tokens: numpy's digitize on 256 points of [−1, 1], counted from the vocabulary's end."""
    return vocabulary - np.digitize(np.clip(values, -1, 1), np.linspace(-1, 1, 256))


def test_bins_are_openvlas():
    binning = Binning((component("move", "position_delta", 1),), -1.0, 1.0)
    # By hand: edges lie 2/255 apart. −1 is in the first interval, 0 in the middle of the 128th, 1 on the 256th edge itself.
    known = {-1.0: 31999, -5.0: 31999, -1 + 2.5 / 255: 31998, 0.0: 31872, 0.5: 31808, 0.999: 31745, 1.0: 31744, 7.0: 31744}
    index = binning.encode(torch.tensor([[value] for value in known], dtype=torch.float64))
    assert openvla_token(index, 32000).flatten().tolist() == list(known.values())
    values = np.concatenate([np.random.default_rng(0).uniform(-1.2, 1.2, 4000), np.linspace(-1, 1, 256)])  # every edge too
    found = openvla_token(binning.encode(torch.from_numpy(values).unsqueeze(-1)), 32000).squeeze(-1).numpy()
    assert (found == openvla(values, 32000)).all()
    # Decoded: the 255 interval centers, −1 + (2·i + 1)/255; the last bin has none of its own and takes the one before.
    centers = binning.decode(torch.arange(256).unsqueeze(-1)).flatten().double()
    torch.testing.assert_close(centers[:255], -1 + (2 * torch.arange(255, dtype=torch.float64) + 1) / 255, atol=1e-7, rtol=0)
    assert centers[255] == centers[254]


def test_bins_are_rt1s():
    """The values that RT-1's own tests state for ten buckets, and its formula: rounded down, read as the lower edge."""
    ten = Binning((component("world_vector", "position_delta", 3),), -1.0, 1.0, bins=10, convention="rt1")
    assert ten.encode(torch.tensor([0.1, 0.5, -0.8])).tolist() == [4, 6, 0]
    assert ten.encode(torch.tensor([-1.0, 1.0, 9.0])).tolist() == [0, 9, 9]
    torch.testing.assert_close(ten.decode(torch.tensor([4, 6, 0])), torch.tensor([4 / 9 * 2 - 1, 6 / 9 * 2 - 1, -1.0]))
    low, high = [-0.5, 2.0], [1.5, 2.25]
    many = Binning(PLANE, low, high, convention="rt1")
    values = torch.rand(3000, 2, dtype=torch.float64) * 3 - 0.75
    share = ((values - torch.tensor(low)) / (torch.tensor(high) - torch.tensor(low))).clamp(0, 1)
    assert torch.equal(many.encode(values), (share * 255).long())


@pytest.mark.parametrize(("convention", "share"), [("openvla", 0.5), ("rt1", 1.0)])
def test_a_bin_loses_no_more_than_it_says(convention, share):
    low, high = torch.tensor([-0.5, 2.0]), torch.tensor([1.5, 2.25])
    binning = Binning(PLANE, low.tolist(), high.tolist(), convention=convention)
    values = low + torch.rand(5000, 2) * (high - low)
    values = torch.cat([values, low[None], high[None]])
    lost = (binning.decode(binning.encode(values)) - values).abs()
    assert (lost <= share * (high - low) / 255 * (1 + 1e-4)).all()
    assert (lost[:, 0] > 0.9 * share * 2 / 255).any()  # and the bound is that near


def test_grippers_and_classes_have_bins_of_their_own():
    action = (component("gripper", "gripper", 1, 0.0), *KEYS)
    head = Bins(inputs(action, 1), bins=8, low=50.0, high=60.0, convention="rt1")
    index = head.binning.encode(torch.tensor([[0.0, 0.0], [1.0, 3.0], [0.6, 2.0]]))
    assert index.tolist() == [[0, 0], [7, 3], [4, 2]]
    assert head.binning.decode(torch.tensor([[7, 3], [0, 7]])).tolist() == [[1, 3], [0, 3]]  # no bin is beyond the last class
    with pytest.raises(ConfigError, match=r"'key' has classes 0 to 3: more than 3 bins"):
        Bins(inputs(KEYS), bins=3)


def test_bins_take_their_range_from_the_data():
    chunks = np.random.default_rng(0).normal(size=(400, 5, 3)).astype(np.float32)
    chunks[..., 1] = 0.25  # never changes
    chunks[..., 2] = 0.0  # seldom does: both percentiles are zero
    chunks[0, 0, 2], chunks[0, 1, 2] = -2.0, 3.0
    rows = chunks.reshape(-1, 3).astype(np.float64)
    by = {name: json.loads(json.dumps(Bins.fit({"convention": name}, chunks))) for name in ("openvla", "rt1")}
    assert by["openvla"]["low"] == [np.quantile(rows[:, 0], 0.01), 0.25, -2.0]
    assert by["openvla"]["high"] == [np.quantile(rows[:, 0], 0.99), 0.25, 3.0]
    assert by["rt1"]["low"] == [rows[:, 0].min(), 0.25, -2.0] and by["rt1"]["high"] == [rows[:, 0].max(), 0.25, 3.0]
    assert Bins.fit({"low": -1.0, "high": 1.0}, chunks) == {"low": -1.0, "high": 1.0}
    head = Bins(inputs((component("move", "position_delta", 3),), 5), **by["openvla"])
    lost = head.binning.decode(head.binning.encode(torch.from_numpy(chunks))) - torch.from_numpy(chunks)
    assert lost[..., 1].abs().max() < 1e-5 and lost[..., 2].abs().max() < 5 / 255 and lost.isfinite().all()


def test_bins_are_read_by_the_likeliest_the_mean_or_the_median():
    action = (component("move", "position_delta", 1), *KEYS)
    for decode, expected in (("argmax", [1.0, 3.0]), ("expectation", [0.525, 3.0]), ("median", [0.8, 3.0])):
        head = Bins(inputs(action, 1), bins=5, low=-1.0, high=1.0, decode=decode, convention="rt1")
        logits = torch.full((1, 1, 2, 5), -1e4)
        # Chances 0.4 of 1, 0.35 of 0 and 0.25 of 0.5: the mean is 0.525; 0.35 of it lies below 0.5, and of the
        # bin that begins there, up to 1, three fifths make it one half.
        logits[..., 0, 4], logits[..., 0, 2], logits[..., 0, 3] = math.log(0.4), math.log(0.35), math.log(0.25)
        logits[..., 1, 3], logits[..., 1, 0] = math.log(0.6), math.log(0.4)
        head.forward = lambda fused, logits=logits: logits
        torch.testing.assert_close(head.predict(group())[0, 0], torch.tensor(expected), atol=1e-3, rtol=0)


# Sequences of codes


def test_pieces_are_even_and_the_longer_ones_last():
    assert [piece_lengths(*case) for case in ((10, 3), (9, 3), (3, 3), (7, 4))] == [[3, 3, 4], [3, 3, 3], [1] * 3, [1, 2, 2, 2]]


def fitted(chunk: int = 7, steps: int = 3, actions: int = 6, **options) -> tuple[CodeSequence, torch.Tensor]:
    """A head with a codebook of its data, and chunks (40, chunk, 2)."""
    chunks = np.random.default_rng(1).normal(size=(40, chunk, 2)).astype(np.float32)
    options = CodeSequence.fit({"steps": steps, "actions": actions, "hidden": 32, **options}, chunks)
    assert json.loads(json.dumps(options)) == options and CodeSequence.fit(options, chunks) == options
    torch.manual_seed(0)
    return CodeSequence(inputs(PLANE, chunk), **options), torch.from_numpy(chunks)


def test_a_chunk_that_does_not_divide_is_cut_and_put_together():
    head, chunks = fitted(offsets=False)
    pieces, known = head._pieces(chunks, torch.ones(40, 7, dtype=torch.bool))
    assert known.sum((0, 2)).tolist() == [80, 80, 120]
    index, _ = head.nearest(pieces, known)
    for row in range(5):  # against the definition: each piece's nearest code over the actions it has
        for step, (start, length) in enumerate(((0, 2), (2, 2), (4, 3))):
            apart = ((head.codes[:, :length] - chunks[row, start : start + length]) ** 2).sum((1, 2))
            assert index[row, step] == apart.argmin()
    head.plan = lambda fused: index
    decoded = head.predict(group(40))
    assert torch.equal(decoded[:, 2:4], head.codes[index[:, 1], :2]) and torch.equal(decoded[:, 4:], head.codes[index[:, 2]])


def test_a_piece_with_unknown_steps_is_coded_by_those_that_are_known():
    head, chunks = fitted()
    mask = torch.ones(40, 7, dtype=torch.bool)
    mask[:, 5:] = False  # of the last piece one action is known
    index, _ = head.nearest(*head._pieces(chunks, mask))
    assert torch.equal(index[:, 2], ((head.codes[:, 0] - chunks[:, 4:5]) ** 2).sum(-1).argmin(-1))


def test_decoding_is_the_greedy_roll_out_of_what_teacher_forcing_scores():
    head, _ = fitted()
    learn(head, group(40, seed=5), batch_of(fitted()[1]), 30, 3e-3)
    fused = group(12, seed=5)
    rolled = torch.zeros(12, 3, dtype=torch.int64)
    for row in range(12):
        one = TokenGroup(fused.tokens[row : row + 1], fused.mask[row : row + 1], "fused")
        chosen: list[int] = []
        for step in range(3):
            # Whatever is put at this step and after must not matter, so put something else each time.
            codes = torch.tensor([chosen + [(row + step) % head.start] * (3 - step)])
            chosen.append(int(head.logits(one, codes)[0, step].argmax()))
        rolled[row] = torch.tensor(chosen)
    assert torch.equal(head.plan(fused), rolled)
    assert len({tuple(row) for row in rolled.tolist()}) > 1


def test_a_later_code_changes_no_earlier_step_and_an_earlier_one_does():
    head, _ = fitted()
    fused, codes = group(6), torch.randint(6, (6, 3), generator=torch.Generator().manual_seed(0))
    base = head.logits(fused, codes)
    for step in range(3):
        other = codes.clone()
        other[:, step] = (other[:, step] + 1) % 6
        changed = (head.logits(fused, other) - base).abs().amax((0, 2))
        assert (changed[: step + 1] < 1e-6).all() and (changed[step + 1 :] > 1e-4).all()


def test_teacher_forcing_reads_the_true_codes(monkeypatch):
    head, chunks = fitted()
    mask = torch.ones(40, 7, dtype=torch.bool)
    mask[0, 2:4] = False  # the second piece of the first row is not known
    true, _ = head.nearest(*head._pieces(chunks, mask))
    inputs = []
    features = head.features
    monkeypatch.setattr(head, "features", lambda fused, codes: inputs.append(codes) or features(fused, codes))
    losses = head.losses(group(40), batch_of(chunks, mask))
    assert inputs[0][0].tolist() == [true[0, 0], head.start, true[0, 2]] and torch.equal(inputs[0][1:], true[1:])
    entropy = -head.logits(group(40), inputs[0]).log_softmax(-1).gather(-1, true.unsqueeze(-1)).squeeze(-1)
    known = torch.ones(40, 3, dtype=torch.bool)
    known[0, 1] = False
    torch.testing.assert_close(losses["entropy"], entropy[known].mean())


def test_offsets_restore_what_a_code_leaves():
    head, chunks = fitted()
    fused, batch = group(40), batch_of(chunks)
    learn(head, fused, batch, 300, 5e-3)
    bare, _ = fitted(offsets=False)
    learn(bare, fused, batch, 300, 5e-3)
    assert (head.predict(fused) - chunks).abs().mean() < 0.3 * (bare.predict(fused) - chunks).abs().mean()


def test_classes_are_their_own_codes():
    action = (*KEYS, component("mode", "discrete", 1, 1.0, 2.0))
    head = CodeSequence(inputs(action, 5), hidden=32)
    assert head.codes.shape == (8, 1, 2) and "codes" not in dict(head.named_parameters())
    actions = torch.stack([torch.randint(0, 4, (6, 5)), torch.randint(1, 3, (6, 5))], -1).float()
    assert CodeSequence.fit({"steps": 9}, actions.numpy()) == {"steps": 9}  # there is nothing to fit
    index, distance = head.nearest(*head._pieces(actions, torch.ones(6, 5, dtype=torch.bool)))
    assert distance == 0 and torch.equal(index, (actions[..., 0] * 2 + actions[..., 1] - 1).long())
    learn(head, group(6), batch_of(actions), 150, 5e-3)
    assert torch.equal(head.predict(group(6)), actions)


def test_k_means_finds_the_heaps():
    rng = np.random.default_rng(0)
    heaps = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0], [5.0, 20.0]])
    points = (heaps[rng.integers(5, size=600)] + rng.normal(0, 0.3, (600, 2))).astype(np.float32)
    centers = k_means(points, 5)
    assert np.abs(centers[:, None] - heaps).sum(-1).min(0).max() < 0.2
    assert np.array_equal(centers, k_means(points, 5))
    assert np.isfinite(k_means(np.ones((7, 2), np.float32), 4)).all()  # fewer different points than centers


def test_predictions_are_the_likeliest_codes_whatever_the_generator():
    """Only `sample` draws."""
    head, _ = fitted()
    fused = group(40)
    drawn = torch.Generator().manual_seed(0)
    assert torch.equal(head.predict(fused), head.predict(fused, drawn))
    assert not torch.equal(head.predict(fused), head.sample(fused, drawn))
