"""Training: one loop, frozen configurations, exact resume, data parallelism over processes, expert corrections."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from verbot.configuration import warn_renamed

if TYPE_CHECKING:
    from verbot.training.imitation.config import CotrainingEmbodiment, TrainConfig
    from verbot.training.imitation.loop import TrainResult, train_policy
    from verbot.training.imitation.records import AugmentConfig, DaggerConfig, Selection
    from verbot.training.log import read_log

_LAZY = {
    "AugmentConfig": "imitation.records",
    "CotrainingEmbodiment": "imitation.config",
    "DaggerConfig": "imitation.records",
    "Selection": "imitation.records",
    "TrainConfig": "imitation.config",
    "TrainResult": "imitation.loop",
    "read_log": "log",
    "train_policy": "imitation.loop",
}
_FORMER = {"train": "train_policy"}  # read for one version

__all__ = [
    "AugmentConfig",
    "CotrainingEmbodiment",
    "DaggerConfig",
    "Selection",
    "TrainConfig",
    "TrainResult",
    "read_log",
    "train_policy",
]


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        warn_renamed("the name", f"{__name__}.{name}", f"{__name__}.{_FORMER[name]}")
        name = _FORMER[name]
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
