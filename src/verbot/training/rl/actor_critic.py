"""A policy as Stable-Baselines3's PPO takes one: draws of actions, their probabilities, and what states are worth."""

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
from verbot.models.protocols import HasReadout, SeesBeforeWords
from verbot.models.stochastic import Draw, Exploration
from verbot.models.tokens import Batch, GoalQueries, Masked, TextBatch, TokenGroup
from verbot.policy.policy import Policy
from verbot.spec import FloatArray
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.envs import EnvRunners, GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import Reward

Arrays = dict[str, np.ndarray]
EVERY = 8  # while it tries, one look of so many goes on teaching to see


class Senses:
    """Observations as arrays of one size: images uint8 (n, v, h, w, 3), their mask, the normalized state (n, s), and which of
    the sentences met so far was told, and asked beside (n, 1 + q); and where the heatmaps shall look for each of these
    (n, 1 + q, v, 3, 2), as far as it is known (n, 1 + q, v, 3).

    Args:
        questions: q.
        features: also what the vision encoder makes of the images (n, v, p, f), whatever is said.

    Raises `ConfigError` for features of an encoder that has none.
    """

    def __init__(self, policy: Policy, questions: int = 0, features: bool = False):
        self._policy, self._numbers, self._features = policy, dict[str, int](), features
        self.sentences: list[str] = []
        sizes = policy.network.sizes
        images = (sizes.views, sizes.height, sizes.width_px, 3)
        seen = {}
        if features:
            if not isinstance(policy.network.vision, SeesBeforeWords):
                raise ConfigError(
                    f"looking first needs a vision encoder that sees before it listens, such as 'query_conv'; "
                    f"{policy.config.vision.name!r} does not"
                )
            shape = self._see(np.zeros((1, *images), np.uint8)).shape[1:]
            seen["features"] = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.space = spaces.Dict(
            {
                **seen,
                "images": spaces.Box(0, 255, images, np.uint8),
                "mask": spaces.Box(0, 1, (sizes.views,), np.uint8),
                "state": spaces.Box(-np.inf, np.inf, (sizes.state,), np.float32),
                "told": spaces.Box(0, 2**31, (1 + questions,), np.int64),
                "points": spaces.Box(-1, 1, (1 + questions, sizes.views, len(POINTS), 2), np.float32),
                "known": spaces.Box(0, 1, (1 + questions, sizes.views, len(POINTS)), np.uint8),
            }
        )

    def take(self, looks: Sequence[GroundedObservation]) -> Arrays:
        sights = [self._policy.look(look.observation) for look in looks]
        images = np.stack([sight.images for sight in sights])
        return {
            **({"features": self._see(images)} if self._features else {}),
            "images": images,
            "mask": np.stack([sight.images_mask for sight in sights]).astype(np.uint8),
            "state": np.stack([sight.state for sight in sights]).astype(np.float32),
            "told": np.array([[self._number(text) for text in (look.observation.instruction, *look.queries)] for look in looks]),
            "points": np.stack([look.points for look in looks]),
            "known": np.stack([look.known for look in looks]).astype(np.uint8),
        }

    def batch(self, arrays: dict[str, Tensor], asking: bool = False, looking: bool = False) -> Batch:
        """As the network takes them; with the questions where it is `asking`, without the features where it is `looking`."""
        state, told = arrays["state"].unsqueeze(1), arrays["told"]
        known = arrays["known"][:, 1:].bool()
        rows, which = known.flatten(2).any(2).nonzero(as_tuple=True)  # (r,) of the questions that have an answer
        questions = None
        if asking and len(rows):
            text = self._text(told[rows, which + 1])
            questions = GoalQueries(rows, text, Masked(arrays["points"][rows, which + 1], known[rows, which]))
        return Batch(
            images=arrays["images"].to(torch.uint8).movedim(-1, -3).unsqueeze(1),
            images_mask=arrays["mask"].bool().unsqueeze(1),
            state=state,
            state_mask=torch.ones(state.shape[:2], dtype=torch.bool, device=state.device),
            text=self._text(told[:, 0]),
            targets={"keypoints": Masked(arrays["points"][:, 0], arrays["known"][:, 0].bool())},
            grounding_queries=questions,
            features=arrays["features"].unsqueeze(1) if self._features and not looking else None,
        )

    def _see(self, images: np.ndarray) -> np.ndarray:
        network = self._policy.network
        with torch.no_grad():
            pixels = torch.from_numpy(images).to(self._policy.device).movedim(-1, -3)
            features: np.ndarray = network.vision.features(pixels).cpu().numpy()
        return features

    def _text(self, numbers: Tensor) -> TextBatch:
        """Each sentence is read once."""
        told, rows = torch.unique(numbers.cpu(), return_inverse=True)
        text = self._policy.network.language.prepare([self.sentences[i] for i in told.tolist()])
        return TextBatch(text.values.to(numbers.device), text.mask.to(numbers.device), rows.to(numbers.device))

    def _number(self, sentence: str) -> int:
        if sentence not in self._numbers:
            self._numbers[sentence] = len(self.sentences)
            self.sentences.append(sentence)
        return self._numbers[sentence]


