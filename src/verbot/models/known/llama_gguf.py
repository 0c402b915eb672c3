"""Llama models in GGUF to the folder of the transformers library: safetensors in bfloat16, config.json, tokenizer.json."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import CorruptFileError
from verbot.files import replacing, write
from verbot.models.known.gguf import Floats, GGUFFile

WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
OF_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# How text is split before its bytes are merged, by ``tokenizer.ggml.pre``. SmolLM's digits are tokens of their own; the GGUF
# reader of transformers 5.23 does not split them, llama.cpp does.
SPLITS = {
    "gpt-2": BYTES,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
}
SPECIAL_KINDS = (3,)  # token_type of a control token
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
NAMES = ("bos", "eos", "unknown", "padding")


def convert_llama(path: Path, folder: Path) -> None:
    """Write `folder` from a GGUF file of a Llama model with a byte-level vocabulary (SmolLM2). One tensor is in memory at a time.

    Raises `CorruptFileError` for another architecture or vocabulary, tensors that are missing or unknown, and numbers that are
    not finite.
    """
    file = GGUFFile(path)
    config = llama_config(file)
    names = {published_name(file, name): name for name in file.tensors}
    _check_shapes(file, config, names)
    _write_weights(file, names, config, folder / "model.safetensors")
    write(folder / "config.json", json.dumps(config, indent=1).encode())
    for name, content in tokenizer_files(file).items():
        write(folder / name, json.dumps(content, indent=1, ensure_ascii=False).encode())


def llama_config(file: GGUFFile) -> dict[str, Any]:
    """The content of ``config.json``."""
    kind = file.value("general.architecture", str)
    if kind != "llama":
        raise CorruptFileError(file.path, f"holds a model of architecture {kind!r}; expected 'llama'")

    def number(name: str) -> int:
        return int(file.value(f"llama.{name}", int))

    def short(name: str, default: float | None = None) -> float:  # 1e-05, not 9.999999747378752e-06
        return float(str(np.float32(file.value(f"llama.{name}", float, default))))

    heads = number("attention.head_count")
    keys = int(file.value("llama.attention.head_count_kv", int, heads))
    if heads < 1 or keys < 1 or heads % keys or number("embedding_length") % (2 * heads):
        raise CorruptFileError(file.path, f"has {heads} heads, {keys} of keys, for width {number('embedding_length')}")
    ids = {name: int(file.value(f"tokenizer.ggml.{name}_token_id", int)) for name in ("bos", "eos")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": number("embedding_length") // heads,
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": short("attention.layer_norm_rms_epsilon"),
        "rope_theta": short("rope.freq_base", 10_000.0),
        "vocab_size": len(file.value("tokenizer.ggml.tokens", list)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": int(file.value("tokenizer.ggml.padding_token_id", int, ids["eos"])),
        "dtype": "bfloat16",
    }


def published_name(file: GGUFFile, name: str) -> str:
    """The name that a tensor has in the transformers library."""
    layer = LAYER.fullmatch(name)
    if layer and layer[2] in OF_LAYER:
        return f"model.layers.{layer[1]}.{OF_LAYER[layer[2]]}.weight"
    if name not in WHOLE:
        raise CorruptFileError(file.path, f"holds {name}, which a Llama model does not have")
    return WHOLE[name]


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each weight of a Llama model, by its name in the transformers library."""
    d, hidden, h = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * h, config["num_key_value_heads"] * h
    of_part = {
        "input_layernorm": (d,), "post_attention_layernorm": (d,), "self_attn.q_proj": (queries, d),
        "self_attn.k_proj": (keys, d), "self_attn.v_proj": (keys, d), "self_attn.o_proj": (d, queries),
        "mlp.gate_proj": (hidden, d), "mlp.up_proj": (hidden, d), "mlp.down_proj": (d, hidden),
    }  # fmt: skip
    whole = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        whole["lm_head.weight"] = (config["vocab_size"], d)
    layers = range(config["num_hidden_layers"])
    return whole | {f"model.layers.{i}.{part}.weight": shape for i in layers for part, shape in of_part.items()}


