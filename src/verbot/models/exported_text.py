"""What a language encoder gives so that instructions can be read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a robot's computer reads a `TextRecord` without torch
    from torch import nn


@dataclass(frozen=True)
class TextRecord:
    """How an exported policy reads instructions.

    Args:
        kind: ``"words"`` (ids of a vocabulary), or ``"pieces"`` (states of a frozen encoder, which is the graph ``language``).
        most: the most tokens of an instruction.
        vocabulary: of ``"words"``, in the order of their ids.
    """

    kind: str
    most: int
    vocabulary: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportedText:
    """A language encoder's own part of an export.

    Args:
        files: further files, by name.
        states: the frozen encoder, (ids (b, l) int64, mask (b, l)) → states (b, l, d); None for an encoder that reads ids.
    """

    record: TextRecord
    files: Mapping[str, bytes] = field(default_factory=dict)
    states: nn.Module | None = None
