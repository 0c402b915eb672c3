"""A new dataset format in one file: `verbot data import` reads it, checks it, and writes a LeRobotDataset.

To use it in commands, install it as a package with this entry point: `verbot data import recordings outputs/imported`

    [project.entry-points."verbot.sources"]
    csv = "own_format:CsvFolders"

Run it: python examples/own_format.py FROM TO
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import verbot
from verbot.data import import_dataset
from verbot.data.importers import Item, RawEpisode, known_robots, reading, sources
from verbot.data.importers.known_robots import KnownComponent, KnownRobot
from verbot.errors import DataError
from verbot.spec import UInt8Array

JOINTS = KnownComponent("joints", "joint_position", tuple(f"joint{i}" for i in range(1, 7)), "rad", "base")
GRIPPER = KnownComponent("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,))
MY_ARM = KnownRobot("my-arm", rate_hz=15.0, state={"joints": (JOINTS, GRIPPER)}, action={"commands": (JOINTS, GRIPPER)})


@sources.register("csv")
class CsvFolders:
    """One folder an episode: `steps.csv` with 7 joint positions and 7 commands a line, `task.txt`, and `side/*.png`."""

    about = "folders with steps.csv, task.txt and side/*.png, one folder an episode"
    recognition = ""

    def __init__(self, path: Path, robot: str | None = None):
        self._folders = sorted(file.parent for file in path.glob("*/steps.csv"))
        if not self._folders:
            raise DataError(f"{path} has no folder with a steps.csv")
        self.robot = known_robots.known(robot) if robot else MY_ARM
        self.rate_hz: float | None = self.robot.rate_hz
        self.total: int | None = len(self._folders)

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.is_dir() and any(path.glob("*/steps.csv"))

    def items(self) -> Iterator[Item]:
        for folder in self._folders:
            yield Item(folder.name, partial(self._read, folder))

    def _read(self, folder: Path) -> RawEpisode:
        with reading(folder / "steps.csv", OSError, ValueError):
            steps = np.loadtxt(folder / "steps.csv", np.float32, delimiter=",", ndmin=2)
        with reading(folder / "task.txt", OSError):
            task = (folder / "task.txt").read_text(encoding="utf-8").strip()
        cameras = {"side": partial(self._pictures, folder / "side")}
        return RawEpisode({"joints": steps[:, :7]}, {"commands": steps[:, 7:]}, cameras, (task,))

    def _pictures(self, folder: Path) -> UInt8Array:
        with reading(folder, OSError, ValueError):
            return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


def main(source: Path, target: Path) -> int:
    """Import `source`; returns the number of episodes."""
    result = import_dataset(source, target)
    for skipped in result.skipped:
        print(skipped)
    return len(verbot.open_dataset(target))


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])), "episodes")
