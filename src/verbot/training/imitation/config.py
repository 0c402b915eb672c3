"""What to train, on what and how: one frozen record, complete."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from verbot.agents.grounding_monitor import THRESHOLD
from verbot.configuration import renamed
from verbot.errors import ConfigError
from verbot.models.lora import LoraConfig
from verbot.models.network import NetworkConfig
from verbot.policy.policy import Preprocessing


@renamed(questions="grounding_queries")
@dataclass(frozen=True)
class AugmentConfig:
    """What is done to a training sample; each is drawn anew for every sample and camera.

    Args:
        shift_pixels: the image moves by up to this many pixels each way, and its keypoints with it.
        brightness, contrast, saturation: factors are drawn from 1 ± this.
        blank_instruction: this share of samples is told nothing, so that a policy without words is not out of its depth.
        relabel: this share of frames from before the hand committed itself is told another feasible goal instead; such a
            sample teaches where to look, not what to do.
        grounding_queries: every frame from before the first contact comes with so many of its scene's other goals, for the
            objective of this name. Cheap where the vision encoder sees before it listens (``query_conv``).
        captions: every such frame comes with so many captions of its scene, and as many hard negatives, for the objective
            ``contrastive``.
        goal_image: this share of samples is shown the end of its episode instead of being told; for a network with a `goal` part.
        camera_dropout: in this share of samples one camera is missing; where there is but one, never.
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


