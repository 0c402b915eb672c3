"""Images of any size for a network of one, and its points back in the images of the cameras."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from verbot.agents import ChunkAgent
from verbot.deploy import PolicyServer
from verbot.errors import ConfigError
from verbot.evaluation.grounding.metrics import measure_grounding
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.policy.attribution import Attributed
from verbot.policy.fitting import ImageFitter
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.remote import RemotePolicy
from verbot.spec import Camera, Component, Observation, RobotSpec
from verbot.statistics import Statistics
from verbot.transforms import FITS

PLACE = Component("place", "position", ("x", "y"), "m", "base", (-1.0,) * 2, (1.0,) * 2)
SPEC = RobotSpec("arm", 10.0, (Camera("front", 18, 32), Camera("wrist", 21, 21)), (PLACE,), (PLACE,))
SMALL = NetworkConfig(vision=Part("film_conv", {"channels": 4, "heatmaps": 4}), width=16, chunk=3)
STATISTICS = Statistics.of({"state": np.eye(2), "action": np.eye(2)})
FUSIONS = ("mlp", "concat", "cross_attention", "film", "perceiver", "readout", "stack", "bidirectional")


def policy(config=SMALL, spec=SPEC):
    return VLAPolicy.create(config, spec, STATISTICS, ["go"])


def observation(spec=SPEC):
    images = {c.name: np.random.default_rng(0).integers(0, 256, (c.height, c.width, 3), np.uint8) for c in spec.cameras}
    return Observation(images, np.zeros(spec.state_size, np.float32), "go")


@pytest.mark.parametrize("how", FITS)
def test_predicted_keypoints_are_points_of_the_cameras_images(how, tmp_path):
    made = policy(dataclasses.replace(SMALL, image_size=(16, 16), image_fit=how))
    (chunk,) = made.predict([observation()])
    seen = made.collate_observations([observation()], [made.preprocess(observation())])
    with torch.no_grad():
        inner = made.network.predict(seen).extras["keypoints"].values[0].numpy()
    fits = [ImageFitter((16, 16), how).transform(c.height, c.width) for c in SPEC.cameras]
    for fit, points, within in zip(fits, chunk.extras["keypoints"], inner, strict=True):
        np.testing.assert_allclose(fit.points(points), within, atol=1e-5)
    assert np.abs(chunk.extras["keypoints"][0] - inner[0]).max() > 1e-3
    made.save(tmp_path / "policy")
    (again,) = load_policy(tmp_path / "policy").predict([observation()])
    np.testing.assert_array_equal(again.values, chunk.values)


def test_a_size_is_chosen_and_saved(tmp_path):
    made = policy()
    assert made.config.image_size == (16, 16) and made.network.sizes.height == 16, "21×21 has the fewest pixels"
    made.save(tmp_path / "policy")
    assert load_policy(tmp_path / "policy").config == made.config


@pytest.mark.parametrize(
    ("vision", "sides", "expected"),
    [
        (Part("vit", {"patch": 6}), [(20, 33)], (18, 30)),
        (Part("vit", {"patch": 6}), [(24, 36)], None),
        (Part("query_conv"), [(5, 33)], (8, 32)),
        (Part("film_conv"), [(24, 32)], None),
        (Part("film_conv"), [(24, 32), (32, 24)], (24, 32)),
    ],
)
def test_the_default_size_is_what_the_encoder_can_take(vision, sides, expected):
    cameras = tuple(Camera(f"c{i}", *side) for i, side in enumerate(sides))
    spec = dataclasses.replace(SPEC, cameras=cameras)
    config = dataclasses.replace(SMALL, vision=vision)
    assert config.with_image_size(spec).image_size == expected
    assert config.with_image_size(spec).with_image_size(spec) == config.with_image_size(spec)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("absent", ["cameras", "state"])
def test_a_robot_without_cameras_or_state_acts(fusion, absent):
    spec = dataclasses.replace(SPEC, **{absent: ()})
    made = policy(dataclasses.replace(SMALL, fusion=Part(fusion), history=2), spec)
    (chunk,) = made.predict([observation(spec)])
    assert chunk.values.shape == (3, 2) and np.isfinite(chunk.values).all()
    images = {name: 255 - image for name, image in observation(spec).images.items()}
    other = dataclasses.replace(observation(spec), images=images, state=np.full(spec.state_size, 0.5, np.float32))
    (seen,), (heard,) = made.predict([other]), made.predict([dataclasses.replace(observation(spec), instruction="stop")])
    nexts = [dataclasses.replace(observation(spec), time_s=0.1, memory=each.memory) for each in (chunk, seen)]
    later, after_other = (made.predict([each])[0].values for each in nexts)
    for values, before, what in (
        (seen.values, chunk.values, "what is there"), (heard.values, chunk.values, "words"), (after_other, later, "the past")
    ):  # fmt: skip
        assert np.isfinite(values).all() and np.abs(values - before).max() > 1e-7, what


def test_words_are_attributed_without_images_and_grounding_is_not_measured():
    spec = dataclasses.replace(SPEC, cameras=())
    made = policy(dataclasses.replace(SMALL, fusion=Part("cross_attention")), spec)
    (chunk,) = Attributed(made).predict([observation(spec)])
    assert chunk.extras["words"] == ("go",) and "heatmaps" not in chunk.extras
    with pytest.raises(ConfigError, match="this policy of robot 'arm' sees no images"):
        measure_grounding(made, None)


def test_what_a_policy_cannot_do_without_is_named():
    with pytest.raises(ConfigError, match="robot 'arm' has neither cameras nor a state"):
        policy(SMALL, dataclasses.replace(SPEC, cameras=(), state=()))
    config = dataclasses.replace(SMALL, goal=Part("goal_conv"))
    with pytest.raises(ConfigError, match="robot 'arm' has no camera, and the goal 'goal_conv' is an image of one"):
        policy(config, dataclasses.replace(SPEC, cameras=()))


@pytest.mark.parametrize("absent", ["cameras", "state"])
def test_a_policy_without_cameras_or_state_is_served_saved_and_chunked(absent, tmp_path):
    spec = dataclasses.replace(SPEC, **{absent: ()})
    policy(SMALL, spec).save(tmp_path / "policy")
    made = load_policy(tmp_path / "policy")
    (chunk,) = made.predict([observation(spec)])
    with PolicyServer(made) as server, RemotePolicy(server.url) as remote:
        (served,) = remote.predict([observation(spec)])
        assert remote.spec == spec
    np.testing.assert_array_equal(served.values, chunk.values)
    agent = ChunkAgent(made)
    agent.reset("go")
    np.testing.assert_array_equal(agent.act(observation(spec)), chunk.values[0])
