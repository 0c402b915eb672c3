"""Vision models of the transformers library, on small checkpoints that the library itself writes here."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError, PolicyError
from verbot.models import pretrained
from verbot.models.encoders.vision import small_towers
from verbot.models.encoders.vision.hf_vision import HFVision
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import Part, vision_encoders
from verbot.models.tokens import Sizes
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation
from verbot.statistics import Statistics

SIZES = Sizes(width=16, views=2, height=32, width_px=48, state=4, chunk=3, action=())
LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGE = {"image_size": 32, "patch_size": 8}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "layer_type": "basic"}
EFFICIENT = {
    "width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 64, "hidden_dim": 320, "initializer_range": 0.2,
    "num_block_repeats": [1, 2, 2], "in_channels": [32, 16, 24], "out_channels": [16, 24, 40], "kernel_sizes": [3, 3, 5],
    "strides": [1, 2, 2], "expand_ratios": [1, 6, 6], "depthwise_padding": [],
}  # fmt: skip
# Whole models as the hub has them, with the heads that a tower leaves behind.
VISION = {
    "clip": lambda t: t.CLIPModel(t.CLIPConfig(vision_config=LAYERS | IMAGE, text_config=LAYERS | {"vocab_size": 40})),
    "siglip": lambda t: t.SiglipModel(t.SiglipConfig(vision_config=LAYERS | IMAGE, text_config=LAYERS | {"vocab_size": 40})),
    "dinov2": lambda t: t.Dinov2ForImageClassification(t.Dinov2Config(**LAYERS, **IMAGE, layerscale_value=1.0)),
    "dinov2_with_registers": lambda t: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**LAYERS, **IMAGE)),
    "vit": lambda t: t.ViTForImageClassification(t.ViTConfig(**LAYERS, **IMAGE)),
    "resnet": lambda t: t.ResNetForImageClassification(t.ResNetConfig(**RESNET)),
    "efficientnet": lambda t: t.EfficientNetForImageClassification(t.EfficientNetConfig(**EFFICIENT)),
}


def made(checkpoint: str | None = None, **options: object) -> HFVision:
    return vision_encoders.build("hf_vision", SIZES, checkpoint=checkpoint, **options)


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """Checkpoints of every family, random but for batch norm, whose statistics are those of no unit Gaussian."""
    root = tmp_path_factory.mktemp("vision")
    for name, make in VISION.items():
        torch.manual_seed(0)
        model = make(transformers)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        model.save_pretrained(root / name)
    return root


def picture(height=32, width=48, rows=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 2, 3, height, width), generator=g, dtype=torch.uint8)


def see(encoder, images, sentence=None):
    mask = torch.ones(images.shape[:2], dtype=torch.bool)
    sentence = torch.randn(len(images), 16, generator=torch.Generator().manual_seed(1)) if sentence is None else sentence
    return encoder(images / 127.5 - 1, mask, sentence)


@pytest.mark.parametrize("name", VISION)
def test_a_tower_computes_what_the_whole_model_computes(name, vision):
    """The weights in the folder are those that see: the library's own model, given our preprocessing, says the same."""
    encoder = made(str(vision / name), mode="frozen")
    images = picture(rows=1)
    features = encoder.features(images)[0]  # (v, n + 1, d)
    model = transformers.AutoModel.from_pretrained(vision / name).eval()
    model = model.vision_model if name in ("clip", "siglip") else model
    tower = encoder._tower
    pixels = torch.nn.functional.interpolate(images[0] / 255, tower.size, mode="bilinear", antialias=True)
    family = small_towers.FAMILIES[name]
    with torch.no_grad():
        out = model((pixels - torch.tensor(family.mean)[:, None, None]) / torch.tensor(family.std)[:, None, None])
    states = out.last_hidden_state
    places = states.flatten(2).transpose(1, 2) if states.ndim == 4 else states[:, -(tower.grid[0] * tower.grid[1]) :]
    whole = {"vit": states[:, 0]}.get(name, out.pooler_output if out.pooler_output is not None else None)
    torch.testing.assert_close(features[:, 1:], places, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features[:, 0], whole.flatten(1), atol=1e-5, rtol=1e-4)
    assert features.std() > 0.01 and not torch.allclose(features[0], features[1], atol=1e-3)


