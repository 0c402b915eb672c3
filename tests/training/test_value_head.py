"""A value head learns from demonstrations how near their end is."""

import numpy as np
import pytest
import torch

from verbot.data import WindowConfig, Windows, open_dataset
from verbot.models.network import NetworkConfig
from verbot.models.registries import Objective, Part
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.rollout.collect import collect
from verbot.spec import Observation

GAMMA = 0.95


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("value") / "demonstrations"
    collect("tabletop-starter", path, 3, workers=1)
    return open_dataset(path)


@pytest.fixture(scope="module")
def learned(demonstrations, tmp_path_factory):
    """A small policy that has seen these episodes again and again, saved and loaded."""
    torch.set_num_threads(1)
    config = NetworkConfig(
        vision=Part("film_conv", {"channels": 4, "heatmaps": 4}), fusion=Part("mlp", {"hidden": 64}),
        width=32, chunk=2, image_size=(32, 32),
    ).with_objectives(value=Objective(1.0, {"discount": GAMMA}))  # fmt: skip
    windows = Windows(demonstrations, WindowConfig(chunk=2, labels=config.labels))
    policy = VLAPolicy.create(config, demonstrations.spec, demonstrations.statistics(), [e.instruction for e in demonstrations])
    optimizer, rng = torch.optim.Adam(policy.network.parameters(), 3e-3), np.random.default_rng(0)
    for _ in range(120):
        optimizer.zero_grad()
        policy.network.losses(policy.collate(windows.batch(rng.integers(0, len(windows), 24), rng)))["loss"].backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("value") / "policy"
    policy.save(path)
    return load_policy(path)


def values(policy: VLAPolicy, episode) -> np.ndarray:
    images = {camera: episode.images(camera) for camera in policy.spec.camera_names}
    seen = [
        Observation({camera: frames[i] for camera, frames in images.items()}, episode.states[i], episode.instruction)
        for i in range(len(episode))
    ]
    return np.array([chunk.value for chunk in policy.predict(seen)])


def test_the_value_of_every_frame_is_known_and_rises_towards_the_end(demonstrations, learned):
    found = [values(learned, episode) for episode in demonstrations]
    true = [GAMMA ** np.arange(len(episode) - 1, -1, -1) for episode in demonstrations]
    assert np.corrcoef(np.concatenate(found), np.concatenate(true))[0, 1] > 0.9
    for guesses in found:
        early, middle, late = (part.mean() for part in np.array_split(guesses, 3))
        assert early < middle < late
        assert ((guesses > 0) & (guesses < 1)).all()


def test_a_policy_without_a_value_head_tells_none(demonstrations):
    config = NetworkConfig(width=16, chunk=2, image_size=(16, 16), fusion=Part("mlp", {"hidden": 32}))
    policy = VLAPolicy.create(config, demonstrations.spec, demonstrations.statistics(), ["go"])
    episode = demonstrations[0]
    images = {camera: episode.images(camera)[0] for camera in policy.spec.camera_names}
    (chunk,) = policy.predict([Observation(images, episode.states[0], "go")])
    assert chunk.value is None
    assert policy.collate(Windows(demonstrations, WindowConfig(chunk=2)).batch([0], np.random.default_rng(0))).targets == {}
