"""A policy that reasons before it acts, for an evaluation; with its own thoughts, or with the plans of other scenes."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing

from verbot.contracts import EpisodeRequest, Policy, Surveyed
from verbot.envs import make_env
from verbot.errors import ConfigError, PolicyError
from verbot.rollout.baselines import PolicySource
from verbot.rollout.episode import EpisodeRunner

ALL = "all"  # reasoning begins as in training
PLANS = 24


def thinking_source(source: PolicySource, think: str, plans: Sequence[str] = ()) -> PolicySource:
    """`source` with reasoning from the part `think` on, or with these plans; its results are not mixed with others'.

    Raises `PolicyError` from `load` for a policy that cannot reason.
    """
    first = None if think == ALL else think
    name = f"{source.name}, thinking" + (" of other plans" if plans else "" if first is None else f" from {first}")
    identity = f"{source.identity} thinking {think} {zlib.crc32(repr(tuple(plans)).encode())}"
    return PolicySource(name, functools.partial(_load, source.load, first, tuple(plans)), identity, source.spec)


def _load(load: Callable[[], Policy], first: str | None, plans: tuple[str, ...]) -> Policy:
    from verbot.policy.policy import VLAPolicy

    policy = load()
    if not isinstance(policy, VLAPolicy):
        raise PolicyError("only a policy in a folder reasons before it acts, not an exported one or a server")
    return policy.thinking(first, plans)


def plans_of(suite: str, scene: int, seed: int = 0) -> tuple[str, ...]:
    """The expert's plans in test scenes from number `scene` on, each once. Raises `ConfigError` for an env without plans."""
    with closing(make_env(suite, render_cameras=False)) as env:
        if not isinstance(env, Surveyed):
            raise ConfigError(f"{suite} does not report its scenes, so it has no plans; expected a tabletop suite")
        found = []
        for number in range(PLANS):
            EpisodeRunner(env, EpisodeRequest(env.tasks[number % len(env.tasks)], index=scene + number), seed)
            found.append("; ".join(env.scene_truth().plan))
    return tuple(dict.fromkeys(plan for plan in found if plan))
