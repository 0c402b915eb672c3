"""Measures the cost of a training step with features of a frozen encoder computed in the step, and with cached ones.

Run it as ``python profiling/frozen_features.py``. Steps of both kinds alternate, so that other work on the machine slows both
equally. The encoder has the layers and the width of ViT-Tiny (12 of 192), random weights, images of 64 pixels and patches of 8.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
import tyro

from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.policy.policy import VLAPolicy
from verbot.recipes.overrides import override
from verbot.rollout.collect import collect
from verbot.training import AugmentConfig, TrainConfig
from verbot.training.distributed.optimizer import Optimizer
from verbot.training.imitation.augment import jitter_colors, torch_numbers
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.records import BudgetConfig, DataConfig, ValidationConfig

TINY = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 3}
UNCHANGED = AugmentConfig(shift_pixels=0, brightness=0, contrast=0, saturation=0)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    steps: int = 20  # of each kind
    batch: int = 32
    episodes: int = 8


def main() -> None:
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tower, demonstrations = Path(folder) / "tower", Path(folder) / "demonstrations"
        transformers.ViTModel(transformers.ViTConfig(**TINY, image_size=64, patch_size=8)).save_pretrained(tower)
        collect("tabletop-starter", demonstrations, arguments.episodes, workers=1, progress=False)
        vision = Part("hf_vision", {"checkpoint": str(tower), "mode": "frozen"})
        config = TrainConfig(
            DataConfig((str(demonstrations),), batch_size=arguments.batch), BudgetConfig(steps=1), NetworkConfig(vision=vision),
            augment=UNCHANGED, validation=ValidationConfig(share=0.0),
        )  # fmt: skip
        started = time.perf_counter()
        TrainingData.prepare(override(config, {"cache_features": True}), show_progress=True)
        print(f"features of all frames: {time.perf_counter() - started:.1f} s")
        steps = {name: stepper(override(config, {"cache_features": name == "kept"})) for name in ("computed", "kept")}
        spent: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(arguments.steps + 2):
            for name, step in steps.items():
                started = time.perf_counter()
                step(number)
                if number > 1:  # the first steps are slow: memory, caches
                    spent[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    for name, seconds in medians.items():
        print(f"{name}: {1e3 * seconds:.1f} ms a step of {arguments.batch} samples")
    print(f"{medians['computed'] / medians['kept']:.1f} times")


def stepper(config: TrainConfig) -> Callable[[int], None]:
    """One training step, with the calls of the training loop."""
    supply = TrainingData(config, Path(), 0, 0)
    policy = VLAPolicy.create(config.network, supply.spec, supply.statistics, supply.instructions)
    optimizer = Optimizer(policy.network.train(), config.optimizer)

    def step(number: int) -> None:
        batch = policy.collate(supply.batch(number, 0))
        batch = dataclasses.replace(batch, images=jitter_colors(batch.images, config.augment, torch_numbers(number)))
        optimizer.gradient.zero_()
        policy.network.losses(batch, torch_numbers(number))["loss"].backward()
        optimizer.step(config.optimizer.learning_rate)

    return step


if __name__ == "__main__":
    main()
