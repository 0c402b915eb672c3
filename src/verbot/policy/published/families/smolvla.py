"""SmolVLA, as LeRobot saved it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.published.base import filled
from verbot.models.published.smolvla import SmolNetwork
from verbot.models.published.smolvla_weights import smol_config, smol_targets
from verbot.policy.published.base import OpenOptions, PublishedParts, families
from verbot.policy.published.images import padded_corner, unit_range
from verbot.policy.published.lerobot import ACTION, CONFIG, STATE, LeRobotFiles, is_lerobot
from verbot.policy.published.scaling import Scaling
from verbot.policy.published.specs import clean_name
from verbot.policy.published.text import PromptTokenizer, find_tokenizer, padded
from verbot.spec import FloatArray, Observation

SMOLVLM = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
METHOD = "MEAN_STD"


@dataclass(frozen=True)
class SmolProcessing:
    """What LeRobot does before and after SmolVLA.

    Args:
        cameras: names of a spec, in the order of the images.
        side: of the images, in pixels.
        length: of a prompt, in tokens.
        width, state_width: of padded actions and states.
    """

    tokenizer: PromptTokenizer
    cameras: tuple[str, ...]
    side: int
    length: int
    state: Scaling
    action: Scaling
    action_size: int
    width: int
    state_width: int

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        seen = [episode[-1] for episode in episodes]
        rows = [self._images(each) for each in seen]
        most = max(len(images) for images in rows)
        black = torch.full((3, self.side, self.side), -1.0)
        states = np.stack([self.state.forward(each.state) for each in seen])
        texts = [each.instruction if each.instruction.endswith("\n") else f"{each.instruction}\n" for each in seen]
        tokens, mask = padded([self.tokenizer.encode(text) for text in texts], self.length)
        return {
            "images": torch.stack([torch.stack([*images, *[black] * (most - len(images))]) for images in rows]),
            "images_mask": torch.arange(most) < torch.tensor([len(images) for images in rows])[:, None],
            "tokens": tokens,
            "tokens_mask": mask,
            "state": F.pad(torch.from_numpy(states), (0, self.state_width - states.shape[1])),
        }

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        return self.action.inverse(outputs[..., : self.action_size].numpy())

    def targets(self, actions: FloatArray, episodes: Sequence[tuple[Observation, ...]]) -> Tensor:
        return F.pad(torch.from_numpy(self.action.forward(actions)), (0, self.width - self.action_size))

    def _images(self, observation: Observation) -> list[Tensor]:
        """Those that there are, in [−1, 1]. Masked ones have no place in the sequence, so leaving them out changes nothing."""
        found = [observation.images[name] for name in self.cameras if name in observation.images]
        return [padded_corner(unit_range(image), self.side, self.side) * 2 - 1 for image in found]


@families.register("smolvla")
class SmolVla:
    about = "SmolVLA of LeRobot"

    @staticmethod
    def recognizes(folder: Path) -> bool:
        return is_lerobot(folder, "smolvla")

    @staticmethod
    def open(folder: Path, options: OpenOptions) -> PublishedParts:
        files = LeRobotFiles.read(folder)
        files.refuse(
            adapt_to_pi_aloha=False,
            use_delta_joint_actions_aloha=False,
            add_image_special_tokens=False,
            attention_mode="cross_attn",
        )
        chunk, steps = files.whole("chunk_size", 50), files.whole("num_steps", 10)
        config = smol_config(files.tensors, chunk, files.whole("self_attn_every_n_layers", 2), steps)
        side, size = config.vision.side, files.config.get("resize_imgs_with_padding", [512, 512])
        if size != [side, side]:
            raise ConfigError(f"{folder / CONFIG}: resize_imgs_with_padding is {size!r}; the vision model reads [{side}, {side}]")
        if files.size(STATE) > config.state or files.action_size > config.action:
            raise ConfigError(
                f"{folder / CONFIG}: the weights are for {config.state} numbers of a state and {config.action} of an action"
            )
        processing = SmolProcessing(
            PromptTokenizer(find_tokenizer(folder, options.tokenizer, str(files.config.get("vlm_model_name") or SMOLVLM))),
            tuple(clean_name(name) for name in files.cameras),
            side,
            files.whole("tokenizer_max_length", 48),
            files.scaling("STATE", STATE, METHOD),
            files.scaling("ACTION", ACTION, METHOD),
            files.action_size,
            config.action,
            config.state,
        )
        notes = files.unscaled(("STATE", STATE, METHOD), ("ACTION", ACTION, METHOD))
        network, names = filled(lambda: SmolNetwork(config), files.tensors, smol_targets(config), options.dtype)
        return PublishedParts(files.spec(), network, processing, names, files.kept, chunk=config.chunk, notes=notes)
