"""What a policy is, and what only some policies can."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from verbot.spec import ActionChunk, Observation, RobotSpec


@runtime_checkable
class Policy(Protocol):
    """Stateless and shareable: the same policy serves many episodes at once, batched."""

    @property
    def spec(self) -> RobotSpec: ...

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the robot's own units."""
        ...


@runtime_checkable
class SavablePolicy(Policy, Protocol):
    """A policy that can be written into a folder, for other processes to load."""

    def save(self, path: str | os.PathLike[str]) -> None: ...


@runtime_checkable
class IdentifiedPolicy(Policy, Protocol):
    """A policy that says which one it is, so that results of different policies are never mixed."""

    @property
    def identity(self) -> str:
        """A hash of its content (configuration and weights); ``""`` if it is unknown."""
        ...


@runtime_checkable
class RememberingPolicy(Policy, Protocol):
    """A policy that says how large its memories become, so that a server can tell them from misuse."""

    @property
    def memory_bytes(self) -> int:
        """The most that `ActionChunk.memory` holds; 0 for a policy without memory."""
        ...


@runtime_checkable
class ContinuingPolicy(Policy, Protocol):
    """A policy that can make its answer continue the actions in `Observation.planned` (real-time chunking)."""

    @property
    def continuation(self) -> str:
        """``"guided"``: its answer is drawn towards the planned actions; ``"trained"``: it was trained to continue the committed
        ones; ``""``: it ignores them."""
        ...


def continuation_of(policy: Policy) -> str:
    """How `policy` continues planned actions (see `ContinuingPolicy`); ``""`` if it does not."""
    return policy.continuation if isinstance(policy, ContinuingPolicy) else ""
