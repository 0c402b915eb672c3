"""FAST against a reference that is written here with tokenizers and a literal cosine transform, and with scipy where it is."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tokenizers

from verbot.errors import ConfigError, CorruptFileError
from verbot.models.cosine import cosine_transform, inverse_cosine_transform
from verbot.models.fast import FastTokenizer, byte_alphabet
from verbot.models.fast_grammar import FastGrammar


def literal_dct(chunk):
    """DCT-II, orthonormal, of (h, d) over time, each sum by its definition."""
    h = len(chunk)
    rows = []
    for k in range(h):
        weights = [math.cos(math.pi * (2 * t + 1) * k / (2 * h)) * math.sqrt((1 if k == 0 else 2) / h) for t in range(h)]
        rows.append([math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in chunk.T])
    return np.array(rows)


def scipy_dct(chunk):
    return pytest.importorskip("scipy.fft").dct(chunk, axis=0, norm="ortho")


def reference_ids(text, scale, low, chunk, dct):
    numbers = np.around(dct(chunk) * scale)
    return tokenizers.Tokenizer.from_str(text).encode("".join(chr(int(max(q - low, 0))) for q in numbers.flatten())).ids


def reference_fit(chunks, scale, vocab_size, dct):
    numbers = [np.around(dct(c) * scale).astype(int).flatten() for c in chunks]
    low, high = min(n.min() for n in numbers), max(n.max() for n in numbers)
    bpe = tokenizers.ByteLevelBPETokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, show_progress=False, special_tokens=[], max_token_length=10000,
        initial_alphabet=[chr(i) for i in range(high - low + 1)],
    )  # fmt: skip
    bpe._tokenizer.train_from_iterator(("".join(chr(q - low) for q in n) for n in numbers), trainer=trainer)
    return bpe.to_str(), low


def walks(n, h, d, seed=0):
    steps = np.random.default_rng(seed).normal(0, 0.15, (n, h, d))
    return np.clip(steps.cumsum(1), -1, 1)


@pytest.fixture(scope="module")
def training():
    return walks(60, 16, 7)


@pytest.fixture(scope="module")
def fitted(training):
    return FastTokenizer.fit(training, vocab_size=400)


CHUNKS = {
    "random": walks(12, 16, 7, seed=1),
    "constant": np.stack([np.full((16, 7), v) for v in (0.0, 0.3, -0.71)]),
    "extreme": 3.0 * np.sign(walks(6, 16, 7, seed=2)),
    "below the smallest coefficient": np.full((1, 16, 7), -30.0),
    "single step": walks(6, 1, 7, seed=3),
    "long": walks(3, 50, 14, seed=4),
}


@pytest.mark.parametrize("dct", [literal_dct, scipy_dct])
@pytest.mark.parametrize("name", CHUNKS)
def test_ids_are_those_of_the_reference(name, dct, fitted):
    expected = [reference_ids(fitted.tokenizer, 10, fitted.min_token, c, dct) for c in CHUNKS[name]]
    assert fitted.encode(CHUNKS[name]) == expected


@pytest.mark.parametrize("dct", [literal_dct, scipy_dct])
def test_a_fitted_tokenizer_is_that_of_the_reference(training, fitted, dct):
    text, low = reference_fit(training, 10, 400, dct)
    assert (fitted.tokenizer, fitted.min_token, fitted.vocab_size) == (text, low, 400)
    assert fitted.size == 400 and any(len(word) > 2 for word in fitted.words)


def test_the_transform_is_scipys_to_the_bit_also_on_a_grid():
    fft = pytest.importorskip("scipy.fft")
    rng = np.random.default_rng(0)
    for h in (1, 2, 3, 4, 5, 8, 10, 16, 17, 25, 50, 64, 100, 127):
        for x in (rng.normal(size=(20, 7, h)), rng.choice([-1, -0.5, 0, 0.25, 0.5, 1], size=(200, 3, h))):
            assert (cosine_transform(x) == fft.dct(x, norm="ortho")).all(), h


def test_the_transform_is_orthonormal_and_inverted():
    for h in (1, 2, 7, 16, 50):
        x = np.random.default_rng(h).normal(size=(4, 3, h))
        found = cosine_transform(x)
        np.testing.assert_allclose(found[0].T, literal_dct(x[0].T), atol=1e-12)
        np.testing.assert_allclose(inverse_cosine_transform(found), x, atol=1e-12)


def test_a_half_is_rounded_to_even_and_a_half_with_an_error_as_scipy_has_it():
    tokenizer = FastTokenizer(EMPTY, scale=1)
    steps = np.zeros((4, 4, 1))
    steps[:, 0, 0] = 1, 3, 5, -3  # frequencies 0 and 2 are half of it; scipy 1.17 has 0.5000000000000001 and 0.5 for the first
    assert tokenizer.coefficients(steps)[:, 2, 0].tolist() == [0, 2, 2, -2]
    assert tokenizer.coefficients(steps)[:, 0, 0].tolist() == [1, 2, 3, -2]


def test_rows_are_frequencies_and_the_lowest_comes_first():
    pairs = json.loads(EMPTY)
    tokenizer = FastTokenizer(json.dumps(pairs), scale=1, min_token=-65)
    chunk = inverse_cosine_transform(np.array([[1.0, 2, 3], [10, 11, 12]])).T  # (3, 2): frequencies by dimensions
    assert tokenizer.decode(tokenizer.encode(chunk[None])[0], 3, 2)[0] == pytest.approx(chunk)
    assert "".join(tokenizer.words[i].decode() for i in tokenizer.encode(chunk[None])[0]) == "BKCLDM"


def test_merges_do_not_cross_the_pieces_of_the_pattern():
    """Letters, digits, spaces and apostrophes among the characters split a text before its pairs are merged."""
    vocabulary = [*byte_alphabet(), "aa", "a1", "11", "Ġa", "'s", "!!", "a!"]
    merges = [["a", "a"], ["a", "1"], ["1", "1"], ["Ġ", "a"], ["'", "s"], ["!", "!"], ["a", "!"]]
    tokenizer = FastTokenizer(json.dumps(literal_tokenizer(vocabulary, merges)), scale=1)
    text = "aa11 a's!!a!1a"
    chunk = inverse_cosine_transform(np.array([[ord(c) for c in text]], np.float64).T).reshape(1, 1, -1)
    found = [vocabulary[i] for i in tokenizer.encode(chunk)[0]]
    assert found == ["aa", "11", "Ġa", "'s", "!!", "a", "!", "1", "a"]  # never "a1", "a!"
    assert tokenizer.decode(tokenizer.encode(chunk)[0], 1, len(text))[0] == pytest.approx(chunk[0])


def literal_tokenizer(vocabulary, merges):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(vocabulary)}, "merges": merges,
        },
    }  # fmt: skip


EMPTY = json.dumps(literal_tokenizer(byte_alphabet(), []))


def test_round_trips_are_as_exact_as_the_scale(training):
    fitted = FastTokenizer.fit(training, vocab_size=500, complete=True)
    for chunk, ids in zip(CHUNKS["random"], fitted.encode(CHUNKS["random"]), strict=True):
        found, error = fitted.decode(ids, 16, 7)
        assert error is None and np.abs(found - chunk).max() <= 0.05 * math.sqrt(16)
        assert fitted.encode(found[None]) == [ids]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda ids: ids[:-1], "coefficients; expected 16·7"),
        (lambda ids: [*ids, ids[-1]], "coefficients; expected 16·7"),
        (lambda ids: [], "mean 0 coefficients"),
        (lambda ids: [400, *ids[1:]], "token 400 is unknown; there are 0 to 399"),
        (lambda ids: [-1, *ids[1:]], "token -1 is unknown"),
    ],
)
def test_malformed_ids_are_reported(fitted, spoil, reason):
    chunk, error = fitted.decode(spoil(fitted.encode(CHUNKS["random"])[0]), 16, 7)
    assert chunk is None and reason in error


def test_bytes_that_are_no_text_are_reported_and_no_large_motion():
    """The published code reads the replacement character as a coefficient of 65,533."""
    tokenizer = FastTokenizer(EMPTY, scale=1)
    for raw in (b"\xc3", b"\xc3A", b"\x80", b"\xff"):
        chunk, error = tokenizer.decode(list(raw), 1, 1)
        assert chunk is None and error == "the bytes of the tokens are no text"
    assert tokenizer.decode(list("é".encode()), 1, 1)[0].tolist() == [[0xE9]]


def test_a_byte_that_no_training_chunk_has_gets_a_token_if_asked():
    narrow = np.zeros((40, 4, 1))
    narrow[0], narrow[1] = 4.0, -4.0  # coefficients -80, 0, 80 and nothing between
    other = np.full((1, 4, 1), -3.0)
    published, complete = (FastTokenizer.fit(narrow, vocab_size=400, complete=c) for c in (False, True))
    assert "expected 4·1" in published.decode(published.encode(other)[0], 4, 1)[1]
    assert complete.decode(complete.encode(other)[0], 4, 1)[0] == pytest.approx(other[0])


def test_what_cannot_be_encoded_or_fitted_is_named(training, fitted):
    with pytest.raises(ConfigError, match="more than a vocabulary of 50"):
        FastTokenizer.fit(training, vocab_size=50)
    with pytest.raises(ConfigError, match="no chunks"):
        FastTokenizer.fit([])
    for bad in (np.nan, np.inf, 1e300):
        with pytest.raises(ConfigError, match="not finite"):
            fitted.encode(np.full((1, 16, 7), bad))
    for large in (1e7, 0xD900 / 40):
        with pytest.raises(ConfigError, match="no character"):
            fitted.encode(np.full((1, 16, 7), large))
    with pytest.raises(ConfigError, match=r"shape \(16, 7\)"):
        fitted.encode(training[0])
    with pytest.raises(ConfigError, match="expected \\(n, 8, 7\\)"):
        dataclasses.replace(fitted, time_horizon=8, action_dim=7).encode(training)
    with pytest.raises(ConfigError, match="cannot decode without"):
        fitted.decode([0])


def write_published(folder, **changes):
    """A folder as it is published: the files literally, and code that must not run."""
    files = {
        "processor_config.json": {
            "action_dim": None,
            "auto_map": {"AutoProcessor": "processing_action_tokenizer.UniversalActionProcessor"},
            "min_token": -354,
            "processor_class": "UniversalActionProcessor",
            "scale": 10,
            "time_horizon": None,
            "vocab_size": 2048,
        },
        "tokenizer_config.json": {
            "added_tokens_decoder": {},
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1000000000000000019884624838656,
            "processor_class": "UniversalActionProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "special_tokens_map.json": {},
        "tokenizer.json": literal_tokenizer([*byte_alphabet(), "ÅĤ"], [["Å", "Ĥ"]]),
    }  # fmt: skip
    for name, content in {**files, **{n.replace("__", "."): c for n, c in changes.items()}}.items():
        if content is not None:
            (folder / name).write_text(json.dumps({**files.get(name, {}), **content}))
    (folder / "processing_action_tokenizer.py").write_text("raise SystemExit('it ran')")
    return folder


def test_the_published_files_are_read_and_written(tmp_path):
    loaded = FastTokenizer.load(write_published(tmp_path))
    assert (loaded.scale, loaded.vocab_size, loaded.min_token, loaded.time_horizon) == (10, 2048, -354, None)
    zero = loaded.encode(np.zeros((1, 2, 3)))[0]  # 354 is U+0162, the bytes C5 A2
    assert [loaded.words[i] for i in zero] == [b"\xc5", b"\xa2"] * 6
    loaded.save(tmp_path / "mine")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "processor_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert FastTokenizer.load(tmp_path / "mine") == loaded
    record = json.loads((tmp_path / "mine" / "processor_config.json").read_text())
    assert record["processor_class"] == "UniversalActionProcessor" and record["min_token"] == -354
    with pytest.raises(ConfigError, match=r"holds mine"):
        loaded.save(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("processor_config__json", {"clip": True}, "has clip"),
        ("processor_config__json", {"processor_class": "Other"}, "is for 'Other'"),
        ("processor_config__json", {"scale": 0}, "the scale of a FAST tokenizer is 0"),
        ("processor_config__json", {"min_token": 1.5}, "min_token of a FAST tokenizer is 1.5"),
        ("processor_config__json", {"time_horizon": 0}, "time_horizon of a FAST tokenizer is 0"),
        ("tokenizer_config__json", {"clean_up_tokenization_spaces": True}, "sets clean_up_tokenization_spaces"),
        ("tokenizer_config__json", {"bos_token": "<s>"}, "has bos_token"),
        ("special_tokens_map__json", {"eos_token": "</s>"}, "names special tokens"),
        ("tokenizer__json", {"normalizer": {"type": "NFC"}}, "has normalizer"),
        ("tokenizer__json", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}}, "use_regex"),
        ("tokenizer__json", {"model": {"type": "WordLevel", "vocab": {}}}, "model.type 'WordLevel'"),
        ("tokenizer__json", {"model": {"type": "BPE", "vocab": {"a": 1}, "merges": []}}, "have gaps"),
        ("tokenizer__json", {"model": {"type": "BPE", "vocab": 3}}, "cannot be read"),
    ],
)
def test_files_that_say_something_else_are_refused(tmp_path, name, change, reason):
    with pytest.raises(CorruptFileError) as raised:
        FastTokenizer.load(write_published(tmp_path, **{name: change}))
    assert reason in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    (write_published(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(CorruptFileError, match=r"tokenizer\.json"):
        FastTokenizer.load(tmp_path)


def test_it_survives_json(fitted, training):
    again = FastTokenizer.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again.encode(training[:3]) == fitted.encode(training[:3]) and again.to_json() == fitted.to_json()
    with pytest.raises(ConfigError, match="expected action_dim, min_token"):
        FastTokenizer.from_json({"scale": 10})


def test_whatever_the_grammar_allows_can_be_decoded():
    chunks = 10 * walks(60, 4, 3)  # more than 128 coefficients: characters of two bytes
    tokenizer = FastTokenizer.fit(chunks, vocab_size=800, complete=True)
    grammar, rng = FastGrammar.of(tokenizer.words), np.random.default_rng(0)
    assert grammar.longest == 2
    for _ in range(100):
        said = []
        while True:
            allowed, is_whole = grammar.allowed(said, 12)
            if not allowed.any():
                break
            said.append(int(rng.choice(np.flatnonzero(allowed))))
        assert is_whole and tokenizer.decode(said, 4, 3)[1] is None
    for ids in tokenizer.encode(chunks[:20]):
        for end in range(len(ids)):
            assert grammar.allowed(ids[:end], 12)[0][ids[end]]
        assert grammar.allowed(ids, 12)[1]


def test_the_grammar_knows_the_characters_of_utf8():
    grammar = FastGrammar.of([bytes([b]) for b in range(256)])
    for text in ("a", "é", "ࠀ", "퟿", "\U00010000", "\U0010ffff"):
        assert grammar.allowed(text.encode(), 1)[1]
    for raw in (b"\xc0\x80", b"\xe0\x9f\x80", b"\xed\xa0\x80", b"\xf0\x8f\x80\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\x80", b"ab"):
        assert grammar.allowed(raw, 1)[1] is False