class Actor(BasePolicy):
    """The network with its head read as a distribution, and a value beside it, of what is fused.

    Its actions are normalized, (b, a); the value is any number, unlike that of the value head of cloning.

    Raises `ConfigError` for a head that has no `Readout`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        schedule: Any,
        use_sde: bool = False,
        *,
        policy: Policy,
        senses: Senses,
        config: ReinforceConfig,
    ):
        super().__init__(observation_space, action_space)
        network = policy.network
        if not isinstance(network.head, HasReadout):
            raise ConfigError(
                f"reinforcement reads the outputs of a head as probabilities, and {policy.config.head.name!r} has none: "
                "take the head 'regression'"
            )
        self._senses, self._config, self._pointing, self._looking = senses, config, config.keypoint_weight, False
        self.astray: list[
            float
        ] = []  # of each batch since they were last read: how far what was told lies from where it is looked for
        width, count = network.fusion.width, network.fusion.count
        hidden = max(width, 64)
        self.network, self.exploration = network, Exploration(network.head.readout, config.log_std)
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        self.critic = nn.Sequential(reader(width, count), nn.Linear(width, hidden), nn.GELU(), last)
        sight = {p for part in self._sight() for p in part.parameters()}
        rest = [p for p in (*self.network.parameters(), *self.exploration.parameters()) if p not in sight]
        groups = [
            {"params": [p for p in self.network.parameters() if p in sight], "pace": 1.0},
            {"params": rest, "pace": 1.0},
            {"params": list(self.critic.parameters()), "pace": config.critic_pace},
        ]
        self.optimizer = _Paced(groups, lr=schedule(1), eps=1e-5, weight_decay=0.0)

    def learn_only_values(self, only: bool) -> None:
        """Whether the policy stays as it is while the value learns."""
        for part in (self.network, self.exploration):
            part.requires_grad_(not only)

    def look(self, only: bool) -> None:
        """Whether nothing but the keypoint loss teaches anything; afterwards rewards do not teach to read pictures and words."""
        self._looking = only
        pace = 1.0 if only or self._config.looking is None else self._config.looking.pace
        self.optimizer.param_groups[0]["pace"] = pace
        self._learn_to_see(pace > 0)

    def _sight(self) -> tuple[nn.Module, ...]:
        return self.network.vision, self.network.language, self.network.sentence

    def _learn_to_see(self, learns: bool) -> None:
        for part in self._sight():
            part.requires_grad_(learns)

    def forward(self, obs: dict[str, Tensor], deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        draw, values = self._consider(obs)
        actions = draw.mode() if deterministic else draw.sample()
        return actions, values, draw.log_prob(actions)

    def evaluate_actions(self, obs: dict[str, Tensor], actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where `keypoint_weight` says so, whatever is minimized of the values also minimizes the keypoint loss."""
        first = self._config.looking
        if first is None or self._looking:
            features = self._features(self._senses.batch(obs, asking=True, looking=True))
            taught = features
        else:
            self._learn_to_see(False)
            features = taught = self.network(self._senses.batch(obs))
            if first.pace:
                self._learn_to_see(True)
                some = {name: value[::EVERY] for name, value in obs.items()}
                taught = self._features(self._senses.batch(some, asking=True, looking=True))
        values = self._with_auxiliary(self._value(features.fused), taught)
        draw = self._draw(features.fused)
        chances, entropy = draw.log_prob(actions), draw.entropy()
        return (values, chances.detach(), entropy.detach()) if self._looking else (values, chances, entropy)

    def _features(self, batch: Batch) -> Features:
        """With what the objectives ask of the images."""
        asked = {name: each.queries(batch) for name, each in self.network.objectives.items()}
        queries: dict[str, Queries] = {name: found for name, found in asked.items() if found is not None}
        features: Features = self.network(batch, queries)
        return features

    def _with_auxiliary(self, values: Tensor, features: Features) -> Tensor:
        """`values`, with the losses of the objectives that are taught before the fusion beside them."""
        if not self._pointing:
            return values
        losses: dict[str, Tensor] = {}
        for objective in self.network.objectives.values():
            if not objective.reads_fused:
                losses |= objective.losses(features, features.batch)
        terms = [losses[name] for name in self.network.objectives if name in losses]
        if "keypoint_l1" in losses:
            self.astray.append(float(losses["keypoint_l1"]))
        loss = sum(terms[1:], terms[0]) if terms else None
        if loss is None or not loss.requires_grad:
            return values
        beside: Tensor = _Beside.apply(values.detach() if self._looking else values, self._pointing * loss)
        return beside

    def predict_values(self, obs: dict[str, Tensor]) -> Tensor:
        return self._consider(obs)[1]

    def log_probs(self, obs: dict[str, Tensor], actions: Tensor) -> Tensor:
        """(b,) of normalized actions (b, a)."""
        return self._consider(obs)[0].log_prob(actions)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)[0]

    def _consider(self, obs: dict[str, Tensor]) -> tuple[Draw, Tensor]:
        fused = self.network(self._senses.batch(obs)).fused
        return self._draw(fused), self._value(fused)

    def _draw(self, fused: TokenGroup) -> Draw:
        draw: Draw = self.exploration(self.network.head(fused)[:, 0])  # of the chunk's first action, the one that is executed
        return draw

    def _value(self, fused: TokenGroup) -> Tensor:
        value: Tensor = self.critic(_detached(fused) if self._config.value_apart else fused)
        return value


