"""Which files in a dataset's folder are verbot's own. Only those are ever removed, and links are never followed to do so.

The folder may hold more: a person's notes beside the data, files of other software, links to folders elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verbot.data.storage import layout
from verbot.errors import DataError
from verbot.files import below, regular_file

FOLDERS = ("data", "videos", "meta", "journal")  # that the writer fills
ENTRY = re.compile(r"episode-\d{6,}\.episode")  # of the journal
DRAFT = re.compile(r"\.(file-\d{3,}\.(parquet|mp4)|episode-\d{6,}\.episode|\w+\.(json|parquet))\.[\w-]+\.tmp")  # of writes
NOTES = ("meta/import.json", "meta/edits.json")  # of `verbot data import` and `edit`


def refuse_links(root: Path) -> None:
    """Raise `DataError` if a folder that the writer would write into is a link."""
    for folder in FOLDERS:
        for entry in _entries(root, folder):
            if entry.is_symlink() and entry.is_dir():
                name = Path(entry.path).relative_to(root).as_posix()
                raise DataError(
                    f"{root}: {name} is a link to a folder; verbot writes through no link: put the folder itself there"
                )


def uncommitted(root: Path, info: Mapping[str, Any]) -> list[Path]:
    """What a writer that died left: the files that it was about to name in ``info.json``, and drafts.

    A writer has one number of files at work, the one after those that are named. Files of other numbers are not its own.
    """
    number = sum(name.startswith("data/") for name in info["verbot"]["files"])
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    names = [layout.place(template, number) for template in (layout.DATA_PATH, layout.EPISODES_PATH, layout.EXTRAS_PATH)]
    names += [layout.place(layout.VIDEO_PATH, number, video_key=key) for key in videos]
    known = info["verbot"]["files"]
    found = [root / name for name in names if name not in known]
    folders = {path.parent for path in found} | {root / folder for folder in ("meta", "journal")}
    found += [Path(entry.path) for folder in folders for entry in _listed(folder) if DRAFT.fullmatch(entry.name)]
    return [path for path in found if path.is_file() and not path.is_symlink() and _is_direct(root, path)]


def foreign(root: Path, info: Mapping[str, Any]) -> list[str]:
    """The files and links in the folders of a dataset of verbot that are not a part of it, by name, sorted."""
    record = info["verbot"]
    known = {layout.INFO, layout.STATS, layout.TASKS, *NOTES, *record["files"], *record["derived"]}
    known |= {path.relative_to(root).as_posix() for path in uncommitted(root, info)}
    out = []
    for folder in FOLDERS:
        for entry in _entries(root, folder):
            name = Path(entry.path).relative_to(root).as_posix()
            own = DRAFT.fullmatch(entry.name) or (folder == "journal" and ENTRY.fullmatch(name.partition("/")[2]))
            if entry.is_symlink() or (not entry.is_dir() and name not in known and not own):
                out.append(name)
    return sorted(out)


def copy_dataset(root: Path, info: Mapping[str, Any], target: Path) -> None:
    """Copy a dataset of verbot, and what else lies in its folder, to the new folder `target`.

    Hidden files, pipes and links are left out, except links to files in the folder (or in the cache of Hugging Face), whose
    content is copied. Raises `DataError` for a file of the dataset that is a link to elsewhere, or is no plain file.
    """
    own = {layout.INFO, *info["verbot"]["files"]}
    target.mkdir(parents=True)
    for entry in _below(root):
        name = Path(entry.path).relative_to(root).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if entry.is_dir(follow_symlinks=False):
            (target / name).mkdir()
        elif name in own or (name.startswith("journal/") and ENTRY.fullmatch(entry.name)) or _is_file_below(root, name):
            shutil.copy2(regular_file(below(root, name)), target / name)


def _is_file_below(root: Path, name: str) -> bool:
    try:
        return below(root, name).is_file()
    except (DataError, OSError):
        return False


def _entries(root: Path, name: str) -> Iterator[os.DirEntry[str]]:
    """What is at and below the folder `name` of `root`; links are listed, and not followed."""
    for entry in _listed(root):
        if entry.name == name:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path))


def _below(folder: Path) -> Iterator[os.DirEntry[str]]:
    for entry in _listed(folder):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:  # there is no such folder
        return []


def _is_direct(root: Path, path: Path) -> bool:
    """Whether no folder between `root` and `path` is a link."""
    return not any(folder.is_symlink() for folder in path.parents if folder != root and folder.is_relative_to(root))
