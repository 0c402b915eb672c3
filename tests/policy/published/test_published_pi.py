"""π0 and π0.5 by their files: each weight in its place, the mathematics of transformers' Gemma, and what is wrong is named."""

import json
import math

import numpy as np
import pytest
import torch
from published_checkpoints import (
    ACTION,
    CHUNK,
    EXPERT,
    EXPERT_HIDDEN,
    HEAD,
    HIDDEN,
    PATCH,
    ROWS,
    SIDE,
    VISION,
    VISION_HIDDEN,
    WIDTH,
    drawn,
    observation,
    pi_shapes,
    statistics_of,
    write_lerobot,
    write_tokenizer,
)  # fmt: skip
from safetensors.torch import save_file

import verbot
from verbot.errors import ConfigError, CorruptFileError, PolicyError
from verbot.models.published.flow import time_embedding

transformers = pytest.importorskip("transformers")
CAMERAS = {"observation.images.top": (6, 8), "observation.images.wrist": (6, 8)}
SEEN = observation(("top", "wrist"), 3, sample_seed=4)


def lerobot(folder, kind="pi0", change=lambda weights: weights, prefix="model.", **options):
    weights = change({f"{prefix}{name}": value for name, value in drawn(pi_shapes(kind == "pi05")).items()})
    write_lerobot(folder, kind, weights, CAMERAS, 3, 4, chunk_size=CHUNK, **options)
    write_tokenizer(folder, "<pad>", "<eos>", "<bos>")
    return verbot.load_policy(f"hf:{folder}")


def openpi(folder, adaptive=False, weights=None, **record):
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, "<pad>", "<eos>", "<bos>")
    save_file(drawn(pi_shapes(adaptive)) if weights is None else weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"action_horizon": CHUNK, "paligemma_variant": "gemma_2b", **record}))
    statistics = {
        "state": {"mean": [0.1] * 3, "std": [0.5] * 3, "q01": [-1.0] * 3, "q99": [1.0] * 3},
        "actions": {"mean": [0.2] * 4, "std": [2.0] * 4, "q01": [-3.0] * 4, "q99": [1.0] * 4},
    }
    path = folder / "assets" / "someone" / "data"
    path.mkdir(parents=True, exist_ok=True)
    (path / "norm_stats.json").write_text(json.dumps({"norm_stats": statistics}))
    return verbot.load_policy(f"hf:{folder}")


# The published name of each weight of the network, written out.
AROUND = {
    "vision.patch": "paligemma.model.vision_tower.vision_model.embeddings.patch_embedding",
    "vision.norm": "paligemma.model.vision_tower.vision_model.post_layernorm",
    "project": "paligemma.model.multi_modal_projector.linear",
}
INSIDE = {"norm1": "layer_norm1", "norm2": "layer_norm2", "query": "self_attn.q_proj", "key": "self_attn.k_proj",
          "value": "self_attn.v_proj", "out": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}  # fmt: skip


def published(own):
    body = "paligemma_with_expert."
    if own == "paligemma.language.embed_tokens.weight":
        return f"{body}paligemma.lm_head.weight"
    if own == "paligemma.vision.positions":
        return f"{body}paligemma.model.vision_tower.vision_model.embeddings.position_embedding.weight"
    if own.startswith("paligemma.vision.blocks."):
        _, _, _, number, part, kind = own.split(".")
        return f"{body}paligemma.model.vision_tower.vision_model.encoder.layers.{number}.{INSIDE[part]}.{kind}"
    if own.startswith("paligemma.language."):
        return f"{body}paligemma.model.language_model.{own.removeprefix('paligemma.language.')}"
    if own.startswith("expert."):
        return f"{body}gemma_expert.model.{own.removeprefix('expert.')}"
    stem, _, kind = own.removeprefix("paligemma.").rpartition(".")
    return f"{body}{AROUND[stem]}.{kind}" if stem in AROUND else own


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_every_weight_is_in_its_place(tmp_path, kind):
    weights = drawn(pi_shapes(kind == "pi05"))
    state = lerobot(tmp_path, kind).network.state_dict()
    assert len(state) == len(weights) - 1  # the expert's output layer is not used
    for name, value in state.items():
        assert torch.equal(value, weights[published(name)]), name


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.model.", "model._orig_mod."])
def test_prefixes(tmp_path, prefix):
    assert torch.equal(
        lerobot(tmp_path, prefix=prefix).network.action_out_proj.bias, drawn(pi_shapes(False))["action_out_proj.bias"]
    )


