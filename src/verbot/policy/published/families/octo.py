"""Octo, as its authors' code saved it: flax's msgpack, written by orbax."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verbot.errors import ConfigError
from verbot.files import read_record
from verbot.models.published.base import filled
from verbot.models.published.octo import OctoNetwork
from verbot.models.published.octo_weights import OctoHead, octo_config, octo_targets, read_octo
from verbot.policy.published.base import OpenOptions, PublishedParts, families, record_of
from verbot.policy.published.prismatic import CROP, STATISTICS, statistics_of
from verbot.policy.published.specs import generic_spec
from verbot.policy.published.tensorflow_images import crop_resized, lanczos, rounded
from verbot.policy.published.text import TOKENIZER, PromptTokenizer, find_tokenizer
from verbot.spec import Float64Array, FloatArray, Observation, UInt8Array

CONFIG, EXAMPLE = "config.json", "example_batch.msgpack"
T5 = "google-t5/t5-base"
CROPPED = "primary"  # the camera whose images were cropped at random in training
END = 1  # T5's token of the end of a text


@dataclass(frozen=True)
class OctoProcessing:
    """What Octo's gym wrappers do before and after the network.

    Args:
        cameras: the names of the cameras, with the side of their images.
        words: tokens of an instruction.
        mean, std: of the actions (a,); `mask` (a,) says which of them are normalized.
    """

    tokenizer: PromptTokenizer
    cameras: Mapping[str, int]
    words: int
    mean: Float64Array
    std: Float64Array
    mask: np.ndarray[Any, np.dtype[np.bool_]]

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        rows = [[*self.tokenizer.encode(episode[-1].instruction)[: self.words - 1], END] for episode in episodes]
        tokens = torch.zeros(len(rows), self.words, dtype=torch.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
        found = {
            "tokens": tokens,
            "tokens_mask": torch.arange(self.words) < torch.tensor([len(ids) for ids in rows])[:, None],
            "steps_mask": torch.tensor([real_steps(episode) for episode in episodes]),
        }
        for name, side in self.cameras.items():
            there = [name in episode[-1].images for episode in episodes]
            found[f"images_mask.{name}"] = torch.tensor(there)
            views = [[self._image(each, name, side) for each in episode] for episode in episodes]
            found[f"images.{name}"] = torch.from_numpy(np.array(views)).movedim(-1, 2).float()
        return found

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        normal = outputs[..., : len(self.mask)].numpy()
        return np.asarray(np.where(self.mask, normal * self.std + self.mean, normal), np.float32)

    def _image(self, observation: Observation, name: str, side: int) -> UInt8Array:
        """As the environment wrapper that resizes images; a camera that is not there is black, and masked."""
        image = observation.images.get(name)
        if image is None:
            return np.zeros((side, side, 3), np.uint8)
        resized = lanczos(image, side, side)
        return rounded(crop_resized(resized, CROP, side, side) if name == CROPPED else resized)


def real_steps(episode: Sequence[Observation]) -> list[bool]:
    """Which observations of a window are not there only to fill it up, at the start of an episode."""
    times = [each.time_s for each in episode]
    return [*(a < b for a, b in itertools.pairwise(times)), True]


@families.register("octo")
class Octo:
    about = "Octo with a diffusion head"

    @staticmethod
    def recognizes(folder: Path) -> bool:
        model = record_of(folder).get("model")
        return isinstance(model, dict) and "observation_tokenizers" in model

    @staticmethod
    def open(folder: Path, options: OpenOptions) -> PublishedParts:
        record = read_record(folder / CONFIG)
        model = record["model"]
        head = _head(folder, record)
        _refuse_other_words(folder, model)
        name, mean, std, mask = _statistics(folder, record, options.statistics)
        if len(mean) > head.action:
            raise ConfigError(
                f"{folder}: the statistics are of {len(mean)} numbers of an action; the weights are for {head.action}"
            )
        path = checkpoint_of(folder)
        tensors = read_octo(folder, path)
        config = octo_config(model, tensors, head, len(mean))
        tokenizer = PromptTokenizer(find_tokenizer(folder, options.tokenizer, T5))
        if tokenizer.size > config.language.tokens:
            raise ConfigError(f"the tokenizer has {tokenizer.size} tokens, and the encoder of words {config.language.tokens}")
        cameras = {stem.name: stem.side for stem in config.stems}
        processing = OctoProcessing(tokenizer, cameras, config.words, mean, std, mask)
        spec = generic_spec("octo", {each: (side, side) for each, side in cameras.items()}, 0, len(mean))
        network, names = filled(lambda: OctoNetwork(config), tensors, octo_targets(model), options.dtype)
        kept = tuple(each for each in (CONFIG, STATISTICS, EXAMPLE, TOKENIZER) if (folder / each).is_file())
        notes = (f"actions are those of {name}", "no goal image is given: the policy follows the instruction")
        return PublishedParts(spec, network, processing, names, kept, history=config.window, notes=notes)


def checkpoint_of(folder: Path) -> Path:
    """The file of the weights of the latest step. Raises `ConfigError` if there is none."""
    places = [path for pattern in ("*/default/checkpoint", "*/checkpoint") for path in folder.glob(pattern)]
    steps = {int(path.relative_to(folder).parts[0]): path for path in places if path.relative_to(folder).parts[0].isdecimal()}
    if steps:
        return steps[max(steps)]
    raise ConfigError(f"{folder} has no weights; expected STEP/default/checkpoint, one file of msgpack, with a number for STEP")


def _head(folder: Path, record: Mapping[str, Any]) -> OctoHead:
    """Raises `ConfigError` for another head than the diffusion head, and for options of it that are not known."""
    heads = record["model"].get("heads")
    spec = heads.get("action") if isinstance(heads, dict) else None
    if not isinstance(spec, dict) or spec.get("name") != "DiffusionActionHead" or not isinstance(spec.get("kwargs"), dict):
        found = spec.get("name") if isinstance(spec, dict) else spec
        raise ConfigError(f"{folder / CONFIG}: the head for actions is {found!r:.60}; known: DiffusionActionHead")
    kwargs = spec["kwargs"]
    if kwargs.get("use_map") or kwargs.get("use_layer_norm", True) is not True or kwargs.get("readout_key") != "readout_action":
        raise ConfigError(f"{folder / CONFIG}: the head pools tokens, has no norms or reads {kwargs.get('readout_key')!r:.40}")
    chunk = kwargs.get("action_horizon", kwargs.get("pred_horizon", 1))
    numbers = {
        "action_horizon": chunk, "action_dim": kwargs.get("action_dim", 7), "window_size": record.get("window_size"),
        "diffusion_steps": kwargs.get("diffusion_steps", 20),
    }  # fmt: skip
    for name, value in numbers.items():
        if type(value) is not int or not 1 <= value <= 1000:
            raise ConfigError(f"{folder / CONFIG}: {name} is {value!r}; expected a whole number from 1 to 1000")
    largest = kwargs.get("max_action", 5.0)
    if isinstance(largest, bool) or not isinstance(largest, int | float) or not 0 < largest < float("inf"):
        raise ConfigError(f"{folder / CONFIG}: max_action is {largest!r}; expected a positive number")
    return OctoHead(chunk, numbers["action_dim"], numbers["window_size"], numbers["diffusion_steps"], float(largest))


def _refuse_other_words(folder: Path, model: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless the task is read by one tokenizer of words, through T5."""
    tokenizers = model.get("task_tokenizers")
    spec = tokenizers.get("language") if isinstance(tokenizers, dict) and len(tokenizers) == 1 else None
    kwargs = spec.get("kwargs") if isinstance(spec, dict) else None
    if not isinstance(kwargs, dict) or "t5" not in str(kwargs.get("encoder")):
        raise ConfigError(f"{folder / CONFIG}: tasks are read by {str(tokenizers)[:120]}; known: one LanguageTokenizer with T5")


def _statistics(
    folder: Path, record: Mapping[str, Any], chosen: str | None
) -> tuple[str, Float64Array, Float64Array, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Name, means, deviations and mask of the actions of one dataset, or of the only one that a policy was fine-tuned on."""
    path = folder / STATISTICS
    whole = read_record(path) if path.is_file() else {}
    if isinstance(whole.get("action"), dict):
        name, table = "the fine-tuning", whole
    else:
        name, found = statistics_of(folder, record, chosen)
        table = dict(found)
    action = table.get("action")
    try:
        if not isinstance(action, dict):
            raise ValueError("there is no table action")
        mean, std = (np.asarray(action[each], np.float64) for each in ("mean", "std"))
        mask = np.asarray(action.get("mask", np.ones(mean.shape)), bool)
        if mean.ndim != 1 or not len(mean) or not mean.shape == std.shape == mask.shape or not np.isfinite([mean, std]).all():
            raise ValueError("mean, std and mask differ in size, or are not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: the statistics of actions of {name} cannot be read: {error}") from error
    return name, mean, std, mask
