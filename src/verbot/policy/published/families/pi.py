"""π0 and π0.5, as openpi's PyTorch code or LeRobot saved them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verbot.errors import ConfigError, CorruptFileError, VerbotError
from verbot.files import read_record
from verbot.models.published.base import filled
from verbot.models.published.pi import PiConfig, PiNetwork
from verbot.models.published.pi_weights import EXPERT, pi_config, pi_targets, plain_name
from verbot.models.trunks.weights import TensorFiles
from verbot.policy.published.base import OpenOptions, PublishedParts, families, record_of
from verbot.policy.published.images import padded_center, padded_uint8, unit_range
from verbot.policy.published.lerobot import ACTION, CONFIG, STATE, WEIGHTS, LeRobotFiles, is_lerobot
from verbot.policy.published.scaling import Scaling
from verbot.policy.published.specs import clean_name, generic_spec
from verbot.policy.published.text import TOKENIZER, PromptTokenizer, find_tokenizer, padded
from verbot.spec import FloatArray, Observation

PALIGEMMA = "google/paligemma-3b-pt-224"  # whose tokenizer all of these have
OPENPI_CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
STATISTICS = "norm_stats.json"


@dataclass(frozen=True)
class PiProcessing:
    """What openpi and LeRobot do before and after the network.

    Args:
        cameras: names of a spec, in the order of the images.
        side: of the images, in pixels.
        openpi: images are resized by PIL and instructions are cleaned, as openpi does; otherwise as LeRobot does.
        length: of a prompt, in tokens.
        state_in_prompt: the state is written into the prompt, as bins (π0.5); otherwise it is a token of its own.
        width: of padded actions and states.
        relative: which numbers of an action are relative to the state; empty if none.
    """

    tokenizer: PromptTokenizer
    cameras: tuple[str, ...]
    side: int
    openpi: bool
    length: int
    state_in_prompt: bool
    state: Scaling
    action: Scaling
    action_size: int
    width: int
    relative: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        seen = [episode[-1] for episode in episodes]
        states = [self.state.forward(each.state) for each in seen]
        prompts = [self.prompt(each.instruction, state) for each, state in zip(seen, states, strict=True)]
        tokens, mask = padded([self.encoded(prompt) for prompt in prompts], self.length)
        images, images_mask = pi_images(seen, self.cameras, self.side, self.openpi)
        padding = [np.pad(state, (0, max(0, self.width - len(state)))) for state in states]
        return {
            "images": images,
            "images_mask": images_mask,
            "tokens": tokens,
            "tokens_mask": mask,
            "state": torch.from_numpy(np.stack(padding)),
        }

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        return absolute(self.action.inverse(outputs[..., : self.action_size].numpy()), self.relative, episodes)

    def targets(self, actions: FloatArray, episodes: Sequence[tuple[Observation, ...]]) -> Tensor:
        normal = torch.from_numpy(self.action.forward(absolute(actions, self.relative, episodes, -1.0)))
        return torch.nn.functional.pad(normal, (0, self.width - self.action_size))

    def prompt(self, instruction: str, state: FloatArray) -> str:
        """The text of the prompt; `state` is normalized."""
        cleaned = instruction
        if self.openpi or self.state_in_prompt:
            cleaned = instruction.strip().replace("_", " ").replace("\n", " ")
        if self.state_in_prompt:
            return f"Task: {cleaned}, State: {' '.join(map(str, state_bins(state)))};\nAction: "
        return cleaned if cleaned.endswith("\n") else f"{cleaned}\n"

    def encoded(self, prompt: str) -> list[int]:
        """Token ids with the start of a text. The last line break of a π0 prompt is a token of its own."""
        start = [self.tokenizer.special("<bos>")]
        if self.openpi and not self.state_in_prompt:
            return [*start, *self.tokenizer.encode(prompt.removesuffix("\n")), *self.tokenizer.encode("\n")]
        return [*start, *self.tokenizer.encode(prompt)]


def pi_images(seen: Sequence[Observation], cameras: Sequence[str], side: int, openpi: bool = False) -> tuple[Tensor, Tensor]:
    """Images (b, v, 3, s, s) in [−1, 1], and which there are (b, v); others are black. openpi resizes otherwise than LeRobot."""

    def image(observation: Observation, name: str) -> Tensor:
        found = observation.images.get(name)
        if found is None:
            return torch.full((3, side, side), -1.0)
        return (unit_range(padded_uint8(found, side)) if openpi else padded_center(unit_range(found), side)) * 2 - 1

    images = torch.stack([torch.stack([image(each, name) for name in cameras]) for each in seen])
    return images, torch.tensor([[name in each.images for name in cameras] for each in seen])


def absolute(
    actions: FloatArray, relative: FloatArray, episodes: Sequence[tuple[Observation, ...]], sign: float = 1.0
) -> FloatArray:
    """Actions (b, k, a) with the state added to those numbers that are relative to it; with `sign` −1 the inverse."""
    if not len(relative):
        return actions
    places = np.flatnonzero(relative)
    states = np.stack([episode[-1].state for episode in episodes])[:, None, :]
    out = actions.copy()
    out[..., places] += sign * states[..., places]
    return out


def state_bins(state: FloatArray) -> list[int]:
    """The bin, of 256 in [−1, 1], of each number of a normalized state, as openpi writes it into a prompt; -1 below.

    Example:
        >>> state_bins(np.array([-1.5, -1.0, 0.0, 1.0, 2.0], np.float32))
        [-1, 0, 128, 255, 255]
    """
    return [int(n) for n in np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1]


class _Pi:
    """What π0 and π0.5 have in common; `kind` is LeRobot's name."""

    kind: str
    adaptive: bool

    @classmethod
    def recognizes(cls, folder: Path) -> bool:
        if is_lerobot(folder, "pi0", "pi05"):
            return is_lerobot(folder, cls.kind)
        return "type" not in record_of(folder) and _openpi_adaptive(folder) is cls.adaptive

    @classmethod
    def open(cls, folder: Path, options: OpenOptions) -> PublishedParts:
        if "type" in record_of(folder):
            return _lerobot(folder, options, cls.adaptive)
        return _openpi(folder, options, cls.adaptive)


