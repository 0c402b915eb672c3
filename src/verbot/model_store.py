"""Where known models that were fetched lie on this machine, and which are there. See `verbot.models.known`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from verbot.files import read_record

RECORD = "fetched.json"  # in the folder of a fetched model: where it comes from, and the sha256 of each of its files


def store_folder() -> Path:
    """The folder of all fetched models: ``VERBOT_MODELS``, or ``models`` below ``VERBOT_CACHE`` (default ``~/.cache/verbot``)."""
    own = os.environ.get("VERBOT_MODELS")
    cache = os.environ.get("VERBOT_CACHE") or Path.home() / ".cache" / "verbot"
    return Path(own).expanduser() if own else Path(cache).expanduser() / "models"


def fetched_folder(name: str) -> Path | None:
    """The folder of the model `name`, or None if it was not fetched."""
    folder = store_folder() / name
    return folder if (folder / RECORD).is_file() else None


def fetched_record(folder: Path) -> dict[str, Any]:
    """What was noted about a fetched model. Raises `CorruptFileError`."""
    return read_record(folder / RECORD)
