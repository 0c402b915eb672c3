"""What the console drives: an episode in simulation, or a robot, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from verbot.console.pointing import Projection
from verbot.contracts import Disturbable, Env, Grammar, Pictured, Robot, TaskEnv, Understanding
from verbot.envs.parsing import matches, present, unrelated_goal
from verbot.errors import SimulationError
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import FloatArray, Observation, RobotSpec, UInt8Array

NEAR = 0.12  # of a picture's side: a person who drags grips the nearest object within it
EXAMPLES = 6  # instructions that a scene suggests
NO_DRAG: Mapping[str, list[str]] = {"objects": [], "cameras": []}
PlantOutcome = Literal["success", "time is over", "fault"]


@dataclass(frozen=True)
class Preview:
    """What an instruction would mean, said before it is obeyed.

    Args:
        goal: the plain instruction of the goal that is judged; empty if none is.
        problem: why nothing is judged; empty if something is.
        elsewhere: whether it is understood, but another scene is needed for it.
        asks: whether a person is asked before it is obeyed, because it was not understood or is not to be had here.
        number: the goal's index in ``info["feasible"]``.
    """

    text: str
    goal: str = ""
    problem: str = ""
    elsewhere: bool = False
    asks: bool = False
    number: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "goal": self.goal, "problem": self.problem, "elsewhere": self.elsewhere, "asks": self.asks}


class Plant(Protocol):
    """A robot and its surroundings. One thread calls it."""

    @property
    def spec(self) -> RobotSpec: ...

    @property
    def is_real(self) -> bool:
        """Whether time passes whether or not something is called."""
        ...

    def preview(self, text: str) -> Preview: ...

    def begin(self, preview: Preview | None) -> None:
        """Set the scene up, for an instruction or for none yet. A robot stays as it is. Raises `SimulationError`."""
        ...

    def observe(self) -> Observation: ...

    def act(self, action: FloatArray) -> PlantOutcome | None:
        """One control step with an action (a,). Returns how the episode ended with it, or None."""
        ...

    def hold(self) -> None:
        """Bring the robot to rest, and keep it so until the next `act`."""
        ...

    def pictures(self, pixels: int) -> Mapping[str, UInt8Array]:
        """What each color camera shows, (h, w, 3), larger than the policy's images where it can be."""
        ...

    def scene(self) -> Mapping[str, Any]:
        """What there is: names of ``objects`` and ``tasks``, ``examples`` of instructions, and what can be dragged.

        ``drag`` holds the names of ``objects`` that a person can move, and the ``cameras`` in whose pictures.
        """
        ...

    def move(self, camera: str, start: tuple[float, float], end: tuple[float, float]) -> str:
        """Move the object at a point of a picture (x, y from 0 to 1) to another. Returns its name. Raises `SimulationError`."""
        ...

    def close(self) -> None: ...