@families.register("pi0")
class Pi0(_Pi):
    about = "π0 of Physical Intelligence: openpi in PyTorch, or LeRobot"
    kind, adaptive = "pi0", False


@families.register("pi05")
class Pi05(_Pi):
    about = "π0.5 of Physical Intelligence: openpi in PyTorch, or LeRobot"
    kind, adaptive = "pi05", True


def _openpi_adaptive(folder: Path) -> bool | None:
    """Whether a folder of openpi holds a π0.5; None if it holds neither."""
    try:
        names = [plain_name(name) or "" for name in TensorFiles.find(folder, WEIGHTS).files]
    except VerbotError:
        return None
    if not any(name.startswith(EXPERT) for name in names):
        return None
    return f"{EXPERT}norm.dense.weight" in names


def _lerobot(folder: Path, options: OpenOptions, adaptive: bool) -> PublishedParts:
    files = LeRobotFiles.read(folder)
    files.refuse(use_visual_memory=False, use_proprioceptive_memory=False)
    method = "QUANTILES" if adaptive else "MEAN_STD"
    config = _checked(
        pi_config(files.tensors, files.whole("chunk_size", 50), files.whole("num_inference_steps", 10)), folder, adaptive
    )
    cameras = tuple(clean_name(name) for name in files.cameras)
    processing = PiProcessing(
        PromptTokenizer(find_tokenizer(folder, options.tokenizer, PALIGEMMA)),
        cameras,
        config.vision.side,
        openpi=False,
        length=files.whole("tokenizer_max_length", 200 if adaptive else 48),
        state_in_prompt=adaptive,
        state=files.scaling("STATE", STATE, method),
        action=files.scaling("ACTION", ACTION, method),
        action_size=files.action_size,
        width=config.action,
        relative=relative_numbers(files),
    )
    notes = files.unscaled(("STATE", STATE, method), ("ACTION", ACTION, method))
    network, names = filled(lambda: PiNetwork(config), files.tensors, pi_targets(config.vision, files.tensors), options.dtype)
    return PublishedParts(files.spec(), network, processing, names, files.kept, chunk=config.chunk, notes=notes)


