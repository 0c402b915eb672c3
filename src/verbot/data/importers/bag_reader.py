"""Reads the messages of one ROS 2 recording, whatever its files are: MCAP or SQLite, whole or compressed, one or several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from verbot.data.importers import mcap_reader, rosbag_reader
from verbot.data.importers.bag_folders import MCAP, BagFiles
from verbot.data.importers.bag_records import BagMessage, BagTopic


class Bag:
    """One recording.

    Args:
        partial: read the whole chunks of a truncated file; otherwise reading it raises `CorruptFileError` at the cut.
    """

    def __init__(self, files: BagFiles, partial: bool = False):
        self.files, self.partial = files, partial

    @functools.cached_property
    def topics(self) -> dict[str, BagTopic]:
        """The topics of all files. Raises `CorruptFileError` for a file that cannot be opened."""
        found: dict[str, BagTopic] = {}
        for path in self.files.files:
            for name, topic in _module(path.name).topics(path, self.files.metadata).items():
                known = found.get(name)
                latched = (
                    topic.latched if known is None else topic.latched and known.latched
                ) or name in self.files.metadata.latched
                count = topic.count + (0 if known is None else known.count)
                found[name] = dataclasses.replace(
                    topic, type=topic.type or (known.type if known else ""), count=count, latched=latched
                )
        return found

    def messages(self, topics: Iterable[str], start: int = 0, end: int | None = None) -> Iterator[BagMessage]:
        """The messages of `topics` with log times from `start` to before `end`, in ns, file after file.

        Those of one file are in order of time, unless it is truncated, compressed or without an index.
        """
        wanted = sorted(set(topics))
        for path in self.files.files if wanted else ():
            yield from _module(path.name).messages(path, wanted, start, end, self.files.metadata, self.partial)

    def listing(self) -> str:
        return ", ".join(f"{name} ({topic})" for name, topic in sorted(self.topics.items())) or "none"


def _module(name: str) -> Any:
    return mcap_reader if name.endswith(MCAP) else rosbag_reader
