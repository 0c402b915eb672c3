"""A frozen encoder's features, computed once: the same training, without the tower."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_loop import losses, same
from toys import PLAIN, SMALL, SPEC, changed, toy_config, write_toy

from verbot.data import DatasetWriter, EpisodeRecord, FrameCache, open_dataset
from verbot.data.samples.labels import MaskedArray
from verbot.data.storage import cached_rows, frame_cache
from verbot.data.storage.frame_cache import FrameSelection
from verbot.errors import ConfigError, DataError
from verbot.models.encoders.vision.hf_vision import HFVision
from verbot.models.network import Part
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.spec import Camera, Observation
from verbot.training import train_policy
from verbot.training.imitation.augment import torch_numbers
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.frozen_features import FrozenFeatureExtractor
from verbot.training.imitation.records import Selection

WITHIN = 1e-3  # of the loss: float16 rounds each feature to within 5e-4 of itself


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    folder: Path = tmp_path_factory.mktemp("tower")
    transformers.ViTModel(config).save_pretrained(folder)
    return folder


def frozen(tower: Path, **options) -> Part:
    return Part("hf_vision", {"checkpoint": str(tower), "mode": "frozen", "heatmaps": 4, **options})


def settings(dataset, tower, augment=PLAIN, vision=None, cached=True, **network):
    changes = {key: network.pop(key) for key in ("steps", "batch_size", "processes", "dagger", "datasets") if key in network}
    small = dataclasses.replace(SMALL, vision=vision or frozen(tower), **network)
    return toy_config(str(dataset), network=small, augment=augment, cache_features=cached, **changes)


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """How many images the tower was given, each time."""
    counts: list[int] = []
    original = HFVision._run

    def run(self, images, film=None):
        counts.append(len(images))
        return original(self, images, film)

    monkeypatch.setattr(HFVision, "_run", run)
    return counts


SHAPES = [{}, {"history": 2, "stride": 2}, {"memory": Part("recurrent"), "sequence": 2}, {"image_size": (8, 12)}]


@pytest.mark.parametrize("network", SHAPES)
@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_losses_are_those_of_the_images(toy, tower, tmp_path, seen, network, dropped):
    augment = dataclasses.replace(PLAIN, camera_dropout=dropped, blank_instruction=0.2)
    found = []
    for cached in (False, True):
        if network.get("image_size"):
            network = {**network, "vision": frozen(tower, size=16)}
        config = settings(toy, tower, augment, cached=cached, batch_size=8, **network)
        with TrainingData(config, tmp_path, 0, 0) as training_data:
            policy = VLAPolicy.create(config.network, training_data.spec, training_data.statistics, training_data.instructions)
            batches = [policy.collate(training_data.batch(step, 0)) for step in range(2)]
            seen.clear()
            found.append([policy.network.losses(batch, torch_numbers(1)) for batch in batches])
            assert bool(seen) != cached, "the tower looks where it need not, or not where it must"
            assert (batches[0].features is not None) == cached and batches[0].images.shape[3] == (0 if cached else 3)
            if dropped:
                assert not batches[0].images_mask.all()
    for with_images, with_features in zip(*found, strict=True):
        for name, value in with_images.items():
            torch.testing.assert_close(with_features[name], value, rtol=WITHIN, atol=1e-5)


def test_questions_are_answered_from_features(toy, tower, tmp_path, seen):
    config = settings(toy, tower)
    with TrainingData(config, tmp_path, 0, 0) as training_data:
        policy = VLAPolicy.create(config.network, training_data.spec, training_data.statistics, training_data.instructions)
        window = training_data.batch(0, 0)
    texts = [("touch the red cube", "go to the blue one"), (), ("touch it",), ()]
    points = np.full((4, 2, 2, 3, 2), 0.25, np.float32)
    places = MaskedArray(points, points[..., 0] > 0, "image_points")
    with_queries = dataclasses.replace(window, grounding_queries=texts, query_keypoints=places)
    with_features = policy.collate(with_queries)
    seen.clear()
    got = policy.network.losses(with_features, torch_numbers(1))
    assert not seen
    frames = FrameCache(open_dataset(toy), policy.spec.camera_names)
    episodes, rows = training_data._train[0].locate(window.index)  # counted over the episodes that are not held out
    rows = frames.starts[episodes] + rows
    images = np.stack([frames.frames(camera)[rows] for camera in policy.spec.camera_names], 1)[:, None]
    looked = dataclasses.replace(with_queries, images=images, features=np.zeros((4, 1, 2, 0, 0), np.float16))
    want = policy.network.losses(policy.collate(looked), torch_numbers(1))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=WITHIN, atol=1e-5)


def test_a_run_is_the_same_to_tolerance_and_resumes_to_the_bit(toy, tower, tmp_path, seen):
    for name, cached in (("images", False), ("features", True)):
        train_policy(settings(toy, tower, cached=cached), tmp_path / name, progress=False)
    np.testing.assert_allclose(losses(tmp_path / "features"), losses(tmp_path / "images"), rtol=5e-3)
    config = settings(toy, tower)
    seen.clear()
    train_policy(config, tmp_path / "halves", progress=False, stop_at=2)
    train_policy(config, tmp_path / "halves", progress=False)
    assert same(tmp_path / "features", tmp_path / "halves") and not seen
    with pytest.raises(ConfigError, match="another data.cache_features"):
        train_policy(settings(toy, tower, cached=False), tmp_path / "halves", progress=False)
    policy = load_policy(tmp_path / "features" / "policy")
    image = np.zeros((16, 16, 3), np.uint8)
    policy.predict([Observation({"front": image, "wrist": image}, np.zeros(4, np.float32), "touch the red cube")])
    assert seen == [2]


def test_two_processes_read_what_one_has_computed(toy, tower, tmp_path):
    for name, cached in (("images", False), ("features", True)):
        train_policy(settings(toy, tower, cached=cached, processes=2), tmp_path / name, progress=False)
    assert len(losses(tmp_path / "features")) == 4
    np.testing.assert_allclose(losses(tmp_path / "features"), losses(tmp_path / "images"), rtol=5e-3)


def test_rounding_is_what_is_promised(toy, tower):
    config = settings(toy, tower)
    dataset = open_dataset(toy)
    extractor = FrozenFeatureExtractor(config.network, dataset.spec, torch.device("cpu"))
    kept, frames = (
        extractor.features(dataset, FrameSelection(("front",))).features("front"),
        FrameCache(dataset, ["front"]).frames("front"),
    )
    exact = extractor._compute(frames)
    assert kept.dtype == np.float16 and kept.shape == exact.shape == (48, 17, 16) and not kept.flags.writeable
    assert (np.abs(kept - exact) <= np.abs(exact) * 2**-11 + 3e-8 + 1e-6).all()
    assert exact.std() > 0.05 and np.abs(exact[0] - exact[20]).max() > 0.01


def copied(toy, tmp_path) -> Path:
    return Path(shutil.copytree(toy, tmp_path / "data", ignore=shutil.ignore_patterns(".cache")))


def test_frames_are_seen_once_and_added_episodes_alone(tower, tmp_path, seen, capsys):
    data = write_toy(tmp_path / "data", 3)
    config = settings(data, tower)
    TrainingData.prepare(config, show_progress=True)
    assert sum(seen) == 2 * (24 + 1)  # two cameras of 24 frames, and one more each for the shape
    assert "encode front: 24/24 frames, " in capsys.readouterr().err
    seen.clear()
    TrainingData.prepare(config)
    assert not seen
    grow(data, 2)
    TrainingData.prepare(config)
    assert sum(seen) == 2 * 16
    dataset = open_dataset(data)
    extractor = FrozenFeatureExtractor(config.network, dataset.spec, torch.device("cpu"))
    exact = extractor._compute(FrameCache(dataset, ["wrist"]).frames("wrist"))
    np.testing.assert_allclose(
        extractor.features(dataset, FrameSelection(("wrist",))).features("wrist"), exact, rtol=1e-3, atol=1e-5
    )


def grow(data: Path, episodes: int) -> None:
    first = open_dataset(data)[0]
    rng = np.random.default_rng(5)
    with DatasetWriter(data, first.dataset.spec) as writer:
        for _ in range(episodes):
            images = {name: rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8) for name in ("front", "wrist")}
            writer.save_episode(EpisodeRecord("touch the red cube", first.states, first.actions, images))


def test_an_interrupted_look_continues(toy, tower, tmp_path, seen, monkeypatch):
    config = settings(copied(toy, tmp_path), tower)
    monkeypatch.setattr(frame_cache, "FEATURE_BLOCK", 2)
    original, commits = cached_rows.write_atomic, []

    def dies(path, content, **options):
        commits.append(path)
        if "/features/" in str(path) and len(commits) > 4:
            raise KeyboardInterrupt
        return original(path, content, **options)

    FrameCache(open_dataset(config.data.datasets[0]))
    monkeypatch.setattr(cached_rows, "write_atomic", dies)
    with pytest.raises(KeyboardInterrupt):
        TrainingData.prepare(config)
    monkeypatch.setattr(cached_rows, "write_atomic", original)
    committed = [json.loads(p.read_text())["digests"] for p in sorted(config_folder(config).rglob("*.json"))]
    seen.clear()
    TrainingData.prepare(config)
    done = sum(map(len, committed))
    assert 0 < done < 12 and sum(seen) == (12 - done) * 8


def config_folder(config) -> Path:
    return cached_rows.cache_folders(open_dataset(config.data.datasets[0]))[0] / "features"


def test_another_checkpoint_never_reads_stale_features(toy, tower, tmp_path, seen):
    data, folder = copied(toy, tmp_path), Path(shutil.copytree(tower, tmp_path / "vit"))
    config = settings(data, folder)
    TrainingData.prepare(config)
    dataset = open_dataset(data)
    before = (
        FrozenFeatureExtractor(config.network, dataset.spec, torch.device("cpu"))
        .features(dataset, FrameSelection(("front",)))
        .features("front")
    )
    weights = load_file(folder / "model.safetensors")
    save_file({k: v * 1.5 for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    seen.clear()
    extractor = FrozenFeatureExtractor(config.network, dataset.spec, torch.device("cpu"))
    after = extractor.features(dataset, FrameSelection(("front",))).features("front")
    assert sum(seen) == 48 + 1 and np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after, extractor._compute(FrameCache(dataset, ["front"]).frames("front")), rtol=1e-3, atol=1e-5)
    small = settings(data, folder, image_size=(8, 8), vision=frozen(folder, size=16))
    seen.clear()
    FrozenFeatureExtractor(small.network, dataset.spec, torch.device("cpu")).features(dataset, FrameSelection(("front",)))
    assert sum(seen) == 48 + 1, "images of another size are other features"


def test_corrections_get_their_features_too(toy, tower, tmp_path, seen):
    config = settings(copied(toy, tmp_path), tower)
    with TrainingData(config, tmp_path / "run", 0, 0) as training_data:
        write_toy(tmp_path / "run" / "corrections" / "round-1", 2)
        seen.clear()
        training_data.add_correction_rounds(1)
        assert sum(seen) == 2 * (16 + 1)
        assert len(training_data._loader_now.source) == len(training_data._train[0]) + 16
        found = [training_data.batch(step, 0).features for step in range(16)]
    assert all(part.shape == (4, 1, 2, 17, 16) and part.any((3, 4)).all() for part in found)


def test_features_beyond_float16_are_said_so(toy, tower, tmp_path, monkeypatch):
    monkeypatch.setattr(FrozenFeatureExtractor, "_compute", lambda self, frames: np.full((len(frames), 2, 3), 7e4, np.float32))
    with pytest.raises(DataError, match=r"camera 'front' in .* do not fit into float16 \(beyond 65504, .*cache_features=False"):
        TrainingData.prepare(settings(copied(toy, tmp_path), tower))


def test_only_features_of_the_episodes_of_the_run_are_kept(toy, tower, tmp_path, seen):
    """No decoded frame is; those that the encoder sees have the size of the network."""
    network = {"image_size": (8, 12), "vision": frozen(tower, size=16)}
    config = settings(copied(toy, tmp_path), tower, **network)
    config = changed(config, **{"data.selections": (Selection(episodes=3),), "data.cache": str(tmp_path / "cache")})
    TrainingData.prepare(config)
    assert sum(seen) == 2 * (3 * 8 + 1)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".f16", ".rgb")]
    assert sorted(path.name[:11] for path in files) == ["front@8x12+", "wrist@8x12+"]
    with TrainingData(config, tmp_path / "run", 0, 0) as training_data:
        assert training_data.batch(0, 0).images.shape == (4, 1, 2, 8, 12, 0)
        next(training_data.held_out())


def test_features_of_a_recording_without_the_cameras_are_masked(toy, tower, tmp_path):
    top = tmp_path / "top"
    with DatasetWriter(top, dataclasses.replace(SPEC, cameras=(Camera("top", 8, 8),))) as writer:
        for episode in open_dataset(toy):
            images = {"top": np.zeros((len(episode), 8, 8, 3), np.uint8)}
            writer.save_episode(EpisodeRecord("touch it", episode.states, episode.actions, images))
    config = changed(settings(toy, tower, batch_size=16), **{"data.datasets": (toy, str(top)), "data.cameras": ("front",)})
    with TrainingData(config, tmp_path / "run", 0, 0) as training_data:
        batch = training_data.batch(0, 0)
    assert 0 < batch.images_mask.sum() < 16 and batch.features.shape == (16, 1, 1, 17, 16)
    assert (batch.features.any((3, 4)) == batch.images_mask).all()


def test_images_that_change_are_refused(toy, tower):
    with pytest.raises(ConfigError, match=r"these of augment change them: shift_pixels, contrast; set them to 0"):
        settings(toy, tower, dataclasses.replace(PLAIN, shift_pixels=1, contrast=0.1))
    with pytest.raises(ConfigError, match=r"replaces the images, and the network's goal 'goal_conv' compares them"):
        settings(toy, tower, goal=Part("goal_conv"))
    with pytest.raises(ConfigError, match="keeps the features of color images only"):
        settings(toy, tower, depth=Part("depth_conv"))


def test_an_encoder_that_learns_or_listens_is_refused(toy, tower, tmp_path):
    for vision in (Part("film_conv"), Part("hf_vision", {"checkpoint": str(tower)})):
        with pytest.raises(ConfigError, match=f"needs a frozen vision encoder .* the network's is '{vision.name}' with"):
            train_policy(settings(toy, tower, vision=vision), tmp_path / vision.name, progress=False)
    torch.manual_seed(0)
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    transformers.ResNetModel(resnet).save_pretrained(tmp_path / "resnet")
    with pytest.raises(ConfigError, match=r"does not depend on the instruction"):
        TrainingData.prepare(settings(toy, tower, vision=frozen(tmp_path / "resnet", film=True, size=32)))
