"""A policy that continues planned actions, given in the robot's units."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from verbot.agents import RealTimeAgent
from verbot.contracts import continuation_of
from verbot.errors import ConfigError, SpecError
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.policy.planned import planned_actions
from verbot.policy.policy import VLAPolicy
from verbot.spec import Camera, Component, FloatArray, Observation, RobotSpec
from verbot.statistics import Statistics

XYZ = ("x", "y", "z")
SPEC = RobotSpec(
    "tiny",
    10.0,
    (Camera("front", 16, 16),),
    (
        Component("ee_position", "position", XYZ, "m", "base", (-1.0,) * 3, (1.0,) * 3),
        Component("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,)),
    ),
    (
        Component("position_delta", "position_delta", XYZ, "m", "base", (-0.05,) * 3, (0.05,) * 3),
        Component("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,)),
    ),
)
PLANNED = np.array([[0.02, -0.01, 0.0, 1.0], [0.01, 0.03, -0.04, 0.0]], np.float32)
FLOW = {"hidden": 16, "steps": 4}


def made(head: Part) -> VLAPolicy:
    config = NetworkConfig(width=16, chunk=4, fusion=Part("mlp", {"hidden": 32}), head=head)
    rng = np.random.default_rng(0)
    actions = np.c_[rng.uniform(-0.02, 0.05, (50, 3)), rng.integers(0, 2, 50)]
    return VLAPolicy.create(config, SPEC, Statistics.of({"state": rng.normal(size=(50, 4)), "action": actions}), ["go"])


def make_policy() -> VLAPolicy:
    return made(Part("regression"))


def flow(**options: object) -> VLAPolicy:
    return made(Part("flow", {**FLOW, **options}))


def observation(seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Observation({"front": image}, rng.normal(size=4).astype(np.float32), "go", time_s=seed * 0.1)


def planning(seed: int, planned: FloatArray | None = PLANNED, committed: int = 0) -> Observation:
    return dataclasses.replace(observation(seed), planned=planned, committed=committed)


def test_planned_actions_are_normalized_and_padded_with_the_last_target_and_never_with_zeros() -> None:
    policy = flow()
    seen = [planning(0, None), planning(1, PLANNED, 2), planning(2, np.repeat(PLANNED, 3, 0), 5)]
    found = planned_actions(seen, 4, policy.action_transform)
    assert found is not None
    assert found.known.tolist() == [0, 2, 4] and found.committed.tolist() == [0, 2, 4]
    back = policy.action_transform.inverse(found.values.numpy())
    np.testing.assert_allclose(back[1], PLANNED[[0, 1, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(back[2], PLANNED[[0, 0, 0, 1]], atol=1e-6)
    assert planned_actions(seen[:1], 4, policy.action_transform) is None


def test_a_mixed_batch_leaves_the_others_as_they_were_to_the_bit() -> None:
    policy = flow()
    seen = [observation(seed) for seed in range(3)]
    plain = [chunk.values for chunk in policy.predict(seen)]
    mixed = [chunk.values for chunk in policy.predict([seen[0], planning(1, committed=1), seen[2]])]
    np.testing.assert_array_equal(mixed[0], plain[0])
    np.testing.assert_array_equal(mixed[2], plain[2])
    assert np.abs(mixed[1][0] - PLANNED[0]).mean() < np.abs(plain[1][0] - PLANNED[0]).mean()
    assert all(parameter.grad is None for parameter in policy.network.parameters())


def test_a_prefix_comes_back_in_the_robots_units(tmp_path: object) -> None:
    policy = flow(prefix=2)
    (chunk,) = policy.predict([planning(0, committed=2)])
    np.testing.assert_allclose(chunk.values[:2], PLANNED, atol=1e-5)
    policy.save(f"{tmp_path}/policy")
    again = VLAPolicy.load(f"{tmp_path}/policy")
    assert continuation_of(again) == "trained"
    np.testing.assert_array_equal(again.predict([planning(0, committed=2)])[0].values, chunk.values)


def test_a_policy_says_how_it_continues_actions_and_agents_ask() -> None:
    assert [continuation_of(each) for each in (make_policy(), flow(), flow(prefix=1))] == ["", "guided", "trained"]
    RealTimeAgent(flow(), method="guided")
    RealTimeAgent(flow(prefix=1), method="trained")
    with pytest.raises(ConfigError, match="it ignores them; use aligned or blend"):
        RealTimeAgent(make_policy(), method="guided")
    ignored, plain = make_policy().predict([planning(0)])[0], make_policy().predict([observation(0)])[0]
    np.testing.assert_array_equal(ignored.values, plain.values)


@pytest.mark.parametrize("planned", [PLANNED[:, :3], PLANNED * np.nan, np.zeros((0, SPEC.action_size), np.float32)])
def test_planned_actions_that_the_robot_cannot_execute_are_refused(planned: FloatArray) -> None:
    with pytest.raises(SpecError, match="chunk of actions"):
        flow().predict([planning(0, planned)])
