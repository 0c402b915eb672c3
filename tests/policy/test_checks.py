"""Nothing that is not finite leaves a policy, and a memory that it did not write is a `SpecError`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.policy.test_policy import CONFIG, SPEC, TEXTS, make_policy, observation, statistics

from verbot.contracts import IdentifiedPolicy, RememberingPolicy
from verbot.errors import PolicyError, SpecError
from verbot.models.registries import Part
from verbot.policy.identity import policy_identity
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.policy.storage import STARTER
from verbot.statistics import Statistics

PREVIOUS = Part("action", {"hidden": 16})
EVERY = dataclasses.replace(CONFIG, memory=Part("external"), sequence=4, history=2, previous_action=PREVIOUS)


@pytest.fixture(scope="module")
def policy() -> VLAPolicy:
    """It writes every kind of memory."""
    return VLAPolicy.create(EVERY, SPEC, statistics(), TEXTS)


def changed(array: np.ndarray, how: str) -> Any:
    if how == "not finite":
        return np.full_like(array, np.nan) if array.dtype.kind == "f" else array.astype(np.float32) * np.nan
    return {
        "longer": np.concatenate([array, array])[:, None] if array.ndim else np.zeros(2),
        "empty": array[:0] if array.ndim else np.zeros(0),
        "scalar": np.zeros(()) if array.ndim else np.zeros((1, 1)),
        "text": np.full(array.shape, "x"),
        "objects": np.full(array.shape, None),
        "complex": array.astype(np.complex64),
        "a list": array.tolist(),
        "whole numbers": array.astype(np.int64),
    }[how]


KINDS = ("not finite", "longer", "empty", "scalar", "text", "objects", "complex", "a list", "whole numbers")


def test_every_poisoned_memory_is_a_spec_error_and_only_its_own_is_read(policy: VLAPolicy) -> None:
    (first,) = policy.predict([observation()])
    memory = dict(first.memory or {})
    assert len(memory) == 11
    for name, array in memory.items():
        for how in KINDS:
            with pytest.raises(SpecError, match="memory"):
                policy.predict([dataclasses.replace(observation(1), memory={**memory, name: changed(array, how)})])
        with pytest.raises(SpecError, match=f"it has no '{name}'"):
            policy.predict([dataclasses.replace(observation(1), memory={n: a for n, a in memory.items() if n != name})])
    with pytest.raises(SpecError, match="it has 'else', which this one never writes"):
        policy.predict([dataclasses.replace(observation(1), memory={**memory, "else": np.zeros(1)})])
    with pytest.raises(SpecError, match="the frames of this memory differ in number: 1, 2"):
        policy.predict([dataclasses.replace(observation(1), memory={**memory, "time_s": np.zeros(2)})])
    with pytest.raises(SpecError, match="this memory is of another policy: it has no"):
        policy.predict([dataclasses.replace(observation(1), memory={})])
    assert policy.predict([dataclasses.replace(observation(1), memory=memory)])[0].memory is not None


@pytest.mark.parametrize("size", [1e30, 3e38, 1e300])
def test_numbers_beyond_everything_give_finite_actions_or_a_typed_error(policy: VLAPolicy, size: float) -> None:
    (first,) = policy.predict([observation()])
    for name, array in (first.memory or {}).items():
        if array.dtype.kind == "f":
            poisoned = np.full(array.shape, size)
            seen = dataclasses.replace(observation(1), memory={**(first.memory or {}), name: poisoned})
            try:
                with np.errstate(all="ignore"):
                    assert np.isfinite(policy.predict([seen])[0].values).all()
            except (PolicyError, SpecError):
                pass


def test_times_that_are_not_finite_are_refused(policy: VLAPolicy) -> None:
    for time_s in (float("nan"), float("inf")):
        with pytest.raises(SpecError, match=f"the observation has the time {time_s}"):
            policy.predict([dataclasses.replace(observation(), time_s=time_s)])
    (first,) = policy.predict([observation()])
    for time_s in (1e308, -1e308):
        policy.predict([dataclasses.replace(observation(), time_s=time_s, memory=first.memory)])


def test_predictions_that_are_not_finite_do_not_leave() -> None:
    for value in (float("nan"), float("inf")):
        policy = make_policy()
        with torch.no_grad():
            list(policy.network.head.parameters())[-1].fill_(value)
        with pytest.raises(PolicyError, match="the policy for robot 'tiny' predicted actions that are not finite"):
            policy.predict([observation()])
    broken = {name: dataclasses.replace(each, mean=each.mean * np.nan) for name, each in statistics().features.items()}
    with pytest.raises(PolicyError, match="predicted actions that are not finite"):
        VLAPolicy(make_policy().network, SPEC, Statistics(broken)).predict([observation()])


def test_the_identity_is_that_of_the_saved_policy_and_changes_with_every_weight(tmp_path: Any) -> None:
    policy = make_policy()
    assert isinstance(policy, IdentifiedPolicy)
    policy.save(tmp_path / "policy")
    identity = policy.identity
    assert identity == policy_identity(tmp_path / "policy") == load_policy(tmp_path / "policy").identity == make_policy().identity
    assert len({identity, make_policy(seed=1).identity, policy.blinded().identity}) == 3
    with torch.no_grad():
        next(policy.network.head.parameters()).view(-1)[0] += 1.0
    assert policy.identity != identity
    policy.network.load_state_dict(make_policy().network.state_dict())
    assert policy.identity == identity
    next(policy.network.head.parameters()).data.add_(1)
    assert policy.identity != identity
    with torch.inference_mode():
        assert make_policy().identity == identity


def test_a_loaded_policy_is_the_one_of_its_folder() -> None:
    starter = load_policy("starter")
    assert starter.identity == policy_identity(STARTER)


def test_a_policy_says_how_large_its_memory_becomes() -> None:
    policy = make_policy(dataclasses.replace(CONFIG, history=3, stride=2, previous_action=PREVIOUS))
    assert isinstance(policy, RememberingPolicy) and make_policy(dataclasses.replace(CONFIG, history=1)).memory_bytes == 0
    memory = None
    for step in range(12):
        seen = dataclasses.replace(observation(), memory=memory, time_s=step / SPEC.rate_hz)
        (chunk,) = policy.predict([seen])
        memory = chunk.memory
    assert memory is not None
    held = sum(array.nbytes for array in memory.values())
    assert held <= policy.memory_bytes < 2 * held
