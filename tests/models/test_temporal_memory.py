"""A memory of the last frames with a transformer over them, and several memories one after another."""

import pytest
import torch
from torch import nn

from verbot.errors import ConfigError, UnknownNameError
from verbot.models.layers.attention_maps import watch_attention
from verbot.models.memory.chain import Chain
from verbot.models.memory.external import External
from verbot.models.memory.temporal import TemporalMemory
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part, memories
from verbot.models.tokens import Sizes, TokenGroup

SIZES = Sizes(width=8, views=1, height=16, width_px=16, state=2, chunk=1, action=())
PARTS = [{"name": "external", "options": {"slots": 4}}, {"name": "temporal", "options": {"frames": 3, "size": 16}}]


def fused(tokens: torch.Tensor) -> TokenGroup:
    """(b, e) as one fused token a row."""
    return TokenGroup(tokens.unsqueeze(1), torch.ones(len(tokens), 1, dtype=torch.bool), "fused")


def always(rows: int) -> torch.Tensor:
    return torch.ones(rows, dtype=torch.bool)


def test_the_newest_frame_pushes_out_the_oldest_where_it_is_written():
    memory = TemporalMemory(SIZES, 8, 1, frames=3, size=16)
    features = torch.randn(5, 2, 8)
    kept = [memory.keep(x) for x in features]  # (2, 16) each
    state = memory.initial(2)
    for i, x in enumerate(features):
        _, state = memory(fused(x), state, torch.tensor([True, i % 2 == 0]))
        assert state["filled"].sum(1).tolist() == [min(i + 1, 3), i // 2 + 1]
    torch.testing.assert_close(state["features"][0], torch.stack([k[0] for k in kept[2:]]))
    torch.testing.assert_close(state["features"][1], torch.stack([k[1] for k in kept[::2]]))


def test_what_an_empty_place_holds_is_nothing():
    memory = TemporalMemory(SIZES, 8, 1, frames=3, size=16)
    now, state = fused(torch.randn(2, 8)), memory.initial(2)
    _, state = memory(now, state, torch.tensor([True, False]))
    full = state["filled"].unsqueeze(-1)
    garbage = {"features": torch.where(full, state["features"], 1e3), "filled": state["filled"]}
    torch.testing.assert_close(memory(now, garbage, always(2))[0].tokens, memory(now, state, always(2))[0].tokens)
    other = {"features": torch.where(full, 1.0, state["features"]), "filled": state["filled"]}
    changed = (memory(now, other, always(2))[0].tokens - memory(now, state, always(2))[0].tokens).abs().amax((1, 2))
    assert changed[0] > 1e-4
    assert changed[1] == 0, "this row has kept nothing"


def test_a_frame_reads_none_that_came_after_it():
    memory = TemporalMemory(SIZES, 8, 1, frames=3, size=16, layers=2)
    state = memory.initial(1)
    for x in torch.randn(2, 1, 8):
        _, state = memory(fused(x), state, always(1))
    with watch_attention(memory.blocks) as weights:
        memory(fused(torch.randn(1, 8)), state, always(1))
    for (looked,) in weights.values():  # (b, heads, frames + 1, frames + 1)
        assert (looked.triu(1) == 0).all()
        assert (looked[..., 0] == 0).all(), "only two of three places are filled"
        assert (looked[:, :, -1, 1:] > 0).all()


def test_it_matters_which_frame_came_first():
    memory = TemporalMemory(SIZES, 8, 1, frames=3, size=16)
    state = memory.initial(1)
    for x in torch.randn(3, 1, 8):
        _, state = memory(fused(x), state, always(1))
    now, turned = fused(torch.randn(1, 8)), {"features": state["features"].flip(1), "filled": state["filled"]}
    assert (memory(now, state, always(1))[0].tokens - memory(now, turned, always(1))[0].tokens).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["temporal", "chain"])
