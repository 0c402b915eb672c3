"""One folder in place of another, so that at every instant either the old dataset or the new one can be found.

The new dataset is made beside the old one, in a hidden folder ``.NAME.draft``, and renamed to ``.NAME.edited`` once it is whole
and verified. Two renames follow: the old folder becomes ``.NAME.before``, the new one takes its place. Between the two, nothing
has the dataset's name. Whoever opens the dataset then, or after a crash at that instant, completes the second rename.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from verbot.data.storage.layout import INFO
from verbot.errors import DataError
from verbot.files import lock


def draft_of(root: Path) -> Path:
    """Where the new dataset is made."""
    return _beside(root, "draft")


@contextlib.contextmanager
def exclusively(root: Path) -> Iterator[None]:
    """Hold a lock beside `root`, so that one process at a time replaces it. Raises `DataError` if another one does."""
    path = _beside(root, "lock")
    with lock(path, wait=False, holder=f"another process is editing {root.name}"):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def clear(root: Path) -> None:
    """Remove what an interrupted change of `root` left beside it, after completing it if only that is left to do."""
    recover(root)
    if _beside(root, "before").is_dir() and not (root / INFO).is_file():
        raise DataError(f"{root} holds no dataset; the one that was there is {_beside(root, 'before')}: rename it, and try again")
    for name in ("draft", "edited", "before"):
        if _beside(root, name).exists():
            shutil.rmtree(_beside(root, name))


def replace_folder(root: Path) -> None:
    """Put the draft of `root` in its place; there need not be a dataset yet. The folder before it is removed."""
    ready, before = _beside(root, "edited"), _beside(root, "before")
    draft_of(root).rename(ready)
    if root.exists():
        root.rename(before)
    _rename(ready, root)
    _sync(root.parent)
    shutil.rmtree(before, ignore_errors=True)


def recover(root: Path) -> bool:
    """Complete the change of a dataset that was interrupted while nothing had its name. Returns whether there was one."""
    ready = _beside(root, "edited")
    if root.exists() or not ready.is_dir() or not _beside(root, "before").is_dir():
        return False
    try:
        _rename(ready, root)
    except OSError as error:
        raise DataError(f"{root} was being replaced by {ready}, which cannot be renamed ({error.strerror}); rename it") from error
    return True


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except FileNotFoundError:
        if not target.is_dir():  # otherwise another process completed the change
            raise


def _beside(root: Path, what: str) -> Path:
    return root.with_name(f".{root.name}.{what}")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
