"""Depth cameras: rendered in meters, fitted without mixing surfaces, read by the network, and ignored by one without encoder."""

from contextlib import closing
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch

from verbot.envs import make_env
from verbot.envs.fitting import fitting_options
from verbot.errors import ConfigError, SpecError
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.registries import Part, depth_encoders
from verbot.models.tokens import Batch, Masked
from verbot.policy.policy import VLAPolicy
from verbot.remote.codec import decode, encode, observation_from_wire, observation_to_wire
from verbot.rollout.video import compose
from verbot.spec import Observation, RobotSpec
from verbot.statistics import Statistics
from verbot.transforms import FitImage, fit_depth

SUITE = "tabletop-starter"


@pytest.fixture(scope="module")
def env():
    with closing(make_env(SUITE, depth=True, image_size=32)) as opened:
        opened.reset(seed=0, options={"index": 0})
        yield opened


@pytest.fixture(scope="module")
def observation(env):
    record, _ = env.reset(seed=0, options={"index": 0})
    return Observation(record["images"], record["state"], record["instruction"])


def config(**changes):
    return replace(NetworkConfig(width=16, chunk=4, depth=Part("depth_conv", {"channels": 4, "tokens": 3})), **changes)


def policy(spec, **changes):
    rng = np.random.default_rng(0)
    low, high = spec.action_low(), spec.action_high()
    arrays = {"state": rng.normal(size=(50, spec.state_size)), "action": rng.uniform(low, high, (50, spec.action_size))}
    statistics = Statistics.of({name: value.astype(np.float32) for name, value in arrays.items()})
    return VLAPolicy.create(config(**changes), spec, statistics, ["pick up the red cube"])


def test_depth_is_in_meters_along_the_axis(env):
    """As rays of the simulator measure it."""
    record, _ = env.reset(seed=3, options={"index": 1})
    depth, model, data = record["images"]["front_depth"], env.physics.model, env.physics.data
    camera = model.camera("front").id
    rotation, origin = data.cam_xmat[camera].reshape(3, 3), data.cam_xpos[camera].copy()
    focal = 16 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    rng, near = np.random.default_rng(0), 0
    for _ in range(60):
        row, column = rng.integers(0, 32, 2)
        ray = np.array([(column + 0.5 - 16) / focal, (16 - row - 0.5) / focal, -1.0])
        length = np.linalg.norm(ray)
        distance = mujoco.mj_ray(model, data, origin, rotation @ ray / length, None, 1, -1, np.zeros(1, np.int32))
        near += abs(distance / length - depth[row, column]) < 1e-3
    assert near >= 54  # at an edge the ray and the rasterizer may meet different surfaces


def test_the_env_says_what_it_gives(env, observation):
    assert env.robot_spec.color_names == ("front", "wrist")
    assert [c.name for c in env.robot_spec.depth_cameras] == ["front_depth", "wrist_depth"]
    observation.check(env.robot_spec)
    record, info = env.reset(seed=0, options={"index": 0})
    assert env.observation_space["images"].contains(record["images"])
    assert info["calibration"]["front_depth"] == info["calibration"]["front"]
    assert RobotSpec.from_json(env.robot_spec.to_json()) == env.robot_spec
    assert compose(record["images"]).shape[2] == 3


def test_color_is_the_same_with_and_without_depth(env):
    with closing(make_env(SUITE, image_size=32)) as plain:
        before, _ = plain.reset(seed=0, options={"index": 0})
    after, _ = env.reset(seed=0, options={"index": 0})
    for name, image in before["images"].items():
        np.testing.assert_array_equal(image, after["images"][name])


def test_wrong_depth_is_refused(env, observation):
    spec, depth = env.robot_spec, observation.images["front_depth"]
    for wrong, message in (
        (depth.astype(np.float64), r"gave float64 \(32, 32\); expected float32 \(32, 32\) in meters"),
        (depth[:16], r"expected float32 \(32, 32\)"),
        (np.full_like(depth, np.nan), "negative or not finite; expected 0 where unknown"),
        (-depth, "negative or not finite"),
    ):
        with pytest.raises(SpecError, match=message):
            replace(observation, images={**observation.images, "front_depth": wrong}).check(spec)
    with pytest.raises(SpecError, match="lacks camera 'front_depth'"):
        replace(observation, images={"front": observation.images["front"], "wrist": observation.images["wrist"]}).check(spec)


def test_fitting_does_not_mix_surfaces():
    """The nearest pixel in the same place as color; unknown depth stays unknown."""
    rng = np.random.default_rng(0)
    depth = rng.choice(np.array([0.0, 0.5, 1.5], np.float32), (2, 48, 64))
    fitted = fit_depth(depth, FitImage((48, 64), (16, 16)))
    assert fitted.shape == (2, 16, 16) and set(np.unique(fitted)) <= {0.0, 0.5, 1.5}
    rows = np.broadcast_to(np.arange(48, dtype=np.float32)[:, None], (48, 64))
    columns = np.broadcast_to(np.arange(64, dtype=np.float32), (48, 64))
    fit = FitImage((48, 64), (16, 16))
    for values in (rows, columns):
        color = fit.forward(np.repeat(values[..., None], 3, -1).astype(np.uint8))[..., 0]
        assert abs(fit_depth(values, fit) - color).max() <= 1.5


