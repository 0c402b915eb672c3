"""Recordings of rosbag2 in SQLite (``.db3``), alone or beside others in MCAP.

The options are those of `verbot.data.importers.mcap`. Files from before ROS 2 Iron do not define their messages; those of the
distribution that ``metadata.yaml`` states, or else of Humble, are taken, and a type of one's own is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from verbot.data.importers import Item, sources
from verbot.data.importers.bag_folders import SQLITE, bag_files
from verbot.data.importers.bag_records import BagOptions
from verbot.data.importers.bag_timing import Timing
from verbot.data.importers.bag_topics import Topics
from verbot.data.importers.mcap import GUESSED, LOGGED, WHOLE, Mcap


@sources.register("rosbag", needs=("rosbags",))
class Rosbag:
    """ROS 2 recordings in SQLite; the options are described in `verbot.data.importers.mcap`."""

    about = "folders of rosbag2 with .db3 files"
    recognition = ""

    def __init__(
        self,
        path: Path,
        robot: str | None = None,
        rate_hz: float | None = None,
        topics: Topics = GUESSED,
        timing: Timing = LOGGED,
        options: BagOptions = WHOLE,
    ):
        self._source = Mcap(path, robot, rate_hz, topics, timing, options)
        self.robot, self.rate_hz, self.total = self._source.robot, self._source.rate_hz, self._source.total

    @staticmethod
    def recognizes(path: Path) -> bool:
        return bag_files(path, SQLITE)

    def items(self) -> Iterator[Item]:
        return self._source.items()
