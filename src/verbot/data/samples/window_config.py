"""The configuration of windows: their content and their sentences."""

from __future__ import annotations

from dataclasses import dataclass

from verbot.errors import ConfigError, UnknownNameError

KEYPOINTS = ("hindsight", "grounding")
OFFSETS = 3  # moments ahead of a frame that a window has, one of each part of the range


@dataclass(frozen=True)
class WindowConfig:
    """The content of each window of a dataset.

    Args:
        history: number of frames in a window, with the present one.
        chunk: number of actions in a window, from the present frame on.
        stride: control steps between two frames.
        sequence: number of windows for each index: the window itself and those before it, `stride` apart, oldest first. Windows
            before the start of the episode are masked. If the scene was visited before (``extras["visit"]``), the older half is
            the beginning of the previous visit.
        goals: whether windows contain the last image of their episode.
        previous_action: whether windows contain the action before their latest frame.
        cameras: views, in order; those of the dataset if None. A missing view is zero and masked.
        labels: names of the labels in `WindowBatch.targets` (see `verbot.data.samples.labels`).
        keypoints: source of the goal's points: ``"hindsight"`` (where the gripper closed and opened) or ``"grounding"``
            (``extras["grounding"]``: initial positions of the objects; used until the first contact, then hindsight).
        tasks: names of the classes of the label ``task``.
        relabel: probability that a window before the first contact has the instruction and points of another goal of its scene,
            and masked actions.
        grounding_queries: m, the number of other goals of its scene that a window before the first contact has.
        captions: number of captions of its scene, each with a hard negative (``extras["captions"]``), for such a window.
        ahead: windows also have the states and actions of up to `OFFSETS` moments, up to so many control steps after the frame
            that they show; 0 for none.

    Raises `ConfigError` for a number out of range, `UnknownNameError` for an unknown kind of keypoints.
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
    ahead: int = 0

    @property
    def offsets(self) -> int:
        """m, the number of moments ahead of its frame that a window has."""
        return min(OFFSETS, self.ahead)

    def __post_init__(self) -> None:
        for name in ("history", "chunk", "stride", "sequence"):
            if getattr(self, name) < 1:
                raise ConfigError(f"windows need a {name} of at least 1; got {getattr(self, name)}")
        if self.keypoints not in KEYPOINTS:
            raise UnknownNameError("kind of keypoints", self.keypoints, KEYPOINTS)
        if not 0 <= self.relabel <= 1:
            raise ConfigError(f"relabel is a probability; got {self.relabel}")
        if self.ahead < 0:
            raise ConfigError(f"ahead is {self.ahead}; expected a number of control steps, 0 for none")
        if self.grounding_queries < 0 or self.captions < 0:
            raise ConfigError(
                f"grounding_queries and captions are numbers of them; got {self.grounding_queries} and {self.captions}"
            )
