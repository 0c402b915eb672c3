"""One episode that a person drives, or corrects while a policy drives: control steps in, recorded segments out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from verbot.contracts import Agent, Env
from verbot.data import EpisodeRecord
from verbot.rollout.collect import episode_record
from verbot.rollout.episode import EpisodeRunner, Transition
from verbot.spec import FloatArray, Observation, UInt8Array
from verbot.teleop.controls import Operator, Teleoperator, basis_of


class DrivenEpisode(Protocol):
    """An episode that a person drives, in an env or on a robot, as `verbot.teleop.session` sees it."""

    @property
    def instruction(self) -> str: ...

    @property
    def info(self) -> Mapping[str, Any]:
        """``goal``, and ``feasible``: the goals that the scene admits."""
        ...

    @property
    def images(self) -> Mapping[str, UInt8Array]: ...

    @property
    def success(self) -> bool: ...

    @property
    def over(self) -> bool: ...

    @property
    def seconds(self) -> float: ...

    @property
    def driving(self) -> bool: ...

    @property
    def note(self) -> str:
        """What the person should know now, or ``""``."""
        ...

    @property
    def is_recorded(self) -> bool:
        """Whether there is something to save."""
        ...

    def take_over(self) -> None: ...

    def hand_back(self) -> None: ...

    def step(self) -> None:
        """One control step."""
        ...

    def rest(self) -> None:
        """Nobody drives from now on."""
        ...

    def judge(self, success: bool) -> None:
        """What the person says of it, where no env knows."""
        ...

    def records(self, by: str, description: str | None, added: Sequence[str]) -> Iterator[EpisodeRecord]: ...


@dataclass
class Segment:
    """Consecutive control steps of the person, from step `begin` of the episode on."""

    begin: int
    transitions: list[Transition] = field(default_factory=list)
    handed_back: bool = False


class SharedControl:
    """A person and a policy in one episode: one acts, and the policy observes every step.

    So what the policy remembers is current when the person hands back.
    """

    def __init__(self, operator: Operator, policy: Agent | None):
        self.operator, self.policy = operator, policy
        self.person_drives = False
        self._latest: FloatArray | None = None

    def reset(self, instruction: str) -> None:
        self.person_drives, self._latest = False, None
        self.operator.reset(instruction)
        if self.policy is not None:
            self.policy.reset(instruction)

    def act(self, observation: Observation) -> FloatArray:
        predicted = None if self.policy is None else self.policy.act(observation)
        self._latest = self.operator.act(observation) if self.person_drives or predicted is None else predicted
        return self._latest

    def take_over(self) -> None:
        """The person acts from now on."""
        if self._latest is not None:
            self.operator.take_over(self._latest)
        self.person_drives = True

    def hand_back(self) -> None:
        """The policy acts from now on."""
        self.person_drives = False


class TeleopEpisode:
    """An episode of `env`, set up as `request` says. Only the person's control steps are recorded, segment by segment.

    Raises `SimulationError` if the env cannot set it up, or reports a fault in `step`.
    """

    def __init__(self, env: Env, request: Mapping[str, Any], seed: int, teleoperator: Teleoperator, policy: Agent | None):
        self._episode, self._control = EpisodeRunner(env, request, seed), SharedControl(teleoperator, policy)
        self._control.reset(self.instruction)
        teleoperator.basis = basis_of(self.info["calibration"])
        self._transitions = self._episode.run(self._control)
        self.segments: list[Segment] = []

    @property
    def instruction(self) -> str:
        return self._episode.instruction

    @property
    def info(self) -> dict[str, Any]:
        """The env's latest."""
        return self._episode.info

    @property
    def images(self) -> Mapping[str, UInt8Array]:
        """The latest, by camera."""
        return self._episode.observation.images

    @property
    def success(self) -> bool:
        return bool(self.info["success"])

    @property
    def over(self) -> bool:
        return self._episode.over

    @property
    def seconds(self) -> float:
        return self._episode.time_s

    @property
    def driving(self) -> bool:
        """Whether the person acts."""
        return self._control.person_drives

    @property
    def note(self) -> str:
        return ""

    @property
    def is_recorded(self) -> bool:
        return bool(self.segments)

    def rest(self) -> None:
        """An env stands still between two steps."""

    def judge(self, success: bool) -> None:
        """The env judges."""

    def take_over(self) -> None:
        """The person drives from now on."""
        self._control.take_over()
        self.segments.append(Segment(self._episode.steps))

    def hand_back(self) -> None:
        """The policy drives from now on."""
        self._control.hand_back()
        self.segments[-1].handed_back = True

    def step(self) -> None:
        """One control step."""
        transition = next(self._transitions)
        if self.driving:
            self.segments[-1].transitions.append(transition)

    def records(self, by: str, description: str | None, added: Sequence[str]) -> Iterator[EpisodeRecord]:
        """One record for each segment, as `verbot.rollout.collect` saves an expert's, and with ``"by"``.

        Args:
            description: what the person says was done, in place of the instruction. Of a failure the goal's other wordings and
                places are then left out, because they describe another goal.
            added: further sentences for the same goal.
        """
        for segment in (s for s in self.segments if s.transitions):
            record = episode_record(self._episode, segment.transitions, success=self.success)
            extras: dict[str, Any] = {**record.extras, "by": by}
            # Readers take the first goal for the one that was pursued.
            if goal := self._episode.request.get("goal", 0):
                for name in ("feasible", "grounding"):
                    others = list(extras[name])
                    extras[name] = [others.pop(goal), *others]
            if self._control.policy is not None:
                extras |= {"takeover_frame": segment.begin, "handed_back": segment.handed_back}
            known = [record.instruction, *extras["instructions"]]
            if description is not None:
                extras["annotated"] = True
                known = [description, *known] if self.success else [description]
                if not self.success:
                    extras = {name: value for name, value in extras.items() if name not in ("grounding", "feasible")}
            extras["instructions"] = list(dict.fromkeys([*known, *added]))
            yield replace(record, instruction=known[0], extras=extras)
