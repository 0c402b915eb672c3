"""Weights are read strictly: each unknown, missing, misshapen or doubled one is named. Published towers compute the same."""

import dataclasses

import pytest
import torch
from published_weights import WIDTH, architecture, drawn, language_weights, write_checkpoint
from safetensors.torch import save_file

from verbot.errors import ConfigError, CorruptFileError
from verbot.models.encoders.vision.published_towers import TowerConfig, read_tower, siglip_config
from verbot.models.trunks.architecture import decoder_config
from verbot.models.trunks.decoder import LanguageDecoder
from verbot.models.trunks.weights import TensorFiles, decoder_targets, load_exactly


def read(folder, kind="llama", layers=0, beside=False, dtype=None, **changes):
    whole, tensors = decoder_config(architecture(kind, **changes)), TensorFiles.find(folder)
    with torch.device("meta"):
        decoder = LanguageDecoder(whole.first(layers))
    load_exactly(decoder, tensors, decoder_targets(decoder.config, whole.depth, tensors, beside), dtype)
    return dict(decoder.state_dict())


def check(found, weights, count=None):
    """Every tensor is the published one."""
    assert len(found) == (len(weights) if count is None else count)
    for name, value in found.items():
        assert torch.equal(value, weights[name if name == "lm_head.weight" else f"model.{name}"]), name


def renamed(weights, rename):
    return {rename(name): value for name, value in weights.items()}


@pytest.mark.parametrize("index", [False, True])
def test_one_file_or_shards(tmp_path, index):
    weights = language_weights("llama")
    names = list(weights)
    shards = [{name: weights[name] for name in names[i::3]} for i in range(3)]
    check(read(write_checkpoint(tmp_path / "shards", architecture("llama"), *shards, index=index)), weights)
    check(read(write_checkpoint(tmp_path / "one", architecture("llama"), weights, index=index)), weights)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("model."),
        lambda name: f"_orig_mod.{name}",
        lambda name: f"language_model.{name}",
        lambda name: f"model.language_model.{name.removeprefix('model.')}",
        lambda name: f"model.text_model.{name.removeprefix('model.')}",
        lambda name: f"language_model._orig_mod.{name}",
    ],
)
def test_prefixes(tmp_path, rename):
    weights = language_weights("llama")
    check(read(write_checkpoint(tmp_path, architecture("llama"), renamed(weights, rename))), weights)


def test_first_layers_and_parts_beside_are_left_out(tmp_path):
    weights = language_weights("gemma")
    beside = {
        "model.vision_tower.vision_model.post_layernorm.weight": torch.ones(3),
        "multi_modal_projector.linear.weight": torch.ones(3),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),  # of former versions
    }
    folder = write_checkpoint(tmp_path, architecture("gemma"), {**weights, **beside})
    check(read(folder, "gemma", beside=True), weights)
    check(read(folder, "gemma", layers=1, beside=True), weights, 2 + 9)
    with pytest.raises(CorruptFileError, match="holds model.vision_tower.*post_layernorm.weight, which this model does not have"):
        read(folder, "gemma")


