"""OpenVLA by its files, against transformers' DINOv2 with registers, SigLIP and Llama, which are put together here."""

import functools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from openvla_checkpoints import (
    ACTION,
    DEPTH,
    DINO,
    HEADS,
    HIDDEN,
    LAYERS,
    MLP,
    PATCH,
    REGISTERS,
    ROWS,
    SIDE,
    SIGLIP,
    WEIGHTS,
    WIDTH,
    prompt_ids,
    statistics,
    write_openvla,
)  # fmt: skip
from PIL import Image
from published_checkpoints import observation

import verbot
from verbot.errors import ConfigError, CorruptFileError, SpecError
from verbot.policy.published.base import OpenOptions
from verbot.policy.published.opening import open_published

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
FIRST, SECOND = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
SEEN = observation(("image",), 0, instruction="Pick up the CUBE")
OTHER = observation(("image",), 0, seed=1, instruction="push")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return verbot.load_policy(f"hf:{write_openvla(tmp_path_factory.mktemp('openvla'))}")


# timm's names of what is in a block -> those of transformers.
DINO_BLOCK = {
    "norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
SIGLIP_BLOCK = {
    "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip


def blocks(prefix, own, inside, attention):
    found = {}
    for i in range(DEPTH):
        for timm, theirs in inside.items():
            for kind in ("weight", "bias"):
                found[f"{own}.{i}.{theirs}.{kind}"] = WEIGHTS[f"{prefix}blocks.{i}.{timm}.{kind}"]
        for kind in ("weight", "bias"):
            parts = WEIGHTS[f"{prefix}blocks.{i}.attn.qkv.{kind}"].chunk(3)
            found |= {f"{own}.{i}.{name}.{kind}": part for name, part in zip(attention, parts, strict=True)}
    return found


def filled(model, state):
    lost, more = model.load_state_dict(state, strict=False)
    assert not more and all("mask_token" in name or "position_ids" in name for name in lost), (lost, more)
    return model.eval()


@functools.cache
def reference_dino():
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=DINO, num_hidden_layers=DEPTH, num_attention_heads=DINO // 64, mlp_ratio=1, image_size=SIDE,
        patch_size=PATCH, num_register_tokens=REGISTERS,
    )  # fmt: skip
    state = blocks(FIRST, "encoder.layer", DINO_BLOCK, [f"attention.{name}_proj" for name in "qkv"])
    for i in range(DEPTH):
        for n in (1, 2):
            state[f"encoder.layer.{i}.layer_scale{n}.lambda1"] = WEIGHTS[f"{FIRST}blocks.{i}.ls{n}.scale_factor"]
    # timm's DINOv2 with registers has no position of the class token.
    first = torch.zeros(1, 1, DINO)
    state |= {
        "embeddings.cls_token": WEIGHTS[f"{FIRST}cls_token"], "embeddings.register_tokens": WEIGHTS[f"{FIRST}reg_token"],
        "embeddings.position_embeddings": torch.cat([first, WEIGHTS[f"{FIRST}pos_embed"]], 1),
        "embeddings.patch_embeddings.projection.weight": WEIGHTS[f"{FIRST}patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": WEIGHTS[f"{FIRST}patch_embed.proj.bias"],
        "layernorm.weight": WEIGHTS[f"{FIRST}norm.weight"], "layernorm.bias": WEIGHTS[f"{FIRST}norm.bias"],
    }  # fmt: skip
    return filled(transformers.Dinov2WithRegistersModel(config), state)


@functools.cache
def reference_siglip():
    config = transformers.SiglipVisionConfig(
        hidden_size=SIGLIP, num_hidden_layers=DEPTH, num_attention_heads=SIGLIP // 72, intermediate_size=HIDDEN, image_size=SIDE,
        patch_size=PATCH, hidden_act="gelu", vision_use_head=False,
    )  # fmt: skip
    names = [f"self_attn.{name}_proj" for name in "qkv"]
    state = blocks(SECOND, "encoder.layers", SIGLIP_BLOCK, names)
    state |= {
        "embeddings.patch_embedding.weight": WEIGHTS[f"{SECOND}patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": WEIGHTS[f"{SECOND}patch_embed.proj.bias"],
        "embeddings.position_embedding.weight": WEIGHTS[f"{SECOND}pos_embed"][0],
        "post_layernorm.weight": WEIGHTS[f"{SECOND}norm.weight"], "post_layernorm.bias": WEIGHTS[f"{SECOND}norm.bias"],
    }  # fmt: skip
    model = transformers.SiglipVisionModel(config)
    wrapped = any(name.startswith("vision_model.") for name in model.state_dict())
    return filled(model, {f"vision_model.{name}": value for name, value in state.items()} if wrapped else state)


@functools.cache
def reference_llama():
    config = transformers.LlamaConfig(
        vocab_size=ROWS, hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        num_hidden_layers=LAYERS, rms_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    own = {name.removeprefix("language_model."): value for name, value in WEIGHTS.items() if name.startswith("language_model.")}
    return filled(transformers.LlamaForCausalLM(config), own)


@torch.no_grad()
def reference_patches(pixels):
    """The second to last block's patches of both towers, projected."""
    seen = [reference_dino()(pixels[:, :3], output_hidden_states=True).hidden_states[-2][:, 1 + REGISTERS :]]
    seen.append(reference_siglip()(pixels[:, 3:], output_hidden_states=True).hidden_states[-2])
    x = torch.cat(seen, -1)
    for i in (1, 2, 3):
        x = F.linear(x, WEIGHTS[f"projector.fc{i}.weight"], WEIGHTS[f"projector.fc{i}.bias"])
        x = x if i == 3 else F.gelu(x)
    return x


@torch.no_grad()
def reference_ids(pixels, ids):
    """Greedy tokens of one prompt, without a cache, and their logits."""
    llama, patches, found = reference_llama(), reference_patches(pixels[None]), []
    for _ in range(ACTION):
        words = llama.get_input_embeddings()(torch.tensor([ids]))
        logits = llama(inputs_embeds=torch.cat([words[:, :1], patches, words[:, 1:]], 1)).logits[0, -1]
        found.append(logits)
        ids = [*ids, int(logits.argmax())]
    return ids[-ACTION:], torch.stack(found)


def reference_pixels(image):
    resized = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255
    scaled = [(resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]), (resized - 0.5) / 0.5]
    return torch.from_numpy(np.concatenate([each.transpose(2, 0, 1) for each in scaled]).astype(np.float32))


def reference_action(ids, table):
    edges = np.linspace(-1, 1, 256)
    centers = (edges[:-1] + edges[1:]) / 2
    numbers = [centers[min(max(32000 - i - 1, 0), 254)] for i in ids]
    rows = zip(numbers, table["q01"], table["q99"], table["mask"], strict=True)
    return np.array([0.5 * (x + 1) * (high - low) + low if kept else x for x, low, high, kept in rows])


PROMPT = "In: What action should the robot take to pick up the cube?\nOut:"


def test_every_weight_is_in_its_place(policy):
    state = policy.network.state_dict()
    used = 0
    for name, value in WEIGHTS.items():
        own = name.replace("language_model.model.", "language.").replace("language_model.", "language.")
        own = own.replace(SECOND, "siglip.").replace(FIRST, "dino.")
        if (
            "attn_pool" in own
            or f"blocks.{DEPTH - 1}." in own
            or (own.endswith((".norm.weight", ".norm.bias")) and "lan" not in own)
        ):
            continue
        own = own.replace("patch_embed.proj", "patch").replace("pos_embed", "positions").replace("cls_token", "first")
        own = (
            own.replace("reg_token", "registers").replace("attn.proj", "out").replace("mlp.fc", "fc")
            if "layers" not in own
            else own
        )
        for n in (1, 2):
            own = own.replace(f"ls{n}.scale_factor", f"scale{n}")
        parts = {own: value}
        if "attn.qkv" in own:
            parts = dict(zip((own.replace("attn.qkv", each) for each in ("query", "key", "value")), value.chunk(3), strict=True))
        for each, wanted in parts.items():
            assert torch.equal(state[each].reshape(wanted.shape), wanted), each
            used += 1
    assert used == len(state)


def test_the_patches_are_those_of_transformers(policy):
    pixels = torch.stack([reference_pixels(each.images["image"]) for each in (SEEN, OTHER)])
    with torch.no_grad():
        assert (policy.network.patches(pixels) - reference_patches(pixels)).abs().max() < 1e-5


def test_the_tokens_are_those_of_transformers(policy):
    inputs = policy.parts.processing.inputs([(SEEN,), (OTHER,)])
    prompts = [PROMPT, PROMPT.replace("pick up the cube", "push")]
    wanted = [prompt_ids(prompt) for prompt in prompts]
    for row, ids in enumerate(wanted):
        assert inputs["tokens"][row][inputs["tokens_mask"][row]].tolist() == ids
        assert (inputs["pixels"][row] - reference_pixels((SEEN, OTHER)[row].images["image"])).abs().max() < 1e-6
    with torch.no_grad():
        found = policy.network.written(inputs)
    for row, ids in enumerate(wanted):
        assert found[row].tolist() == reference_ids(inputs["pixels"][row], ids)[0]


def test_the_logits_are_those_of_transformers(policy):
    inputs = policy.parts.processing.inputs([(SEEN,)])
    ids = prompt_ids(PROMPT)
    written, wanted = reference_ids(inputs["pixels"][0], ids)
    network = policy.network
    with torch.no_grad():
        tokens = torch.tensor([[*ids, *written[:-1]]])
        mask = torch.ones_like(tokens, dtype=torch.bool)
        x, _ = network.joined(network.language.embed(tokens), mask, network.patches(inputs["pixels"]))
        n = x.shape[1]
        hidden = network.language(x, torch.ones(1, n, n, dtype=torch.bool).tril(), torch.arange(n)[None]).hidden
        assert (network.language.logits(hidden)[0, -ACTION:] - wanted).abs().max() < 1e-5


def test_an_observation_becomes_the_action_of_the_reference(policy):
    (chunk,) = policy.predict([SEEN])
    ids, _ = reference_ids(reference_pixels(SEEN.images["image"]), prompt_ids(PROMPT))
    assert chunk.values.shape == (1, ACTION)
    assert np.allclose(chunk.values[0], reference_action(ids, statistics()["action"]), atol=1e-6)


def test_tokens_that_mean_no_bin_are_the_nearest(policy):
    centers = (np.linspace(-1, 1, 256)[:-1] + np.linspace(-1, 1, 256)[1:]) / 2
    found = policy.network.decoded(torch.tensor([31999, 31745, 31744, 31743, 2, 32063]))
    assert np.allclose(found, centers[[0, 254, 254, 254, 254, 0]])


def test_its_targets_are_its_answers_again(policy):
    ids = policy.network.encoded(torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0]))
    assert ids.tolist() == [31999, 31999, 31872, 31745, 31744]  # np.digitize, as the training code
    actions = np.array([[statistics()["action"]["q01"]]], np.float32)
    assert np.allclose(policy.parts.processing.targets(actions, [(SEEN,)])[0, 0, :6], -1, atol=1e-6)


def test_its_loss_reaches_the_images(tmp_path):
    own = verbot.load_policy(f"hf:{write_openvla(tmp_path)}")
    inputs = own.parts.processing.inputs([(SEEN,), (OTHER,)])
    actions = torch.zeros(2, 1, ACTION)
    loss = own.network.losses(inputs, actions, torch.ones(2, 1), None)["action"]
    with torch.no_grad():
        wanted = []
        for row in range(2):
            ids = [*inputs["tokens"][row][inputs["tokens_mask"][row]].tolist(), *[31872] * ACTION, 2]
            words = reference_llama().get_input_embeddings()(torch.tensor([ids]))
            patches = reference_patches(inputs["pixels"][row : row + 1])
            logits = reference_llama()(inputs_embeds=torch.cat([words[:, :1], patches, words[:, 1:]], 1)).logits[0]
            wanted.append(F.cross_entropy(logits[-ACTION - 2 : -1], torch.tensor(ids[-ACTION - 1 :])))
    assert abs(loss.item() - float(sum(wanted)) / 2) < 1e-5
    loss.backward()
    assert own.network.dino.patch.weight.grad.abs().sum() > 0


def test_shards_with_an_index_are_the_same_policy(policy, tmp_path):
    sharded = verbot.load_policy(f"hf:{write_openvla(tmp_path, shards=3)}")
    assert np.array_equal(policy.predict([SEEN])[0].values, sharded.predict([SEEN])[0].values)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CorruptFileError, match="model-00002-of-00003"):
        verbot.load_policy(f"hf:{tmp_path}")