@dataclass
class SimulatedPlant:
    """An env whose time passes in `act` alone.

    Args:
        request: options of `verbot.contracts.Env.reset`, without goal and text.
        seed: seed of the scenes.
    """

    env: Env
    request: Mapping[str, Any]
    seed: int = 0
    episode: EpisodeRunner = field(init=False)
    is_real = False

    def __post_init__(self) -> None:
        self.begin(None)

    @property
    def spec(self) -> RobotSpec:
        return self.env.robot_spec

    def preview(self, text: str) -> Preview:
        if not isinstance(self.env, Grammar):
            return Preview(text, problem="this suite has no grammar: nothing judges whether it was done")
        understood, names = self.env.parse(text), self.env.object_names()
        goals = list(self.episode.info["feasible"])
        for number, goal in enumerate(goals):
            if any(matches(meaning, goal, names) for meaning in understood.goals):
                return Preview(text, self.env.describe(goal), number=number)
        other = unrelated_goal(understood, [self.env.describe(goal) for goal in goals])
        problem = understood.problem or self._lacking(understood, names)
        return Preview(text, "", problem, not understood.problem, True, other)

    def begin(self, preview: Preview | None) -> None:
        more = {} if preview is None else {"goal": preview.number, "text": preview.text}
        self.episode = EpisodeRunner(self.env, {**self.request, **more}, self.seed)

    def observe(self) -> Observation:
        return self.episode.observation

    def act(self, action: FloatArray) -> PlantOutcome | None:
        transition = self.episode.step(action)
        if transition.fault is not None:
            raise SimulationError(transition.fault)
        return None if not transition.over else "success" if transition.info["success"] else "time is over"

    def hold(self) -> None:
        """Nothing moves between two calls of `act`."""

    def pictures(self, pixels: int) -> dict[str, UInt8Array]:
        drawn = self.env if pixels and isinstance(self.env, Pictured) else None
        images = {name: image for name, image in self.episode.observation.images.items() if image.ndim == 3}
        return {name: drawn.picture(name, pixels) if drawn is not None else image for name, image in images.items()}

    def scene(self) -> dict[str, Any]:
        tasks = list(self.env.tasks) if isinstance(self.env, TaskEnv) else []
        drag = NO_DRAG
        if isinstance(self.env, Disturbable):
            drag = {"objects": list(self.env.object_positions()), "cameras": self._fixed()}
        if not isinstance(self.env, Grammar):
            said = [self.episode.instruction] if self.episode.instruction else []
            return {"objects": [], "tasks": tasks, "examples": said, "drag": drag}
        goals = [self.env.describe(goal) for goal in self.episode.info["feasible"]]
        chosen = [goals[round(i)] for i in np.linspace(0, len(goals) - 1, min(EXAMPLES, len(goals)))]
        names, examples = sorted(self.env.object_names()), list(dict.fromkeys(chosen))
        return {"objects": names, "tasks": tasks, "examples": examples, "drag": drag}

    def sentences(self) -> list[str]:
        """The instructions that mean one of this scene's goals."""
        info = self.episode.info
        found = [sentence for goal in info["grounding"] for sentence in goal["instructions"]]
        plain = [self.env.describe(goal) for goal in info["feasible"]] if isinstance(self.env, Grammar) else []
        return list(dict.fromkeys([*plain, *found]))

    def move(self, camera: str, start: tuple[float, float], end: tuple[float, float]) -> str:
        if not isinstance(self.env, Disturbable):
            raise SimulationError("no object of this suite can be moved by hand")
        calibration = self.episode.info["calibration"]
        if camera not in self._fixed():
            raise SimulationError(f"objects can be moved in the picture of a fixed camera; {camera!r} moves with the arm")
        width = next(c.width for c in self.spec.cameras if c.name == camera)
        view = Projection.of(calibration[camera], width)
        places = self.env.object_positions()
        apart = {name: float(np.hypot(*np.subtract(view.pixel(place), start))) for name, place in places.items()}
        name = min(apart, key=apart.__getitem__, default="")
        if not name or apart[name] > NEAR:
            raise SimulationError(f"there is no object to move at that point; these can be moved: {', '.join(places) or 'none'}")
        x, y = view.on_plane(end, places[name][2])
        self.env.move_object(name, x, y)
        return name

    def close(self) -> None:
        self.env.close()

    def _fixed(self) -> list[str]:
        """Cameras that do not move with the arm."""
        calibration = self.episode.info.get("calibration", {})
        return [name for name, camera in calibration.items() if camera["frame"] == "base"]

    @staticmethod
    def _lacking(understood: Understanding, names: tuple[str, ...]) -> str:
        missing = [name for name in understood.objects if not present(name, names)]
        if missing:
            return f"this scene has no {' and no '.join(missing)}"
        several = [name for name in understood.objects if sum(present(name, [each]) for each in names) > 1]
        return f"this scene has more than one {several[0]}" if several else "this scene does not have this goal"


class RobotPlant:
    """A robot in real time. Nothing judges what it does.

    Raises `RobotError` if it cannot be connected.
    """

    is_real = True

    def __init__(self, robot: Robot):
        self.robot = robot
        robot.connect()
        self._latest = robot.observe()

    @property
    def spec(self) -> RobotSpec:
        return self.robot.spec

    def preview(self, text: str) -> Preview:
        return Preview(text, problem="nothing judges on a robot whether it was done")

    def begin(self, preview: Preview | None) -> None:
        self.robot.stop()

    def observe(self) -> Observation:
        self._latest = self.robot.observe()
        return self._latest

    def act(self, action: FloatArray) -> PlantOutcome | None:
        self.robot.act(action)
        return None

    def hold(self) -> None:
        self.robot.stop()

    def pictures(self, pixels: int) -> dict[str, UInt8Array]:
        return {name: image for name, image in self._latest.images.items() if image.ndim == 3}

    def scene(self) -> dict[str, Any]:
        return {"objects": [], "tasks": [], "examples": [], "drag": NO_DRAG}

    def move(self, camera: str, start: tuple[float, float], end: tuple[float, float]) -> str:
        raise SimulationError("objects can be moved in simulation only")

    def close(self) -> None:
        self.robot.close()
