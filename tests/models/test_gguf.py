"""GGUF files are read as they were written, and become what the transformers library reads."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from gguf_writer import BF16, F16, F32, Q4_0, Q4_1, Q8_0, write_gguf
from published_weights import LAYERS, TEXTS, WIDTH, architecture, language_weights
from safetensors.torch import load_file
from tokenizers import Tokenizer

from verbot.errors import CorruptFileError
from verbot.models.known.gguf import GGUFFile
from verbot.models.known.llama_gguf import OF_LAYER, bfloat16_bits, convert_llama
from verbot.models.registries import trunks
from verbot.models.trunks.tiny import fitted_tokenizer

HEADS, KEY_HEADS = 4, 2
TIED = {name: w for name, w in language_weights("llama").items() if name != "lm_head.weight"}


def pairs_together(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows as llama.cpp stores them: those that rotate together are neighbors."""
    rows = weight.shape[0] // heads
    order = [head * rows + half * rows // 2 + i for head in range(heads) for i in range(rows // 2) for half in (0, 1)]
    return weight[order]


def vocabulary() -> tuple[list[str], list[int], list[str]]:
    record = json.loads(fitted_tokenizer([*TEXTS, "in 2024 the 12 cubes"], 300))
    by_id = sorted(record["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [token for token, _ in by_id] + [f"unused{i}" for i in range(300 - len(by_id))]
    return tokens, [3, 3, 3] + [1] * 297, [" ".join(pair) for pair in record["model"]["merges"]]


def written(path: Path, changes: dict | None = None, kinds: dict[str, int] | None = None, drop: str = "") -> Path:
    own = architecture("llama")
    tokens, types, merges = vocabulary()
    values = {
        "general.architecture": "llama", "llama.block_count": LAYERS, "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": own["intermediate_size"], "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_HEADS, "llama.context_length": 128,
        "llama.attention.layer_norm_rms_epsilon": own["rms_norm_eps"], "llama.rope.freq_base": own["rope_theta"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": "{{ messages }}",
        **(changes or {}),
    }  # fmt: skip
    tensors, short = {}, {own: short for short, own in OF_LAYER.items()}
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for name, weight in TIED.items():
        _, _, layer, part = (*name.removesuffix(".weight").split(".", 3), "", "", "")[:4]
        stored = whole.get(name) or f"blk.{layer}.{short[part]}.weight"
        heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KEY_HEADS}.get(part)
        tensor = (weight if heads is None else pairs_together(weight, heads)).numpy()
        kind = F32 if weight.ndim == 1 else (kinds or {}).get(stored, F32)
        if stored != drop:
            tensors[stored] = (tensor, kind)
    return write_gguf(path, values, tensors)


@pytest.mark.parametrize(("kind", "most"), [(F32, 0), (F16, 5e-4), (BF16, 8e-3), (Q8_0, 6e-3), (Q4_1, 0.07), (Q4_0, 0.15)])
def test_every_kind_of_numbers_is_read(tmp_path: Path, kind: int, most: float) -> None:
    tensor = np.random.default_rng(0).uniform(-1, 1, (6, 64)).astype(np.float32)
    found = GGUFFile(write_gguf(tmp_path / "x.gguf", {"a": 1, "b": [1, -2]}, {"first": (tensor[:1], F32), "x": (tensor, kind)}))
    assert found.values == {"a": 1, "b": [1, -2]} and found.tensors["x"].shape == (6, 64)
    assert np.abs(found.read("x") - tensor).max() <= most
    assert np.array_equal(found.read("first"), tensor[:1])


def test_it_reads_what_the_package_of_llama_cpp_writes_and_reads(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = written(
        tmp_path / "model.gguf", kinds={"token_embd.weight": Q8_0, "blk.0.ffn_up.weight": Q4_1, "blk.1.attn_v.weight": Q4_0}
    )
    ours = GGUFFile(path)
    for theirs in gguf.GGUFReader(path).tensors:
        assert np.array_equal(gguf.quants.dequantize(theirs.data, theirs.tensor_type), ours.read(theirs.name))


def test_a_converted_model_is_the_one_that_was_stored(tmp_path: Path) -> None:
    convert_llama(written(tmp_path / "model.gguf"), tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == TIED.keys()
    for name, weight in TIED.items():
        assert torch.equal(found[name], weight.to(torch.bfloat16)), name


def test_it_computes_what_the_librarys_own_class_computes(tmp_path: Path) -> None:
    convert_llama(written(tmp_path / "model.gguf", kinds={"blk.0.ffn_up.weight": Q4_1, "token_embd.weight": Q8_0}), tmp_path)
    (tmp_path / "model.gguf").unlink()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    trunk = trunks.build("hf", checkpoint=str(tmp_path), mode="frozen", dtype="float32")
    ids = torch.tensor([trunk.tokenizer.encode(TEXTS[0])])
    causal = torch.ones(1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    with torch.no_grad():
        out = trunk(trunk.embed(ids), causal, torch.arange(ids.shape[1])[None])
        torch.testing.assert_close(trunk.logits(out.hidden), model(ids).logits, rtol=0, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXTS[0])["input_ids"] == ids[0].tolist()
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.chat_template) == (2, 1, "{{ messages }}")


def test_digits_are_words_of_their_own_where_the_file_says_smollm(tmp_path: Path) -> None:
    for split, expected in (("smollm", 1), ("gpt-2", 4)):
        folder = tmp_path / split
        folder.mkdir()
        convert_llama(written(folder / "model.gguf", {"tokenizer.ggml.pre": split}), folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("in 2024")]
        assert max(len(piece.strip("Ġ")) for piece in pieces[1:]) == expected
        for text in ("in 2024", "naïve 🤖\n\tcafé  x", "", " <pad>", "٣Ⅷ½"):
            assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_bfloat16_is_rounded_as_torch_does() -> None:
    x = torch.cat([torch.randn(10_000), torch.tensor([0.0, -0.0, 1e-40, 3e38])])
    ours = torch.from_numpy(bfloat16_bits(x.numpy()).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours, x.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma"}, "expected 'llama'"),
        ({"llama.block_count": LAYERS + 1}, "lacks 9 of 38 weights"),
        ({"llama.block_count": LAYERS - 1}, "but has 2 layers"),
        ({"llama.attention.head_count": "four"}, "llama.attention.head_count 'four'"),
        ({"llama.attention.head_count": 5}, "has 5 heads, 2 of keys, for width 32"),
        ({"llama.attention.head_count_kv": 0}, "0 of keys"),
        ({"llama.attention.head_count_kv": 1}, r"attn_k.weight has shape \(16, 32\); expected \(8, 32\)"),
        ({"llama.block_count": 1_000_000_000}, "weights for 1000000000 layers"),
        ({"tokenizer.ggml.model": "llama"}, "expected 'gpt2'"),
        ({"tokenizer.ggml.pre": "qwen2"}, "smollm"),
        ({"tokenizer.ggml.token_type": [1]}, "do not fit together"),
        ({"general.alignment": 0}, "general.alignment 0"),
    ],
)
def test_what_is_no_such_model_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        convert_llama(written(tmp_path / "model.gguf", changes), tmp_path)


def test_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="is empty"):
        GGUFFile(path)
    for content in (
        b"nonsense",
        whole[:4] + struct.pack("<I", 9) + whole[8:],
        whole[:-1],
        *(whole[:n] for n in range(4, 4000, 97)),
    ):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError):
            GGUFFile(path)
    for seed in range(200):  # any change either is noticed or leaves a file that can be read
        random = np.random.default_rng(seed)
        content = bytearray(whole)
        for place in random.integers(0, 3000, 3):
            content[place] = random.integers(256)
        path.write_bytes(content)
        try:
            convert_llama(path, tmp_path)
        except CorruptFileError:
            continue


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    whole = bytearray(written(tmp_path / "model.gguf").read_bytes())
    whole[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "model.gguf").write_bytes(whole)
    with pytest.raises(CorruptFileError, match="not finite"):
        convert_llama(tmp_path / "model.gguf", tmp_path)
