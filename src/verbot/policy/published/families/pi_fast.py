"""π0-FAST, as LeRobot saved it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verbot.errors import ConfigError, PolicyError, VerbotError
from verbot.models.cosine import inverse_cosine_transform
from verbot.models.fast import FILES as FAST_FILES
from verbot.models.fast import PROCESSOR, FastTokenizer
from verbot.models.published.base import filled
from verbot.models.published.names import Shapes
from verbot.models.published.pi_fast import NOTHING, PiFastConfig, PiFastNetwork
from verbot.models.published.pi_weights import LANGUAGE, SIGLIP_HEAD, VISION, pi_targets, with_embedding
from verbot.policy.published.base import OpenOptions, PublishedParts, families
from verbot.policy.published.families.pi import PALIGEMMA, absolute, pi_images, relative_numbers, state_bins
from verbot.policy.published.lerobot import ACTION, STATE, LeRobotFiles, is_lerobot
from verbot.policy.published.scaling import Scaling
from verbot.policy.published.specs import clean_name
from verbot.policy.published.text import PromptTokenizer, find_tokenizer, padded
from verbot.spec import Float64Array, FloatArray, Observation

FAST = "lerobot/fast-action-tokenizer"
START, STOP = "Action: ", "|"
METHOD = "MEAN_STD"


@dataclass(frozen=True)
class PiFastProcessing:
    """What LeRobot does before and after π0-FAST.

    Args:
        cameras: names of a spec, in the order of the images.
        side: of the images, in pixels.
        length: of a prompt, in tokens.
        skipped: the last ids of the language model, which are no actions.
        steps, action_size: of a chunk.
        relative: which numbers of an action are relative to the state; empty if none.
    """

    tokenizer: PromptTokenizer
    fast: FastTokenizer
    cameras: tuple[str, ...]
    side: int
    length: int
    skipped: int
    steps: int
    action_size: int
    state: Scaling
    action: Scaling
    relative: FloatArray

    def inputs(self, episodes: Sequence[tuple[Observation, ...]]) -> dict[str, Tensor]:
        seen = [episode[-1] for episode in episodes]
        start = self.tokenizer.special("<bos>")
        prompts = [self.prompt(each) for each in seen]
        tokens, mask = padded([[start, *self.tokenizer.encode(prompt)] for prompt in prompts], self.length)
        images, images_mask = pi_images(seen, self.cameras, self.side)
        return {
            "images": images,
            "images_mask": images_mask,
            # What is said starts with a second token of the start of a text, behind the padding.
            "tokens": torch.cat([tokens, tokens.new_full((len(seen), 1), start)], 1),
            "tokens_mask": torch.cat([mask, mask.new_ones(len(seen), 1)], 1),
        }

    def prompt(self, observation: Observation) -> str:
        cleaned = observation.instruction.strip().replace("_", " ").replace("\n", " ")
        return f"Task: {cleaned}, State: {' '.join(map(str, state_bins(self.state.forward(observation.state))))};\n"

    def actions(self, outputs: Tensor, episodes: Sequence[tuple[Observation, ...]]) -> FloatArray:
        """Raises `PolicyError` for tokens that mean no number at all, for which published code answers zeros."""
        chunks = np.stack([self.decoded([int(i) for i in row]) for row in outputs.tolist()])
        return absolute(self.action.inverse(chunks.astype(np.float32)), self.relative, episodes)

    def targets(self, actions: FloatArray, episodes: Sequence[tuple[Observation, ...]]) -> Tensor:
        """The ids (b, l) of each chunk between what starts and ends it, `NOTHING` after it."""
        normal = self.action.forward(absolute(actions, self.relative, episodes, -1.0))
        start, end = [self.tokenizer.special("<bos>"), *self.tokenizer.encode(START)], self.tokenizer.encode(STOP)
        last = self.tokenizer.special("<eos>")
        rows = [[*start, *(self._base - i for i in ids), *end, last] for ids in self.fast.encode(normal)]
        ids, mask = padded(rows, max(map(len, rows)))
        return ids.masked_fill(~mask, NOTHING)

    def decoded(self, ids: Sequence[int]) -> Float64Array:
        """The normalized chunk (k, a) of the ids that were said; coefficients that are missing are zero, more are left out."""
        stop, start = self.tokenizer.encode(STOP)[-1], self.tokenizer.encode(START)
        kept = list(ids[: ids.index(stop)] if stop in ids else ids)
        place = 0
        while place <= len(kept) - len(start):
            if kept[place : place + len(start)] == start:
                del kept[place : place + len(start)]
            else:
                place += 1
        numbers = [self._base - i for i in kept if i != NOTHING]
        try:
            text = b"".join(self.fast.words[i] for i in numbers if 0 <= i < self.fast.size).decode()
        except UnicodeDecodeError:
            text = ""
        if not text:
            raise PolicyError(f"the published policy said {len(ids)} tokens that mean no actions; the robot is to be held")
        count = self.steps * self.action_size
        coefficients = np.array([ord(c) for c in text[:count]], np.float64) + self.fast.min_token
        whole = np.pad(coefficients, (0, count - len(coefficients))).reshape(self.steps, self.action_size)
        return inverse_cosine_transform(whole.T / self.fast.scale).T

    @property
    def _base(self) -> int:
        """The id of FAST's token 0; those after it follow downwards."""
        return self.tokenizer.size - 1 - self.skipped


