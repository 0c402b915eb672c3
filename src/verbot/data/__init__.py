"""Episodes: on disk as LeRobotDataset v3.0, in memory as windows, in training as seeded batches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verbot.data.editing.edit import EditResult, edit
    from verbot.data.editing.plan import EditPlan
    from verbot.data.importers.convert import ImportConfig, ImportResult, import_dataset
    from verbot.data.importers.export_hdf5 import export_hdf5
    from verbot.data.samples.loader import Loader
    from verbot.data.samples.mixture import Mixture
    from verbot.data.samples.window_config import WindowConfig
    from verbot.data.samples.windows import WindowBatch, Windows
    from verbot.data.storage.annotate import annotate, annotating
    from verbot.data.storage.frame_cache import FrameCache
    from verbot.data.storage.reader import Dataset, Episode, open_dataset
    from verbot.data.storage.record import EpisodeRecord
    from verbot.data.storage.verify import Finding, check_dataset
    from verbot.data.storage.writer import DatasetWriter

_LAZY = {
    "Dataset": "storage.reader",
    "DatasetWriter": "storage.writer",
    "EditPlan": "editing.plan",
    "EditResult": "editing.edit",
    "Episode": "storage.reader",
    "EpisodeRecord": "storage.record",
    "Finding": "storage.verify",
    "FrameCache": "storage.frame_cache",
    "ImportConfig": "importers.convert",
    "ImportResult": "importers.convert",
    "Loader": "samples.loader",
    "Mixture": "samples.mixture",
    "WindowBatch": "samples.windows",
    "WindowConfig": "samples.window_config",
    "Windows": "samples.windows",
    "annotate": "storage.annotate",
    "annotating": "storage.annotate",
    "check_dataset": "storage.verify",
    "edit": "editing.edit",
    "export_hdf5": "importers.export_hdf5",
    "import_dataset": "importers.convert",
    "open_dataset": "storage.reader",
}

__all__ = [
    "Dataset",
    "DatasetWriter",
    "EditPlan",
    "EditResult",
    "Episode",
    "EpisodeRecord",
    "Finding",
    "FrameCache",
    "ImportConfig",
    "ImportResult",
    "Loader",
    "Mixture",
    "WindowBatch",
    "WindowConfig",
    "Windows",
    "annotate",
    "annotating",
    "check_dataset",
    "edit",
    "export_hdf5",
    "import_dataset",
    "open_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'verbot.data' has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"verbot.data.{_LAZY[name]}"), name)
