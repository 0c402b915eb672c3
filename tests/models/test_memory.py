"""What memories keep, where they write, and that they are of use."""

import dataclasses

import pytest
import torch
from torch import nn

from verbot.errors import ConfigError
from verbot.models.memory.external import External
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part, memories
from verbot.models.tokens import Sizes, TokenGroup

SIZES = Sizes(width=8, views=1, height=16, width_px=16, state=2, chunk=1, action=())


def fused(tokens: torch.Tensor) -> TokenGroup:
    """(b, e) as one fused token a row."""
    return TokenGroup(tokens.unsqueeze(1), torch.ones(len(tokens), 1, dtype=torch.bool), "fused")


def always(rows: int) -> torch.Tensor:
    return torch.ones(rows, dtype=torch.bool)


def test_slots_fill_one_after_another_and_then_the_least_used_goes():
    memory = External(SIZES, 8, 1, slots=3, key=4, heads=1)
    # Slot i is found by the i-th unit vector alone.
    nn.init.zeros_(memory.key.bias), nn.init.zeros_(memory.query.bias)
    memory.key.weight.data = memory.query.weight.data = 20 * torch.eye(4, 8)
    memory.value.weight.data, memory.value.bias.data = torch.eye(8), torch.zeros(8)
    state, features = memory.initial(1), torch.eye(8)[:4]
    for i in range(3):
        assert state["filled"].sum() == i
        _, state = memory(fused(features[i : i + 1]), state, always(1))
        assert torch.equal(state["values"][0, i], features[i]), "into the first empty slot"
    for i in (0, 2, 0, 2):  # slot 1 is not asked for
        _, state = memory(fused(features[i : i + 1]), state, ~always(1))
    assert state["usage"][0].argmin() == 1
    _, state = memory(fused(features[3:4]), state, always(1))
    assert torch.equal(state["values"][0], torch.stack([features[0], features[3], features[2]])), "the least used went"
    _, after = memory(fused(torch.zeros(1, 8)), state, always(1))  # asks for all alike
    assert torch.equal(after["values"][0, 1], features[3]), "what was written last does not go first"


def test_nothing_is_read_from_an_empty_store():
    memory = External(SIZES, 8, 1)
    state = memory.initial(2)
    assert not memory._attention(torch.randn(2, 8), state).any()
    _, state = memory(fused(torch.randn(2, 8)), state, torch.tensor([True, False]))
    weights = memory._attention(torch.randn(2, 8), state)
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(memory.heads))
    assert not weights[1].any(), "this row has written nothing"


@pytest.mark.parametrize("name", memories.names())
def test_rows_keep_to_themselves_and_states_are_never_changed_in_place(name):
    memory = memories.get(name)(SIZES, 8, 1)
    g = torch.Generator().manual_seed(0)
    seen = torch.randn(5, 2, 8, generator=g)
    writes = torch.tensor([[True, False], [True, True], [False, True], [True, True], [True, True]])
    together, alone = memory.initial(2), memory.initial(1)
    for tokens, when in zip(seen, writes, strict=True):
        before = {key: value.clone() for key, value in together.items()}
        both, after = memory(fused(tokens), together, when)
        assert all(torch.equal(before[key], together[key]) for key in before)
        one, alone = memory(fused(tokens[1:]), alone, when[1:])
        torch.testing.assert_close(both.tokens[1:], one.tokens)
        if not when[0]:  # usage fades with every reading
            assert all(torch.equal(after[key][0], together[key][0]) for key in after if not key.endswith("usage"))
        together = after


@pytest.mark.parametrize("name", memories.names())
def test_step_by_step_is_as_all_at_once(name, make_network, make_batch):
    network = make_network(NetworkConfig(width=16, chunk=3, fusion=Part("mlp", {"hidden": 32}), memory=Part(name), sequence=8))
    batch = make_batch(network, rows=16)
    batch.state_mask[8], batch.images_mask[8] = False, False  # the second sequence lacks its first frame
    tokens = network(batch).fused
    present = batch.state_mask.any(1)
    unrolled = network.backbone._remember(tokens, present).tokens
    for start in (0, 8):
        memory = None
        for row in range(start, start + 8):
            fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
            rows = {k: v[row : row + 1] for k, v in fields.items() if isinstance(v, torch.Tensor)}
            text = dataclasses.replace(batch.text, values=batch.text.values[row : row + 1], mask=batch.text.mask[row : row + 1])
            one = dataclasses.replace(batch, **rows, text=text, memory=memory, writes=present[row : row + 1])
            prediction = network.predict(one)
            memory = prediction.memory
            expected = network.head.predict(TokenGroup(unrolled[row : row + 1], tokens.mask[row : row + 1], "fused"))
            torch.testing.assert_close(prediction.actions, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", memories.names())
def test_what_was_shown_is_known_when_it_is_gone(name):
    """A cue in the first of six frames, noise after it; the last frame's answer must be the cue. Without memory: one in four."""
    torch.manual_seed(0)
    memory, answer = memories.get(name)(SIZES, 8, 1), nn.Linear(8, 4)
    optimizer = torch.optim.Adam([*memory.parameters(), *answer.parameters()], 5e-3)

    def play(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        cues, state = torch.randint(0, 4, (rows,)), memory.initial(rows)
        for frame in range(6):
            shown = nn.functional.one_hot(cues, 8).float() * 2 if frame == 0 else torch.randn(rows, 8) * 0.5
            out, state = memory(fused(shown), state, always(rows))
        return answer(out.tokens[:, 0]), cues

    for _ in range(400):
        logits, cues = play(64)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(logits, cues)
        if loss < 0.1:
            break
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits, cues = play(500)
    assert (logits.argmax(-1) == cues).float().mean() > 0.9


def test_a_memory_needs_sequences_and_a_sequence_a_memory(make_network, make_batch):
    with pytest.raises(ConfigError, match="memory is 'external' with a sequence of 1"):
        NetworkConfig(memory=Part("external"))
    with pytest.raises(ConfigError, match="memory is None with a sequence of 3"):
        NetworkConfig(sequence=3)
    network = make_network(NetworkConfig(width=16, chunk=3, memory=Part("recurrent"), sequence=3))
    with pytest.raises(ConfigError, match="sequences of 3 rows; the batch has 4"):
        network.losses(make_batch(network))
    with pytest.raises(ConfigError, match="slots, key and heads of at least 1"):
        External(SIZES, 8, 1, slots=0)