@families.register("pi0_fast")
class Pi0Fast:
    about = "π0-FAST of LeRobot"

    @staticmethod
    def recognizes(folder: Path) -> bool:
        return is_lerobot(folder, "pi0_fast")

    @staticmethod
    def open(folder: Path, options: OpenOptions) -> PublishedParts:
        files = LeRobotFiles.read(folder)
        shapes = Shapes.of(files.tensors, with_embedding(files.tensors))
        name = str(files.config.get("text_tokenizer_name") or PALIGEMMA)
        tokenizer = PromptTokenizer(find_tokenizer(folder, options.tokenizer, name))
        config = PiFastConfig(
            shapes.siglip(VISION, SIGLIP_HEAD),
            shapes.gemma(LANGUAGE, True),
            tokenizer.encode(STOP)[-1],
            files.whole("max_decoding_steps", 256),
            files.number("temperature", 0.0),
        )
        if tokenizer.size > config.language.vocabulary:
            raise ConfigError(f"{folder}: the tokenizer has {tokenizer.size} ids, the model {config.language.vocabulary}")
        processing = PiFastProcessing(
            tokenizer,
            _fast(folder, str(files.config.get("action_tokenizer_name") or FAST)),
            tuple(clean_name(name) for name in files.cameras),
            config.vision.side,
            files.whole("tokenizer_max_length", 200),
            int(files.number("fast_skip_tokens", 128)),
            files.whole("n_action_steps", 50),
            files.action_size,
            files.scaling("STATE", STATE, METHOD),
            files.scaling("ACTION", ACTION, METHOD),
            relative_numbers(files),
        )
        notes = files.unscaled(("STATE", STATE, METHOD), ("ACTION", ACTION, METHOD))
        network, names = filled(
            lambda: PiFastNetwork(config), files.tensors, pi_targets(config.vision, files.tensors), options.dtype
        )
        kept = (*files.kept, *(f"fast/{name}" for name in FAST_FILES if (folder / "fast" / name).is_file()))
        return PublishedParts(files.spec(), network, processing, names, kept, chunk=processing.steps, notes=notes)


def _fast(folder: Path, published: str) -> FastTokenizer:
    """FAST's tokenizer: in the folder ``fast`` of the policy's, or else that of `published` on the hub."""
    own = folder / "fast"
    if (own / PROCESSOR).is_file():
        return FastTokenizer.load(own)
    try:
        hub = importlib.import_module("huggingface_hub")
        return FastTokenizer.load(hub.snapshot_download(published, allow_patterns=list(FAST_FILES)))
    except VerbotError:
        raise
    except Exception as error:  # the hub's client, and what it speaks through, raise a dozen unrelated kinds
        raise ConfigError(
            f"{folder} has no folder fast with {', '.join(FAST_FILES)}, and the hub did not give those of {published} "
            f"({type(error).__name__}); copy them there"
        ) from error