def _check_shapes(file: GGUFFile, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
    if config["num_hidden_layers"] > len(names):
        raise CorruptFileError(file.path, f"has {len(names)} weights for {config['num_hidden_layers']} layers")
    expected = expected_shapes(config)
    if lost := sorted(set(expected) - set(names)):
        raise CorruptFileError(file.path, f"lacks {len(lost)} of {len(expected)} weights, among them {lost[0]}")
    if extra := sorted(set(names) - set(expected)):
        raise CorruptFileError(file.path, f"holds {extra[0]}, but has {config['num_hidden_layers']} layers")
    for name, shape in expected.items():
        if (found := file.tensors[names[name]].shape) != shape:
            raise CorruptFileError(file.path, f"its {names[name]} has shape {found}; expected {shape}")


def _write_weights(file: GGUFFile, names: Mapping[str, str], config: Mapping[str, Any], path: Path) -> None:
    """Write a safetensors file: the length of its header, the header as JSON, and the tensors one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in sorted(names):
        shape = file.tensors[names[name]].shape
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with replacing(path) as draft, open(draft, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(names):
            tensor, count = file.read(names[name]), heads.get(name.split(".")[-2])
            if not np.isfinite(tensor).all():
                raise CorruptFileError(file.path, f"its {names[name]} holds numbers that are not finite")
            out.write(bfloat16_bits(tensor if count is None else halves_apart(tensor, count)).tobytes())


def halves_apart(weight: Floats, heads: int) -> Floats:
    """The rows of a projection whose heads are rotated in halves, from those rotated in neighboring pairs, as GGUF has them.

    Example:
        >>> halves_apart(np.arange(4, dtype=np.float32)[:, None], 1).ravel().tolist()
        [0.0, 2.0, 1.0, 3.0]
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def bfloat16_bits(x: Floats) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The upper halves of finite numbers, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(x, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def tokenizer_files(file: GGUFFile) -> dict[str, Any]:
    """The contents of ``tokenizer.json`` and ``tokenizer_config.json``. Special tokens are not made of text by default."""
    kind, split = file.value("tokenizer.ggml.model", str), file.value("tokenizer.ggml.pre", str, "gpt-2")
    if kind != "gpt2" or split not in SPLITS:
        raise CorruptFileError(
            file.path, f"has a vocabulary of kind {kind!r}, split as {split!r}; expected 'gpt2', split as {' or '.join(SPLITS)}"
        )
    tokens, kinds = file.value("tokenizer.ggml.tokens", list), file.value("tokenizer.ggml.token_type", list)
    merges = [tuple(merge.split(" ")) for merge in map(str, file.value("tokenizer.ggml.merges", list))]
    are_texts = all(isinstance(token, str) for token in tokens)
    if len(kinds) != len(tokens) or not are_texts or len(set(tokens)) != len(tokens) or any(len(pair) != 2 for pair in merges):
        raise CorruptFileError(file.path, "has a vocabulary whose tokens, types or merges do not fit together")
    special = [{"id": i, "content": tokens[i], **FLAGS} for i, each in enumerate(kinds) if each in SPECIAL_KINDS]
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": SPLITS[split],
        "post_processor": None,
        "decoder": {**BYTES, "add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip
    return {"tokenizer.json": whole, "tokenizer_config.json": _tokenizer_config(file, tokens)}


def _tokenizer_config(file: GGUFFile, tokens: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name in NAMES:
        number = file.values.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(number, int) and number < len(tokens):
            found[f"{'pad' if name == 'padding' else 'unk' if name == 'unknown' else name}_token"] = tokens[number]
    template = file.values.get("tokenizer.chat_template")
    return {**found, "model_max_length": file.value("llama.context_length", int)} | (
        {"chat_template": template} if isinstance(template, str) else {}
    )
