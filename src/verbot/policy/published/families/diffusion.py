"""Diffusion Policy, as LeRobot saved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.published.base import filled
from verbot.models.published.diffusion import DiffusionConfig, DiffusionNetwork
from verbot.models.published.noise import NoiseSchedule
from verbot.policy.published.base import OpenOptions, PublishedParts, families
from verbot.policy.published.families.act import plain_targets, scaled_image
from verbot.policy.published.images import unit_range
from verbot.policy.published.lerobot import ACTION, CONFIG, ENVIRONMENT, STATE, LeRobotFiles, is_lerobot
from verbot.policy.published.scaling import Scaling
from verbot.policy.published.specs import clean_name
from verbot.spec import FloatArray, Observation

METHOD, PIXELS = "MIN_MAX", "MEAN_STD"


@dataclass(frozen=True)
class DiffusionProcessing:
    """Images and states of the last observations, normalized.

    Args:
        cameras: names of a spec, with the normalization of its pixels.
    """

    cameras: tuple[tuple[str, Scaling], ...]
    state: Scaling
    action: Scaling

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        def views(seen: Observation) -> Tensor:
            return torch.stack([scaled_image(unit_range(seen.images[name]), scaling) for name, scaling in self.cameras])

        states = np.stack([[self.state.forward(each.state) for each in episode] for episode in episodes])
        found = {"state": torch.from_numpy(states)}
        if self.cameras:
            found["images"] = torch.stack([torch.stack([views(each) for each in episode]) for episode in episodes])
        return found

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        return self.action.inverse(outputs.numpy())

    def targets(self, actions: FloatArray, episodes: Sequence[tuple[Observation, ...]]) -> Tensor:
        return torch.from_numpy(self.action.forward(actions))


@families.register("diffusion")
class PublishedDiffusion:
    about = "Diffusion Policy of LeRobot"

    @staticmethod
    def recognizes(folder: Path) -> bool:
        return is_lerobot(folder, "diffusion")

    @staticmethod
    def open(folder: Path, options: OpenOptions) -> PublishedParts:
        files = LeRobotFiles.read(folder)
        files.refuse(resize_shape=None)
        files.refuse_feature(ENVIRONMENT)
        config = _config(files)
        cameras = tuple((clean_name(name), files.scaling("VISUAL", name, PIXELS)) for name in files.cameras)
        processing = DiffusionProcessing(cameras, files.scaling("STATE", STATE, METHOD), files.scaling("ACTION", ACTION, METHOD))
        network, names = filled(lambda: DiffusionNetwork(config), files.tensors, plain_targets, options.dtype)
        notes = files.unscaled(("STATE", STATE, METHOD), ("ACTION", ACTION, METHOD))
        return PublishedParts(
            files.spec(), network, processing, names, files.kept, history=config.history, resized=False, notes=notes
        )


def _config(files: LeRobotFiles) -> DiffusionConfig:
    sizes, given = set(files.cameras.values()), files.config
    if len(sizes) > 1:
        raise ConfigError(f"{files.folder / CONFIG}: cameras of a diffusion policy have one size; got {sorted(sizes)}")
    crop = given.get("crop_shape")
    widths = given.get("down_dims", [512, 1024, 2048])
    pairs = ((crop or [1, 1], "crop_shape"), (widths, "down_dims"))
    for value, name in pairs:
        if not isinstance(value, list) or not value or not all(type(n) is int and n > 0 for n in value):
            raise ConfigError(f"{files.folder / CONFIG}: {name} is {value!r}; expected whole numbers")
    count = files.whole("num_train_timesteps", 100)
    noise = NoiseSchedule(
        kind=str(given.get("noise_scheduler_type", "DDPM")),
        count=count,
        schedule=str(given.get("beta_schedule", "squaredcos_cap_v2")),
        first=files.number("beta_start", 1e-4),
        last=files.number("beta_end", 0.02),
        prediction=str(given.get("prediction_type", "epsilon")),
        clip=files.number("clip_sample_range", 1.0) if given.get("clip_sample", True) else None,
        steps=count if given.get("num_inference_steps") is None else files.whole("num_inference_steps", count),
    )
    return DiffusionConfig(
        cameras=len(files.cameras),
        state=files.size(STATE),
        action=files.action_size,
        image=next(iter(sizes), (32, 32)),
        noise=noise,
        crop=(crop[0], crop[1]) if crop else None,
        history=files.whole("n_obs_steps", 2),
        horizon=files.whole("horizon", 64),
        chunk=files.whole("n_action_steps", 32),
        backbone=str(given.get("vision_backbone", "resnet18")),
        grouped=bool(given.get("use_group_norm", False)),
        points=files.whole("spatial_softmax_num_keypoints", 32),
        separate=bool(given.get("use_separate_rgb_encoder_per_camera", True)),
        widths=tuple(widths),
        kernel=files.whole("kernel_size", 5),
        groups=files.whole("n_groups", 8),
        time=files.whole("diffusion_step_embed_dim", 128),
        scaled=bool(given.get("use_film_scale_modulation", True)),
    )
