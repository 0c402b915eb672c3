"""What a window holds, and which sentences it is given."""

from __future__ import annotations

from dataclasses import dataclass

from verbot.errors import ConfigError, UnknownNameError

KEYPOINTS = ("hindsight", "grounding")


@dataclass(frozen=True)
class WindowConfig:
    """What each window of a dataset holds.

    Args:
        history: frames of the past in a window, the present one included.
        chunk: actions in a window, from the present frame on.
        stride: control steps from one frame of the past to the next.
        sequence: windows given out together for each one asked for: those of its own past, `stride` apart, oldest first. A window
            from before the episode's start is masked throughout. Where the scene was visited before (``extras["visit"]``), the
            older half are those with which the visit before began.
        goals: whether windows hold the last image of their episode.
        previous_action: whether windows hold the action before their latest frame.
        cameras: views, in order; the dataset's own if None. One that it lacks is zero and masked.
        labels: names of the labels in `WindowBatch.targets` (see `verbot.data.samples.labels`).
        keypoints: where the goal's points come from: ``"hindsight"`` (where the gripper closed and opened) or ``"grounding"``
            (``extras["grounding"]``: where the objects were at first; used until the first contact, hindsight from then on).
        tasks: names of tasks that the label ``task`` counts through.
        relabel: the probability that a window from before the first contact is given the instruction of another goal that its
            scene admits, with that goal's points and no actions to imitate.
        grounding_queries: m, how many of its scene's other goals such a window has beside its own.
        captions: how many of its scene's captions, each with a hard negative (``extras["captions"]``), such a window has.

    Raises `ConfigError` for a number that cannot be, `UnknownNameError` for another kind of keypoints.
    """

    history: int = 1
    chunk: int = 10
    stride: int = 1
    sequence: int = 1
    goals: bool = False
    previous_action: bool = False
    cameras: tuple[str, ...] | None = None
    labels: tuple[str, ...] = ()
    keypoints: str = "hindsight"
    tasks: tuple[str, ...] = ()
    relabel: float = 0.0
    grounding_queries: int = 0
    captions: int = 0

    def __post_init__(self) -> None:
        for name in ("history", "chunk", "stride", "sequence"):
            if getattr(self, name) < 1:
                raise ConfigError(f"windows need a {name} of at least 1; got {getattr(self, name)}")
        if self.keypoints not in KEYPOINTS:
            raise UnknownNameError("kind of keypoints", self.keypoints, KEYPOINTS)
        if not 0 <= self.relabel <= 1:
            raise ConfigError(f"relabel is a probability; got {self.relabel}")
        if self.grounding_queries < 0 or self.captions < 0:
            raise ConfigError(
                f"grounding_queries and captions are numbers of them; got {self.grounding_queries} and {self.captions}"
            )
