"""A dataset of another format, imported in one file: a folder of ``.npz`` files, one an episode, becomes a LeRobotDataset.

Run it: python examples/own_format.py FROM TO
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import verbot
from verbot.data import DatasetWriter, EpisodeRecord

JOINTS = verbot.Component(
    "joints", "joint_position", tuple(f"joint{i}" for i in range(1, 7)), "rad", "base", (-3.2,) * 6, (3.2,) * 6
)
GRIPPER = verbot.Component("gripper", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,))


def import_folder(source: Path, target: Path, rate_hz: float = 15.0) -> int:
    """Arrays ``images`` (t, h, w, 3), ``joints`` (t, 7), ``commands`` (t, 7) and a string ``task``. Returns the episodes."""
    paths = sorted(source.glob("*.npz"))
    with np.load(paths[0]) as first:
        height, width = first["images"].shape[1:3]
    spec = verbot.RobotSpec("my-arm", rate_hz, (verbot.Camera("side", height, width),), (JOINTS, GRIPPER), (JOINTS, GRIPPER))
    with DatasetWriter(target, spec) as writer:
        for path in paths[len(writer) :]:  # goes on where an interrupted import stopped
            with np.load(path) as file:
                record = EpisodeRecord(
                    instruction=str(file["task"]),
                    states=file["joints"].astype(np.float32),
                    actions=file["commands"].astype(np.float32),
                    images={"side": file["images"]},
                    extras={"imported_from": path.name},
                )
            writer.save_episode(record)
    return len(verbot.open_dataset(target))


if __name__ == "__main__":
    print(import_folder(Path(sys.argv[1]), Path(sys.argv[2])), "episodes")
