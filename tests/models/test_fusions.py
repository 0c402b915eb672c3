"""What single fusions and their layers promise beyond the laws."""

import dataclasses

import pytest
import torch
from torch import nn

from verbot.errors import ConfigError
from verbot.models.fusion.hierarchical import HierarchicalFusion
from verbot.models.fusion.mlp import Mlp
from verbot.models.fusion.perceiver import Perceiver
from verbot.models.fusion.readout import ReadoutFusion
from verbot.models.fusion.temporal import TemporalFusion
from verbot.models.layers.attention_maps import slices, watch_attention, watch_groups
from verbot.models.layers.transformer import (
    Attention,
    CrossBlock,
    TokenLearner,
    TypePositionEmbedding,
    observation_counts,
    observation_groups,
    observations_by_frame,
    reader,
    sharpen,
    text_groups,
    until,
)
from verbot.models.registries import Part, fusions
from verbot.models.tokens import Sizes, TokenGroup, join

SIZES = Sizes(width=16, views=2, height=16, width_px=16, state=4, chunk=3, action=())
PLACES, OBJECTS = 9, 3  # tokens in a frame


def sizes(history: int) -> Sizes:
    return dataclasses.replace(SIZES, history=history)


def counts(history: int) -> dict[str, int]:
    return {"keypoints": PLACES * history, "objects": OBJECTS * history, "state": history, "sentence": 1}


def draw_groups(history: int = 1, rows: int = 2, words: int = 5, seed: int = 0) -> list[TokenGroup]:
    """Everything valid, everything random; ``"objects"`` is a kind that no fusion knows by name."""
    g = torch.Generator().manual_seed(seed)
    numbers = {"words": words, "sentence": 1, **{k: n for k, n in counts(history).items() if k != "sentence"}}
    return [
        TokenGroup(torch.randn(rows, n, 16, generator=g), torch.ones(rows, n, dtype=torch.bool), kind)
        for kind, n in numbers.items()
    ]


def at_frame(group: TokenGroup, frame: int, history: int, **changes: torch.Tensor | bool) -> TokenGroup:
    """The group with its tokens or mask of one frame replaced."""
    if group.kind in ("words", "sentence"):
        return group
    fields = {name: getattr(group, name).clone() for name in changes}
    for name, value in changes.items():
        fields[name].unflatten(1, (history, -1))[:, frame] = value
    return dataclasses.replace(group, **fields)


def reference(attention: Attention) -> nn.MultiheadAttention:
    """Torch's attention with the same weights."""
    width = attention.query.in_features
    other = nn.MultiheadAttention(width, attention.heads, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([attention.query.weight, attention.pair.weight]))
        other.in_proj_bias.copy_(torch.cat([attention.query.bias, attention.pair.bias]))
    other.out_proj.load_state_dict(attention.out.state_dict())
    return other


