"""Reasoning at run time: which text a policy says before it acts, and reasoning that are not its own."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from verbot.contracts.reasoning import check_parts
from verbot.errors import PolicyError
from verbot.models.network import VLANetwork
from verbot.models.speaking import SpeakingBackbone, SpeakingHead
from verbot.spec import Observation


@dataclass(frozen=True)
class Thinking:
    """What a policy says before each action.

    Args:
        first: the part of reasoning with which it begins (`verbot.contracts.reasoning.PARTS`); None begins as in training.
        plans: plans that are given in place of its own, each "reach the red cube; lift the red cube". Which one depends on the
            instruction; one that does not name its object is preferred.

    Raises `UnknownNameError` for a part that does not exist.
    """

    first: str | None = None
    plans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_parts(() if self.first is None else (self.first,))

    def forced(self, network: VLANetwork, observations: Sequence[Observation]) -> list[list[int]]:
        """The ids with which the text for each observation begins."""
        assert isinstance(network.backbone, SpeakingBackbone)
        tokenizer = network.backbone.tokenizer
        return [tokenizer.encode(self._text(observation.instruction)) for observation in observations]

    def _text(self, instruction: str) -> str:
        if self.plans:
            start = zlib.crc32(instruction.encode()) % len(self.plans)
            order = [*self.plans[start:], *self.plans[:start]]
            others = (plan for plan in order if " ".join(plan.split(";")[0].split()[-2:]) not in instruction)
            return f"PLAN: {next(others, order[0])} SUBTASK:"
        return "" if self.first is None else f" {self.first.upper()}:"


def check_thinks(network: VLANetwork) -> None:
    """Raise `PolicyError` for a network that says no words before its actions."""
    if not isinstance(network.backbone, SpeakingBackbone) or not isinstance(network.head, SpeakingHead):
        raise PolicyError(
            f"this policy cannot reason before it acts: its backbone is {network.config.backbone.name!r} and its head "
            f"{network.config.head.name!r}; expected 'vlm' with a head that says actions as words, as "
            f"`verbot train rt2` trains"
        )
