"""Tiny random checkpoints of published policies. The names are written out here, not taken from the code that reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from verbot.spec import Observation

# A SigLIP of two blocks with patches of 4 in 8 × 8 pixels, a Gemma of two blocks of width 32, an expert of width 16.
SIDE, PATCH, VISION, VISION_HIDDEN, WIDTH, HIDDEN, EXPERT, EXPERT_HIDDEN, HEAD, ROWS = 8, 4, 144, 40, 32, 48, 16, 24, 8, 400
ACTION, CHUNK = 6, 5  # padded numbers of an action, actions of a chunk

SIGLIP = {
    "embeddings.patch_embedding.weight": (VISION, 3, PATCH, PATCH),
    "embeddings.patch_embedding.bias": (VISION,),
    "embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2, VISION),
    "post_layernorm.weight": (VISION,),
    "post_layernorm.bias": (VISION,),
}
SIGLIP_LAYER = {
    "layer_norm1.weight": (VISION,),
    "layer_norm1.bias": (VISION,),
    "layer_norm2.weight": (VISION,),
    "layer_norm2.bias": (VISION,),
    "self_attn.q_proj.weight": (VISION, VISION),
    "self_attn.q_proj.bias": (VISION,),
    "self_attn.k_proj.weight": (VISION, VISION),
    "self_attn.k_proj.bias": (VISION,),
    "self_attn.v_proj.weight": (VISION, VISION),
    "self_attn.v_proj.bias": (VISION,),
    "self_attn.out_proj.weight": (VISION, VISION),
    "self_attn.out_proj.bias": (VISION,),
    "mlp.fc1.weight": (VISION_HIDDEN, VISION),
    "mlp.fc1.bias": (VISION_HIDDEN,),
    "mlp.fc2.weight": (VISION, VISION_HIDDEN),
    "mlp.fc2.bias": (VISION,),
}


def gemma_layer(width: int, hidden: int, heads: int = 4) -> dict[str, tuple[int, ...]]:
    return {
        "self_attn.q_proj.weight": (heads * HEAD, width),
        "self_attn.k_proj.weight": (HEAD, width),
        "self_attn.v_proj.weight": (HEAD, width),
        "self_attn.o_proj.weight": (width, heads * HEAD),
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.down_proj.weight": (width, hidden),
    }


def pi_shapes(adaptive: bool) -> dict[str, tuple[int, ...]]:
    """Of π0, or π0.5 if it is adaptive, by openpi's names."""
    body = "paligemma_with_expert."
    tower, words, expert = (
        f"{body}paligemma.model.vision_tower.vision_model.",
        f"{body}paligemma.model.language_model.",
        f"{body}gemma_expert.model.",
    )
    shapes = {f"{tower}{name}": shape for name, shape in SIGLIP.items()}
    shapes |= {f"{tower}encoder.layers.{i}.{name}": shape for i in range(2) for name, shape in SIGLIP_LAYER.items()}
    shapes |= {
        f"{body}paligemma.model.multi_modal_projector.linear.weight": (WIDTH, VISION),
        f"{body}paligemma.model.multi_modal_projector.linear.bias": (WIDTH,),
        f"{body}paligemma.lm_head.weight": (ROWS, WIDTH),
        f"{words}norm.weight": (WIDTH,),
        f"{body}gemma_expert.lm_head.weight": (ROWS, EXPERT),
        "action_in_proj.weight": (EXPERT, ACTION),
        "action_in_proj.bias": (EXPERT,),
        "action_out_proj.weight": (ACTION, EXPERT),
        "action_out_proj.bias": (ACTION,),
    }
    for i in range(2):
        shapes |= {f"{words}layers.{i}.{name}": shape for name, shape in gemma_layer(WIDTH, HIDDEN).items()}
        shapes |= {f"{words}layers.{i}.{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{expert}layers.{i}.{name}": shape for name, shape in gemma_layer(EXPERT, EXPERT_HIDDEN).items()}
    norms = [f"{expert}layers.{i}.{name}" for i in range(2) for name in ("input_layernorm", "post_attention_layernorm")]
    if adaptive:
        for norm in (*norms, f"{expert}norm"):
            shapes |= {f"{norm}.dense.weight": (3 * EXPERT, EXPERT), f"{norm}.dense.bias": (3 * EXPERT,)}
        mlps: dict[str, tuple[int, ...]] = {"time_mlp_in": (EXPERT, EXPERT), "time_mlp_out": (EXPERT, EXPERT)}
    else:
        shapes |= {f"{norm}.weight": (EXPERT,) for norm in (*norms, f"{expert}norm")}
        mlps = {
            "state_proj": (EXPERT, ACTION), "action_time_mlp_in": (EXPERT, 2 * EXPERT), "action_time_mlp_out": (EXPERT, EXPERT),
        }  # fmt: skip
    for name, shape in mlps.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