def test_attention_is_multi_head_attention():
    """Heads split the features and never the sequence: the same weights give the same as torch's own."""
    attention = Attention(16, 4)
    queries, keys = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    mask = torch.rand(2, 5) < 0.7
    mask[:, 0] = True
    out, weights = reference(attention)(queries, keys, keys, key_padding_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(attention(queries, keys, mask), out)
    torch.testing.assert_close(attention.weights(queries, keys, mask), weights)
    each = torch.rand(2, 3, 5) < 0.7
    each[..., 1] = True
    out, weights = reference(attention)(queries, keys, keys, attn_mask=~each.repeat_interleave(4, 0), average_attn_weights=False)
    torch.testing.assert_close(attention(queries, keys, each), out)
    torch.testing.assert_close(attention.weights(queries, keys, each), weights)


def test_a_query_that_may_read_nothing_gives_zero():
    attention, x = Attention(8, 2), torch.randn(1, 3, 8, requires_grad=True)
    mask = torch.tensor([[[True, False, True], [False] * 3, [False, True, False]]])
    out, weights = attention(x, x, mask), attention.weights(x, x, mask)
    assert (out[0, 1] == 0).all() and (weights[0, :, 1] == 0).all() and out[0, 0].all()
    torch.testing.assert_close(weights.sum(-1), torch.tensor([1.0, 0.0, 1.0]).expand(1, 2, 3))
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_the_stacks_block_is_the_textbooks():
    """Cross-attention, self-attention, feed-forward, each on normalized tokens and added."""
    block = CrossBlock(16, 4).eval()
    x, keys, masks = torch.randn(2, 3, 16), torch.randn(2, 7, 16), (torch.rand(2, 3) < 2, torch.rand(2, 7) < 0.8)
    masks[1][:, 0] = True
    expected = x + reference(block.cross)(block.ask(x), keys, keys, key_padding_mask=~masks[1])[0]
    normed = block.own.norm(expected)
    expected = expected + reference(block.own.attention)(normed, normed, normed)[0]
    expected = expected + block.own.feed(expected)
    torch.testing.assert_close(block(x, masks[0], keys, masks[1]), expected)


def test_watching_changes_nothing_and_ends(make_network, make_batch):
    network = make_network(dataclasses.replace(make_network().config, fusion=Part("stack", {"layers": 2}))).eval()
    batch = make_batch(network)
    before = network.predict(batch).actions
    with watch_attention(network) as weights, watch_groups(network.backbone.fusion) as given:
        assert torch.equal(network.predict(batch).actions, before)
        network.predict(batch)
    network.predict(batch)
    names = {name for name, part in network.named_modules() if isinstance(part, Attention)}
    assert set(weights) == names and {"fusion.blocks.0.cross", "fusion.blocks.1.own.attention"} <= names
    assert all(len(found) == 2 and torch.equal(*found) for found in weights.values()) and len(given) == 2
    words, places = slices(text_groups(given[0])), slices(observation_groups(given[0]))
    assert (words["sentence"], places["keypoints"], places["state"]) == (slice(9, 10), slice(0, 32), slice(32, 33))
    looked = weights["fusion.blocks.1.cross"][0]
    assert looked.shape == (4, 4, 10, 33) and not looked.requires_grad
    torch.testing.assert_close(looked.sum(-1), torch.ones(4, 4, 10))
    spoken = weights["fusion.blocks.0.own.attention"][0].transpose(-1, -2)[:, :, words["words"]]
    assert (spoken.any(-1).any(1) == given[0][0].mask).all(), "padding is never read, a word always"


def test_what_is_watched_is_what_was_read():
    """The weights times the values, through the output layer, are the output."""
    attention = Attention(16, 4)
    x, mask = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True, False, True, False, False]])
    with watch_attention(attention) as weights:
        out = attention(x, x, mask=mask)
    (found,) = weights[""]
    values = attention.pair(x).chunk(2, -1)[1].unflatten(-1, (4, -1)).transpose(1, 2)
    torch.testing.assert_close(attention.out((found @ values).transpose(1, 2).flatten(2)), out)


def test_slices_follow_the_join():
    groups = draw_groups(history=2)
    joined = join(groups).tokens
    for group in groups:
        assert torch.equal(joined[:, slices(groups)[group.kind]], group.tokens)
    frame = observations_by_frame(groups, 2).tokens.unflatten(0, (-1, 2))[:, 1]
    (objects,) = (g for g in groups if g.kind == "objects")
    assert torch.equal(frame[:, slices(observation_groups(groups), frames=2)["objects"]], objects.tokens[:, OBJECTS:])
    with pytest.raises(ConfigError, match="two groups are of the kind 'words'"):
        slices([groups[0], groups[0]])


def test_frames_read_up_to_their_own():
    mask = until(torch.tensor([-1, 0, 0, 1]), torch.tensor([[True, True, False, True]]))
    assert mask.int().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]]]


def test_the_token_learner_averages_and_never_reads_what_is_masked():
    learner = TokenLearner(16, 8)
    tokens, mask = torch.randn(3, 6, 16), torch.tensor([[True] * 6, [True, False] * 3, [False] * 6])
    broken = TokenGroup(tokens.masked_fill(~mask.unsqueeze(-1), float("nan")), mask, "x")
    out = learner(broken)
    assert out.tokens.shape == (3, 8, 16) and out.mask.tolist() == [[True] * 8, [True] * 8, [False] * 8]
    short = learner(TokenGroup(tokens[1:2, ::2], mask[1:2, ::2], "x"))
    torch.testing.assert_close(out.tokens[1:2], short.tokens)
    weights = learner.weigh(tokens[:1]).softmax(1)  # (1, n, 8)
    torch.testing.assert_close(out.tokens[0, 3], (weights[0, :, 3:4] * tokens[0]).sum(0))
    assert (out.tokens[2] == 0).all()


