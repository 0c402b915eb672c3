"""A tiny OpenVLA and OpenVLA-OFT. The names are written out here, not taken from the code that reads them."""

import json
from pathlib import Path
from typing import Any

import torch
from published_checkpoints import drawn
from safetensors.torch import save_file
from torch import Tensor

# Two towers of three blocks with patches of 4 in 8 × 8 pixels, a Llama of two blocks; the vocabulary is that of Llama 2.
SIDE, PATCH, DINO, SIGLIP, HIDDEN, DEPTH, REGISTERS = 8, 4, 128, 144, 20, 3, 4  # DINO's MLP is as wide as it
WIDTH, MLP, HEADS, ROWS, LAYERS, ACTION = 24, 28, 4, 32064, 2, 7
CHUNK, STATE, HEAD = 8, 8, 12

TOWER = {
    "norm1.weight": "d", "norm1.bias": "d", "norm2.weight": "d", "norm2.bias": "d",
    "attn.qkv.weight": "3d d", "attn.qkv.bias": "3d", "attn.proj.weight": "d d", "attn.proj.bias": "d",
    "mlp.fc1.weight": "h d", "mlp.fc1.bias": "h", "mlp.fc2.weight": "d h", "mlp.fc2.bias": "d",
}  # fmt: skip
POOL = {
    "attn_pool.latent": "1 1 d", "attn_pool.q.weight": "d d", "attn_pool.q.bias": "d", "attn_pool.kv.weight": "2d d",
    "attn_pool.kv.bias": "2d", "attn_pool.proj.weight": "d d", "attn_pool.proj.bias": "d", "attn_pool.norm.weight": "d",
    "attn_pool.norm.bias": "d", "attn_pool.mlp.fc1.weight": "h d", "attn_pool.mlp.fc1.bias": "h",
    "attn_pool.mlp.fc2.weight": "d h", "attn_pool.mlp.fc2.bias": "d",
}  # fmt: skip


def sized(names: dict[str, str], d: int) -> dict[str, tuple[int, ...]]:
    sizes = {"d": d, "2d": 2 * d, "3d": 3 * d, "h": DINO if d == DINO else HIDDEN, "1": 1}
    return {name: tuple(sizes[part] for part in shape.split()) for name, shape in names.items()}


