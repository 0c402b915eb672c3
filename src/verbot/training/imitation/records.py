"""The records of a training configuration; each validates itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from verbot.agents.grounding_monitor import THRESHOLD
from verbot.configuration import renamed
from verbot.errors import ConfigError
from verbot.models.lora import LoraConfig
from verbot.ranges import (
    COUNT,
    COUNT_OR_NONE,
    FRACTION,
    FRACTION_BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    RATE_HZ,
    STRENGTH,
    NumberRange,
    check_ranges,
)
from verbot.training.imitation.text_config import TextConfig


@dataclass(frozen=True)
class Selection:
    """The episodes of a dataset that are used; all of them by default. Every condition that is given must hold.

    Args:
        tasks: only episodes of these tasks: the recorded task, or the sentence of an episode that records none.
        episodes: only this many, from the first on.
        numbers: only the episodes with these numbers: a list, or ranges without their ends such as ``"0:50"`` or ``"0:50,60"``.
        success: only episodes that were recorded as a success (True) or as a failure (False).
        min_length, max_length: only episodes of so many frames.
    """

    tasks: tuple[str, ...] | None = None
    episodes: int | None = None
    numbers: tuple[int, ...] | str | None = None
    success: bool | None = None
    min_length: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"a selection of {self.episodes} episodes is empty; expected at least 1")
        check_ranges(self, min_length=COUNT_OR_NONE)
        if not isinstance(self.numbers, str):
            check_ranges(self, numbers=COUNT_OR_NONE)
        if self.max_length is not None and self.max_length < (self.min_length or 1):
            raise ConfigError(
                f"a selection of episodes with {self.min_length or 1} to {self.max_length} frames is empty; expected max_length "
                f"to be at least min_length"
            )


@dataclass(frozen=True)
class DataConfig:
    """The datasets and how batches are drawn from them.

    Args:
        datasets: folders of episodes.
        weights: fraction of samples from each dataset; None draws every frame equally often.
        selections: the episodes of each dataset that are used; None uses all. A dataset may be named twice, selected differently.
        cameras: the cameras of the policy, in this order; None uses all cameras of the datasets. A camera that one of them lacks
            is masked there.
        features: which features of the datasets are the state, the action and the cameras, where they have other names than
            LeRobot's: ``{"observation.state": ["arm", "gripper"], "observation.images.front": ["image0"]}``.
        depth: read depth cameras too.
        origin: the dataset of verbot that the others were edited from with LeRobot, whose tool drops spec, calibration and
            wordings: they are taken from there (see `verbot.open_dataset`).
        rate_hz: the rate to which datasets of another rate are resampled (see `verbot.data.storage.resample.resample`); None
            refuses datasets of different rates.
        out_of_range: what to do if data lie outside the robot's declared ranges. ``"refuse"`` stops. ``"clip"`` trains: actions
            are clipped to the range, states are taken as they are. ``"widen"`` trains with ranges that hold the data.
        batch_size: samples of all processes together; for a network with a memory, frames: ``batch_size / sequence`` sequences.
        cache_features: compute the features of a frozen vision encoder once for every frame of the selected episodes and cache
            them on disk. Image augmentation must then be off; decoded frames are not kept, whatever `frames` says.
        frames: ``"cache"`` decodes every frame once into files, at the size of the network; ``"decode"`` decodes while training
            runs and writes nothing; ``"auto"`` decodes where the files would be larger than `cache_limit_gb`.
        cache: folder of these files; None takes the environment variable ``VERBOT_CACHE``, else the dataset's own folder.
        cache_limit_gb: see `frames`.
        text: questions, captions, facts and reasoning beside the actions, for a network that speaks.
    """

    datasets: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    selections: tuple[Selection, ...] | None = None
    cameras: tuple[str, ...] | None = None
    features: Mapping[str, tuple[str, ...]] | None = None
    depth: bool = False
    origin: str | None = None
    rate_hz: float | None = None
    out_of_range: Literal["refuse", "clip", "widen"] = "refuse"
    batch_size: int = 64
    cache_features: bool = False
    frames: Literal["auto", "cache", "decode"] = "auto"
    cache: str | None = None
    cache_limit_gb: float = 20.0
    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        check_ranges(self, batch_size=COUNT, weights=NOT_NEGATIVE, rate_hz=RATE_HZ, cache_limit_gb=NOT_NEGATIVE)
        if self.frames not in ("auto", "cache", "decode"):
            raise ConfigError(f"frames is {self.frames!r}; expected 'auto', 'cache' or 'decode'")
        if not self.datasets:
            raise ConfigError("no dataset to train on: datasets is empty")
        for name in ("weights", "selections"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.datasets):
                raise ConfigError(f"{len(self.datasets)} datasets but {len(given)} {name}")


@dataclass(frozen=True)
class BudgetConfig:
    """The length of a run. Exactly one of `steps`, `samples` and `minutes` is given.

    Args:
        steps: optimizer steps.
        samples: training samples; a step uses ``batch_size * accumulation``.
        minutes: wall-clock time of training; decoding frames and encoding instructions beforehand is not counted. The number of
            steps follows from the speed, measured at every checkpoint. Only a run of `steps` or `samples` can be
            repeated to the bit.
        patience: stop after this many validations without a new best; None never stops early.
    """

    steps: int | None = None
    samples: int | None = None
    minutes: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        budgets = [name for name in ("steps", "samples", "minutes") if getattr(self, name) is not None]
        if len(budgets) != 1:
            raise ConfigError(f"give one of steps, samples and minutes; got {' and '.join(budgets) or 'none'}")
        check_ranges(self, steps=COUNT, samples=COUNT, minutes=POSITIVE, patience=COUNT)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer.

    Args:
        name: ``"adamw"``.
        learning_rate: the peak, which the schedule scales.
        weight_decay: weight decay of matrices; vectors do not decay.
        clip_norm: maximum norm of the gradient.
        ema_decay: decay of the moving average of the weights, which is validated and saved.
        accumulation: batches whose gradients are averaged for one step.
        bf16: compute in bfloat16 where torch deems it safe; the weights stay float32.
        checkpointing: compute the activations of repeated layers again in the backward pass: less memory for more time.
    """

    name: Literal["adamw"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    accumulation: int = 1
    bf16: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self, learning_rate=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE, clip_norm=POSITIVE, ema_decay=FRACTION_BELOW_ONE,
            accumulation=COUNT,
        )  # fmt: skip


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over a run.

    Args:
        name: ``"cosine"`` to zero, ``"step"`` (a tenth at each of `milestones`) or ``"constant"``.
        milestones: fractions of the run.
        warmup_steps: the rate rises linearly over these.
    """

    name: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.6, 0.85)
    warmup_steps: int = 50

    def __post_init__(self) -> None:
        check_ranges(self, milestones=FRACTION, warmup_steps=COUNT_OR_NONE)


@dataclass(frozen=True)
class InitConfig:
    """The policy that training starts from (see `verbot.training.imitation.finetune`).

    Args:
        init_from: a policy's folder, whose network, vocabulary and preprocessing are fine-tuned; None trains a new policy.
        sha256: the identity of that policy; `train` fills it in. Another policy in the folder is refused.
        statistics: ``"kept"`` normalizes with the policy's statistics, so that inputs and outputs keep their meaning; ``"new"``
            with those of the datasets, as when only parts are taken.
        parts: copy only these parts of the policy into a new `network`: names of parts (``"vision"``) or patterns of parameters
            (``"vision.trunks.*"``). None uses the whole policy.
        lora: train small adapters of the policy's matrices (see `verbot.models.lora`); None trains every weight.
    """

    init_from: str | None = None
    sha256: str | None = None
    statistics: Literal["kept", "new"] = "kept"
    parts: tuple[str, ...] | None = None
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.init_from is None and (self.lora or self.sha256 or self.parts) is not None:
            raise ConfigError("lora, parts and sha256 need an initial policy: set init_from to its folder")
        if self.parts is not None and not self.parts:
            raise ConfigError("init.parts lists the parts to copy: at least one, or null for the whole policy")

    @property
    def keeps_network(self) -> bool:
        """Whether the network is that of the initial policy."""
        return self.init_from is not None and self.parts is None


@dataclass(frozen=True)
class ParallelismConfig:
    """Where and by how many processes a run is computed.

    Args:
        processes: data-parallel processes on this machine; where `device` is a GPU, one GPU each. Under torchrun, as many as it
            starts.
        threads: torch threads of each process.
        parallel: ``"data"`` keeps the whole network in every process; ``"fsdp"`` shards weights, gradients, optimizer state and
            average over them (see `verbot.training.distributed.fsdp`).
        loader_threads: threads that prepare batches ahead, and processes that decode frames on the fly; 0 prepares batches in
            line, and decodes with a process for each core. Never changes a result.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"`` for the best available one. Random numbers, except
            for dropout, are drawn on the CPU, so that a seed means the same everywhere; rounding does not.
    """

    processes: int = 1
    threads: int = 1
    parallel: Literal["data", "fsdp"] = "data"
    loader_threads: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_ranges(self, processes=COUNT, threads=COUNT, loader_threads=COUNT_OR_NONE)
        if not re.fullmatch(r"cpu|mps|auto|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; expected 'cpu', 'cuda', 'cuda:N', 'mps' or 'auto'")

    @property
    def sharded(self) -> bool:
        return self.parallel == "fsdp"


@dataclass(frozen=True)
class ValidationConfig:
    """Validation on held-out episodes.

    Args:
        share: fraction of the episodes that is held out, drawn by the seed.
        batches: number of batches of each validation; 0 validates nothing.
        every: steps between two validations.
    """

    share: float = 0.02
    batches: int = 8
    every: int = 500

    def __post_init__(self) -> None:
        FRACTION_BELOW_ONE.check("validation.share", self.share)
        check_ranges(self, batches=COUNT_OR_NONE, every=COUNT)


@dataclass(frozen=True)
class LoggingConfig:
    """What a run writes, and when.

    Args:
        log_every: steps between two records of the log.
        checkpoint_every: steps between two checkpoints.
        keep: save the averaged weights of the ``"last"`` step or of the ``"best"`` validation.
    """

    log_every: int = 50
    checkpoint_every: int = 500
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        check_ranges(self, log_every=COUNT, checkpoint_every=COUNT)


@dataclass(frozen=True)
class MonitorConfig:
    """When training warns that images and captions do not match; for the objective ``contrastive``.

    Args:
        threshold: threshold of the mean cosine of images and true captions, in validation.
        patience: consecutive validations below it until a warning, and for each further one.
    """

    threshold: float = THRESHOLD
    patience: int = 3

    def __post_init__(self) -> None:
        check_ranges(self, threshold=NumberRange(-1, 1), patience=COUNT)


@renamed(questions="grounding_queries")
@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training samples, drawn anew for every sample and camera.

    Args:
        shift_pixels: maximum shift of an image in each direction, px; its keypoints move with it.
        brightness, contrast, saturation: each factor is drawn from 1 ± this.
        blank_instruction: fraction of samples whose instruction is replaced by the empty string.
        relabel: fraction of frames before the first contact that get the instruction of another feasible goal of the scene.
            They train perception, not actions.
        grounding_queries: number of the scene's other goals whose keypoints are queried in each frame before the first contact.
            Cheap where the vision encoder takes the instruction last (``query_conv``).
        captions: number of captions of each such frame, and of hard negatives; for the objective ``contrastive``.
        goal_image: fraction of samples that get an image of their episode's end in place of the instruction; for a network with
            a `goal` part.
        camera_dropout: fraction of samples in which one camera is missing, if there are several.
    """

    shift_pixels: int = 2
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    blank_instruction: float = 0.02
    relabel: float = 0.0
    grounding_queries: int = 0
    captions: int = 0
    goal_image: float = 0.0
    camera_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            self, shift_pixels=COUNT_OR_NONE, brightness=NOT_NEGATIVE, contrast=NOT_NEGATIVE, saturation=NOT_NEGATIVE,
            blank_instruction=FRACTION, relabel=FRACTION, grounding_queries=COUNT_OR_NONE, captions=COUNT_OR_NONE,
            goal_image=FRACTION, camera_dropout=FRACTION,
        )  # fmt: skip


