"""Recordings of ROS 2: MCAP files with messages in CDR (defined in the file) or JSON, and folders of rosbag2.

A recording is one file, or the folder with ``metadata.yaml`` and all its parts; a folder of recordings has one each. A recording
is one episode unless split. ``.mcap.zstd`` is read too, and ``.db3`` by `verbot.data.importers.rosbag`.

Options name the topics as ``topic``, or ``topic:field`` for one field of its messages: `images` and `depth` {camera: topic},
`state` and `action` (several separated by commas), and `instruction`. A topic that is not given is found by its message type, if
only one fits: CompressedImage and Image, JointState, Float64MultiArray and Float32MultiArray, String. The numbers of a message
are `position` of a JointState (whose names name the dimensions; ``topic:velocity`` takes the velocities), `data`, or all numbers
except the header. Where several publishers share a topic of joints, each joint has the last value at or before the row.

Messages have their log times, or with ``time=header`` their stamps. An episode is resampled to ``--rate-hz``: each row takes the
last numbers of every topic at or before its time, and the image nearest to it (``align=before``: the last one). It begins when
every topic has had a message and ends with the last message of the first topic to end. A message that is further away than
`max_age_s` is an error (`verbot.data.importers.bag_timing.Timing` has the defaults). Topics that are transient local, or in
`latched`, hold however old they are. The topic `split` divides a recording. Each of its messages begins an episode, or ends one
if it is false, ``""``, ``"end"`` or ``"stop"``. Its text is the instruction if no topic is. Where the instruction changes within
an episode, each row has the last sentence at or before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from verbot.data.importers import Item, known_robots, sources
from verbot.data.importers.bag_episodes import BagEpisodes
from verbot.data.importers.bag_folders import MCAP, SQLITE, bag_files, recordings
from verbot.data.importers.bag_records import BagOptions
from verbot.data.importers.bag_timing import Timing
from verbot.data.importers.bag_topics import Topics
from verbot.errors import DataError

GUESSED, LOGGED, WHOLE = Topics(), Timing(), BagOptions()


@sources.register("mcap", needs=("mcap", "mcap_ros2"))
class Mcap:
    """ROS 2 recordings in MCAP; the options are described in the module's docstring."""

    about = ".mcap logs of ROS 2 or JSON messages, and folders of rosbag2 with them"
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
        found = recordings(path, options.join)
        if not found:
            raise DataError(f"{path} has no file that ends with {' or '.join(MCAP + SQLITE)}")
        self.robot = known_robots.known(robot or "generic")
        self.rate_hz = rate_hz or self.robot.rate_hz
        self.total: int | None = len(found) if topics.split is None else None
        self._episodes = BagEpisodes(found, self.rate_hz, topics, timing, options)

    @staticmethod
    def recognizes(path: Path) -> bool:
        return bag_files(path, MCAP) and not bag_files(path, SQLITE)

    def items(self) -> Iterator[Item]:
        return self._episodes.items()