RESNET_WIDTHS = (64, 128, 256, 512)


def resnet_shapes(
    norm: str, stem: tuple[str, str] = ("conv1", "bn1"), layer: str = "layer{}", first: int = 1
) -> dict[str, tuple[int, ...]]:
    """Of torchvision's ResNet-18 up to its last stage. `norm` is ``"frozen"``, ``"batch"`` or ``"group"``."""
    kinds = {"group": ("weight", "bias")}.get(norm, ("weight", "bias", "running_mean", "running_var"))
    convolutions, norms = {f"{stem[0]}.weight": (64, 3, 7, 7)}, {stem[1]: 64}
    before = 64
    for number, width in enumerate(RESNET_WIDTHS):
        for block in range(2):
            name = f"{layer.format(number + first)}.{block}"
            convolutions[f"{name}.conv1.weight"] = (width, before if block == 0 else width, 3, 3)
            convolutions[f"{name}.conv2.weight"] = (width, width, 3, 3)
            norms |= {f"{name}.bn1": width, f"{name}.bn2": width}
            if block == 0 and number:
                convolutions[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                norms[f"{name}.downsample.1"] = width
        before = width
    return {**convolutions, **{f"{name}.{kind}": (width,) for name, width in norms.items() for kind in kinds}}


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    return {name: value.abs() + 0.5 if name.endswith("running_var") else value for name, value in found.items()}


def write_tokenizer(folder: Path, *special: str) -> None:
    """A byte-level ``tokenizer.json`` with these special tokens first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["pick up the cube"] * 3,
        trainers.BpeTrainer(vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False),
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))


def write_lerobot(
    folder: Path,
    kind: str,
    weights: dict[str, Tensor],
    cameras: dict[str, tuple[int, int]],
    state: int,
    action: int,
    **options: Any,
) -> Path:
    """A folder of LeRobot with statistics in its processors."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs: dict[str, Any] = {name: {"type": "VISUAL", "shape": [3, *size]} for name, size in cameras.items()}
    if state:
        inputs["observation.state"] = {"type": "STATE", "shape": [state]}
    record = {
        "type": kind,
        "input_features": inputs,
        "output_features": {"action": {"type": "ACTION", "shape": [action]}},
        **options,
    }
    (folder / "config.json").write_text(json.dumps(record))
    save_file(weights, folder / "model.safetensors")
    generator = np.random.default_rng(1)
    found = {"observation.state": state, "action": action, **dict.fromkeys(cameras, 3)}
    numbers = dict[str, Tensor]()
    for name, size in found.items():
        for kind_of, low, high in (
            ("mean", -0.5, 0.5),
            ("std", 0.5, 1.5),
            ("min", -2, -1),
            ("max", 1, 2),
            ("q01", -1, -0.5),
            ("q99", 0.5, 1),
        ):
            if size:
                numbers[f"{name}.{kind_of}"] = torch.from_numpy(generator.uniform(low, high, size).astype(np.float32))
    for name, step in (("preprocessor", "normalizer_processor"), ("postprocessor", "unnormalizer_processor")):
        file = f"policy_{name}_step_5_{step}.safetensors"
        save_file(numbers, folder / file)
        steps = [{"registry_name": "device_processor"}, {"registry_name": step, "config": {"eps": 1e-8}, "state_file": file}]
        (folder / f"policy_{name}.json").write_text(json.dumps({"name": f"policy_{name}", "steps": steps}))
    return folder


def statistics_of(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "policy_preprocessor_step_5_normalizer_processor.safetensors")


def observation(
    cameras: tuple[str, ...], state: int, seed: int = 0, size: tuple[int, int] = (6, 8), **changes: Any
) -> Observation:
    generator = np.random.default_rng(seed)
    images = {name: generator.integers(0, 256, (*size, 3), dtype=np.uint8) for name in cameras}
    return Observation(images, generator.normal(size=state).astype(np.float32), **{"instruction": "pick up the cube", **changes})
