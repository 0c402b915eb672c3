"""Who acts, by name: a policy's folder, the starter policy that ships with verbot, a policy server, or the expert."""

from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from verbot.agents import ChunkAgent
from verbot.contracts import Agent, Env, IdentifiedPolicy, Policy, expert_of
from verbot.envs import make_env
from verbot.envs.fitting import fitting_options
from verbot.errors import ConfigError, VerbotError
from verbot.policy.identity import policy_identity
from verbot.policy.opening import PUBLISHED, load_policy
from verbot.policy.runtime import RuntimePolicy, is_exported
from verbot.policy.storage import json_table, policy_folder
from verbot.rollout.baselines import PolicySource
from verbot.spec import RobotSpec
from verbot.spec.checks import with_clean_names

if TYPE_CHECKING:
    from verbot.remote import RemotePolicy


def open_policy(name: str, device: str = "cpu") -> Policy:
    """The policy called `name`: a folder, ``"starter"``, ``"hf:..."`` for a published one, or a server's ``ws://`` address, which
    has a device of its own (see `open_remote`).

    Raises `ConfigError` if there is no such device.

    Example:
        >>> open_policy("lost")
        Traceback (most recent call last):
        ...
        verbot.errors.PolicyError: lost is not a policy directory: it has no manifest.json; a policy is written by VLAPolicy.save
    """
    if name.startswith(("ws://", "wss://")):
        return open_remote(name)
    policy = load_policy(name)
    if isinstance(policy, RuntimePolicy):
        if device not in ("cpu", "auto"):
            raise ConfigError(f"{name} is an exported policy, which runs on the CPU; --device {device} does not apply")
        return policy
    from verbot.training.distributed.device import find_device

    policy.network.to(find_device(device))
    return policy


def open_remote(url: str) -> RemotePolicy:
    """The policy of the server at `url`, with the token in ``VERBOT_TOKEN`` and the certificates in ``VERBOT_CAFILE``, if set.

    Raises what `RemotePolicy` raises.
    """
    from verbot.remote import RemotePolicy

    cafile = os.environ.get("VERBOT_CAFILE") or None
    return RemotePolicy(url, token=os.environ.get("VERBOT_TOKEN") or None, cafile=cafile if url.startswith("wss://") else None)


def policy_source(name: str, device: str = "cpu") -> PolicySource:
    """The policy called `name` for `verbot.evaluation`, which loads it in every worker process.

    Its identity is the content hash of the policy, also of one behind an address. Results of a server that does not say which
    policy it serves have an identity of their own at each call, because it may serve another one the next time.

    Raises `PolicyError` if there is no policy, `WireError` if no server answers, `ConfigError` if there is no device.
    """
    if name.startswith(("ws://", "wss://")):
        return _remote_source(name)
    if name.startswith(PUBLISHED):
        return _published_source(name, device)
    folder = policy_folder(name)
    identity = policy_identity(folder)[:16]
    if device != "cpu" and not is_exported(folder):
        from verbot.training.distributed.device import find_device

        find_device(device)
    return PolicySource(name, functools.partial(_open_to_evaluate, str(folder.resolve()), device), identity, policy_spec(name))


def policy_spec(name: str) -> RobotSpec | None:
    """The robot that the policy called `name` was trained for, without loading it; None for the expert, or if not recorded.

    Raises `PolicyError` or `WireError` if there is no policy.
    """
    if name == "expert":
        return None
    if name.startswith(("ws://", "wss://")):
        with open_remote(name) as remote:
            return remote.spec
    if name.startswith(PUBLISHED):
        return load_policy(name).spec
    folder = policy_folder(name)
    policy_identity(folder)
    try:
        path = folder / "policy.json"
        return RobotSpec.from_json(with_clean_names(json_table(path.read_bytes(), path)["spec"]))
    except (OSError, KeyError, RecursionError, VerbotError):
        return None  # loading it says what is wrong


def _open_to_evaluate(folder: str, device: str) -> Policy:
    """The policy in `folder`; its predictions do not depend on the batch, so that results do not depend on an interruption."""
    policy = open_policy(folder, device)
    if isinstance(policy, RuntimePolicy):
        policy.equal_texts = True
        return policy
    from verbot.policy.batch_invariance import batch_invariant
    from verbot.policy.policy import VLAPolicy
    from verbot.policy.published.policy import PublishedPolicy

    if isinstance(policy, PublishedPolicy):
        policy.one_by_one = True
        return policy
    return batch_invariant(policy) if isinstance(policy, VLAPolicy) else policy


def _published_source(name: str, device: str) -> PolicySource:
    policy = open_policy(name, device)
    return PolicySource(name, functools.partial(_open_to_evaluate, name, device), _identity_of(policy)[:16], policy.spec)


def _remote_source(url: str) -> PolicySource:
    with open_remote(url) as remote:
        identity, spec = _identity_of(remote), remote.spec
    now = datetime.datetime.now().isoformat(timespec="milliseconds")
    load = functools.partial(_open_remote, url, identity)
    return PolicySource(url, load, identity[:16] or f"unknown to {url} at {now}", spec)


def _open_remote(url: str, identity: str) -> Policy:
    """The policy behind `url`. Raises `ConfigError` if it is no longer the one of this identity."""
    policy = open_policy(url)
    if (found := _identity_of(policy)) != identity:
        raise ConfigError(
            f"{url} now serves policy {found[:16] or 'unknown'}; expected {identity[:16] or 'unknown'}, as at the start. "
            "Evaluate one policy at a time"
        )
    return policy


def _identity_of(policy: Policy) -> str:
    return policy.identity if isinstance(policy, IdentifiedPolicy) else ""


def fitting(name: str, suite: str) -> dict[str, Any]:
    """Options of the env `suite` under which its pictures are of the size that the policy called `name` was trained on."""
    spec = policy_spec(name)
    return {} if spec is None else fitting_options(functools.partial(make_env, suite), spec)


def agent_maker(name: str, execute: int = 1) -> Callable[[Env], Agent]:
    """Makes the agent called `name` for an env: ``"expert"``, or a policy that executes `execute` actions of each chunk."""
    if name == "expert":
        return expert_of
    policy = open_policy(name)
    return lambda env: ChunkAgent(policy, execute)
