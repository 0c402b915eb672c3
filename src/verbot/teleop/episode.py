"""One attempt of a person, or of a policy that a person corrects: control steps in, episodes to save out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from verbot.contracts import Agent, Env, observation_from_env
from verbot.data import EpisodeRecord
from verbot.rollout.collect import episode_record
from verbot.spec import FloatArray, Observation
from verbot.teleop.controls import Teleoperator, basis_of


@dataclass
class Stretch:
    """What the person did in one go, from control step `begin` of the attempt on; `info` is the env's at that step."""

    begin: int
    info: dict[str, Any]
    seen: list[Observation] = field(default_factory=list)
    labels: list[FloatArray] = field(default_factory=list)
    first_contact: int | None = None
    covered: int | None = None
    handed_back: bool = False


class Attempt:
    """An episode of `env`, set up as `request` says. Only what the person does is recorded, stretch by stretch.

    While the person drives, the policy goes on watching, so that what it remembers is current when it is handed back to.

    Raises `SimulationError` where the env cannot set up or carry on.
    """

    def __init__(self, env: Env, request: Mapping[str, Any], seed: int, hand: Teleoperator, policy: Agent | None):
        self._env, self._hand, self._policy = env, hand, policy
        self.request = dict(request)
        self.record, self.info = env.reset(seed=seed, options=dict(request))
        self.stretches: list[Stretch] = []
        self.steps, self.over, self.driving = 0, False, False
        self._latest: FloatArray | None = None
        hand.reset(self.instruction)
        hand.basis = basis_of(self.info["calibration"])
        if policy is not None:
            policy.reset(self.instruction)

    @property
    def instruction(self) -> str:
        return str(self.info["instruction"])

    @property
    def success(self) -> bool:
        return bool(self.info["success"])

    @property
    def seconds(self) -> float:
        return self.steps / self._env.robot_spec.rate_hz

    def take_over(self) -> None:
        """The person drives from now on."""
        if self._latest is not None:
            self._hand.take_over(self._latest)
        self.driving = True
        self.stretches.append(Stretch(self.steps, self.info))

    def hand_back(self) -> None:
        """The policy drives from now on."""
        self.driving = False
        self.stretches[-1].handed_back = True

    def step(self) -> None:
        """One control step by whoever drives."""
        observation = observation_from_env(self.record, self.seconds)
        told = None if self._policy is None else self._policy.act(observation)
        if self.driving:
            action = self._hand.act(observation)
            self._note(observation, action)
        else:
            assert told is not None
            action = told
        self._latest = action
        self.record, _, terminated, truncated, self.info = self._env.step(action)
        self.steps, self.over = self.steps + 1, terminated or truncated

    def records(self, by: str, told: str | None, added: Sequence[str]) -> Iterator[EpisodeRecord]:
        """The episodes to save, one for each stretch, as `verbot.rollout.collect` saves an expert's, and with ``"by"``.

        Args:
            told: what the person says was done, instead of what was asked for. Of a failure the other wordings and places
                of the goal are then left out: they are about something else.
            added: further sentences for the same.
        """
        for stretch in (s for s in self.stretches if s.labels):
            record = episode_record(
                self._env, stretch.seen, stretch.labels, stretch.info, first_contact_frame=stretch.first_contact,
                unseen_frame=stretch.covered, request=self.request, success=self.success,
            )  # fmt: skip
            extras: dict[str, Any] = {**record.extras, "by": by}
            # Readers take the first for the one that was pursued.
            if goal := self.request.get("goal", 0):
                for name in ("feasible", "grounding"):
                    others = list(extras[name])
                    extras[name] = [others.pop(goal), *others]
            if self._policy is not None:
                extras |= {"takeover_frame": stretch.begin, "handed_back": stretch.handed_back}
            known = [record.instruction, *extras["instructions"]]
            if told is not None:
                extras["annotated"] = True
                known = [told, *known] if self.success else [told]
                if not self.success:
                    extras = {name: value for name, value in extras.items() if name not in ("grounding", "feasible")}
            extras["instructions"] = list(dict.fromkeys([*known, *added]))
            yield replace(record, instruction=known[0], extras=extras)

    def _note(self, observation: Observation, action: FloatArray) -> None:
        stretch = self.stretches[-1]
        if stretch.covered is None and self.info.get("covered"):
            stretch.covered = len(stretch.labels)
        if stretch.first_contact is None and self.info["first_contact"] is not None:
            stretch.first_contact = len(stretch.labels)
        stretch.seen.append(observation)
        stretch.labels.append(action)