def test_marks_tell_places_and_frames_apart():
    marks = TypePositionEmbedding(sizes(3), counts(3))
    zeros = [TokenGroup(torch.zeros_like(g.tokens), g.mask, g.kind) for g in draw_groups(3)]
    marked = {g.kind: g.tokens[0] for g in marks(zeros)}
    assert len(marked["keypoints"].unique(dim=0)) == 3 * PLACES and len(marked["words"].unique(dim=0)) == 1
    with pytest.raises(ConfigError, match="for keypoints, objects, sentence, state, words got tokens of kind 'sounds'"):
        marks([dataclasses.replace(zeros[0], kind="sounds")])
    with pytest.raises(ConfigError, match="7 keypoints tokens cannot lie frame by frame in 2 frames"):
        observation_counts({"keypoints": 7}, 2)


def test_a_fixed_number_of_tokens_is_read_place_by_place():
    """Two tokens that change places read otherwise, which one pooling query cannot see."""
    tokens, mask = torch.randn(2, 4, 8), torch.tensor([[True] * 4, [True, True, False, True]])
    places, pool = reader(8, 4), reader(8, 0)
    swapped = TokenGroup(tokens[:, [1, 0, 2, 3]], mask, "fused")
    group = TokenGroup(tokens, mask, "fused")
    torch.testing.assert_close(pool(group), pool(swapped))
    assert (places(group) - places(swapped)).abs().max() > 1e-2
    other = tokens.clone()
    other[1, 2] = 100
    torch.testing.assert_close(places(TokenGroup(other, mask, "fused")), places(group))


PATHS = {  # the options that take the flat path out, and put it in
    "concat": ({"hidden": 0}, {"hidden": 256}),
    **{name: ({"flat": False}, {"flat": True}) for name in ("cross_attention", "stack", "bidirectional")},
    **{name: ({"hidden": 0}, {"hidden": 256}) for name in ("perceiver", "readout", "temporal")},
}
BUILDS = [
    *((name, {}) for name in fusions.names()),
    *((name, options) for name, both in PATHS.items() for options in both),
    ("concat", {"hidden": 0, "overview": 2}),
]


@pytest.mark.parametrize(("name", "options"), BUILDS)
def test_the_past_matters_but_for_missing_frames(name, options):
    """Of every fusion: a frame that is missing may hold anything, one that is there counts."""
    torch.manual_seed(1)
    fusion = fusions.get(name)(sizes(3), counts(3), **options).eval()
    groups = draw_groups(3)
    whole = fusion(groups)
    assert whole.tokens.shape[-1] == fusion.width and fusion.count in (0, whole.tokens.shape[1])
    for frame in range(3):
        changed = fusion([at_frame(g, frame, 3, tokens=torch.tensor(2.0)) for g in groups])
        assert (changed.tokens - whole.tokens).abs().max() > 1e-3
        missing = [at_frame(g, frame, 3, mask=False) for g in groups]
        a, b = fusion(missing), fusion([at_frame(g, frame, 3, tokens=torch.tensor(2.0)) for g in missing])
        torch.testing.assert_close(a.tokens[a.mask], b.tokens[b.mask], atol=1e-5, rtol=1e-4)


def test_the_temporal_transformer_is_causal():
    fusion = TemporalFusion(sizes(4), counts(4)).eval()
    groups = draw_groups(4)
    before = fusion.over_time(groups)  # (b, 4, 8 + objects + state, e)
    assert before.shape == (2, 4, 12, 16) and fusion.count == 12
    for frame in range(4):
        after = fusion.over_time([at_frame(g, frame, 4, tokens=torch.randn(2, 1, 16)) for g in groups])
        torch.testing.assert_close(after[:, :frame], before[:, :frame])
        assert all((after[:, later] - before[:, later]).abs().max() > 1e-4 for later in range(frame, 4))
    torch.testing.assert_close(fusion(groups).tokens, before[:, -1])


def test_tokens_of_one_frame_see_each_other():
    fusion = TemporalFusion(sizes(2), counts(2)).eval()
    groups = draw_groups(2)
    changed = [g if g.kind != "state" else at_frame(g, 0, 2, tokens=torch.tensor(3.0)) for g in groups]
    moved = (fusion.over_time(changed) - fusion.over_time(groups)).abs().amax((0, 3))  # (t, count)
    assert (moved > 1e-5).all()


