"""The complete configuration of a run of reinforcement learning; each record validates itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from verbot.configuration import Record, former_names, renamed, warn_renamed
from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.registries import Part
from verbot.ranges import COUNT, COUNT_OR_NONE, FINITE, NOT_NEGATIVE, POSITIVE, SEED, STRENGTH, check_ranges
from verbot.training.rl.curriculum import Curriculum

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, InitConfig="ReinforceInitConfig", ParallelismConfig="ReinforceParallelismConfig")


@dataclass(frozen=True)
class EnvConfig:
    """The envs in which the policy acts.

    Args:
        name: name of a registered env; its training scenes are used.
        options: options of the env.
        tasks: alternate between episodes; None uses all tasks of the env.
        axes: randomization axis to strength, for every episode.
        num_envs: number of parallel episodes.
    """

    name: str = "navigation"
    options: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    num_envs: int = 16

    def __post_init__(self) -> None:
        check_ranges(self, num_envs=COUNT, axes=STRENGTH)


@dataclass(frozen=True)
class ReinforceInitConfig:
    """The policy that training starts from.

    Args:
        init_from: a policy's folder; None trains a new policy.
        sha256: the identity of that policy; `reinforce` fills it in. Another policy in the folder is refused.
    """

    init_from: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.init_from is None and self.sha256 is not None:
            raise ConfigError("sha256 is the identity of a policy to start from: give init_from, its folder")


@dataclass(frozen=True)
class RewardShaping:
    """Reward shaping, added to the env's reward (see `verbot.training.rl.rewards.base`).

    Args:
        potential_weight: weight of the potential −``final_error_m`` (m). The optimal policy stays the same.
        progress_weight: reward of each meter by which ``final_error_m`` decreases. PPO learns fastest with it.
        best_so_far_share: fraction of the progress reward that counts only progress beyond the best value of the episode so far,
            so that a step back costs less.
    """

    potential_weight: float = 0.0
    progress_weight: float = 0.0
    best_so_far_share: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, potential_weight=NOT_NEGATIVE, progress_weight=NOT_NEGATIVE)
        share, weight = self.best_so_far_share, self.progress_weight
        if not 0 <= share <= 1 or (share and not weight):
            raise ConfigError(
                f"best_so_far_share is a fraction of the progress reward, 0 to 1; got {share:g} with progress_weight {weight:g}"
            )
        if self.potential_weight and weight:
            raise ConfigError(
                f"potential_weight and progress_weight reward the same progress; set one of them "
                f"(they are {self.potential_weight:g} and {weight:g})"
            )


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimization (Schulman et al. 2017). Defaults are those of Stable-Baselines3 unless noted.

    Args:
        num_steps: control steps of each env per update.
        batch_size, epochs: each update uses all samples `epochs` times, in batches of this size.
        learning_rate: decays linearly to zero.
        gamma: the discount factor.
        gae_lambda: λ of the generalized advantage estimate (Schulman et al. 2016).
        clip: bound of the ratio of new and old probabilities, minus 1.
        target_kl: an update stops early at 1.5 times this KL divergence from the old policy; None never stops early.
        entropy_coef: weight of the entropy bonus.
        entropy_coef_end: the entropy bonus is annealed linearly to this weight; None keeps it constant.
        value_coef: weight of the squared error of the value.
        detach_critic: gradients of the value loss do not reach the policy's network.
        critic_lr_multiplier: learning rate of the critic, as a multiple of `learning_rate`.
        critic_warmup: initial updates that train only the critic, so that an untrained critic does not change a good policy.
        clip_norm: maximum norm of the gradient.
        log_std: initial logarithm of the standard deviation of continuous actions, in standard deviations of the data.
    """

    num_steps: int = 128
    batch_size: int = 256
    epochs: int = 4
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    target_kl: float | None = None
    entropy_coef: float = 0.01
    entropy_coef_end: float | None = None
    value_coef: float = 0.5
    detach_critic: bool = False
    critic_lr_multiplier: float = 1.0
    critic_warmup: int = 0
    clip_norm: float = 0.5
    log_std: float = -1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, num_steps=COUNT, batch_size=COUNT, epochs=COUNT, learning_rate=NOT_NEGATIVE, clip=POSITIVE, target_kl=POSITIVE,
            entropy_coef=NOT_NEGATIVE, entropy_coef_end=NOT_NEGATIVE, value_coef=NOT_NEGATIVE, critic_lr_multiplier=NOT_NEGATIVE,
            critic_warmup=COUNT_OR_NONE, clip_norm=POSITIVE, log_std=FINITE,
        )  # fmt: skip
        if not 0 < self.gamma <= 1 or not 0 <= self.gae_lambda <= 1:
            raise ConfigError(f"gamma and gae_lambda are fractions of 1; got {self.gamma:g} and {self.gae_lambda:g}")