def test_older_places_of_the_modules(tmp_path):
    def older(weights):
        return {
            n.replace("paligemma.model.vision_tower.", "paligemma.vision_tower.")
            .replace("paligemma.model.multi_modal", "paligemma.multi_modal")
            .replace("paligemma.model.language_model.", "paligemma.language_model.model.")
            .replace("paligemma.lm_head", "paligemma.language_model.lm_head"): v
            for n, v in weights.items()
        }

    one, two = lerobot(tmp_path / "a").network.state_dict(), lerobot(tmp_path / "b", change=older).network.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


OUT, EMBEDDING = "model.action_out_proj.weight", "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
LM_HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: {**w, "model.action_in_proj.gain": torch.ones(2)},
            "holds model.action_in_proj.gain, which this model does not",
        ),
        (lambda w: {n: v for n, v in w.items() if n != OUT}, "lacks 1 of .* weights, among them action_out_proj.weight"),
        (
            lambda w: {**w, OUT: torch.ones(ACTION, EXPERT + 1)},
            r"its model.action_out_proj.weight has shape \(6, 17\).*\(6, 16\)",
        ),
        (lambda w: {**w, "action_out_proj.weight": w[OUT].clone()}, "which is the same weight as"),
        (lambda w: {**w, EMBEDDING: w[LM_HEAD] + 1}, "differ; these models tie them"),
        (lambda w: {n: v for n, v in w.items() if n != "model.action_in_proj.weight"}, "lacks the weight action_in_proj.weight"),
    ],
)
def test_a_wrong_weight_is_named(tmp_path, change, said):
    with pytest.raises(CorruptFileError, match=said):
        lerobot(tmp_path, change=change)


def test_a_tied_embedding_may_be_there_twice(tmp_path):
    policy = lerobot(tmp_path, change=lambda w: {**w, EMBEDDING: w[LM_HEAD].clone()})
    assert torch.equal(
        policy.network.paligemma.language.embed_tokens.weight, drawn(pi_shapes(False))[LM_HEAD.removeprefix("model.")]
    )


def test_kinds_are_recognized_by_their_weights(tmp_path):
    assert openpi(tmp_path / "a").family == "pi0" and openpi(tmp_path / "b", True).family == "pi05"
    with pytest.raises(ConfigError, match="says that this is π0, but the weights are those of π0.5"):
        write_tokenizer(tmp_path / "c", "<bos>")
        write_lerobot(tmp_path / "c", "pi0", drawn(pi_shapes(True)), CAMERAS, 3, 4)
        verbot.load_policy(f"hf:{tmp_path / 'c'}")


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_saved_and_loaded_it_answers_the_same_bits(tmp_path, kind):
    policy = lerobot(tmp_path / "a", kind)
    policy.save(tmp_path / "b")
    other = verbot.load_policy(f"hf:{tmp_path / 'b'}")
    assert np.array_equal(policy.predict([SEEN])[0].values, other.predict([SEEN])[0].values)
    assert policy.identity == other.identity == verbot.load_policy(f"hf:{tmp_path / 'a'}").identity
    with torch.no_grad():
        policy.network.action_out_proj.bias += 1
    assert policy.identity != other.identity
    policy.save(tmp_path / "c")
    trained = verbot.load_policy(f"hf:{tmp_path / 'c'}")
    assert np.array_equal(policy.predict([SEEN])[0].values, trained.predict([SEEN])[0].values)
    with pytest.raises(ConfigError, match="holds files already"):
        policy.save(tmp_path / "b")


def test_files_in_half_precision_keep_their_dtype_and_are_computed_mixed(tmp_path):
    def half(weights):
        return {n: v if "norm" in n or "patch" in n else v.bfloat16() for n, v in weights.items()}

    policy, whole = lerobot(tmp_path / "a", change=half), lerobot(tmp_path / "b")
    assert policy.network.expert.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert policy.network.expert.norm.weight.dtype == torch.float32
    assert np.allclose(policy.predict([SEEN])[0].values, whole.predict([SEEN])[0].values, atol=0.05)


