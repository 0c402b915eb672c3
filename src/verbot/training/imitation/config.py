"""The complete configuration of a run of imitation learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from verbot.configuration import renamed
from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig
from verbot.policy.policy import Preprocessing
from verbot.ranges import RATE_HZ, SEED, check_ranges
from verbot.training.imitation.records import (
    AugmentConfig,
    BudgetConfig,
    DaggerConfig,
    DataConfig,
    InitConfig,
    LoggingConfig,
    MonitorConfig,
    OptimizerConfig,
    ParallelismConfig,
    ScheduleConfig,
    Selection,
    ValidationConfig,
)

SHARED = ("language.*", "sentence.*", "vision.*", "fusion.*")  # the weights that do not depend on a robot's numbers


@dataclass(frozen=True)
class CotrainingEmbodiment:
    """Another robot that is trained in the same run, with a network that shares weights with that of the first robot.

    Every step uses one batch per robot. Its policy is saved in ``policy-ROBOT`` and is complete.

    Args:
        robot: name of the robot in its datasets.
        network: its network; chunk, head and loss weights may differ from the first robot's. None uses the first robot's.
        datasets: folders of its episodes; every frame is drawn equally often.
        shared: patterns of weight names. Matching weights with the same name and shape in both networks are shared; each pattern
            must match at least one.
        cameras, selections, features, origin, rate_hz, augment: as in `DataConfig` and `TrainConfig`.
    """

    robot: str
    network: NetworkConfig | None = None
    datasets: tuple[str, ...] = ()
    shared: tuple[str, ...] = SHARED
    cameras: tuple[str, ...] | None = None
    selections: tuple[Selection, ...] | None = None
    features: Mapping[str, tuple[str, ...]] | None = None
    origin: str | None = None
    rate_hz: float | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_ranges(self, rate_hz=RATE_HZ)


@renamed(
    **{name: f"data.{name}" for name in ("datasets", "weights", "selections", "cameras", "batch_size", "cache_features")},
    **{name: f"budget.{name}" for name in ("steps", "samples", "minutes", "patience")},
    **{name: f"optimizer.{name}" for name in ("learning_rate", "weight_decay", "clip_norm", "ema_decay", "accumulation", "bf16")},
    **{name: f"schedule.{name}" for name in ("milestones", "warmup_steps")},
    **{name: f"parallelism.{name}" for name in ("processes", "threads", "parallel", "loader_threads", "device")},
    **{name: f"logging.{name}" for name in ("log_every", "checkpoint_every", "keep")},
    validation_share="validation.share",
    validation_batches="validation.batches",
    validate_every="validation.every",
    start="init.init_from",
    start_sha256="init.sha256",
    start_statistics="init.statistics",
    start_parts="init.parts",
    lora="init.lora",
    alignment="monitor",
    companions="cotraining",
)
@dataclass(frozen=True)
class TrainConfig:
    """A complete run of imitation learning.

    Args:
        data: the datasets, and how batches are drawn.
        budget: how long the run is.
        network: the network. With `init`, network and `preprocessing` are those of the initial policy.
        preprocessing: normalization of raw values.
        init: the policy that training starts from.
        augment: augmentation of samples.
        dagger: corrections by the expert during training.
        cotraining: other robots that are trained at the same time and share weights (see
            `verbot.training.imitation.cotraining`); `samples` and `batch_size` count those of each robot.
        optimizer: the optimizer and its learning rate.
        schedule: the learning rate over the run.
        parallelism: processes, threads and devices.
        validation: on held-out episodes.
        logging: log, checkpoints, and which weights are saved.
        monitor: when training warns that images and captions do not match.
        seed: every random number is a function of it, the step and the process.
    """

    data: DataConfig
    budget: BudgetConfig
    network: NetworkConfig = field(default_factory=NetworkConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    init: InitConfig = field(default_factory=InitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    dagger: DaggerConfig = field(default_factory=DaggerConfig)
    cotraining: tuple[CotrainingEmbodiment, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks between records; each record validates itself."""
        check_ranges(self, seed=SEED)
        size, processes = self.data.batch_size, self.parallelism.processes
        if size % (processes * self.network.sequence):
            frames = f" in sequences of {self.network.sequence}" if self.network.sequence > 1 else ""
            raise ConfigError(f"a batch of {size}{frames} cannot be shared evenly by {processes} processes")
        if self.augment.goal_image and not self.network.goal:
            raise ConfigError("augment.goal_image needs a network that reads goal images: set its part goal")
        if not self.init.keeps_network:
            self._check_sentences()
        if self.data.cache_features:
            self._check_features()
        if self.cotraining:
            self._check_cotraining()

    def _check_sentences(self) -> None:
        objectives, captions = self.network.objectives, self.augment.captions
        if bool(captions) != ("contrastive" in objectives):
            raise ConfigError(
                f"the objective 'contrastive' needs captions, and no other objective uses them: network.objectives has "
                f"{', '.join(objectives)}, with augment.captions {captions}"
            )
        if self.augment.grounding_queries and "grounding_queries" not in objectives:
            raise ConfigError(
                f"augment.grounding_queries is for the objective of this name, and network.objectives has {', '.join(objectives)}"
            )

    def _check_cotraining(self) -> None:
        names = [each.robot for each in self.cotraining]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"co-training embodiments are named twice: {', '.join(twice)}; one robot has one network")
        incompatible = {"init": self.init.init_from is not None, "dagger": bool(self.dagger.rounds)}
        incompatible |= {"cache_features": self.data.cache_features, "parallel=fsdp": self.parallelism.sharded}
        if found := [name for name, given in incompatible.items() if given]:
            raise ConfigError(f"{' and '.join(found)} cannot be combined with cotraining: they are of one robot")

    def _check_features(self) -> None:
        changing = [n for n in ("shift_pixels", "brightness", "contrast", "saturation") if getattr(self.augment, n)]
        if changing:
            raise ConfigError(
                f"cache_features needs images without augmentation, and these of augment change them: {', '.join(changing)}; "
                f"set them to 0"
            )
        if self.network.depth:
            raise ConfigError(
                "cache_features keeps the features of color images only: train without network.depth, or without it"
            )
        if self.network.goal:
            raise ConfigError(
                f"cache_features replaces the images, and the network's goal {self.network.goal.name!r} compares them: "
                f"train with one or the other"
            )

    @property
    def samples_per_step(self) -> int:
        return self.data.batch_size * self.optimizer.accumulation

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps, or None if the budget is in minutes."""
        if self.budget.samples is not None:
            return max(1, round(self.budget.samples / self.samples_per_step))
        return self.budget.steps

    def with_budget(self, **budget: float | None) -> TrainConfig:
        """The same run with another budget: one of `steps`, `samples` and `minutes`."""
        return dataclasses.replace(self, budget=BudgetConfig(**budget, patience=self.budget.patience))  # type: ignore[arg-type]