LOST = "projector.fc2.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {**w, "projector.fc4.bias": torch.ones(2)}, "holds projector.fc4.bias, which this model does not have"),
        (lambda w: {n: v for n, v in w.items() if n != LOST}, "lacks 1 of .* weights, among them projector.fc2.bias"),
        (lambda w: {**w, LOST: torch.ones(WIDTH + 1)}, r"projector.fc2.bias has shape \(25,\)"),
        (lambda w: {**w, f"module.{LOST}": w[LOST].clone()}, "which is the same weight as"),
        (lambda w: {n: v for n, v in w.items() if n != f"{FIRST}pos_embed"}, f"lacks the weight {FIRST}pos_embed"),
        (lambda w: {n: v for n, v in w.items() if "blocks.1." not in n}, "are numbered"),
    ],
)
def test_another_set_of_weights_is_refused_by_name(tmp_path, change, said):
    write_openvla(tmp_path, change(WEIGHTS))
    with pytest.raises(CorruptFileError, match=said):
        verbot.load_policy(f"hf:{tmp_path}")


def test_the_statistics_of_one_of_several_datasets_are_chosen(tmp_path):
    write_openvla(tmp_path, norm_stats={"fractal": statistics(1), "bridge_orig": statistics(2)})
    with pytest.raises(ConfigError, match="several datasets; choose .* one of bridge_orig, fractal"):
        verbot.load_policy(f"hf:{tmp_path}")
    with pytest.raises(ConfigError, match="no statistics of 'libero'; choose"):
        verbot.load_policy(f"hf:{tmp_path}#libero")
    found = [
        verbot.load_policy(f"hf:{tmp_path}#bridge_orig"),
        open_published(tmp_path, options=OpenOptions(statistics="fractal")),
    ]
    ids, _ = reference_ids(reference_pixels(SEEN.images["image"]), prompt_ids(PROMPT))
    for own, seed in zip(found, (2, 1), strict=True):
        assert np.allclose(own.predict([SEEN])[0].values[0], reference_action(ids, statistics(seed)["action"]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vision_backbone_id": "siglip-vit-so400m"}, "vision_backbone_id is 'siglip-vit-so400m'; this reader knows dinosiglip"),
        ({"norm_stats": {"a": {"action": {"q01": [1.0]}}}}, "need q01 and q99; there is q01"),
        ({"norm_stats": {"a": {"action": {"q01": [1.0], "q99": [2.0, 3.0]}}}}, "differ in size"),
        ({"n_action_bins": 1}, "n_action_bins 1 do not fit"),
        ({"center_crop": "yes"}, "center_crop is 'yes'; expected true or false"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, options, said):
    stats = options.pop("norm_stats", None)
    with pytest.raises(ConfigError, match=said):
        verbot.load_policy(f"hf:{write_openvla(tmp_path, norm_stats=stats, **options)}")


def test_a_missing_camera_is_named(policy):
    with pytest.raises(SpecError, match="none of the cameras image"):
        policy.predict([observation(("front",), 0)])


def test_saved_and_loaded_it_answers_the_same_bits(tmp_path, policy):
    policy.save(tmp_path / "b")
    assert np.array_equal(policy.predict([SEEN])[0].values, verbot.load_policy(f"hf:{tmp_path / 'b'}").predict([SEEN])[0].values)


def test_trained_it_is_saved_and_loaded_too(tmp_path):
    own = verbot.load_policy(f"hf:{write_openvla(tmp_path / 'a', shards=2)}")
    with torch.no_grad():
        own.network.language.lm_head.weight.neg_()
    own.save(tmp_path / "b")
    again = verbot.load_policy(f"hf:{tmp_path / 'b'}")
    assert all(torch.equal(value, again.network.state_dict()[name]) for name, value in own.network.state_dict().items())
    assert len(json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())["weight_map"]) < len(WEIGHTS)
