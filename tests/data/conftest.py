"""A small robot and episodes of it, a function of their number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from verbot.data import DatasetWriter, EpisodeRecord
from verbot.spec import Camera, Component, RobotSpec

INTRINSICS = (60.0, 0.0, 16.0, 0.0, 60.0, 12.0, 0.0, 0.0, 1.0)
# Looks down on the base frame's origin from a height of 1 m: x right, y down and z forward are base x, −y and −z.
DOWN = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="session")
def spec() -> RobotSpec:
    position = Component("ee_position", "position", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
    quaternion = Component("ee_quaternion", "quaternion", ("w", "x", "y", "z"), "1", "base", (-1.0,) * 4, (1.0,) * 4)
    gripper = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    delta = Component("position_delta", "position_delta", ("x", "y", "z"), "m", "base", (-0.05,) * 3, (0.05,) * 3)
    cameras = (Camera("front", 24, 32), Camera("wrist", 24, 32, frame="tool"))
    return RobotSpec("toy", 10.0, cameras, (position, quaternion, gripper), (delta, gripper))


@pytest.fixture(scope="session")
def make() -> Callable[[int], EpisodeRecord]:
    """An episode of 5 to 9 frames: brightness tells episode and frame, the gripper closes at frame 1 and opens at frame 3."""

    def record(number: int) -> EpisodeRecord:
        length = 5 + number % 5
        rng = np.random.default_rng(number)
        states = rng.uniform(-0.1, 0.1, (length, 8)).astype(np.float32)
        states[:, 3:7] = (1, 0, 0, 0)
        states[:, 7] = np.abs(states[:, 7])
        actions = rng.uniform(-0.05, 0.05, (length, 4)).astype(np.float32)
        actions[:, 3] = 1
        actions[1:3, 3] = 0
        images = {}
        for camera, channel in (("front", 0), ("wrist", 2)):
            images[camera] = np.full((length, 24, 32, 3), 60, np.uint8)
            images[camera][..., channel] = (20 + 10 * np.arange(length))[:, None, None]
            images[camera][..., 1] = 40 + number % 20 * 10
        frames = {"front": "base", "wrist": "tool"}
        return EpisodeRecord(
            instruction=f"pick up object {number % 3}",
            states=states,
            actions=actions,
            images=images,
            calibration={name: {"intrinsics": INTRINSICS, "extrinsics": DOWN, "frame": frame} for name, frame in frames.items()},
            extras={
                "number": number,
                "instructions": [f"pick up object {number % 3}", f"lift object {number % 3}"],
                "first_contact_frame": 2,
                "grounding": [
                    {"instructions": ["this"], "target_base_m": [0.0, 0.0, 0.0], "reference_base_m": [0.05, -0.1, 0.0]},
                    {"instructions": ["take the other"], "target_base_m": [0.1, 0.05, 0.0], "receptacle_base_m": None},
                    {"instructions": ["carry it"], "target_base_m": [-0.1, 0.0, 0.0], "receptacle_base_m": [0.0, 0.1, 0.0]},
                ],
            },
        )

    return record


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, spec: RobotSpec, make: Callable[[int], EpisodeRecord]) -> Path:
    """A closed dataset of seven episodes in three files of each kind; not to be changed."""
    root = tmp_path_factory.mktemp("written") / "dataset"
    with DatasetWriter(root, spec, merge_every=3) as writer:
        for number in range(7):
            writer.save_episode(make(number))
    return root
