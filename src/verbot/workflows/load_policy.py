"""Who acts, by name: a policy's folder, the starter policy that ships with verbot, a policy server, or the expert."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from verbot.agents import ChunkAgent
from verbot.contracts import Agent, Env, Policy, expert_of
from verbot.errors import PolicyError
from verbot.policy.identity import policy_identity
from verbot.rollout.baselines import PolicySource

STARTER = Path(__file__).resolve().parent.parent / "assets" / "starter"


def open_policy(name: str, device: str = "cpu") -> Policy:
    """The policy called `name`: a folder, ``"starter"``, or a server's ``ws://`` address, which has a device of its own.

    Raises `ConfigError` where there is no such device.

    Example:
        >>> open_policy("nowhere")
        Traceback (most recent call last):
        ...
        verbot.errors.PolicyError: nowhere is not a policy directory: it has no manifest.json; a policy is written by Policy.save
    """
    if name.startswith(("ws://", "wss://")):
        from verbot.remote import RemotePolicy

        return RemotePolicy(name)
    from verbot.policy.policy import load_policy
    from verbot.training.distributed.device import find_device

    policy = load_policy(policy_folder(name))
    policy.network.to(find_device(device))
    return policy


def policy_folder(name: str) -> Path:
    """Where the policy called `name` lies. Raises `PolicyError` where the starter policy did not come along."""
    if name != "starter":
        return Path(name)
    if not (STARTER / "manifest.json").is_file():
        raise PolicyError(
            "this copy of verbot came without its starter policy: `verbot demo` trains one, and the expert needs none"
        )
    return STARTER


def policy_source(name: str, device: str = "cpu") -> PolicySource:
    """The policy called `name` for `verbot.evaluation`, which loads it in every worker process.

    Raises `PolicyError` where there is no policy, `ConfigError` where there is no such device.
    """
    if name.startswith(("ws://", "wss://")):
        return PolicySource(name, functools.partial(open_policy, name), name)
    folder = policy_folder(name)
    identity = policy_identity(folder)[:16]
    if device != "cpu":
        from verbot.training.distributed.device import find_device

        find_device(device)
    return PolicySource(name, functools.partial(open_policy, str(folder.resolve()), device), identity)


def agent_maker(name: str, execute: int = 1) -> Callable[[Env], Agent]:
    """Makes the agent called `name` for an env: ``"expert"``, or a policy that executes `execute` actions of each chunk."""
    if name == "expert":
        return expert_of
    policy = open_policy(name)
    return lambda env: ChunkAgent(policy, execute)
