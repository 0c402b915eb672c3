"""Agents act in one episode and hold its state: how predicted chunks become one action per control step. Numpy only."""

from __future__ import annotations

from verbot.agents.alignment import AlignmentAgent, Misalignment
from verbot.agents.chunking import ChunkAgent
from verbot.agents.ensembling import EnsembleAgent
from verbot.agents.recoloring import RecoloringAgent

__all__ = ["AlignmentAgent", "ChunkAgent", "EnsembleAgent", "Misalignment", "RecoloringAgent"]
