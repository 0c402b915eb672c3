"""SmolVLA of LeRobot by its files, against transformers' SmolVLM and Llama."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import drawn, observation, statistics_of, write_lerobot, write_tokenizer

import verbot
from verbot.errors import ConfigError, CorruptFileError

transformers = pytest.importorskip("transformers")
HEAD, VISION, VISION_HIDDEN, SIDE, PATCH, FACTOR = 64, 64, 40, 16, 4, 2
WIDTH, HIDDEN, EXPERT, EXPERT_HIDDEN, ROWS, LAYERS = 24, 32, 20, 28, 400, 3
HEADS, KEY_HEADS, STATE, ACTION, CHUNK = 4, 2, 5, 6, 4
CAMERAS = {"observation.images.top": (6, 8), "observation.images.wrist": (6, 8)}
SEEN = observation(("top", "wrist"), 3, sample_seed=4)


def shapes():
    body, tower = "vlm_with_expert.", "vlm_with_expert.vlm.model.vision_model."
    found = {
        f"{tower}embeddings.patch_embedding.weight": (VISION, 3, PATCH, PATCH),
        f"{tower}embeddings.patch_embedding.bias": (VISION,),
        f"{tower}embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2, VISION),
        f"{tower}post_layernorm.weight": (VISION,), f"{tower}post_layernorm.bias": (VISION,),
        f"{body}vlm.model.connector.modality_projection.proj.weight": (WIDTH, VISION * FACTOR**2),
        f"{body}vlm.model.text_model.embed_tokens.weight": (ROWS, WIDTH), f"{body}vlm.model.text_model.norm.weight": (WIDTH,),
        f"{body}vlm.lm_head.weight": (ROWS, WIDTH), f"{body}lm_expert.norm.weight": (EXPERT,),
        "state_proj.weight": (WIDTH, STATE), "state_proj.bias": (WIDTH,),
        "action_in_proj.weight": (EXPERT, ACTION), "action_in_proj.bias": (EXPERT,),
        "action_out_proj.weight": (ACTION, EXPERT), "action_out_proj.bias": (ACTION,),
        "action_time_mlp_in.weight": (EXPERT, 2 * EXPERT), "action_time_mlp_in.bias": (EXPERT,),
        "action_time_mlp_out.weight": (EXPERT, EXPERT), "action_time_mlp_out.bias": (EXPERT,),
    }  # fmt: skip
    for i in range(2):
        layer = f"{tower}encoder.layers.{i}."
        for name in ("layer_norm1", "layer_norm2"):
            found |= {f"{layer}{name}.weight": (VISION,), f"{layer}{name}.bias": (VISION,)}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= {f"{layer}self_attn.{name}.weight": (VISION, VISION), f"{layer}self_attn.{name}.bias": (VISION,)}
        found |= {f"{layer}mlp.fc1.weight": (VISION_HIDDEN, VISION), f"{layer}mlp.fc1.bias": (VISION_HIDDEN,)}
        found |= {f"{layer}mlp.fc2.weight": (VISION, VISION_HIDDEN), f"{layer}mlp.fc2.bias": (VISION,)}
    for i in range(LAYERS):
        for name, d, hidden in (("vlm.model.text_model", WIDTH, HIDDEN), ("lm_expert", EXPERT, EXPERT_HIDDEN)):
            given = KEY_HEADS * HEAD if name == "lm_expert" and i % 2 else d
            layer = f"{body}{name}.layers.{i}."
            found |= {
                f"{layer}input_layernorm.weight": (d,), f"{layer}post_attention_layernorm.weight": (d,),
                f"{layer}self_attn.q_proj.weight": (HEADS * HEAD, d), f"{layer}self_attn.o_proj.weight": (d, HEADS * HEAD),
                f"{layer}self_attn.k_proj.weight": (KEY_HEADS * HEAD, given),
                f"{layer}self_attn.v_proj.weight": (KEY_HEADS * HEAD, given),
                f"{layer}mlp.gate_proj.weight": (hidden, d), f"{layer}mlp.up_proj.weight": (hidden, d),
                f"{layer}mlp.down_proj.weight": (d, hidden),
            }  # fmt: skip
    return found


WEIGHTS = drawn(shapes())


def smolvla(folder, change=lambda weights: weights, prefix="model.", **options):
    weights = change({f"{prefix}{name}": value for name, value in WEIGHTS.items()})
    given = {"chunk_size": CHUNK, "resize_imgs_with_padding": [SIDE, SIDE], **options}
    write_lerobot(folder, "smolvla", weights, CAMERAS, 3, 4, **given)
    write_tokenizer(folder, "<pad>")
    return verbot.load_policy(f"hf:{folder}")


OWN = {
    "vision.patch": "vlm.model.vision_model.embeddings.patch_embedding", "vision.norm": "vlm.model.vision_model.post_layernorm",
    "connector": "vlm.model.connector.modality_projection.proj",
}  # fmt: skip
INSIDE = {"norm1": "layer_norm1", "norm2": "layer_norm2", "query": "self_attn.q_proj", "key": "self_attn.k_proj",
          "value": "self_attn.v_proj", "out": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}  # fmt: skip


def published(own):
    stem, _, kind = own.rpartition(".")
    if own == "vision.positions":
        return "vlm_with_expert.vlm.model.vision_model.embeddings.position_embedding.weight"
    if stem in OWN:
        return f"vlm_with_expert.{OWN[stem]}.{kind}"
    if own.startswith("vision.blocks."):
        _, _, number, part, kind = own.split(".")
        return f"vlm_with_expert.vlm.model.vision_model.encoder.layers.{number}.{INSIDE[part]}.{kind}"
    if own.startswith("language."):
        return f"vlm_with_expert.vlm.model.text_model.{own.removeprefix('language.')}"
    return f"vlm_with_expert.lm_expert.{own.removeprefix('expert.')}" if own.startswith("expert.") else own


def test_every_weight_is_in_its_place(tmp_path):
    state = smolvla(tmp_path).network.state_dict()
    assert len(state) == len(WEIGHTS) - 1  # the output layer is not used
    assert all(torch.equal(value, WEIGHTS[published(name)]) for name, value in state.items())


def test_statistics_of_old_files_are_left_out(tmp_path):
    def old(weights):
        return {**weights, "normalize_inputs.so100.buffer_observation_state.mean": torch.ones(3)}

    smolvla(tmp_path, old, "model._orig_mod.")


OUT = "model.action_out_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: {**w, "model.vlm_with_expert.more": torch.ones(2)},
            "holds model.vlm_with_expert.more, which this model does not",
        ),
        (lambda w: {n: v for n, v in w.items() if n != OUT}, "lacks 1 of .* weights, among them action_out_proj.weight"),
        (lambda w: {**w, OUT: torch.ones(ACTION, EXPERT + 1)}, r"action_out_proj.weight has shape \(6, 21\).*\(6, 20\)"),
        (lambda w: {**w, "action_out_proj.weight": w[OUT].clone()}, "which is the same weight as"),
        (
            lambda w: {n: v for n, v in w.items() if "lm_expert.layers.2." not in n},
            "the expert has 2 layers and the language model 3",
        ),
        (lambda w: {n: v for n, v in w.items() if "lm_expert.layers.1." not in n}, r"numbered \[0, 2\]; expected 0, 1"),
    ],
)
def test_a_wrong_weight_is_named(tmp_path, change, said):
    with pytest.raises((CorruptFileError, ConfigError), match=said):
        smolvla(tmp_path, change)


@pytest.mark.parametrize(
    "option", [{"adapt_to_pi_aloha": True}, {"attention_mode": "self_attn"}, {"resize_imgs_with_padding": None}]
)
def test_what_cannot_be_computed_is_refused(tmp_path, option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        smolvla(tmp_path, **option)


# The mathematics, from the library's own classes.


def weights_below(prefix):
    return {n.removeprefix(prefix): v for n, v in WEIGHTS.items() if n.startswith(prefix)}


def linear(name, x):
    return F.linear(x, WEIGHTS[f"{name}.weight"], WEIGHTS[f"{name}.bias"])


def image_tokens(images):
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector, SmolVLMVisionTransformer

    own = SmolVLMVisionConfig(
        hidden_size=VISION,
        intermediate_size=VISION_HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = {"model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS}
    config = transformers.SmolVLMConfig(vision_config=own.to_dict(), text_config=text, scale_factor=FACTOR)
    tower, connector = SmolVLMVisionTransformer(config.vision_config).eval(), SmolVLMConnector(config).eval()
    tower.load_state_dict(weights_below("vlm_with_expert.vlm.model.vision_model."))
    connector.load_state_dict(weights_below("vlm_with_expert.vlm.model.connector."))
    return connector(tower(images).last_hidden_state)


def prefix_cache(inputs):
    """Keys and values of each layer (b, g, m, h), and which tokens there are."""
    config = transformers.LlamaConfig(
        vocab_size=ROWS, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, head_dim=HEAD, rms_norm_eps=1e-5, rope_theta=10_000.0, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaModel(config).eval()
    model.load_state_dict(weights_below("vlm_with_expert.vlm.model.text_model."))
    seen = [image_tokens(inputs["images"][:, v]) for v in range(inputs["images"].shape[1])]
    words = WEIGHTS["vlm_with_expert.vlm.model.text_model.embed_tokens.weight"][inputs["tokens"]]
    x = torch.cat([*(each * WIDTH**0.5 for each in seen), words * WIDTH**0.5, linear("state_proj", inputs["state"])[:, None]], 1)
    real = torch.cat([inputs["images_mask"].repeat_interleave(seen[0].shape[1], 1), inputs["tokens_mask"],
                      torch.ones(len(x), 1, dtype=torch.bool)], 1)  # fmt: skip
    block = torch.tensor([0] * (x.shape[1] - 1) + [1]).cumsum(0)
    allowed = (block[None] <= block[:, None]) & real[:, None] & real[:, :, None]
    mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    out = model(inputs_embeds=x, attention_mask=mask, position_ids=real.cumsum(1) - 1, use_cache=True)
    return [(layer.keys, layer.values) for layer in out.past_key_values.layers], real


def turned(x, positions):
    """Rotary positions as LeRobot writes them, of (b, n, heads, h)."""
    half = HEAD // 2
    radians = positions[..., None].float() / 10_000 ** ((2 / HEAD) * torch.arange(half))
    sin, cos = radians[:, :, None].sin(), radians[:, :, None].cos()
    first, second = x.split(half, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def reference_velocity(x, time, cache, real):
    fraction = torch.linspace(0, 1, EXPERT // 2, dtype=torch.float64)
    angles = time.double()[:, None] * (2 * math.pi / (4e-3 * 1000**fraction))
    embedded = torch.cat([angles.sin(), angles.cos()], 1).float()
    both = torch.cat([linear("action_in_proj", x), embedded[:, None].expand(-1, CHUNK, -1)], 2)
    hidden = linear("action_time_mlp_out", F.silu(linear("action_time_mlp_in", both)))

    def norm(name, value):
        weight = WEIGHTS[f"vlm_with_expert.lm_expert.{name}.weight"]
        return weight * value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-5)

    for i in range(LAYERS):

        def part(name, value, layer=i):
            return F.linear(value, WEIGHTS[f"vlm_with_expert.lm_expert.layers.{layer}.{name}.weight"])

        normed = norm(f"layers.{i}.input_layernorm", hidden)
        keys, values = (each.transpose(1, 2) for each in cache[i])  # (b, m, g, h)
        q = part("self_attn.q_proj", normed).unflatten(-1, (-1, HEAD))
        seen = real[:, None].expand(-1, CHUNK, -1)
        if i % 2:
            k, v = (
                part(f"self_attn.{n}_proj", each.flatten(2)).unflatten(-1, (-1, HEAD)) for n, each in (("k", keys), ("v", values))
            )
            q = turned(q, torch.arange(CHUNK).expand(len(x), -1))
        else:
            places = real.sum(1, keepdim=True) + torch.arange(CHUNK)
            own_k, own_v = (part(f"self_attn.{n}_proj", normed).unflatten(-1, (-1, HEAD)) for n in "kv")
            q, k, v = turned(q, places), torch.cat([keys, turned(own_k, places)], 1), torch.cat([values, own_v], 1)
            seen = torch.cat([seen, torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril().expand(len(x), -1, -1)], 2)
        k, v = (each.repeat_interleave(HEADS // KEY_HEADS, 2) for each in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * HEAD**-0.5
        probabilities = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        hidden = hidden + part("self_attn.o_proj", torch.einsum("bhqk,bkhd->bqhd", probabilities, v).flatten(2))
        normed = norm(f"layers.{i}.post_attention_layernorm", hidden)
        hidden = hidden + part("mlp.down_proj", F.silu(part("mlp.gate_proj", normed)) * part("mlp.up_proj", normed))
    return linear("action_out_proj", norm("norm", hidden))


def test_ten_euler_steps_are_those_of_the_library_s_layers(tmp_path):
    policy = smolvla(tmp_path)
    inputs = policy.parts.processing.inputs([(SEEN,), (observation(("wrist",), 3, seed=1, instruction="cube up"),)])
    assert inputs["images_mask"].tolist() == [[True, True], [True, False]]
    noise = torch.randn(2, CHUNK, ACTION, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x, (cache, real) = noise, prefix_cache(inputs)
        for step in range(10):
            x = x - 0.1 * reference_velocity(x, torch.full((2,), 1 - 0.1 * step), cache, real)
        found = policy.network.denoised(inputs, noise)
    assert (found - x).abs().max() < 1e-5


def test_its_loss_reaches_the_images(tmp_path):
    policy = smolvla(tmp_path)
    inputs, actions = policy.parts.processing.inputs([(SEEN,)]), torch.randn(1, CHUNK, ACTION)
    policy.network.losses(inputs, actions, torch.ones(1, CHUNK), torch.Generator().manual_seed(0))["action"].backward()
    assert policy.network.vision.patch.weight.grad.abs().sum() > 0


def test_what_comes_before_and_after(tmp_path):
    policy, statistics = smolvla(tmp_path), statistics_of(tmp_path)
    processing = policy.parts.processing
    inputs = processing.inputs([(SEEN,)])
    wanted = (SEEN.state - statistics["observation.state.mean"]) / (statistics["observation.state.std"] + 1e-8)
    assert np.allclose(inputs["state"][0], [*wanted, 0, 0], atol=1e-6)
    image = inputs["images"][0, 0]  # 6 × 8 pixels become 12 × 16, below and right of black
    assert (image[:, :4] == -1).all() and (image[:, 4:] > -1).any()
    resized = F.interpolate(torch.from_numpy(SEEN.images["top"]).permute(2, 0, 1)[None] / 255, size=(12, 16), mode="bilinear")[0]
    assert torch.allclose(image[:, 4:], resized * 2 - 1, atol=1e-6)
    assert inputs["tokens"].shape == (1, 48)
    assert (
        policy.parts.processing.tokenizer.decode(inputs["tokens"][0][inputs["tokens_mask"][0]].tolist()) == "pick up the cube\n"
    )
    found = processing.actions(torch.ones(1, CHUNK, ACTION), [(SEEN,)])
    assert np.allclose(found[0, 0], statistics["action.mean"] + statistics["action.std"], atol=1e-6)


def test_saved_and_loaded_it_answers_the_same_bits(tmp_path):
    policy = smolvla(tmp_path / "a")
    policy.save(tmp_path / "b")
    assert np.array_equal(policy.predict([SEEN])[0].values, verbot.load_policy(f"hf:{tmp_path / 'b'}").predict([SEEN])[0].values)
