"""An exported policy: graphs of another runtime in place of a network. It acts without torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from verbot.configuration import build
from verbot.errors import ConfigError, DataError, PolicyError
from verbot.folders import write_folder
from verbot.models.exported_text import TextRecord
from verbot.policy.fitting import ImageFitter
from verbot.policy.identity import policy_identity
from verbot.policy.instructions import Instructions, instructions_of
from verbot.policy.runtimes import Feed, Graph, Runtime, runtimes
from verbot.policy.storage import MANIFEST, json_table, notes_of, policy_folder, read
from verbot.policy.stored import (
    CONFIG,
    STATISTICS,
    Preprocessing,
    action_transform,
    one_line,
    state_transform,
    stored_statistics,
    table_of,
)
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec
from verbot.spec.checks import with_clean_names
from verbot.statistics import Statistics

TRUST = "VERBOT_RUN_EXPORTED_CODE"  # set to 1, it permits runtimes whose files can do more than compute
MOST_PIXELS, MOST_STEPS = 2**24, 1000  # more is a damaged number


@dataclass(frozen=True)
class ExtraRecord:
    """An entry of `ActionChunk.extras`; as `verbot.models.features.AuxiliaryPrediction`."""

    space: Literal["plain", "state", "image_points"] = "plain"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class RuntimeRecord:
    """The section ``"runtime"`` of an exported policy's ``policy.json``.

    Args:
        kind: the registered name of the runtime.
        precision: one of `verbot.policy.runtimes.PRECISIONS`.
        text: how it reads instructions.
        chunk: (k, a).
        image_size: (height, width) of the images that its graphs read.
        image_fit: as in `verbot.models.config.NetworkConfig`.
        extras: the other outputs, by name.
        schedule: of a head that iterates, the numbers that each step gets; empty for another head.
        made: how it was made, for people: the policy it was made of, pruning, what stayed in fp32.
    """

    kind: str
    precision: str
    text: TextRecord
    chunk: tuple[int, int]
    image_size: tuple[int, int]
    image_fit: str = "crop"
    extras: Mapping[str, ExtraRecord] = field(default_factory=dict)
    schedule: tuple[tuple[float, ...], ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.chunk) < 1 or min(self.image_size) < 1 or self.image_size[0] * self.image_size[1] > MOST_PIXELS:
            raise ConfigError(f"chunk is {self.chunk} and image_size {self.image_size}; expected sizes of actions and images")
        if len(self.schedule) > MOST_STEPS or len({len(step) for step in self.schedule}) > 1:
            raise ConfigError(f"schedule has {len(self.schedule)} steps; expected at most {MOST_STEPS}, of equally many numbers")
        if not np.isfinite([number for step in self.schedule for number in step]).all():
            raise ConfigError("schedule holds a number that is not finite")

    @property
    def graphs(self) -> tuple[str, ...]:
        """The names of its graphs."""
        acting = ("encode", "step") if self.schedule else ("act",)
        return (*acting, "language") if self.text.kind == "pieces" else acting


class RuntimePolicy:
    """Implements `verbot.contracts.Policy` with graphs; `verbot optimize` writes its folder, `verbot.load_policy` opens it.

    Its predictions are those of the policy that it was made of, up to the rounding of its precision. It has no memory.

    Args:
        graphs: by the names of `RuntimeRecord.graphs`.
    """

    def __init__(
        self,
        record: RuntimeRecord,
        spec: RobotSpec,
        statistics: Statistics,
        preprocessing: Preprocessing,
        graphs: Mapping[str, Graph],
        instructions: Instructions,
    ):
        self.record, self.statistics, self.preprocessing = record, statistics, preprocessing
        self.blind = self.equal_texts = False
        self.graphs, self.instructions = dict(graphs), instructions
        self.identity = ""
        self._spec, self._folder = spec, Path()
        self._state = state_transform(preprocessing, spec, statistics)
        self._actions = action_transform(preprocessing, spec, statistics)
        self._fitter = ImageFitter(record.image_size, record.image_fit)

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def memory_bytes(self) -> int:
        return 0

    @staticmethod
    def load(path: str | os.PathLike[str], threads: int = 1, trusted: bool = False) -> RuntimePolicy:
        """The policy in a folder, verified.

        Args:
            threads: of each graph. One is the fastest for small networks, and leaves the other cores to others.
            trusted: open files that can do more than compute, as the environment variable ``VERBOT_RUN_EXPORTED_CODE=1`` does.

        Raises `PolicyError` for an incomplete folder or one that must be trusted first, `CorruptFileError` that names a changed
        file, `MissingDependencyError` without the runtime's package.
        """
        folder = policy_folder(os.fspath(path))
        policy = RuntimePolicy.of(read(folder, (CONFIG, STATISTICS)), folder, threads, trusted)
        policy.identity, policy._folder = policy_identity(folder), folder
        return policy

    @staticmethod
    def of(files: Mapping[str, bytes], folder: Path, threads: int = 1, trusted: bool = False) -> RuntimePolicy:
        """The policy of these files; `folder` is where they lie, or will. Raises as `load` does."""
        path = folder / CONFIG
        record = json_table(files[CONFIG], path)
        try:
            if not isinstance(record.get("blind"), bool):
                raise ConfigError(f"blind is {record.get('blind')!r}; expected true or false")
            spec = build(RobotSpec, with_clean_names(table_of(record, "spec")), "spec")
            preprocessing = build(Preprocessing, table_of(record, "preprocessing"), "preprocessing")
            own = build(RuntimeRecord, table_of(record, "runtime"), "runtime")
            if own.chunk[1] != spec.action_size:
                raise ConfigError(f"runtime.chunk is {own.chunk}; robot {spec.name!r} has actions of {spec.action_size}")
        except (ConfigError, DataError, ValueError, TypeError, LookupError, RecursionError) as error:
            raise PolicyError(f"{path}: this version of verbot cannot read the policy: {one_line(error)}") from error
        statistics = stored_statistics(files[STATISTICS], spec, folder / STATISTICS)
        runtime: Runtime = runtimes.get(own.kind)(threads)
        if runtime.runs_code and not trusted and os.environ.get(TRUST) != "1":
            raise PolicyError(
                f"{folder} is a policy of the kind {own.kind!r}, whose files run as programs with your rights: set {TRUST}=1 if "
                "you made it yourself, or take one of the kind 'onnx' or 'openvino'"
            )
        graphs = {name: runtime.open(name, files, _precision(own, name)) for name in own.graphs}
        policy = RuntimePolicy(
            own, spec, statistics, preprocessing, graphs, instructions_of(own.text, files, graphs.get("language"))
        )
        policy.blind = record["blind"]
        return policy

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of its folder."""
        files = read(self._folder, (CONFIG, STATISTICS))
        files[MANIFEST] = (self._folder / MANIFEST).read_bytes()
        write_folder(Path(path), files | notes_of(Path(path), files))

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """As `verbot.policy.policy.VLAPolicy.predict`.

        Actions of a head that iterates can be drawn (`Observation.sample_seed`); the numbers that a seed gives are not torch's.

        Raises `SpecError` for an observation that does not fit the spec, `PolicyError` if the prediction is not finite,
        `ConfigError` for seeds with a head that does not iterate.
        """
        if not observations:
            return []
        outputs = self._run(self.feed(observations), [observation.sample_seed for observation in observations])
        actions = self._actions.inverse(outputs["actions"])
        self._check_output(outputs, actions)
        extras = [{name: self._extra(name, outputs[name][row]) for name in self.record.extras} for row in range(len(actions))]
        values = [each.pop("value", None) for each in extras]
        rows = zip(actions, observations, extras, values, strict=True)
        return [ActionChunk(a, o.time_s, e, None, v) for a, o, e, v in rows]

    def feed(self, observations: Sequence[Observation]) -> dict[str, npt.NDArray[Any]]:
        """The inputs of the first graph, a row for each observation. Raises `SpecError` for one that does not fit the spec."""
        for observation in observations:
            self._check(observation)
        cameras = self._spec.color_cameras
        views = [self._fitter.views(observation.images, cameras) for observation in observations]
        texts = ["" if self.blind else observation.instruction for observation in observations]
        text, text_mask = self.instructions.batch(texts, self.equal_texts)
        return {
            "images": np.stack([images for images, _ in views])[:, None],
            "images_mask": np.stack([mask for _, mask in views])[:, None],
            "state": np.stack([self._state.forward(observation.state) for observation in observations])[:, None],
            "state_mask": np.ones((len(observations), 1), bool),
            "text": text,
            "text_mask": text_mask,
        }

    def _run(self, feed: Feed, seeds: Sequence[int | None]) -> dict[str, npt.NDArray[Any]]:
        sampled = any(seed is not None for seed in seeds)
        if not self.record.schedule:
            if sampled:
                raise ConfigError("this exported policy predicts its most likely actions; to sample, use the one it was made of")
            return self.graphs["act"](feed)
        found = self.graphs["encode"](feed)
        condition = {name: value for name, value in found.items() if name.startswith("condition")}
        noise = [np.zeros(self.record.chunk) if seed is None else _noise(seed, self.record.chunk) for seed in seeds]
        x, actions = np.stack(noise).astype(np.float32), np.zeros(0, np.float32)
        for step in self.record.schedule:
            done = self.graphs["step"]({"x": x, "schedule": np.array(step, np.float32), **condition})
            x, actions = done["next"], done["actions"]
        return {**found, "actions": actions}

    def _check(self, observation: Observation) -> None:
        spec = self._spec
        if self.preprocessing.allow_missing_cameras:
            spec = dataclasses.replace(spec, cameras=tuple(c for c in spec.cameras if c.name in observation.images))
        observation.check(spec)

    def _check_output(self, outputs: Mapping[str, npt.NDArray[Any]], actions: FloatArray) -> None:
        wrong = [name for name in ("actions", *self.record.extras) if name not in outputs or not np.isfinite(outputs[name]).all()]
        if wrong or not np.isfinite(actions).all():
            raise PolicyError(
                f"the exported policy for robot {self._spec.name!r} predicted {', '.join(wrong) or 'actions'} that are not "
                "finite: its graphs or statistics are damaged, or the observation is beyond everything it was trained on"
            )

    def _extra(self, name: str, values: npt.NDArray[Any]) -> Any:
        extra = self.record.extras[name]
        if extra.names:
            return dict(zip(extra.names, values.tolist(), strict=True))
        if not values.ndim:
            return values.item()
        if extra.space == "state":
            return self._state.inverse(values)
        return self._fitter.points_inverse(values, self._spec.color_cameras) if extra.space == "image_points" else values


def _noise(seed: int, shape: tuple[int, int]) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _precision(record: RuntimeRecord, graph: str) -> str:
    """That of a graph: the frozen language encoder runs once for each new instruction, and stays in fp32."""
    return "fp32" if graph == "language" else record.precision


def is_exported(folder: Path) -> bool:
    """Whether the folder says that it holds an exported policy; its files are not verified."""
    try:
        return "runtime" in json_table((folder / CONFIG).read_bytes(), folder / CONFIG)
    except (OSError, PolicyError):
        return False  # loading it says what is wrong
