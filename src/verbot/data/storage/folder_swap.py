"""What lies beside a dataset while it is changed: the new one in ``.NAME.draft``, which takes its place once it is verified.

See `verbot.folders.replace_folder`, and `verbot.folders.recover` for a crash during it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from verbot.data.storage.layout import INFO
from verbot.errors import DataError
from verbot.files import lock, remove
from verbot.folders import recover


def draft_of(root: Path) -> Path:
    """Where the new dataset is made."""
    return _beside(root, "draft")


@contextlib.contextmanager
def exclusively(root: Path, doing: str = "editing") -> Iterator[None]:
    """Hold a lock beside `root`, so that one process at a time makes or replaces it. Raises `DataError` if another one does."""
    path = _beside(root, "lock")
    with lock(path, wait=False, holder=f"another process is {doing} {root.name}"):
        try:
            yield
        finally:
            remove(path)


def clear(root: Path) -> None:
    """Remove what an interrupted change of `root` left beside it, after completing it if only that is left to do."""
    recover(root)
    if _beside(root, "before").is_dir() and not (root / INFO).is_file():
        raise DataError(f"{root} holds no dataset; the one that was there is {_beside(root, 'before')}: rename it, and try again")
    for name in ("draft", "edited", "before"):
        remove(_beside(root, name))


def _beside(root: Path, what: str) -> Path:
    root = root.absolute()  # the folder one is in has no name
    return root.parent / f".{root.name}.{what}"
