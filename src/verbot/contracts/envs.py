"""What is set up and stepped, and what only some envs can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from verbot.contracts.agents import Expert
from verbot.errors import ConfigError
from verbot.spec import BoolArray, FloatArray, Observation, RobotSpec, UInt8Array

# What an instruction asks for: {"verb": …, "object": …} and what else the verb needs, such as "receptacle" or "direction".
Goal = Mapping[str, Any]
POINTS = ("target", "receptacle", "reference")  # of a goal; keypoints are where these are in each view


@runtime_checkable
class Env(Protocol):
    """A robot that can be set up and stepped: a Gymnasium environment that states its `RobotSpec`.

    Time passes in `step` alone, by one control period. Observations are ``{"images": {camera: uint8 (h, w, 3)}, "state":
    float32 (s,), "instruction": str}``, and ``"goal_image"``, uint8 (h, w, 3), if an image specifies the goal. A camera
    without an image in this step has no key. The attribute is `robot_spec`: `spec` is Gymnasium's own.
    """

    @property
    def robot_spec(self) -> RobotSpec: ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]: ...

    def step(self, action: FloatArray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


@runtime_checkable
class TaskEnv(Env, Protocol):
    """An env with tasks, instructions and a success criterion; `verbot.make_env` returns one.

    ``reset(seed=…, options=…)`` accepts the fields of `EpisodeRequest` as options; the scene is a function of
    (suite, task, split, index, seed) alone. ``info`` always holds

    - ``instruction`` (str), ``goal`` (dict), ``target_object`` (the id of the object in the goal);
    - ``feasible`` (the goals that this same initial state admits, the drawn one first);
    - ``grounding`` (for each of these goals ``instructions``, a list of sentences that mean it, and ``target_base_m``,
      ``receptacle_base_m``, ``reference_base_m``: positions (x, y, z) in the base frame, or None);
    - ``calibration`` ({camera: {"intrinsics": 9 floats, "extrinsics": 16 floats, "frame": one of the spec's frames}});
    - ``first_contact`` (id of the first object that the robot handled, or None), ``success`` (bool), ``final_error_m`` (float);
    - ``error`` (str or None: a simulator fault).

    Optional keys: ``covered`` (bool): the distinguishing feature of the objects is not visible; ``moved`` (bool): whether an
    object of ``grounding`` has moved, if ``first_contact`` does not decide that; ``state_text``, see `Described`.

    What only some envs can do is a protocol of its own, to be asked for by `isinstance`: `Demonstrator`, `Grammar`, `Pictured`,
    `Segmented`, `Leveled`, `Compositional`, `Described`, `Disturbable`, `Shaped`, `verbot.contracts.Surveyed`.
    """

    @property
    def tasks(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class EpisodeRequest:
    """Which episode to set up.

    Args:
        task: one of the env's tasks; None draws one from the seed.
        split: ``"train"`` or ``"test"``: two streams of scenes that never meet.
        index: the number of the scene within (suite, task, split).
        goal: index of the goal in ``info["feasible"]``, from the identical initial state; 0 is the drawn goal.
        wording: ``"canonical"``, ``"seen"`` (canonical or any training paraphrase), ``"unseen"`` (a held-out paraphrase),
            ``"longer"`` (more sentences than in training, where instructions have several), ``"blank"``, ``"image"`` (no words,
            but an image of the goal state, where the env can render one).
        composition: ``"seen"`` draws only demonstrated color-shape-verb triples, ``"unseen"`` only the others.
        text: overrides the instruction's words; `templates` ({verb: [template, …]}) overrides the grammar.
        axes: randomization axis to strength 0–3, for this episode.
        level: difficulty of the scene in a `Leveled` env, 0 the easiest; None, like the last level, is the test distribution.
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
class Demonstrator(Protocol):
    """An env with a scripted expert for its tasks."""

    def expert(self, noise: float = 0.0, seed: int = 0) -> Expert:
        """The expert of the present episode. `noise` scales its exploration noise, a function of `seed`."""
        ...


@runtime_checkable
class Segmentation(Protocol):
    """Which object each pixel shows."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def mask(self, camera: str, name: str) -> BoolArray:
        """The pixels (h, w) of `camera` that show the object `name`."""
        ...


@runtime_checkable
class Segmented(Protocol):
    """An env that renders segmentation masks of its present state."""

    def segmentation(self, size: int | None = None) -> Segmentation:
        """Masks of all cameras, `size` pixels square; by default as large as the observations' images."""
        ...


@runtime_checkable
class Leveled(Protocol):
    """An env whose episodes come in levels of difficulty; see `EpisodeRequest.level`."""

    @property
    def levels(self) -> int: ...


@runtime_checkable
class Compositional(Protocol):
    """An env in which only some tasks have combinations that are never demonstrated; see `EpisodeRequest.composition`."""

    @property
    def compositional_tasks(self) -> tuple[str, ...]: ...


@runtime_checkable
class Described(Protocol):
    """An env that describes its present state in words; ``info["state_text"]`` holds the same text."""

    def state_text(self) -> str: ...


@runtime_checkable
class Shaped(Protocol):
    """An env with a potential Φ for reward shaping (Ng, Harada, Russell 1999)."""

    def potential(self) -> float:
        """Φ of the present state."""
        ...


@dataclass(frozen=True)
class Understanding:
    """What a grammar makes of an instruction.

    Args:
        goals: what the whole sentence means, as fields that a goal must have; several if different goals mean the same.
            Empty if the sentence is not understood.
        objects: names of objects in the sentence, "red cube" or "cube", for finding a scene that shows them.
        problem: why the sentence is not understood; empty if it is.
        remaining: words that are no part of any instruction or name.
        unchecked: parts of the sentence that are understood but that no goal judges.
    """

    goals: tuple[Goal, ...]
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

    def describe(self, goal: Goal) -> str:
        """The plain instruction for a goal."""
        ...

    def object_names(self) -> tuple[str, ...]:
        """The names of all objects in the present scene; objects that look alike have the same name."""
        ...


@runtime_checkable
class Pictured(Protocol):
    """An env that renders its present state for people."""

    def picture(self, camera: str = ..., size: int = ...) -> UInt8Array:
        """A picture (size, size, 3)."""
        ...


@runtime_checkable
class Disturbable(Protocol):
    """An env whose objects a person may move while an episode runs, to see what the agent makes of it."""

    def object_positions(self) -> Mapping[str, tuple[float, float, float]]:
        """The center (x, y, z) in the base frame, m, of each object that can be moved."""
        ...

    def move_object(self, name: str, x_m: float, y_m: float) -> None:
        """Put an object down at (x, y) of the base frame, at rest. Raises `SimulationError` where it cannot be."""
        ...


@runtime_checkable
class Narrator(Protocol):
    """An agent that says what it does, such as one with a plan."""

    def narration(self) -> Sequence[str]:
        """Its plan and what it says at present, a line each."""
        ...


def expert_of(env: Env, noise: float = 0.0, seed: int = 0) -> Expert:
    """The expert of the present episode of `env`. Raises `ConfigError` if the env is no `Demonstrator`."""
    if not isinstance(env, Demonstrator):
        raise ConfigError(f"{type(env).__name__} has no expert: it lacks expert(noise, seed) (see verbot.contracts.Demonstrator)")
    return env.expert(noise=noise, seed=seed)


def observation_from_env(record: Mapping[str, Any], time_s: float = 0.0) -> Observation:
    """The `Observation` in what an env's `reset` or `step` returned."""
    return Observation(record["images"], record["state"], record["instruction"], record.get("goal_image"), time_s)
