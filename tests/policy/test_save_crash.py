"""A policy that is saved over another one is found whole after a kill at any change on disk."""

from __future__ import annotations

import itertools
import os

import numpy as np
import torch

from verbot.models.network import NetworkConfig, Part
from verbot.policy.identity import policy_identity
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.spec import Component, RobotSpec
from verbot.statistics import Statistics


def tiny(seed: int) -> VLAPolicy:
    grip = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    found = Statistics.of({name: np.zeros((2, 1)) for name in ("state", "action")})
    network = NetworkConfig(vision=Part("film_conv", {"channels": 4, "heatmaps": 4}), width=8, chunk=2)
    return VLAPolicy.create(network, RobotSpec("toy", 10.0, (), (grip,), (grip,)), found, ["open"], seed=seed)


def test_a_policy_is_the_old_or_the_new_one_after_a_kill_at_every_change(tmp_path, killed, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    torch.set_num_threads(1)
    path, policies = tmp_path / "policy", [tiny(0), tiny(1)]
    names = []
    for policy in policies:
        policy.save(path)
        names.append(policy_identity(path))
    seen = []
    for number in itertools.count():
        policies[0].save(path)
        if not killed(lambda: policies[1].save(path), number, tmp_path):
            break
        seen.append(policy_identity(path))
        if number % 5 == 0:
            load_policy(path)
        assert seen[-1] in names, number
    policies[0].save(path)
    assert {*seen} == {*names} and len(seen) > 12 and [*tmp_path.iterdir()] == [path]