def batch(network, spec, depth=None):
    sizes, rng = network.sizes, np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (6, 1, sizes.views, 3, sizes.height, sizes.width_px), np.uint8))
    generator = torch.Generator().manual_seed(0)
    state, mask = torch.randn(6, 1, sizes.state, generator=generator), torch.ones(6, 1, dtype=torch.bool)
    text = network.backbone.prepare(["pick up the red cube"] * 6)
    actions = torch.randn(6, sizes.chunk, sizes.action_size, generator=generator)
    shown = torch.ones(6, 1, sizes.views, dtype=torch.bool)
    return Batch(images, shown, state, mask, text, actions, torch.ones(6, sizes.chunk, dtype=torch.bool), depth=depth)


def depth_of(spec, value=None):
    values = torch.rand(6, 1, 2, 32, 32) * 2 if value is None else torch.full((6, 1, 2, 32, 32), float(value))
    return Masked(values, torch.ones(6, 1, 2, dtype=torch.bool))


def test_depth_changes_the_actions_and_is_trained(env):
    spec = env.robot_spec
    torch.manual_seed(0)
    network = VLANetwork(config().fit(["pick up the red cube"]), spec)
    depth = depth_of(spec)
    near, far, unknown, clipped = (
        network.predict(batch(network, spec, d)).actions
        for d in (depth, replace(depth, values=depth.values * 0.5), depth_of(spec, 0), depth_of(spec, 7.0))
    )
    assert not torch.allclose(near, far) and not torch.allclose(unknown, clipped)
    torch.testing.assert_close(clipped, network.predict(batch(network, spec, depth_of(spec, 2.0))).actions)
    network.losses(batch(network, spec, depth))["loss"].backward()
    for name, parameter in network.backbone.depth.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_masked_depth_changes_nothing(env):
    spec = env.robot_spec
    torch.manual_seed(0)
    network = VLANetwork(config().fit(["pick up the red cube"]), spec)
    depth = depth_of(spec)
    masked = [Masked(values, torch.zeros_like(depth.mask)) for values in (depth.values, 2 * depth.values)]
    found = [network.predict(batch(network, spec, each)).actions for each in (*masked, None)]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_a_network_without_depth_encoder_is_the_same_with_depth_cameras(env):
    spec = env.robot_spec
    networks = []
    for robot in (spec, spec.color_only()):
        torch.manual_seed(0)
        networks.append(VLANetwork(config(depth=None).fit(["pick up the red cube"]), robot))
    one, other = (network.state_dict() for network in networks)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_policy_reads_depth_and_keeps_it(env, observation, tmp_path):
    made = policy(env.robot_spec, history=2)
    first = made.predict([observation])[0]
    later = replace(observation, time_s=0.1, memory=first.memory)
    images = {**observation.images, "front_depth": np.zeros((32, 32), np.float32)}
    changed = made.predict([replace(later, images=images)])[0]
    seen = made.predict([later])[0]
    assert not np.allclose(seen.values, changed.values)
    made.save(tmp_path / "policy")
    loaded = VLAPolicy.load(tmp_path / "policy")
    assert loaded.config.depth_range_m == (0.1, 2.0)
    np.testing.assert_array_equal(loaded.predict([later])[0].values, seen.values)
    sent = observation_from_wire(decode(encode(observation_to_wire(observation))))
    np.testing.assert_array_equal(loaded.predict([sent])[0].values, first.values)


def test_past_depth_changes_the_actions(env, observation):
    made = policy(env.robot_spec, history=2)
    far = replace(observation, images={**observation.images, "front_depth": observation.images["front_depth"] * 0.5})
    memories = [made.predict([each])[0].memory for each in (observation, far)]
    one, other = (made.predict([replace(observation, time_s=0.1, memory=memory)])[0].values for memory in memories)
    assert not np.allclose(one, other)


def test_an_env_is_given_depth_for_a_policy_that_reads_it(env):
    options = fitting_options(lambda **options: make_env(SUITE, **options), env.robot_spec)
    assert options == {"image_size": 32, "depth": True}


def test_what_does_not_fit_is_refused(env):
    with pytest.raises(ConfigError, match="the depth encoder 'depth_conv' needs a depth camera"):
        config().sizes(env.robot_spec.color_only())
    with pytest.raises(ConfigError, match=r"depth_range_m is \(2.0, 0.1\)"):
        config(depth_range_m=(2.0, 0.1))
    with pytest.raises(ConfigError, match="the navigation env has no depth camera"):
        make_env("navigation", depth=True)
    assert depth_encoders.names() == ("depth_conv",)
