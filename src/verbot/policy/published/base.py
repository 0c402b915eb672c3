"""The seam of a family of published policies: what it recognizes, and the parts that it opens.

A family is one module in `verbot.policy.published.families`:

    @families.register("name")
    class Name:
        about = "one line for people"

        @staticmethod
        def recognizes(folder: Path) -> bool: ...       # reads JSON files and headers of weights only

        @staticmethod
        def open(folder: Path, options: OpenOptions) -> PublishedParts: ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from verbot.models.published.base import PublishedNetwork, WeightNames
from verbot.registry import Registry
from verbot.spec import FloatArray, Observation, RobotSpec


@dataclass(frozen=True)
class OpenOptions:
    """How a published policy is opened.

    Args:
        dtype: of the weights; None keeps that of the files.
        tokenizer: folder or name on the hub of the tokenizer, for families whose files lack it; None is the published one.
        statistics: which statistics of the files normalize, where there are those of several datasets (OpenVLA: unnorm_key;
            openpi: asset id); None where there is only one.
    """

    dtype: torch.dtype | None = None
    tokenizer: str | None = None
    statistics: str | None = None


class Processing(Protocol):
    """What comes before and after a network, exactly as published: images, prompt, normalization and its inverse."""

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        """The network's inputs, on the CPU.

        Args:
            episodes: of each episode the last observations, oldest first, one for each of `PublishedParts.history` control
                steps; the first one is repeated at the start of an episode. Their cameras, states and units are those of
                `PublishedParts.spec`; images may have any size.
        """
        ...

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        """Actions (b, k, a) in the units of the spec, float32, of what the network puts out, as float32 on the CPU."""
        ...


class NormalizesActions(Processing, Protocol):
    """A processing that can also be trained through."""

    def targets(self, actions: FloatArray, episodes: Sequence[tuple[Observation, ...]]) -> Tensor:
        """The inverse of `actions`: what the network is to put out for actions (b, k, a), float32, or int64 token ids."""
        ...


@dataclass(frozen=True)
class PublishedParts:
    """A published policy.

    Args:
        spec: cameras, state and action as the files name and size them (see `verbot.policy.published.specs`).
        network: with its weights, in evaluation mode.
        processing: before and after it.
        names: where its weights came from.
        kept: files of the folder, relative to it, that a saved copy needs beside the weights.
        history: number of control steps whose observations the processing reads.
        chunk: actions of a training target, from the present one on; 0 for a policy that cannot be trained here.
        resized: images of other sizes than the spec's are taken, because the processing resizes them.
        notes: what a person should know of this checkpoint, one line each.
    """

    spec: RobotSpec
    network: PublishedNetwork
    processing: Processing
    names: WeightNames
    kept: tuple[str, ...]
    history: int = 1
    chunk: int = 0
    resized: bool = True
    notes: tuple[str, ...] = field(default=())


class PublishedFamily(Protocol):
    """A family of published policies."""

    about: str

    def recognizes(self, folder: Path) -> bool:
        """Whether the files in `folder` are of this family; never raises for files of another."""
        ...

    def open(self, folder: Path, options: OpenOptions) -> PublishedParts:
        """Raises `ConfigError` or `CorruptFileError` that names what is wrong with the files."""
        ...


families: Registry[Any] = Registry(
    "family of published policies", package="verbot.policy.published.families", group="verbot.published", needs=("torch",)
)


def record_of(folder: Path, name: str = "config.json") -> Mapping[str, Any]:
    """The JSON object in a file of `folder`; empty if there is no such file, or if it holds none. For `recognizes`."""
    import json

    try:
        found = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
