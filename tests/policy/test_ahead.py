"""A policy that reads where the robot will be: how that is found, and what the policy makes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from verbot.agents import RealTimeAgent
from verbot.contracts import continuation_of
from verbot.errors import ConfigError, PolicyError, SpecError
from verbot.files import sha256
from verbot.models.network import NetworkConfig
from verbot.models.registries import Objective, Part
from verbot.models.tokens import LaterActions
from verbot.policy.policy import VLAPolicy
from verbot.spec import Camera, Component, FloatArray, ForwardModel, Observation, Response, RobotSpec
from verbot.statistics import Statistics
from verbot.training.imitation.forward_fit import errors, fit_forward

XYZ = ("x", "y", "z")
GRIPPER = Component("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,))
POSITION = Component("ee_position", "position", XYZ, "m", "base", (-9.0,) * 3, (9.0,) * 3)
QUATERNION = Component("ee_quaternion", "quaternion", ("w", *XYZ), "1", "base", (-1.0,) * 4, (1.0,) * 4)
STEP = Component("position_delta", "position_delta", XYZ, "m", "base", (-0.05,) * 3, (0.05,) * 3)
TURN = Component("rotation_delta", "rotation_delta", XYZ, "rad", "base", (-0.35,) * 3, (0.35,) * 3)
ARM = RobotSpec("arm", 10.0, (Camera("front", 16, 16),), (POSITION, QUATERNION, GRIPPER), (STEP, TURN, GRIPPER))
HOME = np.array([0, 0, 0, 1, 0, 0, 0, 0.5], np.float32)
ROWS = np.array([[0.02, -0.01, 0, 0, 0, 0.3, 1], [0.02, 0.03, -0.04, 0, 0, 0.3, 0.2]], np.float32)


def made(ahead: int = 4, **changes: object) -> VLAPolicy:
    config = NetworkConfig(width=16, chunk=4, fusion=Part("mlp", {"hidden": 32}), ahead=ahead, **changes)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    numbers = Statistics.of({"state": rng.normal(size=(50, 8)), "action": rng.uniform(-0.02, 0.05, (50, 7))})
    model = ForwardModel(ARM, {"position_delta": Response(0.6, 0.08)})
    return VLAPolicy.create(config, ARM, numbers, ["go"], forward=model)


def make_policy() -> VLAPolicy:
    return made()


def seen(seed: int = 0, planned: FloatArray | None = ROWS, committed: int = 2) -> Observation:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Observation({"front": image}, HOME, "go", time_s=1.0, planned=planned, committed=committed)


def test_exact_rolling_sums_displacements_and_turns_and_puts_grippers_where_they_are_commanded() -> None:
    found = ForwardModel(ARM).ahead(HOME, None, ROWS)
    np.testing.assert_allclose(found[:3], [0.04, 0.02, -0.04], atol=1e-6)
    np.testing.assert_allclose(found[3:7], [np.cos(0.3), 0, 0, np.sin(0.3)], atol=1e-6)
    assert found[7] == np.float32(0.2) and found.dtype == np.float32
    np.testing.assert_array_equal(ForwardModel(ARM).ahead(HOME, None, ROWS[:0]), HOME)
    switch = ForwardModel(ARM, {"gripper": Response(is_switch=True)})
    assert [switch.ahead(HOME, None, ROWS[:n])[7] for n in (1, 2)] == [1, 0]
    wild = ForwardModel(ARM).ahead(HOME, None, 10 * ROWS)
    np.testing.assert_allclose(wild[:3], [0.10, -0.05 + 0.05, -0.05], atol=1e-6)  # the robot clips actions to their ranges


def test_a_tool_that_runs_after_its_target_goes_on_when_nothing_is_commanded() -> None:
    model = ForwardModel(ARM, {"position_delta": Response(0.5, 0.08), "rotation_delta": Response(0.5)})
    before, still = HOME.copy(), np.zeros((3, 7), np.float32)
    before[0] = -0.02
    path = model.path(HOME[None], before[None], still[None])[0]
    np.testing.assert_allclose(path[:, 0], [0.01, 0.015, 0.0175], atol=1e-6)  # 0.02 a step with a share of a half: 0.02 ahead
    assert (model.path(HOME[None], None, still[None])[0, :, 0] == 0).all()
    fast = np.zeros((40, 7), np.float32)
    fast[:, 0] = 0.05
    steps = np.diff(model.path(HOME[None], None, fast[None])[0, :, 0])
    np.testing.assert_allclose(steps[-5:], 0.5 * 0.08, atol=1e-6)  # on its leash, however far it is sent
    turned = HOME.copy()
    turned[3:7] = [np.cos(-0.05), 0, 0, np.sin(-0.05)]
    angle = 2 * np.arcsin(model.path(HOME[None], turned[None], still[None])[0, :, 6])
    np.testing.assert_allclose(angle, [0.05, 0.075, 0.0875], atol=1e-6)


def test_other_robots_are_rolled_forward_as_their_actions_say() -> None:
    joints = Component("joints", "joint_position", ("a", "b"), "rad", "base", (-3.0,) * 2, (3.0,) * 2)
    arm = RobotSpec("joints", 10.0, (), (joints, GRIPPER), (joints, GRIPPER))
    state, goal = np.zeros((1, 3), np.float32), np.array([[[1, -1, 0.3]] * 2], np.float32)
    path = ForwardModel(arm, {"joints": Response(0.5)}).path(state, None, goal)[0]
    np.testing.assert_allclose(path, [[0.5, -0.5, 0.3], [0.75, -0.75, 0.3]], atol=1e-6)
    in_tool = dataclasses.replace(ARM, action=(dataclasses.replace(STEP, frame="tool"), GRIPPER))
    path = ForwardModel(in_tool).path(HOME[None], None, np.ones((1, 2, 4), np.float32))[0]
    np.testing.assert_array_equal(path[:, :3], 0)  # in another frame than the position: it stays where it is
    with pytest.raises(SpecError, match=r"has no action 'elbow' that moves its state; it has \['gripper', 'joints'\]"):
        ForwardModel(arm, {"elbow": Response()})
    with pytest.raises(SpecError, match="the share 0 and the lead None; expected 0 < share <= 1"):
        Response(0)


def test_how_a_robot_follows_is_found_in_noisy_demonstrations() -> None:
    rng, truth = (
        np.random.default_rng(0),
        ForwardModel(ARM, {"position_delta": Response(0.6, 0.08), "rotation_delta": Response(0.4)}),
    )
    episodes = []
    for _ in range(40):
        actions = np.repeat(rng.uniform(-1, 1, (8, 7)), 4, 0) * [*[0.05] * 3, *[0.1] * 3, 1]
        actions[:, 6] = actions[:, 6] > 0
        given = actions.copy()
        given[:, :6] += rng.normal(0, 0.003, (32, 6))  # the demonstrator's hand trembles, and the recorded actions do not say so
        after = truth.path(HOME[None], None, given[None].astype(np.float32))[0]
        episodes.append((np.concatenate([HOME[None], after[:-1]]), actions.astype(np.float32)))
    found = fit_forward(ARM, episodes)
    assert found.responses["position_delta"].share == pytest.approx(0.6, abs=0.03)
    assert found.responses["position_delta"].lead == pytest.approx(0.08, abs=0.011)
    assert found.responses["rotation_delta"].share == pytest.approx(0.4, abs=0.05)
    assert found.responses["gripper"].is_switch
    assert (errors(found, episodes)[4][:3] < 0.6 * errors(ForwardModel(ARM), episodes)[4][:3]).all()
    still = RobotSpec("still", 10.0, (), (POSITION,), (Component("wheels", "other", ("x",), "1", "base", (-1.0,), (1.0,)),))
    with pytest.raises(ConfigError, match="no action of robot 'still' moves a part of its state"):
        fit_forward(still, episodes)


def test_a_policy_answers_from_the_state_after_the_committed_actions() -> None:
    policy = made()
    present = seen(planned=None, committed=0)
    (plain,) = policy.predict([present])
    late, other = policy.predict([seen(), seen(planned=-ROWS)])
    assert np.abs(late.values - plain.values).max() > 1e-3 and np.abs(late.values - other.values).max() > 1e-3
    np.testing.assert_array_equal(policy.predict([seen(committed=0)])[0].values, plain.values)  # planned, but not certain
    batch = policy.collate_observations([seen()], [policy.preprocess(seen())])
    assert batch.planned is None and batch.ahead is not None
    back = policy._state.inverse(batch.ahead.numpy())[0]
    np.testing.assert_allclose(back, policy.forward.ahead(HOME, None, ROWS), atol=1e-5)
    moving = dataclasses.replace(seen(), previous_state=HOME - np.float32(0.02))
    assert np.abs(policy.predict([moving])[0].values - late.values).max() > 1e-4
    with pytest.raises(SpecError, match="the previous state is .*; expected 8 finite numbers"):
        policy.predict([dataclasses.replace(seen(), previous_state=HOME[:3])])


def test_a_network_learns_later_moments_of_the_same_images() -> None:
    policy = made(objectives={"action": Objective()})
    batch = policy.collate_observations([seen(seed) for seed in range(4)], [policy.preprocess(seen(seed)) for seed in range(4)])
    present = torch.randn(4, 4, 7, generator=torch.Generator().manual_seed(0)).clamp(0.1, 0.9)
    known, later = torch.ones(4, 4, dtype=torch.bool), torch.zeros(4, 2, 4, 7) + 0.5
    batch = dataclasses.replace(batch, ahead=None, actions=present, actions_mask=known)
    states = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(1))
    masks = known[:, None].repeat(1, 2, 1)
    network = policy.network.eval()
    alone = network.losses(batch)["action"]
    moments = [
        network.losses(dataclasses.replace(batch, ahead=states[:, i], actions=later[:, i]))["action"] for i in range(2)
    ]  # as if each had images of its own
    together = network.losses(dataclasses.replace(batch, later=LaterActions(states, later, masks)))
    torch.testing.assert_close(together["action"], (alone + sum(moments)) / 3)
    torch.testing.assert_close(together["loss"], together["action"])
    none = network.losses(dataclasses.replace(batch, later=LaterActions(states, later, ~masks)))["action"]
    torch.testing.assert_close(none, alone / 3)  # nothing is known of later moments
    assert abs(moments[0].item() - moments[1].item()) > 1e-4


def test_the_forward_model_comes_with_the_policy(tmp_path: Path) -> None:
    policy = made()
    policy.save(tmp_path / "policy")
    again = VLAPolicy.load(tmp_path / "policy")
    assert again.forward == policy.forward and again.identity == policy.identity and continuation_of(again) == "ahead"
    np.testing.assert_array_equal(again.predict([seen()])[0].values, policy.predict([seen()])[0].values)
    assert policy.blinded().forward == policy.forward
    made(ahead=0).save(tmp_path / "plain")
    record = json.loads((tmp_path / "plain" / "policy.json").read_text())
    assert "ahead" not in record and "ahead" not in record["network"]  # as it was before
    path = tmp_path / "policy" / "policy.json"
    for wrong, said in (
        ({"position_delta": {"share": 2}}, "share 2"),
        ({"legs": {}}, "no action 'legs'"),
        ([], "expected a table"),
    ):
        damaged = json.dumps({**json.loads(path.read_text()), "ahead": wrong}).encode()
        path.write_bytes(damaged)
        manifest = tmp_path / "policy" / "manifest.json"
        names = json.loads(manifest.read_text())
        names["sha256"]["policy.json"] = sha256(damaged)
        manifest.write_text(json.dumps(names))
        with pytest.raises(PolicyError, match=said):
            VLAPolicy.load(tmp_path / "policy")


def test_what_cannot_read_ahead_says_so() -> None:
    RealTimeAgent(made(), method="ahead")
    with pytest.raises(ConfigError, match="by the method 'ahead': it ignores them; use aligned or blend"):
        RealTimeAgent(made(ahead=0), method="ahead")
    with pytest.raises(ConfigError, match="by the method 'guided': it can only be ahead"):
        RealTimeAgent(made(head=Part("flow", {"hidden": 16, "steps": 4})), method="guided")
    with pytest.raises(ConfigError, match="ahead is -1"):
        made(ahead=-1)
    with pytest.raises(ConfigError, match="the memory 'gru' is written in every step"):
        made(memory=Part("gru"), sequence=2)
    with pytest.raises(ConfigError, match="head.prefix"):
        made(head=Part("flow", {"hidden": 16, "steps": 4, "prefix": 2}))


def test_over_a_server_the_answer_is_the_same() -> None:
    pytest.importorskip("websockets")
    from verbot.deploy.server import PolicyServer
    from verbot.remote import RemotePolicy

    policy = made()
    moving = dataclasses.replace(seen(), previous_state=HOME - np.float32(0.02))
    with PolicyServer(policy) as server, RemotePolicy(server.url) as remote:
        assert continuation_of(remote) == "ahead"
        np.testing.assert_array_equal(remote.predict([moving])[0].values, policy.predict([moving])[0].values)
