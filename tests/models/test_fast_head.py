"""FAST as a head: what it says, what may be said, what it means; without a language model."""

import json

import numpy as np
import pytest
import torch
from small_heads import ARM, KEYS, PLANE, batch_of, inputs

from verbot.errors import ConfigError
from verbot.models.heads.fast import Fast
from verbot.models.protocols import FitsActions

CHUNK = 4
ACTION = (*ARM, *KEYS)  # 2 numbers, a quaternion, a gripper, a class
SIZE = 8


def chunks(rows: int, seed: int = 0) -> torch.Tensor:
    """Normalized chunks (rows, k, a): numbers that walk, a unit quaternion, a gripper that opens, and a class."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(0, 1, (rows, CHUNK, 2)).cumsum(1)
    turn = rng.normal([4, 0, 0, 0], 1, (rows, CHUNK, 4))
    turn /= np.linalg.norm(turn, axis=-1, keepdims=True)
    gripper = (np.arange(CHUNK)[:, None] >= rng.integers(0, CHUNK, (rows, 1, 1))).astype(float)
    key = rng.integers(0, 4, (rows, CHUNK, 1))
    return torch.from_numpy(np.concatenate([plane, turn, gripper, key], -1)).float()


@pytest.fixture(scope="module")
def options():
    return Fast.fit({"ranges": Fast.known_ranges(ACTION), "vocab_size": 1200}, chunks(60).numpy())


def head_of(options, **changes):
    return Fast(inputs(ACTION, CHUNK), **{**json.loads(json.dumps(options)), **changes})


def said_by(head, batch):
    suffix = head.suffix(batch)
    assert torch.equal(suffix.is_action, torch.ones_like(suffix.mask))
    return suffix.ids, suffix.mask


def test_fit_takes_percentiles_and_known_ranges(options):
    assert isinstance(Fast, FitsActions)
    plane = chunks(60)[..., :2].flatten(0, 1).numpy().astype(np.float64)
    np.testing.assert_allclose(options["ranges"][:2], np.quantile(plane, (0.01, 0.99), axis=0).T)
    assert options["ranges"][2:] == [[-1, 1]] * 4 + [[0, 1], [0, 3]]
    assert (options["tokenizer"]["time_horizon"], options["tokenizer"]["action_dim"]) == (CHUNK, SIZE)
    assert Fast.fit(options, chunks(5, seed=1).numpy()) == options  # what is given stays
    alone = Fast.fit({}, np.zeros((3, 2, 1), np.float32))
    assert Fast(inputs((PLANE[0],), 2), ranges=[[0, 0]] * 2, tokenizer=Fast.fit({}, np.zeros((3, 2, 2)))["tokenizer"]).count > 1
    assert alone["ranges"] == [[0, 0]]


def test_what_it_says_is_read_back(options):
    head = head_of(options)
    wanted = chunks(60)[:10]  # of the training: no coefficient is below the smallest one
    ids, mask = said_by(head, batch_of(wanted))
    actions, valid = head.read(ids)
    assert valid.all() and mask.any(1).all()
    width = head.limits[1] - head.limits[0]
    assert ((actions - wanted).abs() / width < 0.05 * CHUNK**0.5).all()
    assert torch.equal(actions[..., 7], wanted[..., 7]) and ((actions[..., 6] >= 0) & (actions[..., 6] <= 1)).all()
    for row in range(10):  # the end is said once, and padding follows it
        assert ids[row][mask[row]].tolist().count(head.end) == 1 and ids[row][mask[row]][-1] == head.end


def test_the_words_of_a_language_model_are_said(options):
    head, wanted = head_of(options), chunks(4)
    own, _ = said_by(head, batch_of(wanted))
    head.speak([5000 - i for i in range(head.count)], 5001)
    ids, _ = said_by(head, batch_of(wanted))
    assert torch.equal(ids, 5000 - own) and head.read(ids)[1].all()
    assert head.is_over(ids) and not head.is_over(ids[:, :1])
    assert not head.read(torch.zeros(1, 3, dtype=torch.int64))[1]  # words of text mean no chunk
    for wrong in (range(3), [1] * head.count, range(9000, 9000 + head.count)):
        with pytest.raises(ConfigError, match="different ids below 5001"):
            head.speak(list(wrong), 5001)


def test_unknown_actions_repeat_the_last_known_one(options):
    head, wanted = head_of(options), chunks(3)
    mask = torch.tensor([[True, True, False, False], [False, True, True, True], [False] * 4])
    repeated = wanted.clone()
    repeated[0, 2:], repeated[1, 0] = wanted[0, 1], wanted[1, 1]
    ids, said = said_by(head, batch_of(torch.where(mask.unsqueeze(-1), wanted, torch.nan), mask))
    expected, _ = said_by(head, batch_of(repeated))
    for row in (0, 1):
        assert ids[row][said[row]].tolist() == expected[row][: int(said[row].sum())].tolist()
    assert not said[2].any()


def test_only_what_can_become_a_chunk_is_said(options):
    head = head_of(options)
    ids, mask = said_by(head, batch_of(chunks(6, seed=3)))
    for i in range(ids.shape[1]):
        is_next = mask[:, i]
        assert head.allowed(ids[:, :i])[torch.arange(6), ids[:, i]][is_next].all()
    generator = torch.Generator().manual_seed(0)
    said = torch.zeros(5, 0, dtype=torch.int64)
    while not head.is_over(said):
        logits = torch.randn(5, head.count, generator=generator) * 3
        said = torch.cat([said, head.choose(logits, said, [generator, None, generator, None, None]).unsqueeze(1)], 1)
    actions, valid = head.read(said)
    assert valid.all() and actions.isfinite().all()


def test_the_most_likely_allowed_word_is_chosen(options):
    head = head_of(options)
    said = torch.zeros(2, 0, dtype=torch.int64)
    logits = torch.zeros(2, head.count)
    logits[:, head.end], logits[0, 7], logits[1, 9] = 9.0, 3.0, 3.0  # the end cannot come first
    assert head.choose(logits, said).tolist() == [7, 9]
    free = head_of(options, decode="free")
    assert free.choose(logits, said).tolist() == [head.end] * 2


def test_a_malformed_chunk_is_reported_and_no_action(options):
    head = head_of(options)
    ids, _ = said_by(head, batch_of(chunks(3)))
    ids[1, 0], ids[2, 1] = head.end, head.end
    actions, valid = head.read(ids)
    assert valid.tolist() == [True, False, False] and actions[1:].isnan().all() and actions[0].isfinite().all()
    stuck = head.allowed(ids[1:2, :2])
    assert stuck.sum() == 1 and stuck[0, head.end]


def test_what_does_not_fit_is_named(options):
    for changes, message in (
        ({"tokenizer": None}, "fast has no tokenizer"),
        ({"ranges": options["ranges"][:3]}, r"for each of 8 dimensions"),
        ({"ranges": [*options["ranges"][:7], [2, 1]]}, r"for each of 8 dimensions"),
        ({"decode": "greedy"}, "cannot decode by 'greedy'"),
    ):
        with pytest.raises(ConfigError, match=message):
            head_of(options, **changes)
    with pytest.raises(ConfigError, match="chunks of 4·8 numbers; the policy has 3·8"):
        Fast(inputs(ACTION, 3), **options)
    with pytest.raises(ConfigError, match="2 ranges; expected 8"):
        Fast.fit({"ranges": [None, None]}, chunks(2).numpy())