def tower(prefix: str, d: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        f"{prefix}pos_embed": (1, (SIDE // PATCH) ** 2, d), f"{prefix}patch_embed.proj.weight": (d, 3, PATCH, PATCH),
        f"{prefix}patch_embed.proj.bias": (d,), f"{prefix}norm.weight": (d,), f"{prefix}norm.bias": (d,),
    }  # fmt: skip
    for i in range(DEPTH):
        found |= {f"{prefix}blocks.{i}.{name}": shape for name, shape in sized(TOWER, d).items()}
    return found


def openvla_shapes() -> dict[str, tuple[int, ...]]:
    dino, siglip, words = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer.", "language_model.model."
    found = {**tower(dino, DINO), **tower(siglip, SIGLIP)}
    found |= {f"{dino}cls_token": (1, 1, DINO), f"{dino}reg_token": (1, REGISTERS, DINO)}
    found |= {f"{dino}blocks.{i}.ls{n}.scale_factor": (DINO,) for i in range(DEPTH) for n in (1, 2)}
    found |= {f"{siglip}{name}": shape for name, shape in sized(POOL, SIGLIP).items()}
    joined = DINO + SIGLIP
    found |= {
        "projector.fc1.weight": (4 * joined, joined), "projector.fc1.bias": (4 * joined,),
        "projector.fc2.weight": (WIDTH, 4 * joined), "projector.fc2.bias": (WIDTH,),
        "projector.fc3.weight": (WIDTH, WIDTH), "projector.fc3.bias": (WIDTH,),
        f"{words}embed_tokens.weight": (ROWS, WIDTH), f"{words}norm.weight": (WIDTH,),
        "language_model.lm_head.weight": (ROWS, WIDTH),
    }  # fmt: skip
    for i in range(LAYERS):
        found |= {f"{words}layers.{i}.self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        found |= {
            f"{words}layers.{i}.mlp.gate_proj.weight": (MLP, WIDTH), f"{words}layers.{i}.mlp.up_proj.weight": (MLP, WIDTH),
            f"{words}layers.{i}.mlp.down_proj.weight": (WIDTH, MLP), f"{words}layers.{i}.input_layernorm.weight": (WIDTH,),
            f"{words}layers.{i}.post_attention_layernorm.weight": (WIDTH,),
        }  # fmt: skip
    return found


def head_shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "module.model.layer_norm1.weight": (WIDTH * ACTION,), "module.model.layer_norm1.bias": (WIDTH * ACTION,),
        "module.model.fc1.weight": (HEAD, WIDTH * ACTION), "module.model.fc1.bias": (HEAD,),
        "module.model.layer_norm2.weight": (HEAD,), "module.model.layer_norm2.bias": (HEAD,),
        "module.model.fc2.weight": (ACTION, HEAD), "module.model.fc2.bias": (ACTION,),
    }  # fmt: skip
    for i in range(2):
        block = f"module.model.mlp_resnet_blocks.{i}.ffn."
        found |= {
            f"{block}0.weight": (HEAD,), f"{block}0.bias": (HEAD,), f"{block}1.weight": (HEAD, HEAD), f"{block}1.bias": (HEAD,),
        }  # fmt: skip
    return found


PROPRIO = {
    "module.fc1.weight": (WIDTH, STATE), "module.fc1.bias": (WIDTH,), "module.fc2.weight": (WIDTH, WIDTH),
    "module.fc2.bias": (WIDTH,),
}  # fmt: skip
WEIGHTS = drawn(openvla_shapes())
HEAD_WEIGHTS, PROPRIO_WEIGHTS = drawn(head_shapes(), 1), drawn(PROPRIO, 2)


def statistics(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def numbers(size: int) -> dict[str, Any]:
        low = -torch.rand(size, generator=generator) - 0.2
        return {"q01": low.tolist(), "q99": (low + 1 + torch.rand(size, generator=generator)).tolist()}

    action = numbers(ACTION) | {"mask": [True] * 6 + [False]}
    return {"action": action, "proprio": numbers(STATE), "num_transitions": 3}


def write_openvla(
    folder: Path,
    weights: dict[str, Tensor] | None = None,
    norm_stats: dict[str, Any] | None = None,
    shards: int = 1,
    **options: Any,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "model_type": "openvla", "vision_backbone_id": "dinosiglip-vit-so-224px", "n_action_bins": 256, "pad_to_multiple_of": 64,
        "norm_stats": norm_stats or {"bridge_orig": statistics()},
        "text_config": {
            "model_type": "llama", "vocab_size": ROWS, "hidden_size": WIDTH, "intermediate_size": MLP,
            "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "num_hidden_layers": LAYERS, "pad_token_id": 32000,
        },
        **options,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(record))
    weights = WEIGHTS if weights is None else weights
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
    else:
        places = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)}
        for file in {*places.values()}:
            save_file({name: weights[name] for name in names if places[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    write_llama_tokenizer(folder)
    return folder


def write_oft(folder: Path, head: dict[str, Tensor] | None = None, proprio: bool = True, **options: Any) -> Path:
    write_openvla(folder, **options)
    torch.save(HEAD_WEIGHTS if head is None else head, folder / "action_head--150000_checkpoint.pt")
    if proprio:
        torch.save(PROPRIO_WEIGHTS, folder / "proprio_projector--150000_checkpoint.pt")
    (folder / "dataset_statistics.json").write_text(json.dumps({"libero_spatial_no_noops": statistics(5)}))
    return folder


def write_llama_tokenizer(folder: Path) -> None:
    """Tokens of Llama's kind: the start and the end of a text, then the bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    bytes_of = {f"<0x{i:02X}>": i + 3 for i in range(256)}
    made = Tokenizer(
        models.BPE({"<unk>": 0, "<s>": 1, "</s>": 2, **bytes_of}, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.save(str(folder / "tokenizer.json"))


def prompt_ids(text: str) -> list[int]:
    """Token ids of a prompt, by hand: every character is its UTF-8 bytes."""
    return [1, *(byte + 3 for byte in ("▁" + text.replace(" ", "▁")).encode()), 29871]
