"""The data of a run whose recordings have different cameras, depth, and episodes that cannot be read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from toys import PLAIN, SMALL, SPEC, toy_config

from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.errors import DataError
from verbot.models.network import Part
from verbot.policy.policy import VLAPolicy
from verbot.spec import Camera
from verbot.training import DaggerConfig
from verbot.training.imitation import dagger
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.records import Selection

DEEP = dataclasses.replace(SMALL, depth=Part("depth_conv"))


def record(path, cameras, episodes=3, length=8, **options):
    """Episodes in which every picture is as bright, and every depth as large, as the number of its frame."""
    rng = np.random.default_rng(0)
    with DatasetWriter(path, dataclasses.replace(SPEC, cameras=cameras), **options) as writer:
        for _ in range(episodes):
            images = {}
            for camera in cameras:
                shape = (length, camera.height, camera.width)
                depth = np.full(shape, 0.5, np.float32)
                images[camera.name] = depth if camera.kind == "depth" else np.full((*shape, 3), 100, np.uint8)
            states = rng.uniform(0, 0.9, (length, 4)).astype(np.float32)
            actions = rng.uniform(0, 0.04, (length, 4)).astype(np.float32)
            writer.save_episode(EpisodeRecord("go", states, actions, images))
    return str(path)


def batches(config, out, rounds=0, count=4):
    """The next batches, after the policy has taken them."""
    TrainingData.prepare(config)
    with TrainingData(config, out, rounds, 0) as data:
        policy = VLAPolicy.create(data.network, data.spec, data.statistics, data.instructions)
        found = [data.batch(step, 0) for step in range(count)]
        for batch in found:
            policy.collate(batch)
    return found


@pytest.mark.parametrize("order", [1, -1])
def test_a_recording_without_the_depth_camera_is_masked(tmp_path, order):
    colors = (Camera("front", 16, 16),)
    both = record(tmp_path / "both", (*colors, Camera("front_depth", 16, 16, kind="depth")))
    plain = record(tmp_path / "plain", colors)
    changes = {"data.datasets": (both, plain)[::order], "data.depth": True, "batch_size": 16, "validation_share": 0.0}
    for batch in batches(toy_config(both, network=DEEP, augment=PLAIN, **changes), tmp_path / "run"):
        assert batch.images.shape[2] == 1 and batch.images_mask.all() and batch.depth.shape == (16, 1, 1, 16, 16)
        assert 0 < batch.depth_mask.sum() < 16
        np.testing.assert_allclose(batch.depth[batch.depth_mask], 0.5, atol=1e-3)


def test_corrections_have_depth_too(tmp_path):
    cameras = (Camera("front", 16, 16), Camera("front_depth", 16, 16, kind="depth"))
    data, out = record(tmp_path / "data", cameras), tmp_path / "run"
    record(dagger.folder(out, 0), cameras)
    changes = {"data.depth": True, "dagger": DaggerConfig(rounds=1, first=0.5, weight=1e6), "validation_share": 0.0}
    for batch in batches(toy_config(data, network=DEEP, augment=PLAIN, **changes), out, rounds=1):
        assert batch.depth_mask.all()
        np.testing.assert_allclose(batch.depth, 0.5, atol=1e-3)


@pytest.mark.parametrize("size", [None, (8, 16)])
def test_a_recording_with_none_of_the_cameras_is_masked(tmp_path, size):
    front = record(tmp_path / "front", (Camera("front", 16, 16),))
    top = record(tmp_path / "top", (Camera("top", 24, 32),))
    changes = {"data.datasets": (front, top), "data.cameras": ("front",), "batch_size": 16, "network.image_size": size}
    for batch in batches(toy_config(front, augment=PLAIN, validation_share=0.0, **changes), tmp_path / "run"):
        assert batch.images.shape[3:5] == (size or (16, 16)) and 0 < batch.images_mask.sum() < 16
        assert not batch.images[~batch.images_mask].any()


def test_an_episode_that_is_left_out_is_not_read(tmp_path):
    root = record(tmp_path / "data", (Camera("front", 16, 16),), episodes=4, merge_every=2)
    *_, last = sorted((tmp_path / "data" / "data").rglob("*.parquet"))
    last.write_bytes(b"broken")
    with pytest.raises(DataError):
        open_dataset(root)[3].states  # noqa: B018
    changes = {"data.selections": (Selection(numbers="0:2"),), "validation_share": 0.5, "augment": PLAIN}
    assert len(batches(toy_config(root, **changes), tmp_path / "run")) == 4
