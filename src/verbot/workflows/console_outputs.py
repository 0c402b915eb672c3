"""Reports, comparisons, datasets and policies below a folder, for the console: found, listed and read, and nothing outside it."""

from __future__ import annotations

import contextlib
import datetime
import html
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from verbot.data import open_dataset
from verbot.errors import DataError
from verbot.files import below, regular_file
from verbot.rollout import video
from verbot.workflows.inspect import describe, episode_frames

PAGES = {"report.html": "report", "explain.html": "explanation", "lint.html": "lint report"}
DEPTH, MOST, BYTES = 4, 100, 2**26  # folders below the root, entries, and bytes of one file at most
DATASET, EPISODE = "dataset.html", "episode-"  # made when they are asked for
LINKED = 50  # episodes of a dataset
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}pre{white-space:pre-wrap}:root{color-scheme:light dark}"
)


class Outputs:
    """Implements `verbot.console.choices.OutputPages`.

    Args:
        root: the folder; it need not exist.
    """

    def __init__(self, root: Path):
        self._root = root

    def listing(self) -> list[dict[str, str]]:
        found = []
        for folder, names in _folders(self._root):
            relative = folder.relative_to(self._root)
            entries = [(name, PAGES[name]) for name in names if name in PAGES]
            if "info.json" in names and folder.name == "meta":
                relative, folder, entries = relative.parent, folder.parent, [(DATASET, "dataset")]
            for name, kind in entries:
                if kind == "report" and "table.json" in names:
                    kind = "comparison"
                file = (relative / name if kind != "dataset" else relative / "meta" / "info.json").as_posix()
                with contextlib.suppress(DataError, OSError):  # a link that leads elsewhere, or a file that was just removed
                    changed = below(self._root, file).stat().st_mtime
                    when = datetime.datetime.fromtimestamp(changed).isoformat(" ", "minutes")
                    found.append({"kind": kind, "path": (relative / name).as_posix(), "when": when})
        return sorted(found, key=lambda entry: entry["when"], reverse=True)[:MOST]

    def read(self, path: str) -> tuple[bytes, str]:
        folder, _, name = path.rpartition("/")
        if name == DATASET:
            return _dataset_page(below(self._root, folder)).encode(), "text/html; charset=utf-8"
        number = name.removeprefix(EPISODE).removesuffix(".mp4")
        if name == f"{EPISODE}{number}.mp4" and number.isdigit() and len(number) < 9:
            return _episode_video(below(self._root, folder), int(number)), "video/mp4"
        if name not in PAGES:
            raise DataError(f"{path!r:.200} is no report; known are {', '.join(PAGES)}")
        file = regular_file(below(self._root, path))
        if file.stat().st_size > BYTES:
            raise DataError(f"{file} has {file.stat().st_size} bytes; the console shows reports of at most {BYTES}")
        return file.read_bytes(), "text/html; charset=utf-8"


def policies_below(root: Path) -> tuple[str, ...]:
    """The folders of policies, the newest first."""
    found = [folder for folder, names in _folders(root) if "manifest.json" in names and "policy.json" in names]
    return tuple(str(folder) for folder in sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)[:MOST])


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder down to `DEPTH` with the names of its files. Links to folders are not followed."""
    for place, folders, names in os.walk(root):
        here = Path(place)
        if len(here.relative_to(root).parts) >= DEPTH:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, names


def _dataset_page(folder: Path) -> str:
    """What the dataset holds, in words, and links to the videos of its first episodes."""
    name, text = html.escape(folder.name), html.escape(describe(folder))
    links = "".join(f'<li><a href="{EPISODE}{i}.mp4">episode {i}</a>' for i in range(min(LINKED, len(open_dataset(folder)))))
    title = f"<title>{name}</title><style>{_STYLE}</style>"
    head = f"<!doctype html><html lang=en><meta charset=utf-8>{title}"
    return f"{head}<h1>{name}</h1><pre>{text}</pre><h2>Videos</h2><ul>{links}</ul>"


def _episode_video(folder: Path, number: int) -> bytes:
    frames, rate_hz, _ = episode_frames(folder, number)
    with tempfile.TemporaryDirectory(prefix="verbot-console-") as place:
        return video.write(Path(place) / "episode.mp4", frames, rate_hz).read_bytes()
