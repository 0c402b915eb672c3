"""What to learn by trying, where and how: one frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.registries import Part
from verbot.training.rl.curriculum import Curriculum


@dataclass(frozen=True)
class Looking:
    """The beginning of a run that teaches nothing but where things are, by the keypoint loss.

    Args:
        updates: so many, by glances at many scenes, from somewhere along an expert's way in each, or astray from it. 0 takes what
            the policy to begin with has learned.
        batch_size: as in cloning, many small steps help most.
        learning_rate: falls linearly to zero over these updates.
        tasks: glanced at in turn, one as often as it is named here; None glances at those that are tried.
        pace: while it tries, the keypoint loss of every eighth look goes on teaching where things are, at this multiple of the
            learning rate: who tries sees what no expert leads to. 0 keeps what was learned.
    """

    updates: int = 40
    batch_size: int = 128
    learning_rate: float = 1e-3
    tasks: tuple[str, ...] | None = None
    pace: float = 0.0

    def __post_init__(self) -> None:
        if self.updates < 0 or self.batch_size < 1:
            raise ConfigError(f"looking has at least 0 updates, in batches of at least 1; got {self.updates}, {self.batch_size}")
        if self.learning_rate <= 0 or self.pace < 0:
            raise ConfigError(f"looking has a rate above 0 and a pace of at least 0; got {self.learning_rate:g}, {self.pace:g}")

    def rate(self, updates: int) -> float:
        """The learning rate after so many of the updates."""
        return self.learning_rate * (1 - updates / self.updates)


@dataclass(frozen=True)
class ReinforceConfig:
    """A run of PPO (Schulman et al. 2017). The defaults of the numbers are those that Stable-Baselines3 has, where none is said.

    Args:
        env: a registered env's name; its training scenes are played.
        options: of the env.
        tasks: played in turn; None plays all that the env has.
        axes: randomization axis to strength, for every episode.
        policy: a folder with the policy to begin with; None begins with a new one of `network`.
        policy_sha256: which one that is, found when the run begins; another one is refused.
        reward: what a step is worth; ``"world"`` is the world's own.
        network: of a new policy. Its head must be ``"regression"``, whose outputs are read as distributions.
        steps: control steps in all worlds together.
        worlds: episodes that are played at the same time.
        rollout: control steps of each world between two updates.
        batch_size, epochs: each update sees all that was played `epochs` times, in batches.
        learning_rate: falls linearly to zero.
        discount, trace: γ, and λ of the generalized advantage estimate (Schulman et al. 2016).
        clip: of the ratio of new and old probabilities.
        target_kl: an update ends early beyond 1.5 times this divergence from the old policy; None never.
        entropy: weight of the entropy, which keeps actions diverse.
        entropy_end: what that falls to linearly; None keeps it as it is.
        value_weight: of the value's squared error.
        value_apart: the value learns from what the network fuses without changing the network.
        critic_pace: the critic learns at this multiple of the learning rate.
        clip_norm: of the gradient.
        log_std: logarithm of the first spread of continuous actions, in standard deviations of the data.
        looking: what a run begins with; then rewards teach what to do, and not how to read pictures and words. None learns both
            at once.
        warmup: updates in which only the value learns, so that a policy that can something is not led by a value that cannot.
        keypoint_weight: of the keypoint loss in every update, for a network with heatmaps in a world that tells where things are:
            it teaches what words mean sooner than rewards do. 0 learns from rewards alone.
        questions: beside what was told, the keypoint loss asks every look for so many of the scene's other goals.
        curriculum: easy episodes first; None plays what tests draw.
        shaping: weight of the potential −``final_error_m`` (m) in the reward (see `verbot.training.rl.rewards.base`).
        headway: weight of every meter of ``final_error_m`` made good, instead; what PPO learns from soonest.
        ratchet: share of the headway that counts only what is nearer than the episode ever was, so that going back costs less.
        workers: processes that play; 0 takes one for each core.
        threads: of torch, in the process that learns.
        device: that learns.
        seed: every scene is a function of it, and with the same number of threads so is the run.
        checkpoint_every: updates between two checkpoints.
    """

    env: str = "navigation"
    options: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    policy: str | None = None
    policy_sha256: str | None = None
    reward: Part = field(default_factory=lambda: Part("world"))
    network: NetworkConfig = field(default_factory=NetworkConfig)
    steps: int = 1_000_000
    worlds: int = 16
    rollout: int = 128
    batch_size: int = 256
    epochs: int = 4
    learning_rate: float = 3e-4
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    target_kl: float | None = None
    entropy: float = 0.01
    entropy_end: float | None = None
    value_weight: float = 0.5
    value_apart: bool = False
    critic_pace: float = 1.0
    clip_norm: float = 0.5
    log_std: float = -1.0
    looking: Looking | None = None
    warmup: int = 0
    keypoint_weight: float = 0.0
    questions: int = 0
    curriculum: Curriculum | None = None
    shaping: float = 0.0
    headway: float = 0.0
    ratchet: float = 0.0
    workers: int = 0
    threads: int = 1
    device: str = "cpu"
    seed: int = 0
    checkpoint_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "worlds", "rollout", "batch_size", "epochs", "threads", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 < self.discount <= 1 or not 0 <= self.trace <= 1:
            raise ConfigError(f"discount and trace are shares; got {self.discount:g} and {self.trace:g}")
        if self.questions < 0 or (self.questions and not self.keypoint_weight):
            raise ConfigError(f"questions are answered by the keypoint loss: {self.questions} of them need a keypoint_weight")
        if not 0 <= self.ratchet <= 1 or (self.ratchet and not self.headway):
            raise ConfigError(f"ratchet is a share of the headway, 0 to 1; got {self.ratchet:g} with headway {self.headway:g}")
        if self.looking and not self.keypoint_weight:
            raise ConfigError("looking is taught by the keypoint loss, and keypoint_weight is 0: set it to 1, or looking to null")
        if (self.worlds * self.rollout) % self.batch_size:
            raise ConfigError(
                f"{self.worlds} worlds of {self.rollout} steps are {self.worlds * self.rollout} samples an update, "
                f"which batches of {self.batch_size} do not share evenly"
            )
        if (self.shaping or self.headway) and self.reward.name != "world":
            raise ConfigError(f"shaping and headway are of the world's own reward; {self.reward.name!r} cannot have them")
        if self.network.history > 1 or self.network.memory or self.network.previous_action or self.network.goal:
            raise ConfigError("reinforcement learns policies that see one frame and are told in words: no history, memory, "
                              "acted or goal part")  # fmt: skip
