"""What a policy is, and what only some policies can."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec


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
        ones; ``"ahead"``: its answer begins after the committed ones; ``""``: it ignores them."""
        ...


@runtime_checkable
class AnsweringPolicy(Policy, Protocol):
    """A policy that may answer questions in words."""

    def answer(self, observations: Sequence[Observation], asked: Sequence[str]) -> list[str]:
        """One answer for each observation and question. Raises `PolicyError` for a policy that has no words."""
        ...


class Corrector(Protocol):
    """Corrects a late chunk row by row (Sendai et al. 2025); fast enough to run at every control step."""

    def correct(self, observation: Observation, chunk: ActionChunk, row: int) -> FloatArray:
        """The action (a,) to execute now in place of row `row` of `chunk`, in the robot's own units and ranges.

        Args:
            observation: of now; its instruction and memory are not read.
            chunk: what the policy answered earlier, with its extras.
        """
        ...


@runtime_checkable
class CorrectingPolicy(Policy, Protocol):
    """A policy that may come with a corrector of its chunks."""

    @property
    def corrector(self) -> Corrector | None: ...


def corrector_of(policy: Policy) -> Corrector | None:
    """The corrector of `policy`; None if it has none."""
    return policy.corrector if isinstance(policy, CorrectingPolicy) else None


def continuation_of(policy: Policy) -> str:
    """How `policy` continues planned actions (see `ContinuingPolicy`); ``""`` if it does not."""
    return policy.continuation if isinstance(policy, ContinuingPolicy) else ""
