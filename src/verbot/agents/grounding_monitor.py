"""Monitors whether the instruction matches the images: an agent that warns, and the alarm that it shares with training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verbot.agents.interrupting import interrupt, lost
from verbot.contracts import ChunkedAgent
from verbot.errors import ConfigError, GroundingWarning, PolicyError
from verbot.spec import ActionChunk, FloatArray, Observation

THRESHOLD, PATIENCE = 0.3, 5


class ConsecutiveAlarm:
    """Reports when a similarity stays below a threshold: at the `patience`-th consecutive value, and at each further one.

    Args:
        threshold: a cosine, between −1 and 1.
        patience: number of consecutive values.

    Example:
        >>> alarm = ConsecutiveAlarm(threshold=0.3, patience=2)
        >>> [alarm.update(cosine) for cosine in (0.1, 0.5, 0.2, 0.1, 0.0)]
        [False, False, False, True, True]
    """

    def __init__(self, threshold: float = THRESHOLD, patience: int = PATIENCE):
        if not -1 <= threshold <= 1 or patience < 1:
            raise ConfigError(
                f"an alarm needs a threshold between -1 and 1 (a cosine) and a patience of at least 1; "
                f"got {threshold:g} and {patience}"
            )
        self.threshold, self.patience, self.below = threshold, patience, 0

    def update(self, similarity: float) -> bool:
        self.below = self.below + 1 if similarity < self.threshold else 0
        return self.below >= self.patience


@dataclass(frozen=True)
class Misalignment:
    """The instruction does not match the images.

    Args:
        instruction: instruction of the episode.
        alignment: the cosine at the last prediction, between −1 and 1.
        time_s: time of the last prediction since the episode's start.
        predictions: number of consecutive predictions below the threshold.
    """

    instruction: str
    alignment: float
    time_s: float
    predictions: int

    def __str__(self) -> str:
        return (
            f"the instruction does not match the images: {self.instruction!r} had a similarity below the threshold for "
            f"{self.predictions} predictions, last {self.alignment:.2f} at {self.time_s:.1f} s; is the named object present?"
        )


class GroundingMonitor:
    """Wraps an agent and warns once per episode if the similarity of images and instruction stays below a threshold.

    The actions are those of the wrapped agent. The similarity is ``extras["alignment"]`` of each chunk, which a policy with a
    contrastive objective reports. The contrastive loss uses only frames before first contact, so
    monitoring ends after the first `seconds`.

    Args:
        agent: the agent that acts.
        threshold: threshold of the cosine.
        patience: number of consecutive predictions below it.
        seconds: monitored time from the episode's start.
        on_warning: called instead of the Python warning `GroundingWarning`; it may stop the robot or ask the user.

    Example:
        >>> from verbot.agents import ChunkAgent
        >>> agent = GroundingMonitor(ChunkAgent(policy), on_warning=print)  # doctest: +SKIP
    """

    def __init__(
        self,
        agent: ChunkedAgent,
        threshold: float = THRESHOLD,
        patience: int = PATIENCE,
        seconds: float = 1.0,
        on_warning: Callable[[Misalignment], None] | None = None,
    ):
        self.policy, self.agent, self.seconds = agent.policy, agent, seconds
        self.event: Misalignment | None = None
        self._alarm = ConsecutiveAlarm(threshold, patience)
        self._notify = on_warning or _warn
        self._instruction, self._now_s = "", 0.0

    def reset(self, instruction: str) -> None:
        self.agent.reset(instruction)
        self._alarm = ConsecutiveAlarm(self._alarm.threshold, self._alarm.patience)
        self._instruction, self.event = instruction, None

    def interrupt(self) -> None:
        """Raises `ConfigError` if the wrapped agent cannot."""
        interrupt(self.agent)

    def lost(self) -> None:
        """Raises `ConfigError` if the wrapped agent cannot wait."""
        lost(self.agent)

    def next_query(self, observation: Observation) -> Observation | None:
        self._now_s = observation.time_s
        return self.agent.next_query(observation)

    def receive(self, chunk: ActionChunk) -> None:
        """Raises `PolicyError` if the policy does not report the similarity of images and instruction."""
        if "alignment" not in chunk.extras:
            raise PolicyError(
                "this policy does not report whether the instruction matches the images: its chunks have no 'alignment'; "
                "train one with objectives.contrastive and augment.captions"
            )
        cosine = chunk.extras["alignment"]
        if not isinstance(cosine, int | float | np.number) or not np.isfinite(cosine):
            raise PolicyError(
                f"this policy reports the similarity {cosine!r} of instruction and images; expected a finite number"
            )
        cosine = float(cosine)
        if self._now_s <= self.seconds and self._alarm.update(cosine) and self.event is None:
            self.event = Misalignment(self._instruction, cosine, self._now_s, self._alarm.below)
            self._notify(self.event)
        self.agent.receive(chunk)

    def act(self, observation: Observation) -> FloatArray:
        query = self.next_query(observation)
        if query is not None:
            self.receive(self.policy.predict([query])[0])
        return self.agent.act(observation)


def _warn(event: Misalignment) -> None:
    warnings.warn(str(event), GroundingWarning, stacklevel=2)
