"""Training: one loop, frozen configurations, exact resume, data parallelism over processes, expert corrections."""

from __future__ import annotations

from verbot.training.imitation.config import CotrainingEmbodiment, TrainConfig
from verbot.training.imitation.loop import TrainResult, train
from verbot.training.imitation.records import AugmentConfig, DaggerConfig, Selection
from verbot.training.log import read_log

__all__ = [
    "AugmentConfig",
    "CotrainingEmbodiment",
    "DaggerConfig",
    "Selection",
    "TrainConfig",
    "TrainResult",
    "read_log",
    "train",
]
