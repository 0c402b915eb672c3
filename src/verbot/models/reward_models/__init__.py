"""Scorers: how well a state that is described in words fits what was asked for, by a trained head or by a language model.

One file each; a new one is a file here and a `register` line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from verbot.registry import Registry
from verbot.spec import FloatArray


class Scorer(Protocol):
    """Reads text alone: what it is told of a state, and the sentence that asks for something."""

    def score(self, states: Sequence[str], goals: Sequence[str]) -> FloatArray:
        """Two numbers from 0 to 1 of each pair, (n, 2): how near the state is to what is asked for, and whether it is done."""
        ...


@runtime_checkable
class FittedScorer(Protocol):
    """A scorer's class that completes its options, e.g. by the digest of its weights, so that a run is tied to them."""

    def fit(self, options: Mapping[str, Any]) -> dict[str, Any]: ...


scorers: Registry[Any] = Registry("scorer", package="verbot.models.reward_models", group="verbot.scorers")
