"""A clean dataset of a small robot, in which tests plant faults."""

import numpy as np

from verbot.data import DatasetWriter, EpisodeRecord
from verbot.spec import Camera, Component, RobotSpec

XYZ = ("x", "y", "z")
EPISODES, FRAMES, RATE = 8, 80, 10.0


def spec(action="position_delta", frame="base"):
    position = Component("ee_position", "position", XYZ, "m", "base", (-1.0,) * 3, (1.0,) * 3)
    quaternion = Component("ee_quaternion", "quaternion", ("w", *XYZ), "1", "base", (-1.0,) * 4, (1.0,) * 4)
    gripper = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    low, high = ((-1.0,) * 3, (1.0,) * 3) if action == "position" else ((-0.05,) * 3, (0.05,) * 3)
    moved = Component("arm", action, XYZ, "m", frame, low, high)
    cameras = (Camera("front", 48, 64), Camera("wrist", 48, 64, frame="tool"))
    return RobotSpec("toy", RATE, cameras, (position, quaternion, gripper), (moved, gripper))


def smooth(rng, frames, size, scale):
    """A motion without rest: sums of slow waves."""
    t = np.arange(frames)[:, None] / RATE
    phases, speeds = rng.uniform(0, 6.3, (3, size)), rng.uniform(0.8, 2.5, (3, size))
    return scale * sum(np.sin(speeds[i] * t + phases[i]) for i in range(3)) / 3


def clean_arrays(number, frames=FRAMES):
    """States, actions (deltas), pictures."""
    rng = np.random.default_rng(number)
    position, angle = smooth(rng, frames + 1, 3, 0.2), smooth(rng, frames + 1, 1, 1.0)
    rotation = np.concatenate([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], axis=1)
    rotation[:, 1:3] = smooth(rng, frames + 1, 2, 0.05)
    rotation /= np.linalg.norm(rotation, axis=1, keepdims=True)
    gripper = (np.arange(frames + 1)[:, None] % 40 < 25).astype(float)
    states = np.concatenate([position, rotation, gripper], axis=1).astype(np.float32)
    actions = np.concatenate([np.diff(position, axis=0), gripper[1:]], axis=1).astype(np.float32)
    texture = rng.integers(40, 215, (2, 96, 400, 3)).astype(np.uint8)
    images = {}
    for k, camera in enumerate(("front", "wrist")):
        right, down = (160 + 700 * position[:frames, k]).astype(int), (24 + 110 * position[:frames, 2]).astype(int)
        images[camera] = np.stack([texture[k, y : y + 48, x : x + 64] for x, y in zip(right, down, strict=True)])
    return states[:-1], actions, images


def write(path, edit=None, of=None, sentence=lambda number: ("pick up the cube", "put it in the box")[number % 2], frames=None):
    """A dataset; ``edit(number, states, actions, images)`` plants a fault by changing the arrays, or returns others."""
    with DatasetWriter(path, of or spec()) as writer:
        for number in range(EPISODES):
            arrays = clean_arrays(number, FRAMES if frames is None else frames(number))
            if edit is not None:
                arrays = edit(number, *arrays) or arrays
            writer.save_episode(EpisodeRecord(sentence(number), *arrays))
    return path


def found(report, check):
    """The error or warning of a check; every other check is quiet."""
    serious = [finding for finding in report.findings if finding.severity != "info"]
    assert {finding.check for finding in serious} == {check}, report.lines()
    return serious[0]


def at(finding):
    return finding.first.episode, finding.first.frame
