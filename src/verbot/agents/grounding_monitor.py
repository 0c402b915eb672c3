"""Whether what is said is what is seen: an agent that warns, and the watch that it shares with training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from verbot.contracts import ChunkedAgent
from verbot.errors import ConfigError, GroundingWarning, PolicyError
from verbot.spec import ActionChunk, FloatArray, Observation

THRESHOLD, PATIENCE = 0.3, 5


class ConsecutiveAlarm:
    """Says when a similarity stays below a threshold: at the `patience`-th value in a row, and at each further one.

    Args:
        threshold: a cosine.
        patience: values in a row.

    Example:
        >>> alarm = ConsecutiveAlarm(threshold=0.3, patience=2)
        >>> [alarm.see(cosine) for cosine in (0.1, 0.5, 0.2, 0.1, 0.0)]
        [False, False, False, True, True]
    """

    def __init__(self, threshold: float = THRESHOLD, patience: int = PATIENCE):
        if not -1 <= threshold <= 1 or patience < 1:
            raise ConfigError(
                f"a watch needs a cosine as threshold, between -1 and 1, and a patience of at least 1; "
                f"got {threshold:g} and {patience}"
            )
        self.threshold, self.patience, self.below = threshold, patience, 0

    def see(self, similarity: float) -> bool:
        self.below = self.below + 1 if similarity < self.threshold else 0
        return self.below >= self.patience


@dataclass(frozen=True)
class Misalignment:
    """What was said is not what is seen.

    Args:
        instruction: that was given.
        alignment: the cosine of the last prediction, between -1 and 1.
        time_s: when that was, from the episode's start.
        predictions: so many in a row were below the threshold.
    """

    instruction: str
    alignment: float
    time_s: float
    predictions: int

    def __str__(self) -> str:
        return (
            f"what is said is not what is seen: {self.instruction!r} has had a similarity below the threshold for "
            f"{self.predictions} predictions, at last {self.alignment:.2f} at {self.time_s:.1f} s; is the named thing there?"
        )


class GroundingMonitor:
    """Wraps an agent and warns once an episode, when the similarity of picture and instruction stays below a threshold.

    It acts as the agent that it wraps does. The similarity is ``extras["alignment"]`` of each chunk, which a policy with a
    ``contrast`` tells. Captions are learned from scenes that nothing has touched, so the watch ends once a time has passed.

    Args:
        agent: that acts.
        threshold: of the cosine.
        patience: predictions in a row that must be below it.
        seconds: of an episode, during which is watched.
        on_warning: is told, in place of a Python warning `GroundingWarning`; it may stop the robot, or ask the person.

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
        self._watch = ConsecutiveAlarm(threshold, patience)
        self._tell = on_warning or _warn
        self._instruction, self._now_s = "", 0.0

    def reset(self, instruction: str) -> None:
        self.agent.reset(instruction)
        self._watch = ConsecutiveAlarm(self._watch.threshold, self._watch.patience)
        self._instruction, self.event = instruction, None

    def next_query(self, observation: Observation) -> Observation | None:
        self._now_s = observation.time_s
        return self.agent.next_query(observation)

    def receive(self, chunk: ActionChunk) -> None:
        """Raises `PolicyError` where the policy does not tell how what is seen and said fit."""
        if "alignment" not in chunk.extras:
            raise PolicyError(
                "this policy does not tell whether what is said is what is seen: its chunks have no 'alignment'; train one with "
                "network.contrast.name=match and augment.captions"
            )
        cosine = float(chunk.extras["alignment"])
        if self._now_s <= self.seconds and self._watch.see(cosine) and self.event is None:
            self.event = Misalignment(self._instruction, cosine, self._now_s, self._watch.below)
            self._tell(self.event)
        self.agent.receive(chunk)

    def act(self, observation: Observation) -> FloatArray:
        asked = self.next_query(observation)
        if asked is not None:
            self.receive(self.policy.predict([asked])[0])
        return self.agent.act(observation)


def _warn(event: Misalignment) -> None:
    warnings.warn(str(event), GroundingWarning, stacklevel=2)