# The mathematics, from the library's own layers.


def siglip(weights):
    """transformers' SigLIP with these weights."""
    config = transformers.SiglipVisionConfig(
        hidden_size=VISION, intermediate_size=VISION_HIDDEN, num_hidden_layers=2, num_attention_heads=VISION // 72,
        image_size=SIDE, patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    model, before = transformers.SiglipVisionModel(config), "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
    own = {n.removeprefix(before): v for n, v in weights.items() if n.startswith(before)}
    first = next(iter(model.state_dict()))
    model.load_state_dict({("vision_model." if first.startswith("vision_model.") else "") + n: v for n, v in own.items()})
    return model.eval()


def gemma(weights, before, width, hidden, adaptive=False):
    config = transformers.GemmaConfig(
        vocab_size=ROWS, hidden_size=width, intermediate_size=hidden, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=HEAD, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.GemmaModel(config)
    own = {n.removeprefix(before): v for n, v in weights.items() if n.startswith(before)}
    lost = model.load_state_dict(own, strict=False)
    assert all("embed_tokens" in n or (adaptive and "norm" in n) for n in lost.missing_keys)
    return model.eval()


def layer(weights, name, value):
    return torch.nn.functional.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])


def suffix_of(weights, inputs, x, time, adaptive):
    """The expert's tokens, the starts of their blocks, and the condition of its norms."""
    fraction, silu = torch.linspace(0, 1, EXPERT // 2, dtype=torch.float64), torch.nn.functional.silu
    angles = time.double()[:, None] * (2 * math.pi / (4e-3 * (4.0 / 4e-3) ** fraction))
    embedded, actions = torch.cat([angles.sin(), angles.cos()], 1).float(), layer(weights, "action_in_proj", x)
    if adaptive:
        condition = silu(layer(weights, "time_mlp_out", silu(layer(weights, "time_mlp_in", embedded))))
        return actions, [1] + [0] * (CHUNK - 1), condition
    both = torch.cat([actions, embedded[:, None].expand(-1, CHUNK, -1)], 2)
    both = layer(weights, "action_time_mlp_out", silu(layer(weights, "action_time_mlp_in", both)))
    return torch.cat([layer(weights, "state_proj", inputs["state"])[:, None], both], 1), [1, 1] + [0] * (CHUNK - 1), None


def reference_velocity(weights, inputs, x, time, adaptive):
    """One evaluation of both Gemmas at once: in each layer queries, keys and values of both are joined before attention."""
    from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

    body = "paligemma_with_expert."
    words = gemma(weights, f"{body}paligemma.model.language_model.", WIDTH, HIDDEN)
    expert = gemma(weights, f"{body}gemma_expert.model.", EXPERT, EXPERT_HIDDEN, adaptive)
    tower, projector = siglip(weights), f"{body}paligemma.model.multi_modal_projector.linear"
    seen = [layer(weights, projector, tower(inputs["images"][:, v]).last_hidden_state) for v in range(2)]
    prefix = torch.cat([*seen, weights[f"{body}paligemma.lm_head.weight"][inputs["tokens"]] * math.sqrt(WIDTH)], 1)
    suffix, starts, condition = suffix_of(weights, inputs, x, time, adaptive)
    own = torch.ones(suffix.shape[:2], dtype=torch.bool)
    real = torch.cat([inputs["images_mask"].repeat_interleave((SIDE // PATCH) ** 2, 1), inputs["tokens_mask"], own], 1)
    block = torch.tensor([0] * prefix.shape[1] + starts).cumsum(0)
    allowed = (block[None, :] <= block[:, None]) & real[:, None, :] & real[:, :, None]
    mask, positions = torch.where(allowed, 0.0, -2.3819763e38)[:, None], real.cumsum(1) - 1

    def norm(module, name, value, expert_s):
        if not expert_s or not adaptive:
            return module(value), 1.0
        scale, shift, gate = layer(weights, f"{body}gemma_expert.model.{name}.dense", condition)[:, None].chunk(3, -1)
        return value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + scale) + shift, gate

    states = [prefix, suffix]
    for i in range(2):
        blocks, parts, gates = [words.layers[i], expert.layers[i]], [], []
        for which, (each, value) in enumerate(zip(blocks, states, strict=True)):
            normed, gate = norm(each.input_layernorm, f"layers.{i}.input_layernorm", value, which)
            gates.append(gate)
            projections = (each.self_attn.q_proj, each.self_attn.k_proj, each.self_attn.v_proj)
            parts.append([part(normed).unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in projections])
        q, k, v = (torch.cat(each, 2) for each in zip(*parts, strict=True))
        q, k = apply_rotary_pos_emb(q, k, *words.rotary_emb(q, positions))
        scores = (q @ k.expand(-1, 4, -1, -1).transpose(2, 3)) * HEAD**-0.5 + mask
        read = (scores.softmax(-1) @ v.expand(-1, 4, -1, -1)).transpose(1, 2).flatten(2)
        for which, each in enumerate(blocks):
            span = read[:, : prefix.shape[1]] if which == 0 else read[:, prefix.shape[1] :]
            value = states[which] + each.self_attn.o_proj(span) * gates[which]
            normed, gate = norm(each.post_attention_layernorm, f"layers.{i}.post_attention_layernorm", value, which)
            states[which] = value + each.mlp(normed) * gate
    return layer(weights, "action_out_proj", norm(expert.norm, "norm", states[1], 1)[0][:, -CHUNK:])


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_ten_euler_steps_are_those_of_the_library_s_layers(tmp_path, kind):
    policy, weights = lerobot(tmp_path, kind), drawn(pi_shapes(kind == "pi05"))
    without = observation(("top",), 3, seed=1, instruction="cube up")
    inputs = policy.parts.processing.inputs([(SEEN,), (without,)])
    assert inputs["images_mask"].tolist() == [[True, True], [True, False]]
    noise = torch.randn(2, CHUNK, ACTION, generator=torch.Generator().manual_seed(0))
    x = noise
    with torch.no_grad():
        for step in range(10):
            x = x - 0.1 * reference_velocity(weights, inputs, x, torch.full((2,), 1 - 0.1 * step), kind == "pi05")
        found = policy.network.denoised(inputs, noise)
    assert (found - x).abs().max() < 1e-5


def test_the_loss_is_that_of_the_velocity(tmp_path):
    policy = lerobot(tmp_path)
    inputs, actions = policy.parts.processing.inputs([(SEEN,)]), torch.randn(1, CHUNK, ACTION)
    mask = torch.tensor([[True, True, True, False, False]])
    loss = policy.network.losses(inputs, actions, mask, torch.Generator().manual_seed(3))["action"]
    generator = torch.Generator().manual_seed(3)
    noise, time = torch.randn(actions.shape, generator=generator), torch.rand(1, generator=generator) ** (2 / 3) * 0.999 + 0.001
    x = time * noise + (1 - time) * actions
    true = reference_velocity(drawn(pi_shapes(False)), inputs, x, time, False) - (noise - actions)
    assert torch.allclose(loss, true[:, :3].square().mean(), atol=1e-5)
    loss.backward()
    assert policy.network.paligemma.vision.patch.weight.grad.abs().sum() > 0


def test_the_time_is_embedded_as_published():
    found = time_embedding(torch.tensor([0.25]), 4, 4e-3, 4.0)[0]
    slow = 2 * math.pi / 4 * 0.25
    assert np.allclose(
        found,
        [math.sin(2 * math.pi / 4e-3 * 0.25), math.sin(slow), math.cos(2 * math.pi / 4e-3 * 0.25), math.cos(slow)],
        atol=1e-6,
    )


# What comes before and after the network.


def test_lerobot_s_normalization(tmp_path):
    policy = lerobot(tmp_path)
    statistics, processing = statistics_of(tmp_path), policy.parts.processing
    state = processing.inputs([(SEEN,)])["state"][0].numpy()
    wanted = (SEEN.state - statistics["observation.state.mean"]) / (statistics["observation.state.std"] + 1e-8)
    assert np.allclose(state, [*wanted, 0, 0, 0], atol=1e-6)
    out = torch.ones(1, CHUNK, ACTION)
    assert np.allclose(processing.actions(out, [(SEEN,)])[0, 0], statistics["action.mean"] + statistics["action.std"], atol=1e-6)
    back = processing.targets(processing.actions(out, [(SEEN,)]), [(SEEN,)])
    assert np.allclose(back[..., :4], 1, atol=1e-5) and not back[..., 4:].any()


def test_the_prompts(tmp_path):
    zero, half = lerobot(tmp_path / "a"), lerobot(tmp_path / "b", "pi05")
    statistics = statistics_of(tmp_path / "b")
    low, high = statistics["observation.state.q01"], statistics["observation.state.q99"]
    at = np.float32(low + (high - low) * [0.0, 0.5, 1.0])
    seen = observation(("top",), 3, instruction=" pick_up\nit ")
    processing = half.parts.processing
    prompt = processing.prompt(seen.instruction, processing.state.forward(at))
    assert prompt in ("Task: pick up it, State: 0 128 255;\nAction: ", "Task: pick up it, State: 0 127 255;\nAction: ")
    assert zero.parts.processing.prompt(" pick_up", at) == " pick_up\n"  # LeRobot cleans only that of π0.5
    tokens = zero.parts.processing.inputs([(observation(("top",), 3),)])
    assert tokens["tokens"].shape == (1, 48) and tokens["tokens"][0, 0] == 2 and not tokens["tokens_mask"][0, -1]


def test_openpi_s_files(tmp_path):
    policy = openpi(tmp_path)
    assert policy.spec.camera_names == ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    assert (policy.spec.state_size, policy.spec.action_size) == (3, 4)
    processing = policy.parts.processing
    assert processing.prompt(" pick_up\nit ", np.zeros(3)) == "pick up it\n"
    assert np.allclose(processing.actions(torch.ones(1, 1, ACTION), [()]), 0.2 + 2 + 1e-6)
    assert np.allclose(processing.state.forward(np.array([0.6] * 3)), 0.5 / (0.5 + 1e-6))
    half = openpi(tmp_path / "half", True).parts.processing
    assert np.allclose(half.actions(torch.zeros(1, 1, ACTION), [()]), -3 + (4 + 1e-6) / 2)
    assert openpi(tmp_path / "other", True, discrete_state_input=False).parts.processing.prompt("go", np.zeros(3)) == "go\n"


def test_openpi_s_files_that_say_too_little(tmp_path):
    openpi(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="action_horizon None; expected the number of actions"):
        verbot.load_policy(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"action_horizon": 5}')
    (tmp_path / "assets" / "other").mkdir()
    (tmp_path / "assets" / "other" / "norm_stats.json").write_text("{}")
    with pytest.raises(ConfigError, match="statistics of other, someone/data in assets; expected one"):
        verbot.load_policy(f"hf:{tmp_path}")


def test_relative_actions_are_added_to_the_state(tmp_path):
    options = {
        "use_relative_actions": True,
        "action_feature_names": ["a", "left_gripper", "c"],
        "relative_exclude_joints": ["gripper"],
    }
    weights = drawn(pi_shapes(False))
    write_lerobot(tmp_path, "pi0", weights, CAMERAS, 4, 3, chunk_size=CHUNK, **options)
    write_tokenizer(tmp_path, "<bos>")
    processing = verbot.load_policy(f"hf:{tmp_path}").parts.processing
    seen = observation(("top",), 4)
    found = processing.actions(torch.zeros(1, 1, ACTION), [(seen,)])[0, 0]
    mean = statistics_of(tmp_path)["action.mean"]
    assert np.allclose(found, mean + seen.state[:3] * [1, 0, 1], atol=1e-6)


def test_a_tokenizer_is_asked_for(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*given, **options):
        raise OSError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    write_lerobot(tmp_path, "pi0", drawn(pi_shapes(False)), CAMERAS, 3, 4, chunk_size=CHUNK)
    with pytest.raises(ConfigError, match="has no tokenizer.json, and the hub did not give that of google/paligemma-3b-pt-224"):
        verbot.load_policy(f"hf:{tmp_path}")


def test_an_unknown_folder_names_the_families(tmp_path):
    with pytest.raises(PolicyError, match="no published policy of a known family .*pi0.*; it holds nothing"):
        verbot.load_policy(f"hf:{tmp_path}")