def test_no_frame_is_fused_with_another_before_time():
    fusion = HierarchicalFusion(sizes(3), counts(3)).eval()
    groups = draw_groups(3)
    before, some = fusion.by_frame(groups)
    after, _ = fusion.by_frame([at_frame(g, 1, 3, tokens=torch.tensor(2.0)) for g in groups])
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-3 and some.all()
    with watch_attention(fusion.back) as weights:
        fusion([at_frame(g, 0, 3, mask=False) for g in groups])
    (looked,) = weights["0.attention"]  # (b, heads, 1, t)
    assert (looked[..., 0] == 0).all() and (looked[..., 1:] > 0).all()


def test_nothing_reads_a_readout():
    torch.manual_seed(0)
    fusion = ReadoutFusion(sizes(2), counts(2), readouts=3).eval()
    groups = draw_groups(2)
    with watch_attention(fusion) as weights:
        before = fusion.transform(groups)
    for (found,) in weights.values():
        assert (found[:, :, :-3, -3:] == 0).all() and (found[:, :, -3:, :-3] > 0).all()
        assert torch.equal(found[:, :, -3:, -3:] > 0, torch.eye(3, dtype=torch.bool).expand(2, 4, -1, -1))
    with torch.no_grad():
        fusion.readouts[1] = 7
    after = fusion.transform(groups)
    torch.testing.assert_close(after[:, :-3], before[:, :-3])
    torch.testing.assert_close(after[:, [-3, -1]], before[:, [-3, -1]])
    assert (after[:, -2] - before[:, -2]).abs().max() > 1e-2


def test_a_readout_added_later_disturbs_no_other():
    few, many = ReadoutFusion(sizes(1), counts(1), readouts=1).eval(), ReadoutFusion(sizes(1), counts(1), readouts=4).eval()
    state = {**few.state_dict(), "readouts": torch.cat([few.readouts.data, many.readouts.data[1:]])}
    many.load_state_dict(state)
    groups = draw_groups()
    torch.testing.assert_close(many(groups).tokens[:, :1], few(groups).tokens)


def test_readouts_task_tokens_read_the_task_alone_and_frames_their_past():
    fusion = ReadoutFusion(sizes(2), counts(2)).eval()
    groups = draw_groups(2)
    before, per = fusion.transform(groups), {"keypoints": PLACES, "objects": OBJECTS, "state": 1}
    after = fusion.transform([at_frame(g, 1, 2, tokens=torch.tensor(2.0)) for g in groups])
    same = (after - before).abs().amax((0, 2)) < 1e-5
    expected = [True] * 6 + [kept for n in per.values() for kept in [True] * n + [False] * n] + [False] * 4
    assert same.tolist() == expected


def test_both_sides_look_at_each_other_and_both_are_kept():
    """Words that know what was seen, places that know what was said: two pools, each of full width, into the output."""
    fusion = fusions.get("bidirectional")(SIZES, counts(1), flat=False).eval()
    assert fusion.summary.layers[0].in_features == 2 * 16
    groups = draw_groups()
    pools = {}
    for name in ("text", "seen"):
        getattr(fusion, name).register_forward_hook(lambda _, args, out, name=name: pools.__setitem__(name, out))
    whole = fusion(groups)
    before = dict(pools)
    grads = torch.autograd.grad(whole.tokens.sum(), [before["text"], before["seen"]])
    assert all(g.abs().max() > 1e-4 for g in grads)
    for kind in ("words", "keypoints"):
        fusion([dataclasses.replace(g, tokens=g.tokens.flip(-1) if g.kind == kind else g.tokens) for g in groups])
        assert all((pools[name] - before[name]).abs().max() > 1e-4 for name in pools), kind


def test_an_overview_sees_each_token_in_its_place():
    """It stands at the sequence's end, in every layer's state, and what is masked is not in it."""
    fusion = fusions.get("concat")(SIZES, counts(1), hidden=0, overview=2).eval()
    groups = draw_groups()
    fused = fusion(groups)
    assert fused.tokens.shape[1] == sum(g.tokens.shape[1] for g in groups) + 2 and fused.mask[:, -2:].all()
    (keypoints,) = (g for g in groups if g.kind == "keypoints")
    order = [1, 0, *range(2, PLACES)]
    swapped = [dataclasses.replace(g, tokens=g.tokens[:, order]) if g is keypoints else g for g in groups]
    first = fused.layers[0]
    assert (first[:, -2:] - fusion(swapped).layers[0][:, -2:]).abs().max() > 1e-3
    hidden = [at_frame(g, 0, 1, mask=False) if g.kind != "state" else g for g in groups]
    other = [dataclasses.replace(g, tokens=g.tokens + 3.0) if g.kind == "keypoints" else g for g in hidden]
    torch.testing.assert_close(fusion(hidden).layers[0][:, -2:], fusion(other).layers[0][:, -2:])
    with pytest.raises(ConfigError, match="an overview of 2 tokens needs hidden=0: with hidden=8 the output is one token"):
        fusions.get("concat")(SIZES, counts(1), hidden=8, overview=2)


