"""What comes before and after OpenVLA and OpenVLA-OFT: statistics by the name of a dataset, the prompt, six channels an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from verbot.errors import ConfigError, SpecError
from verbot.files import read_record
from verbot.policy.published.tensorflow_images import center_crop, jpeg_round_trip, lanczos, rounded
from verbot.policy.published.text import TOKENIZER, PromptTokenizer, find_tokenizer
from verbot.spec import Float64Array, FloatArray, Observation, UInt8Array

CONFIG, STATISTICS = "config.json", "dataset_statistics.json"
PUBLISHED = "openvla/openvla-7b"  # whose tokenizer all of these have
SPACE = 29871  # Llama's token of a lone space, which ends every prompt
CROP = 0.9  # of the area
OTHERS = (
    CONFIG, STATISTICS, TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "preprocessor_config.json", "generation_config.json",
)  # fmt: skip
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class StatisticRange:
    """Numbers between two ends (n,) to [−1, 1] and back; those that `mask` (n,) leaves out stay as they are.

    Args:
        epsilon: added to the range on the way back; OpenVLA adds none, OFT 1e-8.
    """

    low: Float64Array
    high: Float64Array
    mask: np.ndarray[Any, np.dtype[np.bool_]]
    epsilon: float = 0.0

    @staticmethod
    def read(table: object, ends: tuple[str, str], epsilon: float, what: str) -> StatisticRange:
        """Of a table of statistics. Raises `ConfigError` that says what it lacks."""
        if not isinstance(table, Mapping) or any(end not in table for end in ends):
            has = ", ".join(map(str, table)) if isinstance(table, Mapping) else "no table"
            raise ConfigError(f"{what} need {ends[0]} and {ends[1]}; there is {has}")
        try:
            low, high = (np.asarray(table[end], np.float64) for end in ends)
            mask = np.asarray(table.get("mask", np.ones(low.shape)), bool)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{what} are no numbers: {error}") from error
        if low.ndim != 1 or not low.shape == high.shape == mask.shape or not np.isfinite([low, high]).all():
            raise ConfigError(f"{what} differ in size, or are not finite: {low.shape}, {high.shape}, mask {mask.shape}")
        return StatisticRange(low, high, mask, epsilon)

    def forward(self, x: FloatArray) -> FloatArray:
        """Clipped, as in training."""
        scaled = 2 * (x - self.low) / (self.high - self.low + 1e-8) - 1
        return np.asarray(np.clip(np.where(self.mask, scaled, x), -1, 1), np.float32)

    def inverse(self, y: FloatArray) -> FloatArray:
        scaled = 0.5 * (y.astype(np.float64) + 1) * (self.high - self.low + self.epsilon) + self.low
        return np.asarray(np.where(self.mask, scaled, y), np.float32)


@dataclass(frozen=True)
class PrismaticProcessing:
    """What the published code does before and after the network.

    Args:
        cameras: names of a spec, in the order of the images.
        side: of the images, in pixels.
        cropped: images pass a JPEG file, a Lanczos filter and a crop of the center, as in the evaluation of policies that were
            trained with random crops; otherwise they only are resized by PIL's bicubic filter.
        resized: images pass the JPEG file and the Lanczos filter, also where they are not cropped.
        state: normalization of the state; None for a policy without one.
        slots: tokens for the numbers of all actions, which OFT adds to the prompt; 0 for none.
    """

    tokenizer: PromptTokenizer
    cameras: tuple[str, ...]
    side: int
    cropped: bool
    resized: bool
    action: StatisticRange
    state: StatisticRange | None = None
    slots: int = 0

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        seen = [episode[-1] for episode in episodes]
        rows = [self.encoded(each.instruction) for each in seen]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
        lengths = torch.tensor([len(ids) for ids in rows])
        found = {
            "pixels": torch.stack([self._pixels(each) for each in seen]),
            "tokens": tokens,
            "tokens_mask": torch.arange(tokens.shape[1]) < lengths[:, None],
        }
        if self.state is not None:
            found["state"] = torch.from_numpy(np.stack([self.state.forward(each.state) for each in seen]))
        return found

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        return self.action.inverse(outputs.numpy())

    def targets(self, actions: FloatArray, episodes: Sequence[tuple[Observation, ...]]) -> Tensor:
        return torch.from_numpy(self.action.forward(actions))

    def encoded(self, instruction: str) -> list[int]:
        """Token ids of the prompt, with OFT's placeholders and the end of the text after them."""
        prompt = f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        ids = [self.tokenizer.special("<s>"), *self.tokenizer.encode(prompt)]
        ids = ids if ids[-1] == SPACE else [*ids, SPACE]
        return [*ids, *[1] * self.slots, 2] if self.slots else ids

    def _pixels(self, observation: Observation) -> Tensor:
        if absent := [name for name in self.cameras if name not in observation.images]:
            raise SpecError(f"this policy needs camera {absent[0]!r}; the observation has {', '.join(observation.images)}")
        return torch.cat([six_channels(self._prepared(observation.images[name]), self.side) for name in self.cameras])

    def _prepared(self, image: UInt8Array) -> UInt8Array:
        if self.resized and image.shape[:2] != (self.side, self.side):
            image = rounded(lanczos(jpeg_round_trip(image), self.side, self.side))
        return center_crop(image, CROP, self.side) if self.cropped else image


