"""What a person chooses in the console, and what brings it about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from verbot.console.hands_free import Cutter
from verbot.console.listening import Recognize
from verbot.console.observing import ObservedPolicy
from verbot.console.plants import Plant
from verbot.contracts import Agent
from verbot.errors import ConfigError
from verbot.ranges import COUNT_OR_NONE, STRENGTH, check_ranges


@dataclass(frozen=True)
class ConsoleSetup:
    """Who acts, and where.

    Args:
        policy: a policy's name as commands take it, or ``"expert"``.
        suite: name of a registered env.
        scene: number of a test scene.
        task: one of the env's tasks; ``""`` draws one.
        composition: as in `verbot.contracts.EpisodeRequest`.
        axes: strength of each randomization axis.
    """

    policy: str = "starter"
    suite: str = "tabletop-starter"
    scene: int = 0
    task: str = ""
    composition: str = "seen"
    axes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self, scene=COUNT_OR_NONE, axes=STRENGTH)
        if self.composition not in ("seen", "unseen"):
            raise ConfigError(f"composition is {self.composition!r}; expected seen or unseen")

    def request(self) -> dict[str, Any]:
        """Options of `verbot.contracts.Env.reset`."""
        axes = {name: strength for name, strength in self.axes.items() if strength}
        return {"index": self.scene, "composition": self.composition, "task": self.task or None, "axes": axes}


@dataclass(frozen=True)
class Acting:
    """Who acts in a plant.

    Args:
        agent: acts.
        policy: what the agent asks; None for an agent without one.
        needs_goal: whether it acts on a goal alone, as an expert does, and not on words.
        events: takes the guard's events since the last call, a line each.
        reset: a person allows the agent to go on after it was stopped by its guard.
    """

    agent: Agent
    policy: ObservedPolicy | None = None
    needs_goal: bool = False
    events: Callable[[], Sequence[str]] = tuple
    reset: Callable[[], None] = lambda: None


class OutputPages(Protocol):
    """What can be opened from the console: reports, comparisons and datasets below one folder."""

    def listing(self) -> list[dict[str, str]]:
        """Of each what it is (``kind``), its ``path`` below the folder and when it was written (``when``), the newest first."""
        ...

    def read(self, path: str) -> tuple[bytes, str]:
        """The content and its media type. Raises `DataError` for a path that leads elsewhere, or to nothing that is shown."""
        ...


@dataclass(frozen=True)
class ConsoleChoices:
    """What the console offers, and what its parts are made by.

    Args:
        policies, suites: offered by name; none to choose from where a robot acts.
        axes: the randomization axes of a suite.
        open_plant: sets up a scene, or connects the robot.
        open_agent: makes who acts there.
        find: the setup of a scene that has the goal which a text means; None if there is none.
        sentences: the instructions of a suite, to which a spoken one is snapped.
        recognize: what was said in float32 (n,) samples at 16 kHz, given the sentences that are likely, as `Listener` takes it;
            None without speech.
        cutter: makes what cuts sound into utterances; None without hands-free talk.
        outputs: what can be opened; None for nothing.
    """

    open_plant: Callable[[ConsoleSetup], Plant]
    open_agent: Callable[[ConsoleSetup, Plant], Acting]
    policies: Sequence[str] = ()
    suites: Sequence[str] = ()
    axes: Callable[[str], Sequence[str]] = lambda suite: ()
    find: Callable[[str, ConsoleSetup], ConsoleSetup | None] = lambda text, setup: None
    sentences: Callable[[ConsoleSetup], Sequence[str]] = lambda setup: ()
    recognize: Recognize | None = None
    cutter: Callable[[], Cutter] | None = None
    outputs: OutputPages | None = None