@renamed(pace="lr_multiplier")
@dataclass(frozen=True)
class PerceptionWarmup:
    """The beginning of a run, in which only the keypoint loss trains the network.

    Args:
        updates: number of updates of the warm-up. Each uses short samples of many scenes, on the expert's trajectory and off it.
            0 keeps the perception of the initial policy.
        batch_size: small batches work best, as in imitation learning.
        learning_rate: decays linearly to zero over the warm-up.
        tasks: alternate between warm-up samples; a task may be listed several times. None uses the tasks of the env.
        lr_multiplier: after the warm-up, the keypoint loss of every eighth sample continues to train perception at this multiple
            of the learning rate: exploration reaches states that no expert does. 0 freezes perception.
    """

    updates: int = 40
    batch_size: int = 128
    learning_rate: float = 1e-3
    tasks: tuple[str, ...] | None = None
    lr_multiplier: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, batch_size=COUNT)
        if self.updates < 0:
            raise ConfigError(f"perception_warmup.updates is {self.updates}; expected at least 0")
        if self.learning_rate <= 0 or self.lr_multiplier < 0:
            raise ConfigError(
                f"perception_warmup needs a learning_rate above 0 and an lr_multiplier of at least 0; "
                f"got {self.learning_rate:g}, {self.lr_multiplier:g}"
            )

    def rate(self, updates: int) -> float:
        """The learning rate after this number of updates."""
        return self.learning_rate * (1 - updates / self.updates)


@dataclass(frozen=True)
class ReinforceParallelismConfig:
    """Where and by how many processes a run is computed.

    Args:
        workers: number of processes that step the envs; 0 uses one per core.
        threads: torch threads of the training process.
        device: device of the training process.
    """

    workers: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_ranges(self, threads=COUNT, workers=COUNT_OR_NONE)


# Former names of the options of rewards, which are read for one version.
OLD_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "language": {"scorer": "reward_model"},
    "adversarial": {
        "groups": "episodes_per_side",
        "each": "steps_per_episode",
        "ended": "absorbing_fraction",
        "reach": "reward_clip",
        "stays": "absorbing_steps",
    },
}


def _from_older_shape(record: Record) -> Record:
    """Records in which options of the reward have the names of `OLD_OPTIONS`."""
    reward = record.get("reward")
    if not isinstance(reward, Mapping) or not isinstance(reward.get("options"), Mapping):
        return record
    return {**record, "reward": {**reward, "options": renamed_options(str(reward.get("name")), reward["options"])}}


