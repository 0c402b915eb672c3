"""A robot with two small cameras whose episodes hold something to learn: the action is written in image, words and state."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verbot.data import DatasetWriter, EpisodeRecord
from verbot.models.network import NetworkConfig, Part
from verbot.recipes.overrides import override
from verbot.spec import Camera, Component, RobotSpec
from verbot.training import AugmentConfig, TrainConfig
from verbot.training.imitation.records import BudgetConfig, DataConfig, LoggingConfig, ScheduleConfig, ValidationConfig

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
    """A short run on the dataset; `changes` are settings (`verbot.recipes.overrides`), or old names of fields."""
    plain = TrainConfig(
        DataConfig((dataset,), batch_size=4),
        BudgetConfig(steps=4),
        SMALL,
        schedule=ScheduleConfig(warmup_steps=1),
        validation=ValidationConfig(share=0.2, batches=1, every=2),
        logging=LoggingConfig(log_every=1, checkpoint_every=2),
    )
    return changed(plain, **changes)


def changed(config, **settings):
    """`config` with other values of fields, wherever they are in it."""
    return override(config, {SHORT.get(name, name): value for name, value in settings.items()})


# Short names for tests.
SHORT = {
    "validation_share": "validation.share", "validation_batches": "validation.batches", "validate_every": "validation.every",
    "statistics": "init.statistics", "parts": "init.parts", "sha256": "init.sha256",
}  # fmt: skip