def test_tied_output_layer(tmp_path):
    weights = language_weights("gemma")
    embedding = weights.pop("model.embed_tokens.weight")
    only = write_checkpoint(tmp_path / "only", architecture("gemma"), {**weights, "lm_head.weight": embedding})
    assert torch.equal(read(only, "gemma")["embed_tokens.weight"], embedding)
    both = {**weights, "model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}
    assert torch.equal(read(write_checkpoint(tmp_path / "both", {}, both), "gemma")["embed_tokens.weight"], embedding)
    both["lm_head.weight"][7, 3] += 0.5
    with pytest.raises(CorruptFileError, match=r"lm_head.weight.* differ, but its config.json says that they are tied"):
        read(write_checkpoint(tmp_path / "differ", {}, both), "gemma")
    untied = {name: value for name, value in language_weights("llama").items() if name != "lm_head.weight"}
    with pytest.raises(CorruptFileError, match="lacks 1 of 30 weights, among them lm_head.weight"):
        read(write_checkpoint(tmp_path / "untied", {}, untied))


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.layers.1.extra": torch.ones(2)}, "holds model.layers.1.extra, which this model does not have"),
        ({"model.layers.3.mlp.up_proj.weight": torch.ones(2)}, "holds model.layers.3.mlp.up_proj.weight, which this model"),
        ({Q: None}, "lacks 1 of 30 weights, among them layers.1.self_attn.q_proj.weight"),
        (
            {Q: torch.ones(WIDTH, WIDTH + 1)},
            r"its model.layers.1.self_attn.q_proj.weight has shape \(32, 33\); .* has \(32, 32\)",
        ),
        ({f"_orig_mod.{Q}": torch.ones(WIDTH, WIDTH)}, f"holds {Q}, which is the same weight as _orig_mod.{Q}"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, changes, message):
    weights = {**language_weights("llama"), **changes}
    with pytest.raises(CorruptFileError, match=message):
        read(write_checkpoint(tmp_path, {}, {name: value for name, value in weights.items() if value is not None}))


def test_files_that_contradict_each_other(tmp_path):
    weights = language_weights("llama")
    half = {name: weights[name] for name in list(weights)[:10]}
    with pytest.raises(CorruptFileError, match=r"model-1-of-2.safetensors: holds .*, which model-0-of-2.safetensors holds too"):
        read(write_checkpoint(tmp_path / "doubled", {}, weights, half))
    listed = write_checkpoint(tmp_path / "listed", {}, weights, index=True)
    save_file({**weights, "more": torch.ones(1)}, listed / "model.safetensors")
    with pytest.raises(CorruptFileError, match=r"holds more, which model.safetensors.index.json does not list"):
        read(listed)
    save_file(half, listed / "model.safetensors")
    with pytest.raises(CorruptFileError, match=r"lacks .*, which model.safetensors.index.json lists"):
        read(listed)
    (listed / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CorruptFileError, match="cannot be read as safetensors"):
        read(listed)
    (listed / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
    with pytest.raises(
        CorruptFileError, match=r"names '../other/model.safetensors'; expected the name of a file in its own folder"
    ):
        read(listed)
    (listed / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CorruptFileError, match="is no index of weights"):
        read(listed)
    (listed / "model.safetensors.index.json").write_text("{")
    with pytest.raises(CorruptFileError, match="is not JSON"):
        read(listed)
    with pytest.raises(ConfigError, match="has no weights in safetensors"):
        TensorFiles.find(tmp_path)


def test_dtype_of_the_file_is_kept(tmp_path):
    weights = {name: value.bfloat16() for name, value in language_weights("llama").items()}
    folder = write_checkpoint(tmp_path, architecture("llama"), weights)
    found = read(folder)
    check(found, weights)
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert {value.dtype for value in read(folder, dtype=torch.float32).values()} == {torch.float32}


SIDE, PATCH, D, MLP, BLOCKS = 12, 4, 16, 32, 3
PLACES = (SIDE // PATCH) ** 2


def siglip_names() -> dict[str, tuple[int, ...]]:
    """As transformers names them (PaliGemma, SmolVLM)."""
    names: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (D, 3, PATCH, PATCH), "embeddings.patch_embedding.bias": (D,),
        "embeddings.position_embedding.weight": (PLACES, D),
        "post_layernorm.weight": (D,), "post_layernorm.bias": (D,),
    }  # fmt: skip
    for i in range(BLOCKS):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            names |= {f"encoder.layers.{i}.self_attn.{part}.weight": (D, D), f"encoder.layers.{i}.self_attn.{part}.bias": (D,)}
        for part in ("layer_norm1", "layer_norm2"):
            names |= {f"encoder.layers.{i}.{part}.weight": (D,), f"encoder.layers.{i}.{part}.bias": (D,)}
        names |= {f"encoder.layers.{i}.mlp.fc1.weight": (MLP, D), f"encoder.layers.{i}.mlp.fc1.bias": (MLP,)}
        names |= {f"encoder.layers.{i}.mlp.fc2.weight": (D, MLP), f"encoder.layers.{i}.mlp.fc2.bias": (D,)}
    return names


def timm_names(registers: bool) -> dict[str, tuple[int, ...]]:
    """As timm names them, with the scales as OpenVLA renames them."""
    names: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (D, 3, PATCH, PATCH), "patch_embed.proj.bias": (D,), "pos_embed": (1, PLACES, D),
        "norm.weight": (D,), "norm.bias": (D,),
    }  # fmt: skip
    names |= {"cls_token": (1, 1, D), "reg_token": (1, 4, D)} if registers else {"attn_pool.latent": (1, 1, D)}
    for i in range(BLOCKS):
        names |= {f"blocks.{i}.attn.qkv.weight": (3 * D, D), f"blocks.{i}.attn.qkv.bias": (3 * D,)}
        names |= {f"blocks.{i}.attn.proj.weight": (D, D), f"blocks.{i}.attn.proj.bias": (D,)}
        names |= {f"blocks.{i}.norm{k}.{part}": (D,) for k in (1, 2) for part in ("weight", "bias")}
        names |= {f"blocks.{i}.mlp.fc1.weight": (MLP, D), f"blocks.{i}.mlp.fc1.bias": (MLP,)}
        names |= {f"blocks.{i}.mlp.fc2.weight": (D, MLP), f"blocks.{i}.mlp.fc2.bias": (D,)}
        names |= {f"blocks.{i}.ls{k}.scale_factor": (D,) for k in (1, 2)} if registers else {}
    return names


def siglip_model(weights):
    import transformers

    config = transformers.SiglipVisionConfig(
        hidden_size=D, intermediate_size=MLP, num_hidden_layers=BLOCKS, num_attention_heads=2, image_size=SIDE, patch_size=PATCH,
        vision_use_head=False,
    )  # fmt: skip
    model = transformers.SiglipVisionModel(config).eval()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    model.load_state_dict({prefix + name: value for name, value in weights.items()}, strict=True)
    return config.to_dict(), model


@torch.no_grad()
def test_siglip_computes_what_transformers_computes(tmp_path):
    weights = drawn(siglip_names(), 1)
    record, model = siglip_model(weights)
    save_file(renamed(weights, lambda n: f"model.vision_tower.vision_model.{n}"), tmp_path / "model.safetensors")
    images, config = torch.randn(2, 3, SIDE, SIDE), siglip_config(record)
    expected = model(pixel_values=images, output_hidden_states=True)
    got = read_tower(config, tmp_path, "model.vision_tower.")(images)
    torch.testing.assert_close(got, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    inner = read_tower(dataclasses.replace(config, skipped=1), tmp_path, "model.vision_tower.")(images)
    torch.testing.assert_close(inner, expected.hidden_states[-2], atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"reads images of 12 × 12; got \(8, 12\)"):
        read_tower(config, tmp_path, "model.vision_tower.")(images[:, :, 4:])
    with pytest.raises(CorruptFileError, match="lacks 53 of 53"):
        read_tower(config, tmp_path, "vision_backbone.")


@torch.no_grad()
def test_siglip_of_openvla_has_the_names_of_timm(tmp_path):
    weights = drawn(timm_names(registers=False), 2)
    save_file(renamed(weights, lambda n: f"vision_backbone.fused_featurizer.{n}"), tmp_path / "model.safetensors")
    other = {
        "embeddings.patch_embedding.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": weights["patch_embed.proj.bias"],
        "embeddings.position_embedding.weight": weights["pos_embed"][0],
        "post_layernorm.weight": weights["norm.weight"], "post_layernorm.bias": weights["norm.bias"],
    }  # fmt: skip
    for i in range(BLOCKS):
        for kind in ("weight", "bias"):
            qkv = weights[f"blocks.{i}.attn.qkv.{kind}"]
            for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
                other[f"encoder.layers.{i}.self_attn.{name}.{kind}"] = qkv[part * D : (part + 1) * D]
            other[f"encoder.layers.{i}.self_attn.out_proj.{kind}"] = weights[f"blocks.{i}.attn.proj.{kind}"]
            for ours, theirs in (
                ("layer_norm1", "norm1"),
                ("layer_norm2", "norm2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                other[f"encoder.layers.{i}.{ours}.{kind}"] = weights[f"blocks.{i}.{theirs}.{kind}"]
    record, model = siglip_model(other)
    images = torch.randn(2, 3, SIDE, SIDE)
    got = read_tower(siglip_config(record), tmp_path, "vision_backbone.fused_featurizer.")(images)
    torch.testing.assert_close(got, model(pixel_values=images).last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dino_with_registers_computes_what_transformers_computes(tmp_path):
    import transformers

    weights = drawn(timm_names(registers=True), 3)
    save_file(renamed(weights, lambda n: f"vision_backbone.featurizer.{n}"), tmp_path / "model.safetensors")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=D, num_hidden_layers=BLOCKS, num_attention_heads=2, mlp_ratio=MLP // D, image_size=SIDE, patch_size=PATCH,
        num_register_tokens=4,
    )  # fmt: skip
    place = torch.randn(1, 1, D)  # transformers adds a position to the class token; timm has added it to the weight
    other = {
        "embeddings.cls_token": weights["cls_token"] - place, "embeddings.register_tokens": weights["reg_token"],
        "embeddings.mask_token": torch.zeros(1, D), "embeddings.position_embeddings": torch.cat([place, weights["pos_embed"]], 1),
        "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        "layernorm.weight": weights["norm.weight"], "layernorm.bias": weights["norm.bias"],
    }  # fmt: skip
    for i in range(BLOCKS):
        for kind in ("weight", "bias"):
            qkv = weights[f"blocks.{i}.attn.qkv.{kind}"]
            for part, name in enumerate(("query", "key", "value")):
                other[f"encoder.layer.{i}.attention.attention.{name}.{kind}"] = qkv[part * D : (part + 1) * D]
            other[f"encoder.layer.{i}.attention.output.dense.{kind}"] = weights[f"blocks.{i}.attn.proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                other[f"encoder.layer.{i}.{name}.{kind}"] = weights[f"blocks.{i}.{name}.{kind}"]
        for k in (1, 2):
            other[f"encoder.layer.{i}.layer_scale{k}.lambda1"] = weights[f"blocks.{i}.ls{k}.scale_factor"]
    write_checkpoint(tmp_path / "hub", config.to_dict(), other)  # the library renames what it reads
    model, report = transformers.Dinov2WithRegistersModel.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not any(report.values()), report
    images = torch.randn(2, 3, SIDE, SIDE)
    own = TowerConfig(D, BLOCKS, 2, MLP, PATCH, SIDE, activation="gelu", registers=4, scaled=True)
    expected = model(pixel_values=images, output_hidden_states=True)
    got = read_tower(own, tmp_path, "vision_backbone.featurizer.")(images)
    torch.testing.assert_close(got, expected.last_hidden_state[:, 5:], atol=1e-5, rtol=1e-5)
    inner = read_tower(dataclasses.replace(own, skipped=1), tmp_path, "vision_backbone.featurizer.")(images)
    torch.testing.assert_close(inner, expected.hidden_states[-2][:, 5:], atol=1e-5, rtol=1e-5)


def test_towers_of_other_sizes_are_refused():
    with pytest.raises(ConfigError, match="3 of 3 blocks left out"):
        TowerConfig(D, BLOCKS, 2, MLP, PATCH, SIDE, skipped=3)
    with pytest.raises(ConfigError, match="no activation 'relu'; known: gelu, gelu_tanh"):
        siglip_config({"hidden_act": "relu"})
    with pytest.raises(ConfigError, match="cannot be read"):
        siglip_config({"hidden_size": "wide"})