@pytest.mark.parametrize("name", VISION)
def test_every_family_gives_places_and_heatmaps_and_learns_through_them(name, vision):
    encoder = made(str(vision / name), heatmaps=4, size=64 if name in ("resnet", "efficientnet") else "model")
    points, patches = see(encoder, picture())
    assert {g.kind: g.tokens.shape[1] for g in (points, patches)} == encoder.counts
    assert points.heatmaps.shape == (2, 8, *encoder.grid) and encoder.grid[0] >= 4
    (points.tokens.sum() + patches.tokens.sin().sum()).backward()
    untouched = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_preprocessing_is_the_familys_or_the_folders(vision, tmp_path):
    family = small_towers.FAMILIES["clip"]
    clip = pretrained.architecture(vision / "clip")
    assert small_towers.preprocessing(clip, {}) == {"mean": list(family.mean), "std": list(family.std), "size": 32}
    own = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "crop_size": {"height": 20, "width": 20}}
    assert small_towers.preprocessing(clip, own) == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "size": 32}
    assert small_towers.preprocessing({"model_type": "resnet"}, own)["size"] == 20
    assert small_towers.preprocessing({"model_type": "resnet"}, {"size": {"shortest_edge": 96}})["size"] == 96
    assert small_towers.preprocessing({"model_type": "resnet"}, {"do_normalize": False})["std"] == [1.0] * 3
    folder = shutil.copytree(vision / "clip", tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    changed, plain = (made(str(f), mode="frozen") for f in (folder, vision / "clip"))
    assert not torch.allclose(changed.features(picture()), plain.features(picture()), atol=1e-3)
    assert changed.key != plain.key


def test_efficientnets_pixels_are_divided_twice_as_its_processor_divides_them():
    processor = transformers.models.efficientnet.EfficientNetImageProcessorPil()
    processor.image_mean, processor.image_std = [0.485, 0.456, 0.406], [0.47853944, 0.4732864, 0.47434163]
    processor.size, processor.do_resize = {"height": 32, "width": 48}, False
    image = picture(rows=1)[0, 0]
    theirs = torch.from_numpy(np.asarray(processor(image.movedim(0, -1).numpy())["pixel_values"][0]))
    prepare = small_towers.preprocessing({"model_type": "efficientnet", "image_size": 32}, processor.to_dict())
    mean, std = (torch.tensor(prepare[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close((image / 255 - mean) / std, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(std.flatten(), torch.tensor(small_towers.IMAGENET[1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "vit"])
def test_positions_are_interpolated_where_images_keep_their_size(name, vision):
    encoder = made(str(vision / name), mode="frozen", size="image", patches=False)
    assert encoder.grid == (4, 6)
    assert see(encoder, picture())[0].heatmaps.shape == (2, 32, 4, 6)
    with pytest.raises(ConfigError, match=r"patches of 8 pixels do not divide images of 36×36"):
        made(str(vision / name), size=36)


@pytest.mark.parametrize("name", ["clip", "resnet", "efficientnet"])
def test_a_depth_uses_the_first_layers(name, vision):
    whole, cut = (made(str(vision / name), mode="frozen", depth=depth, size=64) for depth in (None, 2))
    model = whole._tower.model
    seen = []
    layers = {"clip": "layers", "resnet": "stages", "efficientnet": "blocks"}[name]
    handle = getattr(model.encoder, layers)[1].register_forward_hook(lambda m, i, out: seen.append(out))
    whole.features(picture())
    handle.remove()
    second = seen[0] if torch.is_tensor(seen[0]) else seen[0][0]
    places = second.flatten(2).transpose(1, 2) if second.ndim == 4 else second[:, 1:]
    torch.testing.assert_close(cut.features(picture()).flatten(0, 1)[:, 1:], places, atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in cut._tower.parameters()) < sum(p.numel() for p in whole._tower.parameters())
    assert cut.key != whole.key
    with pytest.raises(ConfigError, match=r"a depth of 99 is not possible"):
        made(str(vision / name), depth=99)


@pytest.mark.parametrize("name", ["vit", "resnet", "efficientnet"])
def test_a_frozen_tower_does_not_move(name, vision):
    encoder = made(str(vision / name), mode="frozen", size=64)
    before = {key: value.clone() for key, value in encoder._tower.state_dict().items()}
    first = encoder.features(picture())
    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), 0.1)
    for _ in range(3):
        sum(g.tokens.square().sum() for g in see(encoder, picture())).backward()
        optimizer.step()
    assert not any(p.requires_grad for p in encoder._tower.parameters())
    assert all(torch.equal(before[key], value) for key, value in encoder._tower.state_dict().items())
    assert torch.equal(encoder.features(picture()), first), "dropout or batch statistics moved what it sees"
    assert not any("model" in key or "tower" in key for key in encoder.state_dict())
    alone = encoder.features(picture()[:1])
    torch.testing.assert_close(alone, first[:1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vit"])
def test_a_trained_tower_sees_images_one_by_one(name, vision):
    encoder = made(str(vision / name), size=64).train()
    both = encoder.features(picture())
    torch.testing.assert_close(encoder.features(picture()[:1]), both[:1], atol=1e-5, rtol=1e-4)
    scratch = made(architecture=pretrained.architecture(vision / name), size=64).train()
    both = scratch.features(picture())
    torch.testing.assert_close(scratch.features(picture()[:1]), both[:1], atol=1e-4, rtol=1e-3)
    assert both.std() > 0.05 and not any(isinstance(m, torch.nn.BatchNorm2d) for m in scratch.modules())


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_film_begins_as_nothing_and_then_steers(name, vision):
    plain = made(str(vision / name), mode="frozen", size=64)
    steered = made(str(vision / name), mode="frozen", size=64, film=True)
    steered.load_state_dict(plain.state_dict() | {k: v for k, v in steered.state_dict().items() if k.startswith("film")})
    for one, other in zip(see(plain, picture()), see(steered, picture()), strict=True):
        assert torch.equal(one.tokens, other.tokens)
    see(steered, picture())[1].tokens.sin().sum().backward()
    assert len(steered._tower.channels) == {"resnet": 3, "efficientnet": 3}[name]
    scale, shift = (part.split(steered._tower.channels) for part in steered.film.weight.grad.chunk(2))
    assert all(part.any() for part in (*scale, *shift)), "a stage is not steered"
    with torch.no_grad():
        steered.film.weight.normal_(std=0.2)
    one, other = (see(steered, picture(), torch.full((2, 16), x))[1].tokens for x in (1.0, -1.0))
    assert (one - other).abs().mean() > 0.05
    with pytest.raises(ConfigError, match="the features depend on the sentence"):
        steered.features(picture())


def test_film_is_for_convolutions(vision):
    with pytest.raises(ConfigError, match=r"film=True needs a convolutional model .*; CLIPVisionModel is none"):
        made(str(vision / "clip"), film=True)


@pytest.mark.parametrize(("name", "film"), [("vit", False), ("resnet", True)])
def test_questions_are_answered_as_sentences_are(name, film, vision):
    encoder = made(str(vision / name), size=64, film=film)
    if film:
        torch.nn.init.normal_(encoder.film.weight, std=0.1)
    images, mask, rows = picture() / 127.5 - 1, torch.ones(2, 2, dtype=torch.bool), torch.tensor([1, 0, 1])
    sentence, queries = torch.randn(2, 16), torch.randn(3, 16)
    groups, answers = encoder.encode_with_queries(images, mask, sentence, queries, rows)
    torch.testing.assert_close(groups[0].tokens, encoder(images, mask, sentence)[0].tokens)
    expected = encoder(images[rows], mask[rows], queries)[0]
    torch.testing.assert_close(answers.points.unflatten(1, (2, 3)), expected.points.unflatten(1, (2, 16))[:, :, :3])


def test_cached_features_serve_as_the_images_do(vision):
    encoder = made(str(vision / "clip"), mode="frozen")
    mask, sentence = torch.ones(2, 2, dtype=torch.bool), torch.randn(2, 16)
    kept = encoder.features(picture())
    assert kept.shape == (2, 2, 17, 32) and not kept.requires_grad
    for one, other in zip(encoder.groups(kept, mask, sentence), see(encoder, picture(), sentence), strict=True):
        torch.testing.assert_close(one.tokens, other.tokens)


def test_a_rate_factor_stands_on_the_towers_parameters_alone(vision):
    encoder = made(str(vision / "vit"), mode=0.1)
    scales = {name.partition(".")[0]: getattr(p, "lr_scale", 1.0) for name, p in encoder.named_parameters()}
    assert scales == {"tower": 0.1, "norm": 1.0, "project": 1.0, "view": 1.0, "point": 1.0}
    for mode in ("frosen", 0.0, 1.5, True):
        with pytest.raises(ConfigError, match=r"mode is 'frozen', 'trained' or a factor"):
            made(str(vision / "vit"), mode=mode)
    with pytest.raises(ConfigError, match="'frozen' needs a checkpoint"):
        made(mode="frozen")


def test_a_checkpoint_that_cannot_be_had_says_what_to_do(tmp_path, vision, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"no checkpoint 'openai/clip-nothing'.*name a folder.*hf download openai/clip-nothing"):
        made("openai/clip-nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        made(str(tmp_path / "empty"))
    folder = shutil.copytree(vision / "vit", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickled weights are not read"):
        made(str(folder))
    with pytest.raises(ConfigError, match=r"does not know models of type 'gpt2'; it knows clip, "):
        made(architecture={"model_type": "gpt2"})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'verbot\[hf\]'"):
        made()


def test_a_hub_name_is_read_from_the_hubs_cache_without_a_network(tmp_path, vision, monkeypatch):
    """The layout that `hf download` leaves."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--vit-tiny"
    shutil.copytree(vision / "vit", repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    named, local = (made(name, mode="frozen") for name in ("someone/vit-tiny", str(vision / "vit")))
    assert torch.equal(named.features(picture()), local.features(picture())) and named.sha256 == local.sha256


def test_missing_weights_are_never_left_random(tmp_path, vision):
    folder = shutil.copytree(vision / "vit", tmp_path / "vit")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layers.1" in name or "layer.1" in name)
    weights.pop(lost)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptFileError, match="lacks 1 of the weights of a ViTModel"):
        made(str(folder))


def saved_and_loaded(options, spec, folder):
    """A policy with this vision encoder, saved; `HFVision.fit` as for any part that keeps something of its making."""
    config = NetworkConfig(width=16, chunk=3, vision=Part("hf_vision", HFVision.fit(options)), fusion=Part("mlp", {"hidden": 32}))
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=(50, size)) for name, size in (("state", 4), ("action", 10))}
    policy = VLAPolicy.create(config, spec, Statistics.of(numbers), ["pick up the red cube", "push it"])
    policy.network.eval()
    policy.save(folder)
    return policy


def look_around(spec):
    rng = np.random.default_rng(1)
    images = {c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in spec.cameras}
    return [Observation(images, np.zeros(4, np.float32), "push it")]


def test_a_trained_tower_is_saved_whole_and_needs_its_checkpoint_no_more(tmp_path, vision, spec):
    folder = shutil.copytree(vision / "resnet", tmp_path / "resnet")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.3] * 3, "size": 48}))
    policy = saved_and_loaded({"checkpoint": str(folder), "mode": 0.5}, spec, tmp_path / "policy")
    with torch.no_grad():
        policy.network.backbone.vision.tower.model.embedder.embedder.convolution.weight.mul_(1.1)
    policy.save(tmp_path / "policy")
    shutil.rmtree(folder)
    loaded = VLAPolicy.load(tmp_path / "policy")
    before, after = (p.predict(look_around(spec))[0].values for p in (policy, loaded))
    assert np.array_equal(before, after)
    fresh = VLANetwork(policy.config, spec)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        fresh.backbone.vision.features(picture(16, 16))


def test_of_a_frozen_tower_a_policy_keeps_the_identity_alone(tmp_path, vision, spec):
    folder = shutil.copytree(vision / "clip", tmp_path / "clip")
    policy = saved_and_loaded({"checkpoint": str(folder), "mode": "frozen"}, spec, tmp_path / "policy")
    saved = load_file(tmp_path / "policy" / "weights.safetensors")
    assert max(v.numel() for name, v in saved.items() if name.startswith("vision")) == 2 * 16 * 16 * 16
    loaded = VLAPolicy.load(tmp_path / "policy")
    assert np.array_equal(*(p.predict(look_around(spec))[0].values for p in (policy, loaded)))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "patch_embedding" in name)
    save_file({**weights, name: weights[name] + 1e-3}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptFileError, match="not the weights that the policy was trained on"):
        VLAPolicy.load(tmp_path / "policy")
    shutil.rmtree(folder)
    with pytest.raises(PolicyError, match="there is no checkpoint"):
        VLAPolicy.load(tmp_path / "policy")
