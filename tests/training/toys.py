"""A robot with two small cameras whose episodes hold something to learn: the action is written in image, words and state."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verbot.data import DatasetWriter, EpisodeRecord
from verbot.models.network import NetworkConfig, Part
from verbot.spec import Camera, Component, RobotSpec
from verbot.training import AugmentConfig, TrainConfig

POSITION = Component("ee_position", "position", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
GRIP = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
DELTA = Component("position_delta", "position_delta", ("x", "y", "z"), "m", "base", (-0.05,) * 3, (0.05,) * 3)
VIEW = {"intrinsics": (16.0, 0, 8, 0, 16.0, 8, 0, 0, 1), "extrinsics": (1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, -1, 0, 0, 0, 1)}
SPEC = RobotSpec("toy", 10.0, (Camera("front", 16, 16), Camera("wrist", 16, 16)), (POSITION, GRIP), (DELTA, GRIP))
COLORS = {"red": (220, 40, 40), "blue": (40, 40, 220)}
SMALL = NetworkConfig(vision=Part("film_conv", {"channels": 4, "heatmaps": 4}), width=16, chunk=3)
PLAIN = AugmentConfig(shift_pixels=0, brightness=0, contrast=0, saturation=0, blank_instruction=0)


def write_toy(path: Path, episodes: int = 6, length: int = 8) -> Path:
    with DatasetWriter(path, SPEC) as writer:
        for number in range(episodes):
            rng = np.random.default_rng(number)
            color = list(COLORS)[number % 2]
            toward = 0.03 if color == "red" else -0.03
            states = np.cumsum(rng.uniform(-0.01, 0.01, (length, 4)) + toward, 0).astype(np.float32)
            states[:, 3] = np.arange(length) < length // 2
            actions = np.stack([np.roll(states[:, i], -1) for i in range(4)], 1)
            actions[:, :3] = np.clip(actions[:, :3] - states[:, :3], -0.05, 0.05)
            images = rng.integers(80, 110, (length, 16, 16, 3)).astype(np.uint8)
            images[:, 4:9, 3:8] = COLORS[color]
            writer.save_episode(
                EpisodeRecord(
                    instruction=f"touch the {color} cube",
                    states=states,
                    actions=actions.astype(np.float32),
                    images={"front": images, "wrist": images[:, ::-1]},
                    calibration={"front": {**VIEW, "frame": "base"}},
                    extras={"instructions": [f"touch the {color} cube", f"go to the {color} one"]},
                )
            )
    return path


def toy_config(dataset: str, **changes) -> TrainConfig:
    settings = {
        "datasets": (dataset,), "network": SMALL, "steps": 4, "batch_size": 4, "warmup_steps": 1, "log_every": 1,
        "validate_every": 2, "validation_batches": 1, "validation_share": 0.2, "checkpoint_every": 2,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})
