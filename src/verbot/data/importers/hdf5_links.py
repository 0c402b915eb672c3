"""What an HDF5 file takes from other files: external links, external storage and virtual datasets. None of it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verbot.errors import CorruptFileError

MOST = 10**6  # objects of a file that are looked at
KEPT = 4096  # files
MANY = f"has more than {MOST} groups and datasets; expected fewer: split it into several files"

_KNOWN: dict[tuple[Path, int, int], str] = {}


def refuse_other_files(file: Any, path: Path) -> None:
    """Raise `CorruptFileError` if the open `file` at `path` takes a part of its content from another file.

    Such a part can be any file of the machine, whoever made the HDF5 file, and is gone where it is copied.
    """
    found = path.stat()
    other = _first(file, path, found.st_size, found.st_mtime_ns)
    if other == MANY:
        raise CorruptFileError(path, other)
    if other:
        raise CorruptFileError(path, f"{other}; verbot reads nothing through it: copy it with its content (h5repack, h5copy)")


def _first(file: Any, path: Path, size: int, changed_ns: int) -> str:
    """What the file names first of other files; known for the files that were looked at last, until they change."""
    key = (path.resolve(), size, changed_ns)
    if key not in _KNOWN:
        if len(_KNOWN) >= KEPT:
            _KNOWN.clear()
        _KNOWN[key] = next(_others(file), "")
    return _KNOWN[key]


def _others(file: Any) -> Iterator[str]:
    """What the groups and datasets of a file name of other files; every object is looked at once."""
    import h5py

    waiting, seen = [("", file)], set[Any]()
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            place, link = f"{prefix}{name}", group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f"{place} is a link to the file {link.filename!r}"
            if not isinstance(link, h5py.HardLink):
                continue
            found = group.get(name)
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > MOST:
                yield MANY
            if isinstance(found, h5py.Group):
                waiting.append((f"{place}/", found))
            elif isinstance(found, h5py.Dataset):
                yield from (f"{place} is stored in the file {other!r}" for other in _stored_in(found))


def _stored_in(dataset: Any) -> list[str]:
    """The other files in which a dataset is stored."""
    stored = [str(each[0]) for each in dataset.external or ()]
    virtual = [str(source.file_name) for source in dataset.virtual_sources()] if dataset.is_virtual else []
    return stored + [name for name in virtual if name != "."]