def relative_numbers(files: LeRobotFiles) -> FloatArray:
    """Which numbers of an action are relative to the state, in LeRobot's newer files."""
    if not files.config.get("use_relative_actions"):
        return np.zeros(0, np.float32)
    names = files.config.get("action_feature_names") or []
    excluded = [str(each).lower() for each in files.config.get("relative_exclude_joints") or [] if each]
    kept = [any(each in str(name).lower() for each in excluded) for name in names] + [False] * (files.action_size - len(names))
    return 1 - np.array(kept[: files.action_size], np.float32)


def _openpi(folder: Path, options: OpenOptions, adaptive: bool) -> PublishedParts:
    record: dict[str, Any] = read_record(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    chunk = record.get("action_horizon")
    if type(chunk) is not int or not 1 <= chunk <= 4096:
        raise ConfigError(
            f"{folder / CONFIG} has action_horizon {chunk!r}; expected the number of actions in a chunk, which openpi's training "
            'does not save: write {"action_horizon": 50} there, or what its training configuration says'
        )
    tensors = TensorFiles.find(folder, WEIGHTS)
    config = _checked(pi_config(tensors, chunk), folder, adaptive)
    path, statistics = _openpi_statistics(folder, options.statistics)
    state, action = (Scaling.openpi(adaptive, statistics[name], name) for name in ("state", "actions"))
    size = min(action.size or config.action, config.action)
    processing = PiProcessing(
        PromptTokenizer(find_tokenizer(folder, options.tokenizer, PALIGEMMA)),
        OPENPI_CAMERAS,
        config.vision.side,
        openpi=True,
        length=int(record.get("max_token_len") or (200 if adaptive else 48)),
        state_in_prompt=adaptive and record.get("discrete_state_input", True) is not False,
        state=state,
        action=action,
        action_size=size,
        width=config.action,
    )
    side = config.vision.side
    spec = generic_spec("openpi", dict.fromkeys(OPENPI_CAMERAS, (side, side)), state.size or config.state, size)
    network, names = filled(lambda: PiNetwork(config), tensors, pi_targets(config.vision, tensors), options.dtype)
    kept = tuple(name for name in (CONFIG, TOKENIZER) if (folder / name).is_file())
    note = "openpi's data transforms of a robot are not in its checkpoints: cameras, state and actions are those of the model"
    kept = (*kept, str(path.relative_to(folder)))
    return PublishedParts(spec, network, processing, names, kept, chunk=chunk, notes=(note,))


def _openpi_statistics(folder: Path, asset: str | None) -> tuple[Path, dict[str, Any]]:
    """The file of statistics, and the table in it. Raises `ConfigError` unless there is exactly one, or it is named."""
    found = sorted((folder / "assets").rglob(STATISTICS))
    names = [str(path.parent.relative_to(folder / "assets")) for path in found]
    chosen = [path for path, name in zip(found, names, strict=True) if asset in (None, name)]
    if len(chosen) != 1:
        raise ConfigError(
            f"{folder} has statistics of {', '.join(names) or 'no dataset'} in assets; expected one, or the name of one of them"
        )
    table = read_record(chosen[0]).get("norm_stats")
    if not isinstance(table, dict) or not all(isinstance(table.get(name), dict) for name in ("state", "actions")):
        raise CorruptFileError(chosen[0], "holds no statistics of state and actions (norm_stats)")
    try:
        numbers = {
            name: {kind: np.asarray(values, np.float64) for kind, values in table[name].items() if values is not None}
            for name in ("state", "actions")
        }
    except (TypeError, ValueError) as error:
        raise CorruptFileError(chosen[0], f"holds statistics that are no numbers: {error}") from error
    return chosen[0], numbers


def _checked(config: PiConfig, folder: Path, adaptive: bool) -> PiConfig:
    if config.adaptive is not adaptive:
        own = ("π0", "π0.5")
        raise ConfigError(
            f"{folder / CONFIG} says that this is {own[adaptive]}, but the weights are those of {own[config.adaptive]}"
        )
    return config