@dataclass(frozen=True)
class DaggerConfig:
    """Corrections of the policy's mistakes by the expert, collected during training (see `verbot.training.imitation.dagger`).

    Args:
        rounds: number of rounds of corrections; 0 is plain behavior cloning.
        env: name of the env in which the policy acts.
        options: options of the env.
        axes: randomization axis to strength, for every episode.
        episodes: corrections in each round.
        first, last: when the first and the last round happen, as fractions of the training steps.
        max_steps: the policy acts for 0 to this many control steps before the expert takes over.
        weight: how often a frame of a correction is drawn, relative to a frame of a demonstration.
        execute: actions of each chunk that the policy executes.
        noise: noise of the expert, as in collection.
        workers: processes that collect; 0 takes as many as train.
    """

    rounds: int = 0
    env: str = "tabletop-starter"
    options: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    episodes: int = 200
    first: float = 0.4
    last: float = 0.7
    max_steps: int = 40
    weight: float = 1.0
    execute: int = 2
    noise: float = 0.1
    workers: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self, rounds=COUNT_OR_NONE, axes=STRENGTH, episodes=COUNT, first=FRACTION, last=FRACTION, max_steps=COUNT_OR_NONE,
            weight=NOT_NEGATIVE, execute=COUNT, noise=NOT_NEGATIVE, workers=COUNT_OR_NONE,
        )  # fmt: skip
