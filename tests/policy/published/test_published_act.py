"""ACT of LeRobot by its files, against the same computation written out with functions of torch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import drawn, observation, resnet_shapes, statistics_of, write_lerobot
from safetensors.torch import load_file, save_file

import verbot
from verbot.errors import ConfigError, CorruptFileError, SpecError

D, HIDDEN, CHUNK, STATE, ACTION, LATENT = 16, 24, 5, 3, 4, 6
CAMERAS = {"observation.images.top": (40, 64), "observation.images.wrist": (40, 64)}
OPTIONS = {
    "chunk_size": CHUNK, "n_action_steps": CHUNK, "dim_model": D, "n_heads": 2, "dim_feedforward": HIDDEN, "n_encoder_layers": 2,
    "n_decoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": LATENT, "vision_backbone": "resnet18", "use_vae": True,
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
}  # fmt: skip
SEEN = observation(("top", "wrist"), STATE, size=(40, 64))


def attention(name):
    return {
        f"{name}.in_proj_weight": (3 * D, D),
        f"{name}.in_proj_bias": (3 * D,),
        f"{name}.out_proj.weight": (D, D),
        f"{name}.out_proj.bias": (D,),
    }


def linear(name, out, given):
    return {f"{name}.weight": (out, given), f"{name}.bias": (out,)}


def layer(name, decoder=False):
    shapes = attention(f"{name}.self_attn") | linear(f"{name}.linear1", HIDDEN, D) | linear(f"{name}.linear2", D, HIDDEN)
    for number in range(1, 4 if decoder else 3):
        shapes |= {f"{name}.norm{number}.weight": (D,), f"{name}.norm{number}.bias": (D,)}
    return shapes | (attention(f"{name}.multihead_attn") if decoder else {})


def shapes():
    return {
        **{f"backbone.{name}": shape for name, shape in resnet_shapes("frozen").items()},
        **layer("vae_encoder.layers.0"),
        "vae_encoder_cls_embed.weight": (1, D),
        **linear("vae_encoder_robot_state_input_proj", D, STATE),
        **linear("vae_encoder_action_input_proj", D, ACTION),
        **linear("vae_encoder_latent_output_proj", 2 * LATENT, D),
        "vae_encoder_pos_enc": (1, CHUNK + 2, D),
        **layer("encoder.layers.0"), **layer("encoder.layers.1"), **layer("decoder.layers.0", True),
        "decoder.norm.weight": (D,), "decoder.norm.bias": (D,),
        **linear("encoder_robot_state_input_proj", D, STATE),
        **linear("encoder_latent_input_proj", D, LATENT),
        "encoder_img_feat_input_proj.weight": (D, 512, 1, 1), "encoder_img_feat_input_proj.bias": (D,),
        "encoder_1d_feature_pos_embed.weight": (2, D),
        "decoder_pos_embed.weight": (CHUNK, D),
        **linear("action_head", ACTION, D),
    }  # fmt: skip


WEIGHTS = drawn(shapes())


def act(folder, change=lambda weights: weights, **options):
    weights = change({f"model.{name}": value for name, value in WEIGHTS.items()})
    write_lerobot(folder, "act", weights, CAMERAS, STATE, ACTION, **OPTIONS, **options)
    return verbot.load_policy(f"hf:{folder}")


def test_every_weight_is_in_its_place(tmp_path):
    state = act(tmp_path).network.state_dict()
    assert set(state) == set(WEIGHTS) and all(torch.equal(state[name], WEIGHTS[name]) for name in state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {**w, "model.more.weight": torch.ones(2)}, "holds model.more.weight, which this model does not have"),
        (
            lambda w: {n: v for n, v in w.items() if n != "model.backbone.bn1.running_var"},
            "lacks 1 of .* backbone.bn1.running_var",
        ),
        (
            lambda w: {**w, "model.action_head.bias": torch.ones(5)},
            r"model.action_head.bias has shape \(5,\); the architecture has \(4,\)",
        ),
        (lambda w: {**w, "action_head.bias": torch.ones(4)}, "the same weight as"),
    ],
)
def test_a_wrong_weight_is_named(tmp_path, change, said):
    with pytest.raises(CorruptFileError, match=said):
        act(tmp_path, change)


# The same, written out.


def resnet(x):
    def norm(name, value):
        part = {kind: WEIGHTS[f"backbone.{name}.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var")}
        return F.batch_norm(value, part["running_mean"], part["running_var"], part["weight"], part["bias"], False, 0.0, 1e-5)

    def conv(name, value, stride, padding):
        return F.conv2d(value, WEIGHTS[f"backbone.{name}.weight"], None, stride, padding)

    x = F.max_pool2d(norm("bn1", conv("conv1", x, 2, 3)).relu(), 3, 2, 1)
    for number in range(1, 5):
        for block in range(2):
            name, stride = f"layer{number}.{block}", 2 if number > 1 and block == 0 else 1
            inside = norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride, 1)).relu()
            inside = norm(f"{name}.bn2", conv(f"{name}.conv2", inside, 1, 1))
            x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride, 0)) if stride == 2 else x
            x = (inside + x).relu()
    return x


def plain(name, x):
    return F.linear(x, WEIGHTS[f"{name}.weight"], WEIGHTS[f"{name}.bias"])


def norm(name, x):
    return F.layer_norm(x, (D,), WEIGHTS[f"{name}.weight"], WEIGHTS[f"{name}.bias"])


def attend(name, q, k, v, padding=None):
    (wq, wk, wv), (bq, bk, bv) = WEIGHTS[f"{name}.in_proj_weight"].chunk(3), WEIGHTS[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, (2, D // 2)).transpose(1, 2) for x, w, b in ((q, wq, bq), (k, wk, bk), (v, wv, bv))
    )
    scores = q @ k.transpose(2, 3) / math.sqrt(D // 2)
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, None], -math.inf)
    return plain(f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def encode(name, x, place, padding=None):
    x = norm(f"{name}.norm1", x + attend(f"{name}.self_attn", x + place, x + place, x, padding))
    return norm(f"{name}.norm2", x + plain(f"{name}.linear2", plain(f"{name}.linear1", x).relu()))


def place_of(row, column, rows, columns):
    """Of one place in features, number by number."""
    out = []
    for at, size in ((row, rows), (column, columns)):
        turn = (at + 1) / (size + 1e-6) * 2 * math.pi
        for i in range(D // 2):
            angle = turn / 10_000 ** (2 * (i // 2) / (D // 2))
            out.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    return out


def reference(images, state, latent):
    tokens, places = [plain("encoder_latent_input_proj", latent), plain("encoder_robot_state_input_proj", state)], []
    for image in images:
        features = resnet(image)
        rows, columns = features.shape[-2:]
        assert (rows, columns) == (2, 2)
        projected = F.conv2d(features, WEIGHTS["encoder_img_feat_input_proj.weight"], WEIGHTS["encoder_img_feat_input_proj.bias"])
        for row in range(rows):
            for column in range(columns):
                tokens.append(projected[:, :, row, column])
                places.append(place_of(row, column, rows, columns))
    memory, place = (
        torch.stack(tokens, 1),
        torch.cat([WEIGHTS["encoder_1d_feature_pos_embed.weight"], torch.tensor(places)])[None],
    )
    for number in range(2):
        memory = encode(f"encoder.layers.{number}", memory, place)
    query, name = WEIGHTS["decoder_pos_embed.weight"][None], "decoder.layers.0"
    x = torch.zeros(len(state), CHUNK, D)
    x = norm(f"{name}.norm1", x + attend(f"{name}.self_attn", x + query, x + query, x))
    x = norm(f"{name}.norm2", x + attend(f"{name}.multihead_attn", x + query, memory + place, memory))
    x = norm(f"{name}.norm3", x + plain(f"{name}.linear2", plain(f"{name}.linear1", x).relu()))
    return plain("action_head", norm("decoder.norm", x))


def test_it_answers_what_the_formulas_do(tmp_path):
    policy, statistics = act(tmp_path), statistics_of(tmp_path)
    images = []
    for name in ("top", "wrist"):
        mean, std = (torch.from_numpy(statistics[f"observation.images.{name}.{kind}"])[:, None, None] for kind in ("mean", "std"))
        images.append(((torch.from_numpy(SEEN.images[name]).permute(2, 0, 1) / 255 - mean) / (std + 1e-8))[None])
    state = (SEEN.state - statistics["observation.state.mean"]) / (statistics["observation.state.std"] + 1e-8)
    wanted = reference(images, torch.from_numpy(state)[None], torch.zeros(1, LATENT))[0].numpy()
    found = policy.predict([SEEN])[0].values
    assert np.abs(found - (wanted * statistics["action.std"] + statistics["action.mean"])).max() < 1e-4
    assert np.abs((found - statistics["action.mean"]) / statistics["action.std"] - wanted).max() < 1e-5


def test_training_encodes_the_actions(tmp_path):
    policy = act(tmp_path, dropout=0.0)
    inputs = policy.parts.processing.inputs([(SEEN,)])
    actions, mask = torch.randn(1, CHUNK, ACTION), torch.tensor([[True, True, True, True, False]])
    found = policy.network.losses(inputs, actions, mask, torch.Generator().manual_seed(2))
    first, state = WEIGHTS["vae_encoder_cls_embed.weight"][None], plain("vae_encoder_robot_state_input_proj", inputs["state"])
    tokens = torch.cat([first, state[:, None],
                        plain("vae_encoder_action_input_proj", actions)], 1)  # fmt: skip
    padding = torch.tensor([[False] * 2 + [False] * 4 + [True]])
    posterior = plain(
        "vae_encoder_latent_output_proj", encode("vae_encoder.layers.0", tokens, WEIGHTS["vae_encoder_pos_enc"], padding)[:, 0]
    )
    mean, twice = posterior.chunk(2, -1)
    divergence = 0.5 * (mean**2 + twice.exp() - 1 - twice).sum(-1).mean()
    latent = mean + (twice / 2).exp() * torch.randn(1, LATENT, generator=torch.Generator().manual_seed(2))
    error = (reference([inputs["images.0"], inputs["images.1"]], inputs["state"], latent) - actions).abs()[:, :4].mean()
    assert torch.allclose(found["divergence"], 10 * divergence, atol=1e-4) and torch.allclose(found["action"], error, atol=1e-5)


def test_images_have_the_size_of_the_training(tmp_path):
    with pytest.raises(SpecError, match=r"camera 'top' gave uint8 \(20, 64, 3\); expected uint8 \(40, 64, 3\)"):
        act(tmp_path).predict([observation(("top", "wrist"), STATE, size=(20, 64))])


def test_old_files_keep_statistics_among_the_weights(tmp_path):
    new = act(tmp_path / "new")
    old, numbers = tmp_path / "old", statistics_of(tmp_path / "new")
    write_lerobot(old, "act", {}, CAMERAS, STATE, ACTION, **OPTIONS)
    for path in old.glob("policy_*"):
        path.unlink()
    weights = load_file(tmp_path / "new" / "model.safetensors")
    for name, value in numbers.items():
        feature, _, kind = name.rpartition(".")
        places = ("normalize_targets", "unnormalize_outputs") if feature == "action" else ("normalize_inputs",)
        shaped = torch.from_numpy(value).reshape((3, 1, 1) if "images" in feature else (-1,))
        weights |= {f"{place}.buffer_{feature.replace('.', '_')}.{kind}": shaped.clone() for place in places}
    save_file(weights, old / "model.safetensors")
    assert np.array_equal(verbot.load_policy(f"hf:{old}").predict([SEEN])[0].values, new.predict([SEEN])[0].values)


def test_without_statistics_it_is_a_base_model(tmp_path):
    act(tmp_path)
    for path in tmp_path.glob("policy_*"):
        path.unlink()
    notes = verbot.load_policy(f"hf:{tmp_path}").parts.notes
    assert "it has no statistics of observation.state" in notes[0] and "action" in notes[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replace_final_stride_with_dilation": True}, "has replace_final_stride_with_dilation True, which"),
        ({"vision_backbone": "resnet50"}, "vision_backbone is 'resnet50'; known: resnet18, resnet34"),
        ({"chunk_size": 0}, "chunk_size is 0; expected a whole number from 1 to 4096"),
        ({"dim_model": "wide"}, "dim_model is 'wide'; expected a number"),
        ({"input_features": {"observation.images.top": {"type": "VISUAL", "shape": [3, 40]}}}, r"images.top is \[3, 40\]"),
        ({"input_features": {"observation.environment_state": {"type": "ENV", "shape": [4]}}}, "observation.environment_state"),
        ({"normalization_mapping": {"STATE": "LOG"}}, "the observation.state is normalized by 'LOG'; known: IDENTITY, MEAN_STD"),
        ({"output_features": {}}, "has no output feature 'action'"),
        ({"feedforward_activation": "glu"}, "no activation 'glu'; known: relu, gelu"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused(tmp_path, options, said):
    write_lerobot(tmp_path, "act", {}, CAMERAS, STATE, ACTION, **{**OPTIONS, **options})
    with pytest.raises(ConfigError, match=said):
        verbot.load_policy(f"hf:{tmp_path}")
