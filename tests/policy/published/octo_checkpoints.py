"""A tiny Octo. The names are written out here, not taken from the code that reads them."""

import json

import msgpack
import numpy as np
from published_checkpoints import drawn

D, HEADS, HIDDEN, LAYERS, HORIZON, WINDOW, WORDS = 16, 2, 24, 2, 5, 2, 6
T5_TOKENS, T5_WIDTH, T5_HEADS, T5_INNER, T5_HIDDEN, T5_LAYERS = 300, 12, 2, 8, 20, 2
CHUNK, ACTION, TIME, INNER, BLOCKS, STEPS = 3, 7, 8, 10, 2, 6
STEMS = {"primary": (16, 16, True), "wrist": (8, 4, False)}  # side, tokens, whether a goal is stacked
FEATURES, EMBEDDED = (32, 64), 20
BODY, HEAD = "octo_transformer/", "heads_action/diffusion_model/"
TRANSFORMER, HF = f"{BODY}BlockTransformer_0/Transformer_0/", f"{BODY}task_tokenizers_language/hf_model/"


def shapes():
    found = {
        f"{BODY}task_language_projection/kernel": (T5_WIDTH, D), f"{BODY}task_language_projection/bias": (D,),
        f"{BODY}task_language_pos_embedding": (1, WORDS, D), f"{BODY}readout_action_pos_embedding": (1, HORIZON, 1, D),
        f"{TRANSFORMER}encoder_norm/scale": (D,), f"{TRANSFORMER}encoder_norm/bias": (D,),
        f"{HEAD}time_preprocess/kernel": (TIME // 2, 1),
        f"{HEAD}cond_encoder/Dense_0/kernel": (TIME, 2 * TIME), f"{HEAD}cond_encoder/Dense_0/bias": (2 * TIME,),
        f"{HEAD}cond_encoder/Dense_1/kernel": (2 * TIME, TIME), f"{HEAD}cond_encoder/Dense_1/bias": (TIME,),
        f"{HEAD}reverse_network/Dense_0/kernel": (TIME + D + CHUNK * ACTION, INNER),
        f"{HEAD}reverse_network/Dense_0/bias": (INNER,),
        f"{HEAD}reverse_network/Dense_1/kernel": (INNER, CHUNK * ACTION),
        f"{HEAD}reverse_network/Dense_1/bias": (CHUNK * ACTION,),
        f"{HF}shared/embedding": (T5_TOKENS, T5_WIDTH), f"{HF}encoder/final_layer_norm/weight": (T5_WIDTH,),
        f"{HF}encoder/block/0/layer/0/SelfAttention/relative_attention_bias/embedding": (32, T5_HEADS),
    }  # fmt: skip
    for i in range(BLOCKS):
        block = f"{HEAD}reverse_network/MLPResNetBlock_{i}/"
        found |= {
            f"{block}LayerNorm_0/scale": (INNER,), f"{block}LayerNorm_0/bias": (INNER,),
            f"{block}Dense_0/kernel": (INNER, 4 * INNER),
            f"{block}Dense_0/bias": (4 * INNER,), f"{block}Dense_1/kernel": (4 * INNER, INNER), f"{block}Dense_1/bias": (INNER,),
        }  # fmt: skip
    for i in range(LAYERS):
        block = f"{TRANSFORMER}encoderblock_{i}/"
        for n in (0, 1):
            found |= {f"{block}LayerNorm_{n}/scale": (D,), f"{block}LayerNorm_{n}/bias": (D,)}
        attention = f"{block}MultiHeadDotProductAttention_0/"
        for name in ("query", "key", "value"):
            found |= {f"{attention}{name}/kernel": (D, HEADS, D // HEADS), f"{attention}{name}/bias": (HEADS, D // HEADS)}
        found |= {f"{attention}out/kernel": (HEADS, D // HEADS, D), f"{attention}out/bias": (D,)}
        found |= {f"{block}MlpBlock_0/Dense_0/kernel": (D, HIDDEN), f"{block}MlpBlock_0/Dense_0/bias": (HIDDEN,)}
        found |= {f"{block}MlpBlock_0/Dense_1/kernel": (HIDDEN, D), f"{block}MlpBlock_0/Dense_1/bias": (D,)}
    for i in range(T5_LAYERS):
        first, second = f"{HF}encoder/block/{i}/layer/0/", f"{HF}encoder/block/{i}/layer/1/"
        found |= {f"{first}SelfAttention/{name}/kernel": (T5_WIDTH, T5_INNER) for name in "qkv"}
        found |= {f"{first}SelfAttention/o/kernel": (T5_INNER, T5_WIDTH), f"{first}layer_norm/weight": (T5_WIDTH,)}
        found |= {f"{second}DenseReluDense/wi/kernel": (T5_WIDTH, T5_HIDDEN), f"{second}layer_norm/weight": (T5_WIDTH,)}
        found |= {f"{second}DenseReluDense/wo/kernel": (T5_HIDDEN, T5_WIDTH)}
    for name, (_, tokens, goal) in STEMS.items():
        stem, given = f"{BODY}observation_tokenizers_{name}/SmallStem16_0/", 6 if goal else 3
        for i, width in enumerate(FEATURES):
            found |= {f"{stem}StdConv_{i}/kernel": (3, 3, given, width), f"{stem}StdConv_{i}/bias": (width,)}
            found |= {f"{stem}GroupNorm_{i}/scale": (width,), f"{stem}GroupNorm_{i}/bias": (width,)}
            given = width
        found |= {f"{stem}embedding/kernel": (1, 1, given, EMBEDDED), f"{stem}embedding/bias": (EMBEDDED,)}
        found |= {f"{BODY}obs_{name}_projection/kernel": (EMBEDDED, D), f"{BODY}obs_{name}_projection/bias": (D,)}
        found[f"{BODY}obs_{name}_pos_embedding"] = (1, HORIZON, tokens, D)
    return found


WEIGHTS = {name: value.numpy() * 3 for name, value in drawn(shapes()).items()}


def packed(value):
    array = np.ascontiguousarray(value)
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True))


def tree(weights):
    root = {}
    for name, value in weights.items():
        *parts, last = name.split("/")
        here = root
        for part in parts:
            here = here.setdefault(part, {})
        here[last] = packed(value) if isinstance(value, np.ndarray) else value
    return root


def module(name, **kwargs):
    return {"module": "octo.model", "name": name, "args": [], "kwargs": kwargs}


def record(**changes):
    tokenizers = {
        name: module(
            "ImageTokenizer",
            obs_stack_keys=[f"image_{name}"],
            task_stack_keys=[f"image_{name}"] * goal,
            encoder=module("SmallStem16"),
        )
        for name, (_, _, goal) in STEMS.items()
    }
    head = {
        "readout_key": "readout_action",
        "use_map": False,
        "action_horizon": CHUNK,
        "action_dim": ACTION,
        "diffusion_steps": STEPS,
    }
    model = {
        "observation_tokenizers": tokenizers, "task_tokenizers": {"language": module("LanguageTokenizer", encoder="t5-base")},
        "heads": {"action": module("DiffusionActionHead", **head)}, "readouts": {"action": 1}, "repeat_task_tokens": True,
        "use_correct_attention": True,
        "transformer_kwargs": {"num_layers": LAYERS, "num_attention_heads": HEADS, "mlp_dim": HIDDEN},
        "token_embedding_size": D, "max_horizon": HORIZON,
    }  # fmt: skip
    return {"window_size": WINDOW, "model": {**model, **changes}}


def statistics(size=ACTION):
    numbers = np.random.default_rng(size)
    return {
        "mean": numbers.normal(size=size).tolist(),
        "std": numbers.uniform(1, 2, size).tolist(),
        "mask": [True] * (size - 1) + [False],
    }


def write_octo(folder, weights=None, config=None, table=None, content=None):
    place = folder / "300000" / "default"
    place.mkdir(parents=True)
    raw = msgpack.packb(tree(WEIGHTS if weights is None else weights), strict_types=True) if content is None else content
    (place / "checkpoint").write_bytes(raw)
    (folder / "config.json").write_text(json.dumps(record() if config is None else config))
    (folder / "dataset_statistics.json").write_text(json.dumps(table or {"bridge_dataset": {"action": statistics()}}))
    from tokenizers import Tokenizer, models, normalizers

    made = Tokenizer(models.BPE({"<pad>": 0, "</s>": 1, **{f"<0x{i:02X}>": i + 2 for i in range(256)}}, [], byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "_")
    made.save(str(folder / "tokenizer.json"))
    return folder
