"""The episode loop: one agent acts in one env. All rollouts use it.

Only this package calls ``env.step``; `tools/layers.py` checks it.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verbot.configuration import former_names
from verbot.contracts import Agent, Env, EpisodeRequest, Expert, observation_from_env
from verbot.errors import SimulationError
from verbot.spec import FloatArray, Observation

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, RunningEpisode="EpisodeRunner")

Request = EpisodeRequest | Mapping[str, Any]  # a mapping holds fields of `EpisodeRequest`


@dataclass(frozen=True)
class Transition:
    """One control step.

    Args:
        observation, next_observation: before and after the step.
        action: the executed action (a,), in the robot's units.
        expert_action: the expert's action (a,) for `observation`, without noise; None without an expert.
        reward: the reward of the env.
        terminated, truncated: as Gymnasium defines them.
        info: the env's info after the step; `previous_info` is the one before it.
    """

    observation: Observation
    action: FloatArray
    expert_action: FloatArray | None
    reward: float
    next_observation: Observation
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    previous_info: dict[str, Any]

    @property
    def over(self) -> bool:
        """Whether the episode ended with this step."""
        return self.terminated or self.truncated

    @property
    def fault(self) -> str | None:
        """The simulator's fault, or None."""
        error = self.info.get("error")
        return str(error) if error else None


class EpisodeRunner:
    """Steps one episode of `env`, set up by `request`.

    Args:
        seed: seed of the scene.

    Raises:
        SimulationError: the env cannot set up the episode.
    """

    def __init__(self, env: Env, request: Request, seed: int = 0):
        self.env, self.request = env, request_options(request)
        record, self.info = env.reset(seed=seed, options=dict(self.request))
        if self.info.get("error"):
            raise SimulationError(str(self.info["error"]))
        self.observation = observation_from_env(record)
        self.steps, self.over = 0, False

    @property
    def instruction(self) -> str:
        """The instruction, with which the agent is reset."""
        return str(self.info["instruction"])

    @property
    def time_s(self) -> float:
        """Seconds since the start of the episode."""
        return self.steps / self.env.robot_spec.rate_hz

    def step(self, action: FloatArray, expert_action: FloatArray | None = None) -> Transition:
        """Execute `action` (a,) for one control step. A fault of the simulator is in `Transition.fault`."""
        observation, info = self.observation, self.info
        record, reward, terminated, truncated, self.info = self.env.step(action)
        self.steps, self.over = self.steps + 1, bool(terminated or truncated)
        self.observation = observation_from_env(record, self.time_s)
        return Transition(
            observation,
            action,
            expert_action,
            float(reward),
            self.observation,
            bool(terminated),
            bool(truncated),
            self.info,
            info,
        )

    def run(self, agent: Agent) -> Iterator[Transition]:
        """Let `agent`, which must have been reset, act until the episode ends or the caller stops iterating.

        A further call continues the episode with another agent. Raises `SimulationError` on a fault of the simulator.
        """
        expert = agent if isinstance(agent, Expert) else None
        while not self.over:
            action = agent.act(self.observation)
            transition = self.step(action, None if expert is None else expert.label())
            if transition.fault is not None:
                raise SimulationError(transition.fault)
            yield transition


def play(env: Env, agent: Agent, request: Request, seed: int = 0) -> Iterator[Transition]:
    """The transitions of one episode, which starts with the first iteration.

    `agent` is reset with the episode's instruction. ``itertools.islice`` limits the number of steps.

    Args:
        request: an `EpisodeRequest` or its fields.
        seed: seed of the scene.

    Raises:
        SimulationError: the simulator could not set up the episode, or reported a fault.

    Example:
        >>> from verbot.envs import make_env
        >>> env = make_env("navigation", render_cameras=False)
        >>> last = final(play(env, env.expert(), {"task": "go", "index": 0}))
        >>> last.info["success"], last.terminated
        (True, True)
    """
    episode = EpisodeRunner(env, request, seed)
    agent.reset(episode.instruction)
    yield from episode.run(agent)


def final(transitions: Iterable[Transition]) -> Transition:
    """Run to the end and return the last transition."""
    return deque(transitions, maxlen=1)[0]


class Supervised:
    """`agent` acts while `expert` observes every step; `Transition.expert_action` is the expert's."""

    def __init__(self, agent: Agent, expert: Expert):
        self.agent, self.expert = agent, expert

    def reset(self, instruction: str) -> None:
        self.agent.reset(instruction)
        self.expert.reset(instruction)

    def act(self, observation: Observation) -> FloatArray:
        self.expert.act(observation)
        return self.agent.act(observation)

    def label(self) -> FloatArray:
        return self.expert.label()


class Replay:
    """Replays recorded actions (n, a), one per step. Raises `IndexError` after the last."""

    def __init__(self, actions: FloatArray):
        self._actions, self._next = actions, 0

    def reset(self, instruction: str) -> None:
        self._next = 0

    def act(self, observation: Observation) -> FloatArray:
        self._next += 1
        action: FloatArray = self._actions[self._next - 1]
        return action


def request_options(request: Request) -> dict[str, Any]:
    """The fields of a request, as options of `Env.reset`."""
    if isinstance(request, EpisodeRequest):
        return {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    return dict(request)
