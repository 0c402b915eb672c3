"""EfficientNet-Lite0 computes what is published of it, and its feature maps become tokens."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError
from verbot.model_store import fetched_folder
from verbot.models import pretrained
from verbot.models.encoders.vision.efficientnet_lite0 import EfficientNetLite0
from verbot.models.encoders.vision.lite0 import (
    BLOCK_OF,
    CHANNELS_OF,
    Lite0,
    Lite0Tower,
    SameConv,
    StoredNorm,
    classify,
    drawn_image,
)
from verbot.models.known import efficientnet_lite0 as known
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes

SIZES = Sizes(width=16, views=2, height=32, width_px=48, state=4, chunk=3, action=())


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights with the published names, shapes and a batch norm that is no identity."""
    torch.manual_seed(0)
    net = Lite0(classes=1000)
    for module in net.modules():
        if isinstance(module, StoredNorm):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.fixture
def folder(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    """As `verbot models fetch` makes it, from a pickled state dict."""
    source, out = tmp_path / "unpacked", tmp_path / "lite0"
    source.mkdir()
    out.mkdir()
    counted = {name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in weights if "running_var" in name}
    torch.save({**weights, **counted}, source / known.WEIGHTS.name)
    (source / known.LICENSE.name).write_text("license")
    known._convert(source, out, lambda line: None)
    return out


def encoder(checkpoint: Path | None = None, **options: object) -> EfficientNetLite0:
    made = {**options} if checkpoint is None else {"checkpoint": str(checkpoint), **options}
    torch.manual_seed(1)
    return vision_encoders.build("efficientnet_lite0", SIZES, **EfficientNetLite0.fit(made))


def inputs(rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(rows, 2, 3, 32, 48, generator=g) * 2 - 1
    return images, torch.ones(rows, 2, dtype=torch.bool), torch.randn(rows, 16, generator=g)


def reference(w: dict[str, Tensor], x: Tensor) -> dict[int, Tensor]:
    """Every block as a list of rows of the published table, in plain functions: (stride, kernel, expansion, output channels)."""
    rows = [(1, 3, 1, 16)]
    for count, stride, kernel, channels in (
        (2, 2, 3, 24),
        (2, 2, 5, 40),
        (3, 2, 3, 80),
        (3, 1, 5, 112),
        (4, 2, 5, 192),
        (1, 1, 3, 320),
    ):
        rows += [(stride if i == 0 else 1, kernel, 6, channels) for i in range(count)]

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * scale + shift

    def same(x: Tensor, kernel: int, stride: int) -> Tensor:
        pads = []
        for n in (x.shape[3], x.shape[2]):
            total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads)

    x = norm(F.conv2d(same(x, 3, 2), w["_conv_stem.weight"], stride=2), "_bn0").clamp(0, 6)
    found = {}
    for i, (stride, kernel, expansion, channels) in enumerate(rows):
        before, b = x, f"_blocks.{i}."
        if expansion > 1:
            x = norm(F.conv2d(x, w[f"{b}_expand_conv.weight"]), f"{b}_bn0").clamp(0, 6)
        depthwise = w[f"{b}_depthwise_conv.weight"]
        x = norm(F.conv2d(same(x, kernel, stride), depthwise, stride=stride, groups=len(depthwise)), f"{b}_bn1").clamp(0, 6)
        x = norm(F.conv2d(x, w[f"{b}_project_conv.weight"]), f"{b}_bn2")
        x = x + before if x.shape == before.shape and stride == 1 else x
        assert x.shape[1] == channels
        found[i] = x
    head = norm(F.conv2d(x, w["_conv_head.weight"]), "_bn1").clamp(0, 6).mean((2, 3))
    found[16] = F.linear(head, w["_fc.weight"], w["_fc.bias"])
    return found


@pytest.mark.parametrize("shape", [(64, 64), (33, 47)])
def test_it_computes_what_the_published_table_says(folder: Path, weights: dict[str, Tensor], shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pixels = ((images + 1) / 2 * 255 - 127) / 128
    expected = reference(weights, pixels)
    torch.testing.assert_close(classify(folder, images), expected[16], rtol=0, atol=1e-4)
    tower = Lite0Tower((8, 32), shape)
    tower.net.load_state_dict({n: v for n, v in weights.items() if not n.startswith(("_conv_head", "_bn1", "_fc"))})
    with torch.no_grad():
        features = tower(images)
        plane = features.transpose(1, 2).unflatten(-1, tower.grid)
    fine, coarse = expected[BLOCK_OF[8]], expected[BLOCK_OF[32]]
    torch.testing.assert_close(plane[:, : CHANNELS_OF[8]], fine, rtol=0, atol=1e-4)
    wide = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(plane[:, CHANNELS_OF[8] :], wide, rtol=0, atol=1e-4)


def test_padding_is_more_behind_the_image_as_in_tensorflow() -> None:
    conv = SameConv(1, 1, 3, 2, bias=False)
    torch.nn.init.ones_(conv.weight)
    line = torch.arange(1.0, 5.0)
    assert conv(line.expand(1, 1, 4, 4))[0, 0, 0].tolist() == [18.0, 21.0]  # 3 · (1+2+3), 3 · (3+4+0)


def test_tokens_come_from_all_maps_and_a_frozen_network_is_not_saved(folder: Path) -> None:
    made = encoder(folder, mode="frozen", strides=[8, 16, 32])
    images, mask, sentence = inputs()
    keypoints, patches = made(images, mask, sentence)
    assert made.counts == {"keypoints": 32, "patches": 2 * (1 + 1 * 2)}
    assert keypoints.tokens.shape == (3, 32, 16) and keypoints.heatmaps.shape[-2:] == (4, 6)
    assert patches.tokens.shape == (3, 6, 16)
    assert not [name for name in made.state_dict() if "net" in name or "tower" in name]
    features = made.features((images + 1) / 2)
    assert features.shape == (3, 2, 24, 40 + 112 + 320) and not features.requires_grad
    again = made.groups(features, mask, sentence)
    torch.testing.assert_close(again[0].tokens, keypoints.tokens, rtol=0, atol=1e-4)
    keypoints.tokens.sum().backward()
    assert made.project.weight.grad.any()
    other = encoder(folder, mode="frozen", strides=[8, 16])
    assert made.cacheable and made.key != other.key and made.key.startswith(pretrained.identity(folder))


def test_a_trained_network_is_saved_and_its_batch_norm_does_not_mix_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, mask, sentence = inputs()
    for made in (encoder(folder, mode=0.1), encoder()):
        made.train()
        whole, alone = made(images, mask, sentence)[0].tokens, made(images[:1], mask[:1], sentence[:1])[0].tokens
        torch.testing.assert_close(whole[:1], alone, rtol=0, atol=1e-4)
        whole.sum().backward()
        assert made.tower.net._conv_stem.weight.grad.any() and not made.cacheable
    assert all(p.lr_scale == 0.1 for p in encoder(folder, mode=0.1).tower.parameters())
    saved = encoder(folder).state_dict()
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        encoder(folder)
    gone = vision_encoders.build("efficientnet_lite0", SIZES, checkpoint=str(folder))  # as a saved policy does
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        gone(images, mask, sentence)
    gone.load_state_dict(saved)
    assert gone(images, mask, sentence)[0].tokens.isfinite().all()


def test_what_does_not_fit_is_refused(folder: Path, weights: dict[str, Tensor]) -> None:
    for options, message in (
        ({"strides": [8, 12]}, "expected some of"),
        ({"strides": []}, "expected some of"),
        ({"size": 16}, "smaller than the stride 32"),
        ({"size": "model"}, "expected 'image' or a side"),
        ({"heatmaps": 2}, "at least 3 heatmaps"),
        ({"mode": "frozen"}, "needs a checkpoint"),
    ):
        with pytest.raises(ConfigError, match=message):
            encoder(**options)
    with pytest.raises(CorruptFileError, match="not the weights that the policy was trained on"):
        vision_encoders.build("efficientnet_lite0", SIZES, checkpoint=str(folder), mode="frozen", sha256="0" * 64)
    lost = {name: value for name, value in weights.items() if name != "_blocks.3._bn1.bias"}
    save_file(lost, folder / "model.safetensors")
    with pytest.raises(CorruptFileError, match="lacks 1 of"):
        encoder(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ConfigError, match="holds a model of type 'vit'"):
        encoder(folder)


def test_only_tensors_are_unpickled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    torch.save({"weight": print}, tmp_path / known.WEIGHTS.name)
    with pytest.raises(CorruptFileError, match="cannot be read as tensors of torch"):
        known._convert(tmp_path, tmp_path / "out", lambda line: None)


def test_without_torch_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verbot.models.known import answers

    monkeypatch.setattr(answers, "installed", lambda module: False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'verbot\[torch\]'"):
        known._convert(tmp_path, tmp_path, lambda line: None)


def test_the_real_network_names_what_is_drawn() -> None:
    folder = fetched_folder("efficientnet-lite0")
    if folder is None:
        pytest.skip("efficientnet-lite0 was not fetched: verbot models fetch efficientnet-lite0")
    assert known._answer(folder) and int(classify(folder, drawn_image()).argmax()) == known.ANSWER["class"]