def test_what_is_asked_for_is_found_by_its_age(name):
    """Two of four cues, one after the other; then which of the two is asked for. Without the past: one in four."""
    torch.manual_seed(0)
    memory, answer = memories.get(name)(SIZES, 8, 1), nn.Linear(8, 4)
    optimizer = torch.optim.Adam([*memory.parameters(), *answer.parameters()], 5e-3)

    def play(rows: int, remembers: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        cues, asked = torch.randint(0, 4, (2, rows)), torch.randint(0, 2, (rows,))
        state = memory.initial(rows)
        for shown in (*cues, 4 + asked):
            out, after = memory(fused(nn.functional.one_hot(shown, 8).float() * 2), state, always(rows))
            state = after if remembers else state
        return answer(out.tokens[:, 0]), cues[asked, torch.arange(rows)]

    for _ in range(300):
        logits, wanted = play(64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, wanted).backward()
        optimizer.step()
    with torch.no_grad():
        found = {remembers: play(500, remembers) for remembers in (True, False)}
    right = {remembers: float((logits.argmax(-1) == wanted).float().mean()) for remembers, (logits, wanted) in found.items()}
    assert right[True] > 0.95
    assert right[False] < 0.4


def test_a_chain_is_its_memories_one_after_another():
    torch.manual_seed(0)
    chain = Chain(SIZES, 8, 1, PARTS)
    first, second = chain.parts
    assert isinstance(first, External)
    assert isinstance(second, TemporalMemory)
    state, a, b = chain.initial(2), first.initial(2), second.initial(2)
    assert set(state) == {"0.keys", "0.values", "0.usage", "0.filled", "1.features", "1.filled"}
    writes = torch.tensor([True, False])
    for x in torch.randn(4, 2, 8):
        out, state = chain(fused(x), state, writes)
        between, a = first(fused(x), a, writes)
        alone, b = second(between, b, writes)
        assert torch.equal(out.tokens, alone.tokens)
    for name, value in state.items():
        own = a if name.startswith("0.") else b
        assert torch.equal(value, own[name[2:]]), name


def test_a_chain_may_be_part_of_a_chain():
    chain = Chain(SIZES, 8, 1, [{"name": "chain", "options": {"parts": PARTS}}, {"name": "recurrent", "options": {"size": 4}}])
    state = chain.initial(1)
    assert {"0.0.keys", "0.1.features", "1.state"} < set(state)
    _, after = chain(fused(torch.randn(1, 8)), state, always(1))
    assert after["0.1.filled"].sum() == after["0.0.filled"].sum() == 1
    assert after["1.state"].any()


def test_more_than_nine_memories_keep_to_themselves():
    chain = Chain(SIZES, 8, 1, [{"name": "recurrent", "options": {"size": 1 + i}} for i in range(11)])
    _, after = chain(fused(torch.randn(1, 8)), chain.initial(1), always(1))
    assert [after[f"{i}.state"].shape[1] for i in range(11)] == list(range(1, 12))


@pytest.mark.parametrize("deep", [0, 1, 2])
def test_more_frames_than_a_sequence_teaches_are_refused(deep, make_network):
    """Of the memory itself, of one in a chain, and of one in a chain in a chain."""

    def memory(frames):
        part = {"name": "temporal", "options": {"frames": frames}}
        for _ in range(deep):
            part = {"name": "chain", "options": {"parts": [{"name": "external"}, part, {"name": "recurrent"}]}}
        return Part(part["name"], part["options"])

    sizes = {"width": 16, "chunk": 3, "fusion": Part("mlp", {"hidden": 32})}
    make_network(NetworkConfig(**sizes, memory=memory(3), sequence=4))
    name = "chain" if deep else "temporal"
    with pytest.raises(
        ConfigError, match=f"{name!r} stores the last 4 frames, and a sequence of 4 has only 3 before its last"
    ) as e:
        make_network(NetworkConfig(**sizes, memory=memory(4), sequence=4))
    assert "set its frames to at most 3, or sequence to at least 5" in str(e.value)


def test_what_cannot_be_built_says_why():
    with pytest.raises(ConfigError, match="frames, size and layers of at least 1; got 0, 64 and 1"):
        TemporalMemory(SIZES, 8, 1, frames=0)
    with pytest.raises(ConfigError, match="at least one memory; there are chain, external, recurrent, temporal"):
        Chain(SIZES, 8, 1, [])
    with pytest.raises(ConfigError, match="a name, with options if it has any; got {'nam': 'external'}"):
        Chain(SIZES, 8, 1, [{"nam": "external"}])
    with pytest.raises(ConfigError, match="got {'name': 'external', 'slots': 3}"):
        Chain(SIZES, 8, 1, [{"name": "external", "slots": 3}])
    with pytest.raises(UnknownNameError, match="Did you mean 'temporal'"):
        Chain(SIZES, 8, 1, [{"name": "temporl"}])
