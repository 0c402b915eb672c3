"""Agents act in one episode and hold its state. They turn predicted chunks into one action per control step. Numpy only."""

from __future__ import annotations

from verbot.agents.chunking import ChunkAgent
from verbot.agents.color_alignment import ColorAlignmentAgent
from verbot.agents.ensembling import EnsembleAgent
from verbot.agents.grounding_monitor import GroundingMonitor, Misalignment
from verbot.agents.guard import Guard, GuardedAgent
from verbot.agents.guard_events import GuardConfig, GuardEvent, GuardResult
from verbot.agents.holding import HoldAgent
from verbot.agents.overlapping import OverlappingAgent
from verbot.agents.real_time import RealTimeAgent
from verbot.agents.sampling import SamplingAgent
from verbot.spec.holding import HoldAction

__all__ = [
    "GroundingMonitor",
    "ChunkAgent",
    "EnsembleAgent",
    "Guard",
    "GuardConfig",
    "GuardEvent",
    "GuardResult",
    "GuardedAgent",
    "HoldAction",
    "HoldAgent",
    "Misalignment",
    "ColorAlignmentAgent",
    "OverlappingAgent",
    "RealTimeAgent",
    "SamplingAgent",
]