def renamed_options(reward: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a reward with today's names. Raises `ConfigError` for an option given by both its names."""
    old = OLD_OPTIONS.get(reward, {})
    for name in (name for name in old if name in options):
        if old[name] in options:
            raise ConfigError(f"reward {reward!r} is given {old[name]} and also {name}, which is its old name")
        warn_renamed(f"the option of reward {reward!r}", name, old[name])
    return {old.get(name, name): value for name, value in options.items()}


@renamed(
    _from_older_shape,
    **{name: f"env.{name}" for name in ("options", "tasks", "axes")},
    worlds="env.num_envs",
    policy="init.init_from",
    policy_sha256="init.sha256",
    **{name: f"ppo.{name}" for name in ("batch_size", "epochs", "learning_rate", "clip", "target_kl", "clip_norm", "log_std")},
    rollout="ppo.num_steps",
    discount="ppo.gamma",
    trace="ppo.gae_lambda",
    entropy="ppo.entropy_coef",
    entropy_end="ppo.entropy_coef_end",
    value_weight="ppo.value_coef",
    value_apart="ppo.detach_critic",
    critic_pace="ppo.critic_lr_multiplier",
    warmup="ppo.critic_warmup",
    looking="perception_warmup",
    questions="grounding_queries",
    shaping="reward_shaping.potential_weight",
    headway="reward_shaping.progress_weight",
    ratchet="reward_shaping.best_so_far_share",
    **{name: f"parallelism.{name}" for name in ("workers", "threads", "device")},
)
@dataclass(frozen=True)
class ReinforceConfig:
    """A complete run of reinforcement learning by PPO.

    Args:
        env: where the policy acts.
        init: the policy that training starts from.
        reward: reward of each step; ``"world"`` is the env's own.
        reward_shaping: what is added to the env's own reward.
        network: network of a new policy. Its head must be ``"regression"``, whose outputs are read as distributions.
        steps: total control steps of all envs.
        ppo: the algorithm.
        perception_warmup: the beginning, in which only the keypoint loss trains the network; afterwards the policy gradient
            does not reach the encoders. None trains everything by reward from the first update on.
        keypoint_weight: weight of the keypoint loss in every update, for a network with heatmaps and an env that reports the
            positions of objects. It grounds words faster than rewards do. 0 uses rewards only.
        grounding_queries: number of the scene's other goals whose keypoints are queried in each observation.
        curriculum: starts with easy episodes; None uses the levels of the test episodes.
        parallelism: processes, threads and device.
        seed: every scene is a function of it and, with the same number of threads, so is the run.
        checkpoint_every: updates between checkpoints.
    """

    env: EnvConfig = field(default_factory=EnvConfig)
    init: ReinforceInitConfig = field(default_factory=ReinforceInitConfig)
    reward: Part = field(default_factory=lambda: Part("world"))
    reward_shaping: RewardShaping = field(default_factory=RewardShaping)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    steps: int = 1_000_000
    ppo: PPOConfig = field(default_factory=PPOConfig)
    perception_warmup: PerceptionWarmup | None = None
    keypoint_weight: float = 0.0
    grounding_queries: int = 0
    curriculum: Curriculum | None = None
    parallelism: ReinforceParallelismConfig = field(default_factory=ReinforceParallelismConfig)
    seed: int = 0
    checkpoint_every: int = 20

    def __post_init__(self) -> None:
        """Checks between records; each record validates itself."""
        check_ranges(self, steps=COUNT, checkpoint_every=COUNT, keypoint_weight=NOT_NEGATIVE, seed=SEED)
        if self.grounding_queries < 0 or (self.grounding_queries and not self.keypoint_weight):
            raise ConfigError(
                f"grounding_queries are trained by the keypoint loss: {self.grounding_queries} of them need a keypoint_weight"
            )
        if self.perception_warmup and not self.keypoint_weight:
            raise ConfigError(
                "perception_warmup trains by the keypoint loss, and keypoint_weight is 0: "
                "set it to 1, or perception_warmup to null"
            )
        if self.samples_per_update % self.ppo.batch_size:
            raise ConfigError(
                f"{self.env.num_envs} envs of {self.ppo.num_steps} steps are {self.samples_per_update} samples an update, "
                f"which cannot be divided evenly into batches of {self.ppo.batch_size}"
            )
        shaping = self.reward_shaping
        if (shaping.potential_weight or shaping.progress_weight) and self.reward.name != "world":
            raise ConfigError(f"reward_shaping adds to the env's own reward; {self.reward.name!r} does not support it")
        if self.network.history > 1 or self.network.memory or self.network.previous_action or self.network.goal:
            raise ConfigError(
                "reinforcement trains policies that read one frame and an instruction: "
                "no history, memory, previous_action or goal part"
            )

    @property
    def samples_per_update(self) -> int:
        return self.env.num_envs * self.ppo.num_steps