def test_a_perceiver_reads_a_set_of_any_size():
    fusion = Perceiver(SIZES, counts(1)).eval()
    groups = draw_groups(words=7)
    order = torch.randperm(7)
    mixed = [dataclasses.replace(groups[0], tokens=groups[0].tokens[:, order]), *groups[1:]]
    assert fusion(groups).tokens.shape == (2, 32, 16)
    torch.testing.assert_close(fusion(mixed).tokens, fusion(groups).tokens)
    assert (fusion(draw_groups(words=2)).tokens - fusion(groups).tokens).abs().max() > 1e-3


def test_a_new_perceivers_queries_attend_differently():
    """As drawn, all of them would read nearly the mean of everything."""
    torch.manual_seed(0)
    fusion = Perceiver(dataclasses.replace(SIZES, width=64), counts(1))
    groups = [dataclasses.replace(g, tokens=torch.randn(2, g.tokens.shape[1], 64)) for g in draw_groups()]
    with watch_attention(fusion.read) as weights:
        fusion(groups)
        sharpen(fusion.read, 0.5)
        fusion(groups)
    sharp, drawn = (found.std(2).mean() for found in weights["attention"])  # over the queries
    assert sharp > 2.5 * drawn


@pytest.mark.parametrize("name", PATHS)
def test_the_flat_path_keeps_what_attention_lets_go(name):
    """Without keys to tell tokens apart attention passes on a mean; on the path of its own a change of places still shows."""
    groups = draw_groups()
    swapped = [g if g.kind != "keypoints" else dataclasses.replace(g, tokens=g.tokens.flip(1)) for g in groups]
    moved = []
    for options in PATHS[name]:
        torch.manual_seed(0)
        fusion = fusions.get(name)(SIZES, counts(1), **options).eval()
        with torch.no_grad():
            fusion.marks.kinds["keypoints"].zero_()
        moved.append(all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*map(pooled(fusion), (groups, swapped)), strict=True)))
    assert moved == [True, False]


def pooled(fusion: nn.Module):
    """What a fusion comes to, whatever the order of its tokens."""

    def come(groups):
        out = fusion(groups)
        return out.tokens.sort(1).values if fusion.count == 0 else out.tokens

    return come


def test_what_comes_into_mlp_does_not_fade():
    torch.manual_seed(0)
    kinds = {"keypoints": 32, "state": 1, "sentence": 1}
    fusion = Mlp(SIZES, kinds, hidden=128, layers=4)
    groups = [TokenGroup(torch.randn(64, n, SIZES.width), torch.ones(64, n, dtype=torch.bool), kind) for kind, n in kinds.items()]
    assert 0.5 < fusion(groups).tokens.square().mean().sqrt() < 2


@pytest.mark.parametrize("readings", [0, 2])
def test_a_reading_hears_what_the_sentence_passed_over(readings):
    fusion = fusions.get("mlp")(SIZES, {"sentence": 1, "state": 1}, hidden=8, readings=readings)
    sentence, state = (
        TokenGroup(torch.randn(2, 1, SIZES.width), torch.ones(2, 1, dtype=torch.bool), k) for k in ("sentence", "state")
    )
    tokens, mask = torch.randn(2, 4, SIZES.width), torch.tensor([[True, True, True, False]] * 2)
    other = tokens.clone()
    other[:, 3] += 1.0
    padded = [fusion([TokenGroup(x, mask, "words"), sentence, state]).tokens for x in (tokens, other)]
    assert torch.equal(*padded), "padding is no word"
    other[:, 1] += torch.randn(SIZES.width)
    heard = fusion([TokenGroup(other, mask, "words"), sentence, state]).tokens
    assert torch.allclose(heard, padded[0]) is (readings == 0)
