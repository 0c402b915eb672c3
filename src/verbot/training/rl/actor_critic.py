"""The actor-critic of PPO in Stable-Baselines3's interface, and the adapters of its observations and envs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.features import Features, Queries
from verbot.models.layers.transformer import reader
from verbot.models.protocols import HasReadout, SeparatesPerception
from verbot.models.stochastic import ActionDistribution, ActionDistributionHead
from verbot.models.tokens import Batch, GoalQueries, Masked, TextBatch, TokenGroup
from verbot.policy.policy import VLAPolicy
from verbot.spec import FloatArray
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.envs import EnvRunners, GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import Reward

Arrays = dict[str, np.ndarray]
EVERY = 8  # after perception warm-up, every eighth sample continues to train perception


class ObservationEncoder:
    """Converts observations to arrays of fixed size, for rollout buffers.

    The arrays are images uint8 (n, v, h, w, 3) and their mask, the normalized state (n, s), the ids of the instruction and of the
    grounding queries (n, 1 + q), which index `sentences`, and their keypoints (n, 1 + q, v, 3, 2) with a mask (n, 1 + q, v, 3).

    Args:
        grounding_queries: q.
        features: also compute the features of the vision encoder (n, v, p, f), which do not depend on the instruction.

    Raises `ConfigError` for features of an encoder without `InstructionFreeFeatures`.
    """

    def __init__(self, policy: VLAPolicy, grounding_queries: int = 0, features: bool = False):
        self._policy, self._numbers = policy, dict[str, int]()
        self._backbone, self._features = policy.network.backbone, features
        self.sentences: list[str] = []
        sizes, config = policy.network.sizes, policy.config
        images = (sizes.views, sizes.height, sizes.width_px, 3)
        extra = {}
        if features:
            if not isinstance(self._backbone, SeparatesPerception) or not self._backbone.has_instruction_free_features:
                raise ConfigError(
                    f"perception_warmup needs a vision encoder that takes the instruction last, such as 'query_conv'; "
                    f"{(config.vision if config.is_modular else config.backbone).name!r} does not"
                )
            shape = self._encode_images(np.zeros((1, *images), np.uint8)).shape[1:]
            extra["features"] = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.space = spaces.Dict(
            {
                **extra,
                "images": spaces.Box(0, 255, images, np.uint8),
                "mask": spaces.Box(0, 1, (sizes.views,), np.uint8),
                "state": spaces.Box(-np.inf, np.inf, (sizes.state,), np.float32),
                "sentences": spaces.Box(0, 2**31, (1 + grounding_queries,), np.int64),
                "points": spaces.Box(-1, 1, (1 + grounding_queries, sizes.views, len(POINTS), 2), np.float32),
                "known": spaces.Box(0, 1, (1 + grounding_queries, sizes.views, len(POINTS)), np.uint8),
            }
        )

    def encode(self, observations: Sequence[GroundedObservation]) -> Arrays:
        processed = [self._policy.preprocess(each.observation) for each in observations]
        images = np.stack([one.images for one in processed])
        return {
            **({"features": self._encode_images(images)} if self._features else {}),
            "images": images,
            "mask": np.stack([one.images_mask for one in processed]).astype(np.uint8),
            "state": np.stack([one.state for one in processed]).astype(np.float32),
            "sentences": np.array(
                [[self._number(text) for text in (each.observation.instruction, *each.queries)] for each in observations]
            ),
            "points": np.stack([each.points for each in observations]),
            "known": np.stack([each.known for each in observations]).astype(np.uint8),
        }

    def batch(self, arrays: dict[str, Tensor], queries: bool = False, images_only: bool = False) -> Batch:
        """The input of the network. `queries` includes the grounding queries; `images_only` ignores computed features."""
        state, sentences = arrays["state"].unsqueeze(1), arrays["sentences"]
        known = arrays["known"][:, 1:].bool()
        rows, which = known.flatten(2).any(2).nonzero(as_tuple=True)  # (r,) of the queries with known keypoints
        goals = None
        if queries and len(rows):
            text = self._text(sentences[rows, which + 1])
            goals = GoalQueries(rows, text, Masked(arrays["points"][rows, which + 1], known[rows, which]))
        return Batch(
            images=arrays["images"].to(torch.uint8).movedim(-1, -3).unsqueeze(1),
            images_mask=arrays["mask"].bool().unsqueeze(1),
            state=state,
            state_mask=torch.ones(state.shape[:2], dtype=torch.bool, device=state.device),
            text=self._text(sentences[:, 0]),
            targets={"keypoints": Masked(arrays["points"][:, 0], arrays["known"][:, 0].bool())},
            grounding_queries=goals,
            features=arrays["features"].unsqueeze(1) if self._features and not images_only else None,
        )

    def _encode_images(self, images: np.ndarray) -> np.ndarray:
        assert isinstance(self._backbone, SeparatesPerception)
        with torch.no_grad():
            pixels = torch.from_numpy(images).to(self._policy.device).movedim(-1, -3)
            features: np.ndarray = self._backbone.image_features(pixels).cpu().numpy()
        return features

    def _text(self, numbers: Tensor) -> TextBatch:
        """Tokenize the distinct sentences."""
        unique, rows = torch.unique(numbers.cpu(), return_inverse=True)
        text = self._backbone.prepare([self.sentences[i] for i in unique.tolist()])
        return TextBatch(text.values.to(numbers.device), text.mask.to(numbers.device), rows.to(numbers.device))

    def _number(self, sentence: str) -> int:
        if sentence not in self._numbers:
            self._numbers[sentence] = len(self.sentences)
            self.sentences.append(sentence)
        return self._numbers[sentence]


class ActorCritic(BasePolicy):
    """The network, with the output of its head as a distribution of actions, and a critic on the fused tokens.

    Actions are normalized, (b, a). The value is unbounded, unlike that of the value objective of imitation learning.

    Raises `ConfigError` for a head that has no `ActionReadout`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        schedule: Any,
        use_sde: bool = False,
        *,
        policy: VLAPolicy,
        encoder: ObservationEncoder,
        config: ReinforceConfig,
    ):
        super().__init__(observation_space, action_space)
        network = policy.network
        if not isinstance(network.head, HasReadout):
            raise ConfigError(
                f"reinforcement needs a head whose outputs parametrize a distribution; {policy.config.head.name!r} is none: "
                "use the head 'regression'"
            )
        self._encoder, self._config, self._warming_up = encoder, config, False
        self.keypoint_errors: list[float] = []  # mean L1 error of each batch since the last log entry
        width, count = network.backbone.width, network.backbone.count
        hidden = max(width, 64)
        self.network, self.exploration = network, ActionDistributionHead(network.head.readout, config.ppo.log_std)
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        self.critic = nn.Sequential(reader(width, count), nn.Linear(width, hidden), nn.GELU(), last)
        perception = {p for part in self._perception() for p in part.parameters()}
        rest = [p for p in (*self.network.parameters(), *self.exploration.parameters()) if p not in perception]
        groups = [
            {"params": [p for p in self.network.parameters() if p in perception], "lr_multiplier": 1.0},
            {"params": rest, "lr_multiplier": 1.0},
            {"params": list(self.critic.parameters()), "lr_multiplier": config.ppo.critic_lr_multiplier},
        ]
        self.optimizer = _GroupedAdamW(groups, lr=schedule(1), eps=1e-5, weight_decay=0.0)

    def train_critic_only(self, only: bool) -> None:
        """Freeze the policy while the critic is trained, or train both."""
        for part in (self.network, self.exploration):
            part.requires_grad_(not only)

    def train_perception(self, only: bool) -> None:
        """Train with the keypoint loss only, or with all losses; the policy gradient then does not reach the encoders."""
        self._warming_up = only
        warmup = self._config.perception_warmup
        multiplier = 1.0 if only or warmup is None else warmup.lr_multiplier
        self.optimizer.param_groups[0]["lr_multiplier"] = multiplier
        self._set_perception(multiplier > 0)

    def _perception(self) -> tuple[nn.Module, ...]:
        backbone = self.network.backbone
        return backbone.perception_modules() if isinstance(backbone, SeparatesPerception) else ()

    def _set_perception(self, trained: bool) -> None:
        for part in self._perception():
            part.requires_grad_(trained)

    def forward(self, obs: dict[str, Tensor], deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        distribution, values = self._evaluate(obs)
        actions = distribution.mode() if deterministic else distribution.sample()
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: dict[str, Tensor], actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, log-probabilities and entropies (b,) of actions (b, a).

        With a `keypoint_weight`, the backward pass of the values also computes the gradient of the keypoint loss.
        Stable-Baselines3 has no hook for auxiliary losses, so the loss is attached to the values.
        """
        warmup = self._config.perception_warmup
        if warmup is None or self._warming_up:
            features = self._features(self._encoder.batch(obs, queries=True, images_only=True))
            trained = features
        else:
            self._set_perception(False)
            features = trained = self.network(self._encoder.batch(obs))
            if warmup.lr_multiplier:
                self._set_perception(True)
                some = {name: value[::EVERY] for name, value in obs.items()}
                trained = self._features(self._encoder.batch(some, queries=True, images_only=True))
        values = self._with_auxiliary(self._value(features.fused), trained)
        distribution = self._action_distribution(features.fused)
        log_probs, entropy = distribution.log_prob(actions), distribution.entropy()
        return (values, log_probs.detach(), entropy.detach()) if self._warming_up else (values, log_probs, entropy)

    def _features(self, batch: Batch) -> Features:
        """The features of `batch`, with the answers to the queries of the objectives."""
        by_objective = {name: each.queries(batch) for name, each in self.network.objectives.items()}
        queries: dict[str, Queries] = {name: found for name, found in by_objective.items() if found is not None}
        features: Features = self.network(batch, queries)
        return features

    def _with_auxiliary(self, values: Tensor, features: Features) -> Tensor:
        """`values`, whose backward pass also computes the gradient of the objectives that do not read the fused tokens."""
        weight = self._config.keypoint_weight
        if not weight:
            return values
        losses: dict[str, Tensor] = {}
        for objective in self.network.objectives.values():
            if not objective.reads_fused:
                losses |= objective.losses(features, features.batch)
        terms = [losses[name] for name in self.network.objectives if name in losses]
        if "keypoint_l1" in losses:
            self.keypoint_errors.append(float(losses["keypoint_l1"]))
        loss = sum(terms[1:], terms[0]) if terms else None
        if loss is None or not loss.requires_grad:
            return values
        with_loss: Tensor = _AttachLoss.apply(values.detach() if self._warming_up else values, weight * loss)
        return with_loss

    def predict_values(self, obs: dict[str, Tensor]) -> Tensor:
        return self._evaluate(obs)[1]

    def log_probs(self, obs: dict[str, Tensor], actions: Tensor) -> Tensor:
        """Log-probabilities (b,) of normalized actions (b, a)."""
        return self._evaluate(obs)[0].log_prob(actions)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)[0]

    def _evaluate(self, obs: dict[str, Tensor]) -> tuple[ActionDistribution, Tensor]:
        fused = self.network(self._encoder.batch(obs)).fused
        return self._action_distribution(fused), self._value(fused)

    def _action_distribution(self, fused: TokenGroup) -> ActionDistribution:
        first_action = self.network.head(fused)[:, 0]  # of the chunk, the one that is executed
        distribution: ActionDistribution = self.exploration(first_action)
        return distribution

    def _value(self, fused: TokenGroup) -> Tensor:
        value: Tensor = self.critic(_detached(fused) if self._config.ppo.detach_critic else fused)
        return value


class _GroupedAdamW(torch.optim.AdamW):
    """AdamW with a multiplier of the learning rate, ``"lr_multiplier"``, for each parameter group."""

    def step(self, closure: Any = None) -> Any:
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group["lr_multiplier"]
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


class _AttachLoss(torch.autograd.Function):
    """Returns `values` unchanged; the backward pass adds the gradient of `loss` once.

    This adds a loss to the training step of another library.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, loss: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, gradient.new_ones(())


class PolicyVecEnv(VecEnv):
    """Adapts `EnvRunners` to Stable-Baselines3, with normalized observations and actions."""

    def __init__(self, runners: EnvRunners, policy: VLAPolicy, encoder: ObservationEncoder, reward: Reward):
        self._runners, self._policy, self._encoder, self.reward = runners, policy, encoder, reward
        spec = policy.spec
        limits = policy.action_transform.forward(np.stack([spec.action_low(), spec.action_high()]))
        super().__init__(runners.count, encoder.space, spaces.Box(limits[0], limits[1], dtype=np.float32))
        self._actions: FloatArray = np.empty((0, 0), np.float32)
        self._lengths = np.zeros(runners.count, int)

    def reset(self) -> Arrays:
        started = self._runners.begin()
        self.reward.reset(range(len(started)), [info for _, info in started], [seen for seen, _ in started])
        return self._encoder.encode([seen for seen, _ in started])

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = self._policy.action_transform.inverse(actions).astype(np.float32)

    def step_wait(self) -> tuple[Arrays, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        transitions = self._runners.step(list(self._actions))
        rewards = self.reward(transitions, self._actions)
        infos = [self._info(i, transition) for i, transition in enumerate(transitions)]
        over = [i for i, transition in enumerate(transitions) if transition.final is not None]
        self.reward.reset(over, [transitions[i].reset_info or {} for i in over], [transitions[i].observation for i in over])
        return (
            self._encoder.encode([transition.observation for transition in transitions]),
            rewards.astype(np.float32),
            np.array([transition.final is not None for transition in transitions]),
            infos,
        )

    def _info(self, env: int, transition: VecTransition) -> dict[str, Any]:
        self._lengths[env] += 1
        info = dict(transition.info)
        if transition.final is not None:
            ended = {name: value[0] for name, value in self._encoder.encode([transition.final]).items()}
            info |= {
                "terminal_observation": ended,
                "TimeLimit.truncated": transition.truncated,
                "length": int(self._lengths[env]),
            }
            self._lengths[env] = 0
        return info

    def log_probs(self, actor: ActorCritic, observations: Sequence[GroundedObservation], actions: FloatArray) -> FloatArray:
        """Log-probabilities (n,) that `actor` gives to `actions` (n, a), in the robot's units."""
        obs = {name: torch.as_tensor(value, device=actor.device) for name, value in self._encoder.encode(observations).items()}
        wanted = torch.as_tensor(self._policy.action_transform.forward(actions), dtype=torch.float32, device=actor.device)
        with torch.no_grad():
            log_probs: FloatArray = actor.log_probs(obs, wanted).cpu().numpy()
        return log_probs

    def close(self) -> None:
        self._runners.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self._runners.count

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self._runners.count


def _detached(group: TokenGroup) -> TokenGroup:
    return TokenGroup(group.tokens.detach(), group.mask, group.kind)
