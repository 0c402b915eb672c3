"""What the parts of verbot promise each other: protocols of two or three methods, numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec, UInt8Array


@runtime_checkable
class Policy(Protocol):
    """Stateless and shareable: the same policy serves many episodes at once, batched."""

    @property
    def spec(self) -> RobotSpec: ...

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the robot's own units."""
        ...


@runtime_checkable
class Agent(Protocol):
    """Acts in one episode and holds that episode's state."""

    def reset(self, instruction: str) -> None: ...

    def act(self, observation: Observation) -> FloatArray:
        """The action (a,) for this control step, in the robot's own units."""
        ...


@runtime_checkable
class ChunkedAgent(Agent, Protocol):
    """An agent whose predictions a caller may batch: `act` asks the policy itself only where `give` was not called."""

    policy: Policy

    def next_query(self, observation: Observation) -> Observation | None:
        """The observation to predict from, or None while actions are left."""
        ...

    def receive(self, chunk: ActionChunk) -> None: ...


@runtime_checkable
class Env(Protocol):
    """A Gymnasium environment that states its robot, its tasks and an expert.

    Observations are ``{"images": {camera: uint8 (h, w, 3)}, "state": float32 (s,), "instruction": str}``, and
    ``"goal_image"``, uint8 (h, w, 3), in an episode whose goal is told by one. A camera that gives no picture has no key.

    ``reset(seed=…, options=…)`` accepts the fields of `EpisodeRequest` as options; the scene is a function of
    (suite, task, split, index, seed) alone. ``info`` always holds ``instruction`` (str), ``goal`` (dict), ``named`` (the named
    object's id), ``feasible`` (the goals this same initial state admits, the drawn one first), ``calibration`` ({camera:
    {"intrinsics": 9 floats, "extrinsics": 16 floats, "frame": "base" | "tool"}}), ``engaged`` (id of the object first engaged,
    or None), ``success`` (bool), ``final_error_m`` (float), ``error`` (str or None: a simulator fault).

    Where what tells the things apart goes out of sight, ``info["covered"]`` (bool) says that it has.
    Where nothing ever moves that ``grounding`` tells of, or not only what was engaged, ``info["moved"]`` (bool) says whether it
    has. An env whose episodes can be made easier says in ``levels`` (int) how many levels there are.
    Where not all tasks have combinations that are never demonstrated, ``compositional_tasks`` names those that do.
    An env that reads instructions is also a `Grammar`, and one that draws pictures for people is `Pictured`.
    """

    @property
    def robot_spec(self) -> RobotSpec: ...

    @property
    def tasks(self) -> tuple[str, ...]: ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]: ...

    def step(self, action: FloatArray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]: ...

    def expert(self, noise: float = 0.0, seed: int = 0) -> Expert: ...

    def close(self) -> None: ...


@runtime_checkable
class Expert(Agent, Protocol):
    """A scripted teacher that may look at the simulator's own state.

    `act` returns the action to execute (with exploration noise, if any); `label` the clean action for the state it
    was last asked about.
    """

    def label(self) -> FloatArray: ...


@dataclass(frozen=True)
class Understanding:
    """What a grammar makes of an instruction.

    Args:
        goals: what the whole sentence means, as fields that a goal must have; several where different goals mean the same.
            Empty where the sentence is not understood.
        objects: names of objects in the sentence, "red cube" or "cube", for finding a scene that shows them.
        problem: why the sentence is not understood; empty where it is.
        remaining: words that are no part of any instruction or name.
        unchecked: parts of the sentence that are understood but that no goal judges.
    """

    goals: tuple[Mapping[str, Any], ...]
    objects: tuple[str, ...] = ()
    problem: str = ""
    remaining: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@runtime_checkable
class Grammar(Protocol):
    """An env that reads instructions."""

    def parse(self, text: str) -> Understanding:
        """What `text` means, for all scenes of this env."""
        ...

    def describe(self, goal: Mapping[str, Any]) -> str:
        """The plain instruction for a goal."""
        ...

    def object_names(self) -> tuple[str, ...]:
        """The names of all objects in the present scene; objects that look alike have the same name."""
        ...


@runtime_checkable
class Pictured(Protocol):
    """An env that draws its present state for people."""

    def picture(self, camera: str = ..., size: int = ...) -> UInt8Array:
        """A picture (size, size, 3)."""
        ...


@dataclass(frozen=True)
class EpisodeRequest:
    """Which episode to set up.

    Args:
        task: one of the env's tasks; None draws one from the seed.
        split: ``"train"`` or ``"test"``: two streams of scenes that never meet.
        index: the number of the scene within (suite, task, split).
        goal: 0 for the drawn goal, j for the j-th of ``info["feasible"]`` from the identical initial state.
        wording: ``"canonical"``, ``"seen"`` (canonical or any training paraphrase), ``"unseen"`` (a paraphrase kept for testing),
            ``"longer"`` (more sentences than in training, where the env speaks in several), ``"blank"``, ``"image"`` (no words,
            but a picture of the wanted end state, where the env can make one).
        composition: ``"seen"`` draws only demonstrated color-shape-verb triples, ``"unseen"`` only the others.
        text: overrides the instruction's words; `templates` ({verb: [template, …]}) overrides the grammar.
        axes: randomization axis to strength 0–3, for this episode.
        level: how hard the scene may be, 0 the easiest, in an env that has ``levels``; None, as the last one, is what tests draw.
    """

    task: str | None = None
    split: str = "test"
    index: int = 0
    goal: int = 0
    wording: str = "canonical"
    composition: str = "seen"
    text: str | None = None
    templates: Mapping[str, Sequence[str]] | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    level: int | None = None


@runtime_checkable
class EpisodeView(Protocol):
    """One recorded episode of `t` frames, read lazily."""

    instruction: str
    states: FloatArray  # (t, s)
    actions: FloatArray  # (t, a)

    def images(self, camera: str) -> UInt8Array:
        """(t, h, w, 3) RGB."""
        ...


@runtime_checkable
class EpisodeSource(Protocol):
    """Anything that holds episodes: a dataset on disk, a mixture of datasets, an importer."""

    @property
    def spec(self) -> RobotSpec: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> EpisodeView: ...


def observation_from_env(record: Mapping[str, Any], time_s: float = 0.0) -> Observation:
    """The `Observation` in what an env's `reset` or `step` returned."""
    return Observation(record["images"], record["state"], record["instruction"], record.get("goal_image"), time_s)
