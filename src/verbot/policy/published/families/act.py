"""ACT, as LeRobot saved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verbot.models.published.act import ActConfig, ActNetwork
from verbot.models.published.base import filled
from verbot.models.published.names import STATISTICS, without_wrappers
from verbot.models.trunks.weights import Targets
from verbot.policy.published.base import OpenOptions, PublishedParts, families
from verbot.policy.published.images import unit_range
from verbot.policy.published.lerobot import ACTION, ENVIRONMENT, STATE, LeRobotFiles, is_lerobot
from verbot.policy.published.scaling import Scaling
from verbot.policy.published.specs import clean_name
from verbot.spec import FloatArray, Observation

METHOD = "MEAN_STD"


@dataclass(frozen=True)
class ActProcessing:
    """Images and state as they are, normalized.

    Args:
        cameras: names of a spec, with the normalization of its pixels.
    """

    cameras: tuple[tuple[str, Scaling], ...]
    state: Scaling
    action: Scaling

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        seen = [episode[-1] for episode in episodes]
        images = {
            f"images.{i}": torch.stack([scaled_image(unit_range(each.images[name]), scaling) for each in seen])
            for i, (name, scaling) in enumerate(self.cameras)
        }
        return {**images, "state": torch.from_numpy(np.stack([self.state.forward(each.state) for each in seen]))}

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        return self.action.inverse(outputs.numpy())

    def targets(self, actions: FloatArray, episodes: Sequence[tuple[Observation, ...]]) -> Tensor:
        return torch.from_numpy(self.action.forward(actions))


def scaled_image(image: Tensor, scaling: Scaling) -> Tensor:
    """An image (…, 3, h, w) in [0, 1], normalized channel by channel."""
    if scaling.size is None:
        return image
    return torch.from_numpy(scaling.forward(image.movedim(-3, -1).numpy())).movedim(-1, -3)


def plain_targets(name: str) -> Targets:
    """A weight's own name; none for statistics among the weights of old files."""
    own = without_wrappers(name, "model.", "diffusion.")
    return () if own.startswith(STATISTICS) else (own,)


@families.register("act")
class Act:
    about = "ACT of LeRobot"

    @staticmethod
    def recognizes(folder: Path) -> bool:
        return is_lerobot(folder, "act")

    @staticmethod
    def open(folder: Path, options: OpenOptions) -> PublishedParts:
        files = LeRobotFiles.read(folder)
        files.refuse(replace_final_stride_with_dilation=False, n_obs_steps=1)
        files.refuse_feature(ENVIRONMENT)
        config = ActConfig(
            cameras=len(files.cameras),
            state=files.size(STATE),
            action=files.action_size,
            chunk=files.whole("chunk_size", 100),
            backbone=str(files.config.get("vision_backbone", "resnet18")),
            width=files.whole("dim_model", 512),
            heads=files.whole("n_heads", 8),
            hidden=files.whole("dim_feedforward", 3200),
            encoders=files.whole("n_encoder_layers", 4),
            decoders=files.whole("n_decoder_layers", 1),
            latent=files.whole("latent_dim", 32),
            latents=files.whole("n_vae_encoder_layers", 4) if files.config.get("use_vae", True) else 0,
            activation=str(files.config.get("feedforward_activation", "relu")),
            before=bool(files.config.get("pre_norm", False)),
            dropout=files.number("dropout", 0.1),
            divergence=files.number("kl_weight", 10.0),
        )
        cameras = tuple((clean_name(name), files.scaling("VISUAL", name, METHOD)) for name in files.cameras)
        processing = ActProcessing(cameras, files.scaling("STATE", STATE, METHOD), files.scaling("ACTION", ACTION, METHOD))
        network, names = filled(lambda: ActNetwork(config), files.tensors, plain_targets, options.dtype)
        notes = files.unscaled(("STATE", STATE, METHOD), ("ACTION", ACTION, METHOD))
        return PublishedParts(
            files.spec(), network, processing, names, files.kept, chunk=config.chunk, resized=False, notes=notes
        )
