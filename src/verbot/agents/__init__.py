"""Agents act in one episode and hold its state: how predicted chunks become one action per control step. Numpy only."""

from __future__ import annotations

from verbot.agents.aligning import AligningAgent
from verbot.agents.alignment import AlignmentAgent, Misalignment
from verbot.agents.chunking import ChunkAgent
from verbot.agents.ensembling import EnsembleAgent

__all__ = ["AligningAgent", "AlignmentAgent", "ChunkAgent", "EnsembleAgent", "Misalignment"]
