"""Tiny random checkpoints with published names, which are written out here and not taken from the code that reads them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from verbot.models.trunks.tiny import fitted_tokenizer

WIDTH, HIDDEN, ROWS, LAYERS = 32, 48, 300, 3
TEXTS = ("pick up the red cube", "push the green ball to the left", "where is the blue cup?")

# (heads, key heads, head width)
HEADS = {"llama": (4, 2, 8), "qwen2": (4, 2, 8), "qwen3": (4, 2, 12), "gemma": (4, 1, 12)}
CLASSES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM",
}  # fmt: skip


def architecture(kind: str, **changes: Any) -> dict[str, Any]:
    heads, key_heads, head_width = HEADS[kind]
    own = {"llama": {"rms_norm_eps": 1e-5, "rope_theta": 50_000.0}, "qwen2": {}, "qwen3": {}, "gemma": {}}[kind]
    sizes = {"head_dim": head_width} if kind in ("qwen3", "gemma") else {}
    return {
        "model_type": kind, "vocab_size": ROWS, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": heads, "num_key_value_heads": key_heads, "tie_word_embeddings": kind in ("gemma", "qwen3"),
        "hidden_act": "gelu" if kind == "gemma" else "silu", "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1,
        **sizes, **own, **changes,
    }  # fmt: skip


def language_weights(kind: str, seed: int = 0) -> dict[str, Tensor]:
    """As the hub has them."""
    heads, key_heads, h = HEADS[kind]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, WIDTH), "model.norm.weight": (WIDTH,)}
    for i in range(LAYERS):
        shapes |= {
            f"model.layers.{i}.input_layernorm.weight": (WIDTH,),
            f"model.layers.{i}.self_attn.q_proj.weight": (heads * h, WIDTH),
            f"model.layers.{i}.self_attn.k_proj.weight": (key_heads * h, WIDTH),
            f"model.layers.{i}.self_attn.v_proj.weight": (key_heads * h, WIDTH),
            f"model.layers.{i}.self_attn.o_proj.weight": (WIDTH, heads * h),
            f"model.layers.{i}.post_attention_layernorm.weight": (WIDTH,),
            f"model.layers.{i}.mlp.gate_proj.weight": (HIDDEN, WIDTH),
            f"model.layers.{i}.mlp.up_proj.weight": (HIDDEN, WIDTH),
            f"model.layers.{i}.mlp.down_proj.weight": (WIDTH, HIDDEN),
        }
        if kind == "qwen2":
            shapes |= {
                f"model.layers.{i}.self_attn.q_proj.bias": (heads * h,),
                f"model.layers.{i}.self_attn.k_proj.bias": (key_heads * h,),
                f"model.layers.{i}.self_attn.v_proj.bias": (key_heads * h,),
            }
        if kind == "qwen3":
            shapes |= {f"model.layers.{i}.self_attn.q_norm.weight": (h,), f"model.layers.{i}.self_attn.k_norm.weight": (h,)}
    if kind in ("llama", "qwen2"):
        shapes["lm_head.weight"] = (ROWS, WIDTH)
    return drawn(shapes, seed, offset=0.0 if kind == "gemma" else 1.0)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int, offset: float = 1.0) -> dict[str, Tensor]:
    """Random weights; those of norms are around `offset`."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) * 0.15 for name, shape in shapes.items()}
    return {name: value + offset if "norm" in name and name.endswith("weight") else value for name, value in found.items()}


def write_checkpoint(folder: Path, config: dict[str, Any], *shards: dict[str, Tensor], index: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(fitted_tokenizer(TEXTS, 280))
    names = ["model.safetensors"] if len(shards) == 1 else [f"model-{i}-of-{len(shards)}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file({key: value.contiguous() for key, value in shard.items()}, folder / name)
    if index:
        places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
