"""Language reward models: each reads a description of the state and an instruction, and returns progress and success.

Each is one file in this package, registered by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from verbot.registry import Registry
from verbot.spec import FloatArray


class LanguageRewardModel(Protocol):
    """Reads text only: descriptions of states and instructions."""

    def score(self, states: Sequence[str], goals: Sequence[str]) -> FloatArray:
        """(n, 2), two numbers in [0, 1] for each pair of state and goal: progress, and the probability of success."""
        ...


@runtime_checkable
class FittedRewardModel(Protocol):
    """A class of reward models that completes its options, for example with the digest of its weights.

    So a run refuses other weights than those that it started with.
    """

    def fit(self, options: Mapping[str, Any]) -> dict[str, Any]: ...


reward_models: Registry[Any] = Registry(
    "reward model", package="verbot.models.reward_models", group="verbot.reward_models", old_group="verbot.scorers"
)