@dataclass(frozen=True)
class DaggerConfig:
    """Corrections by the expert on the policy's own mistakes, gathered while training (see `verbot.training.imitation.dagger`).

    Args:
        rounds: how often the policy is let loose; 0 is plain behavior cloning.
        env: what it is let loose in, made with `options`.
        axes: randomization axis to strength, for every episode.
        episodes: corrections gathered in each round.
        first, last: when the first and the last round happen, as shares of the training steps.
        max_steps: the policy acts for 0 to this many control steps before the expert takes over.
        weight: how often a correction's frame is drawn, where a demonstration's frame counts 1.
        execute: how many actions of a chunk the policy executes.
        noise: of the expert, as in collection.
        workers: processes that gather; 0 takes as many as train.
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


@dataclass(frozen=True)
class AlignmentConfig:
    """When training warns that what is seen and what is said stay apart.

    Args:
        threshold: of the mean cosine of pictures and true captions, in validation.
        patience: so many validations in a row below it are worth a warning, and each further one as well.
    """

    threshold: float = THRESHOLD
    patience: int = 3


@dataclass(frozen=True)
class Selection:
    """Which episodes of a dataset are trained on; all of them by default.

    Args:
        tasks: only those that were recorded for one of these tasks (``extras["request"]["task"]``).
        episodes: only the first so many of these.
    """

    tasks: tuple[str, ...] | None = None
    episodes: int | None = None

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"a selection of {self.episodes} episodes is nothing to train on; expected at least 1")


@dataclass(frozen=True)
class CotrainingEmbodiment:
    """Another robot that learns in the same run, by a network of its own that shares weights with the first robot's.

    Every step learns from a batch of each. The companion's policy is saved beside the first, in ``policy-ROBOT``, complete and
    for itself.

    Args:
        robot: the name of its datasets' robot.
        network: what is trained; its chunk, heads and weights of losses may differ.
        datasets: folders of its episodes, mixed frame by frame.
        shared: patterns of names of weights. Those that both networks have, in the same shape, become one; each pattern must
            find some.
        cameras, selections, augment: as of `TrainConfig`.
    """

    robot: str
    network: NetworkConfig
    datasets: tuple[str, ...] = ()
    shared: tuple[str, ...] = ("language.*", "sentence.*", "vision.*", "fusion.*")
    cameras: tuple[str, ...] | None = None
    selections: tuple[Selection, ...] | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class TrainConfig:
    """A complete training run. Exactly one of `steps`, `samples` and `minutes` says how long.

    Args:
        datasets: folders of episodes; mixed by `weights` where given, else frame by frame.
        network: what is trained. With a `start` it is the start's, and so is `preprocessing`.
        preprocessing: how raw values become normalized ones.
        cameras: the policy sees through these of the datasets' cameras, in this order; None takes all.
        steps: optimizer steps.
        samples: training samples; a step uses ``batch_size * accumulation``.
        minutes: wall-clock. The number of steps follows from the speed, looked at anew with every checkpoint; the schedule keeps
            to the share of the run that is done. Only a run of `steps` or `samples` can be repeated to the bit.
        batch_size: samples of all processes together; for a network with a memory, frames, so ``batch_size / sequence``
            sequences.
        schedule: ``"cosine"`` to zero, ``"step"`` (a tenth at each of `milestones`, shares of the run) or ``"constant"``.
        ema_decay: of the average of the weights, which is what is validated and saved.
        bf16: compute in bfloat16 where torch deems it safe; the weights stay float32.
        device: that trains: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"`` for the best that is here. Random
            numbers, but for dropout, are drawn on the CPU, so that a seed means the same everywhere; rounding does not.
        seed: every random number is a function of it, the step and the process.
        processes: data-parallel processes on this machine, `threads` torch threads each; where `device` is a GPU, one GPU each.
            Where torchrun starts the processes, as many as it says.
        parallel: what each process has: with ``"data"`` the whole network; with ``"fsdp"`` its share of weights, gradients,
            moments and average (see `verbot.training.distributed.fsdp`).
        loader_threads: batches are prepared ahead by this many threads; 0 prepares them in line. Never changes a result.
        cache_features: what a frozen vision encoder makes of every frame is computed once and kept on the disk, beside the
            decoded frames; training reads it in place of images. Nothing may change the images then: no shifts, no colors.
        validation_share: of the episodes, held out by the seed.
        patience: stop after this many validations without a new best; None never stops early.
        keep: save the averaged weights of the ``"last"`` step or of the ``"best"`` validation.
        selections: which episodes of each of `datasets`; None takes all. A dataset may be named twice, selected differently.
        start: a policy's folder, whose network, vocabulary and preprocessing training begins with in place of a new one (see
            `verbot.training.imitation.finetune`).
        start_sha256: which policy that is; `train` fills it in. A folder that holds another one meanwhile is refused.
        start_statistics: ``"kept"`` normalizes with the start's statistics, so that its inputs and outputs mean what they did;
            ``"new"`` with those of the datasets, as does a start of which only parts are taken.
        start_parts: the network is `network`, new but for these of its parts, which begin as the start's are: names of parts
            (``"vision"``) or patterns of their parameters (``"vision.trunks.*"``). None begins with the whole policy.
        alignment: when training warns that what is seen and what is said stay apart; for the objective ``contrastive``.
        lora: what is learned are small adapters of the start's matrices (see `verbot.models.lora`); None learns every weight.
        companions: other robots that learn at the same time and share weights (see `verbot.training.imitation.cotraining`);
            `samples` and `batch_size` count those of each robot.
    """

    datasets: tuple[str, ...]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    cameras: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    steps: int | None = None
    samples: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.6, 0.85)
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    bf16: bool = False
    device: str = "cpu"
    seed: int = 0
    processes: int = 1
    threads: int = 1
    parallel: Literal["data", "fsdp"] = "data"
    loader_threads: int = 0
    cache_features: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    dagger: DaggerConfig = field(default_factory=DaggerConfig)
    validation_share: float = 0.02
    validation_batches: int = 8
    validate_every: int = 500
    patience: int | None = None
    keep: Literal["last", "best"] = "last"
    checkpoint_every: int = 500
    log_every: int = 50
    selections: tuple[Selection, ...] | None = None
    start: str | None = None
    start_sha256: str | None = None
    start_statistics: Literal["kept", "new"] = "kept"
    start_parts: tuple[str, ...] | None = None
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    lora: LoraConfig | None = None
    companions: tuple[CotrainingEmbodiment, ...] = ()

    def __post_init__(self) -> None:
        budgets = [name for name in ("steps", "samples", "minutes") if getattr(self, name) is not None]
        if len(budgets) != 1:
            raise ConfigError(f"give one of steps, samples and minutes; came {' and '.join(budgets) or 'none'}")
        for name in ("batch_size", "accumulation", "processes", "threads", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.batch_size % (self.processes * self.network.sequence):
            frames = f" in sequences of {self.network.sequence}" if self.network.sequence > 1 else ""
            raise ConfigError(f"a batch of {self.batch_size}{frames} cannot be shared evenly by {self.processes} processes")
        if self.augment.goal_image and not self.network.goal:
            raise ConfigError("augment.goal_image shows goal images, and the network has no part that reads them: give it a goal")
        own = self.start is None or self.start_parts is not None  # else the start's network takes this one's place
        if own:
            self._check_sentences()
        if self.cache_features:
            self._check_features()
        if self.companions:
            self._check_companions()
        if not self.datasets:
            raise ConfigError("no dataset to train on: datasets is empty")
        if self.weights is not None and len(self.weights) != len(self.datasets):
            raise ConfigError(f"{len(self.datasets)} datasets but {len(self.weights)} weights")
        if self.selections is not None and len(self.selections) != len(self.datasets):
            raise ConfigError(f"{len(self.datasets)} datasets but {len(self.selections)} selections")
        if self.start is None and (self.lora or self.start_sha256 or self.start_parts) is not None:
            raise ConfigError(
                "lora, start_parts and start_sha256 are about a policy to start from: give start, the folder of one"
            )
        if self.start_parts is not None and not self.start_parts:
            raise ConfigError("start_parts names what a new network takes over: at least one part, or none for the whole policy")
        if not re.fullmatch(r"cpu|mps|auto|cuda(:\d+)?", self.device):
            raise ConfigError(f"device is {self.device!r}; expected 'cpu', 'cuda', 'cuda:N', 'mps' or 'auto'")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(f"validation_share is {self.validation_share}; expected 0 to 1")

    def _check_sentences(self) -> None:
        objectives, captions = self.network.objectives, self.augment.captions
        if bool(captions) != ("contrastive" in objectives):
            raise ConfigError(
                f"the objective 'contrastive' learns from captions, and nothing else does: network.objectives has "
                f"{', '.join(objectives)}, with augment.captions {captions}"
            )
        if self.augment.grounding_queries and "grounding_queries" not in objectives:
            raise ConfigError(
                f"augment.grounding_queries is for the objective of this name, and network.objectives has {', '.join(objectives)}"
            )

    def _check_companions(self) -> None:
        names = [companion.robot for companion in self.companions]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"companions are named twice: {', '.join(twice)}; one robot has one network")
        alone = {"start": self.start is not None, "dagger": bool(self.dagger.rounds), "cache_features": self.cache_features}
        alone["parallel=fsdp"] = self.parallel == "fsdp"
        if found := [name for name, given in alone.items() if given]:
            raise ConfigError(f"{' and '.join(found)} cannot be had beside companions: they are of one robot")

    def _check_features(self) -> None:
        changing = [n for n in ("shift_pixels", "brightness", "contrast", "saturation") if getattr(self.augment, n)]
        if changing:
            raise ConfigError(
                f"cache_features needs images that nothing changes, and these of augment do: {', '.join(changing)}; set them to 0"
            )
        if self.network.goal:
            raise ConfigError(
                f"cache_features takes the images away, and the network's goal {self.network.goal.name!r} compares them: "
                f"train with one or the other"
            )

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps, or None where `minutes` decides."""
        if self.samples is not None:
            return max(1, round(self.samples / (self.batch_size * self.accumulation)))
        return self.steps
