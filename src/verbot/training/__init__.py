"""Training: one loop, frozen configurations, exact resume, data parallelism over processes, expert corrections."""

from __future__ import annotations

from verbot.training.config import AugmentConfig, Companion, DaggerConfig, Selection, TrainConfig
from verbot.training.log import read_log
from verbot.training.loop import TrainResult, train

__all__ = ["AugmentConfig", "Companion", "DaggerConfig", "Selection", "TrainConfig", "TrainResult", "read_log", "train"]