class _Paced(torch.optim.AdamW):
    """Each group of parameters learns at its own multiple, ``"pace"``, of the rate that is set for all."""

    def step(self, closure: Any = None) -> Any:
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group["pace"]
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


class _Beside(torch.autograd.Function):
    """`values` as they are; the gradient of whatever is made of them brings that of `loss` along, once.

    So a loss of our own joins a training step that somebody else's code takes.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, loss: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, gradient.new_ones(())


class PolicyVecEnv(VecEnv):
    """`EnvRunners` for Stable-Baselines3, in the policy's normalized observations and actions."""

    def __init__(self, worlds: EnvRunners, policy: Policy, senses: Senses, reward: Reward):
        self._worlds, self._policy, self._senses, self.reward = worlds, policy, senses, reward
        spec = policy.spec
        limits = policy.action_steps.forward(np.stack([spec.action_low(), spec.action_high()]))
        super().__init__(worlds.count, senses.space, spaces.Box(limits[0], limits[1], dtype=np.float32))
        self._actions: FloatArray = np.empty((0, 0), np.float32)
        self._lengths = np.zeros(worlds.count, int)

    def reset(self) -> Arrays:
        begun = self._worlds.begin()
        self.reward.begin(range(len(begun)), [info for _, info in begun], [seen for seen, _ in begun])
        return self._senses.take([seen for seen, _ in begun])

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = self._policy.action_steps.inverse(actions).astype(np.float32)

    def step_wait(self) -> tuple[Arrays, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        transitions = self._worlds.step(list(self._actions))
        rewards = self.reward(transitions, self._actions)
        infos = [self._info(i, transition) for i, transition in enumerate(transitions)]
        over = [i for i, transition in enumerate(transitions) if transition.final is not None]
        self.reward.begin(over, [transitions[i].reset_info or {} for i in over], [transitions[i].observation for i in over])
        return (
            self._senses.take([transition.observation for transition in transitions]),
            rewards.astype(np.float32),
            np.array([transition.final is not None for transition in transitions]),
            infos,
        )

    def _info(self, world: int, transition: VecTransition) -> dict[str, Any]:
        self._lengths[world] += 1
        info = dict(transition.info)
        if transition.final is not None:
            ended = {name: value[0] for name, value in self._senses.take([transition.final]).items()}
            info |= {
                "terminal_observation": ended,
                "TimeLimit.truncated": transition.truncated,
                "length": int(self._lengths[world]),
            }
            self._lengths[world] = 0
        return info

    def judge(self, actor: Actor, looks: Sequence[GroundedObservation], actions: FloatArray) -> FloatArray:
        """Logarithms (n,) of the chances that `actor` gives to `actions` (n, a), in the robot's units."""
        obs = {name: torch.as_tensor(value, device=actor.device) for name, value in self._senses.take(looks).items()}
        wanted = torch.as_tensor(self._policy.action_steps.forward(actions), dtype=torch.float32, device=actor.device)
        with torch.no_grad():
            log_probs: FloatArray = actor.log_probs(obs, wanted).cpu().numpy()
        return log_probs

    def close(self) -> None:
        self._worlds.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self._worlds.count

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self._worlds.count


def _detached(group: TokenGroup) -> TokenGroup:
    return TokenGroup(group.tokens.detach(), group.mask, group.kind)