def six_channels(image: UInt8Array, side: int) -> Tensor:
    """(6, s, s): the image by PIL's bicubic filter, normalized as each of the two vision models expects it."""
    if image.shape[:2] != (side, side):
        image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
    scaled = [(pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None] for mean, std in (IMAGENET, HALVES)]
    return torch.cat(scaled)


def statistics_of(folder: Path, record: Mapping[str, Any], chosen: str | None) -> tuple[str, Mapping[str, Any]]:
    """The name and the table of the statistics of one dataset: of `STATISTICS`, or else of ``norm_stats``.

    Raises `ConfigError` that lists those that there are, unless one is chosen or there is only one.
    """
    place = folder / STATISTICS
    table = read_record(place) if place.is_file() else record.get("norm_stats")
    if not isinstance(table, dict) or not table:
        raise ConfigError(f"{folder} has no statistics of a dataset; expected {STATISTICS}, or norm_stats in {CONFIG}")
    name = next(iter(table)) if chosen is None and len(table) == 1 else chosen
    if name is None or name not in table:
        what = "is for several datasets" if name is None else f"has no statistics of {name!r}"
        raise ConfigError(
            f"{folder} {what}; choose the statistics (unnorm_key) of one of {', '.join(sorted(table))}: "
            "open hf:FOLDER#NAME, or open_published(name, options=OpenOptions(statistics=NAME))"
        )
    if not isinstance(table[name], dict):
        raise ConfigError(f"{folder}: the statistics of {name!r} are no table")
    return name, table[name]


def switch(record: Mapping[str, Any], name: str, default: bool) -> bool:
    """An option that a person may write into `CONFIG`. Raises `ConfigError` for another value than true and false."""
    value = record.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{CONFIG}: {name} is {value!r}; expected true or false")
    return value


def whole(record: Mapping[str, Any], name: str, default: int) -> int:
    """A number that a person may write into `CONFIG`. Raises `ConfigError` unless it is from 1 to 1024."""
    value = record.get(name, default)
    if type(value) is not int or not 1 <= value <= 1024:
        raise ConfigError(f"{CONFIG}: {name} is {value!r}; expected a whole number from 1 to 1024")
    return value


def llama_tokenizer(folder: Path, given: str | None, tokens: int) -> PromptTokenizer:
    """Raises `ConfigError` for a tokenizer of another model than one of `tokens` tokens."""
    tokenizer = PromptTokenizer(find_tokenizer(folder, given, PUBLISHED))
    if tokenizer.size > tokens or tokens <= SPACE:
        raise ConfigError(
            f"the tokenizer has {tokenizer.size} tokens, and the language model {tokens}; expected Llama's, with token {SPACE}"
        )
    return tokenizer


def kept_files(folder: Path) -> tuple[str, ...]:
    """Files beside the weights that a saved copy needs."""
    return tuple(name for name in OTHERS if (folder / name).is_file())
