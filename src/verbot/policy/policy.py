"""A policy: a network with everything around it that turns raw frames, raw state and a sentence into a robot's own actions."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save

from verbot.errors import ConfigError, DataError, PolicyError
from verbot.models.lora import merged
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.objectives.queries import prepare_asked
from verbot.models.tokens import Batch, MemoryState, Prediction
from verbot.models.validation import check_acts
from verbot.policy.identity import CARD
from verbot.policy.memory import ProcessedObservation, field, keep, keep_chunk, last_actions, look_back
from verbot.policy.storage import MANIFEST, policy_folder, read, sha256, to_json, write
from verbot.spec import ActionChunk, FloatArray, Memory, Observation, RobotSpec
from verbot.statistics import Statistics
from verbot.transforms import KEPT_KINDS, Clip, FitImage, Pipeline, normalizer

if TYPE_CHECKING:
    from verbot.data.samples.windows import WindowBatch

FORMAT = "verbot-policy/1"
WEIGHTS, CONFIG, STATISTICS = "weights.safetensors", "policy.json", "statistics.json"


@dataclass(frozen=True)
class Preprocessing:
    """How raw values become normalized ones; see `verbot.transforms.METHODS`.

    Args:
        state, action: the method for state and action.
        allow_missing_cameras: an observation without one of the cameras is masked there; otherwise it is an error.
    """

    state: str = "z_score"
    action: str = "z_score"
    allow_missing_cameras: bool = False


class Policy:
    """Implements `verbot.contracts.Policy`. Make one with `Policy.create`, `Policy.load` or `verbot.load_policy`.

    Args:
        network: the parts and their weights; `network.config` says which.
        spec: the robot it was made for.
        statistics: of ``"state"`` and ``"action"`` of the training data. Raises `DataError` where one is missing.
        blind: never sees a word: every instruction is read as ``""``.
    """

    def __init__(
        self,
        network: VLANetwork,
        spec: RobotSpec,
        statistics: Statistics,
        preprocessing: Preprocessing | None = None,
        blind: bool = False,
    ):
        self.network, self.statistics, self.blind = network, statistics, blind
        self.preprocessing = preprocessing or Preprocessing()
        self._spec = spec
        self._state = normalizer(self.preprocessing.state, statistics["state"], spec.state)
        self.action_steps = _action_steps(self.preprocessing, spec, statistics)
        self._size = (network.sizes.height, network.sizes.width_px)

    @staticmethod
    def create(
        config: NetworkConfig,
        spec: RobotSpec,
        statistics: Statistics,
        instructions: Sequence[str],
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        chunks: FloatArray | None = None,
    ) -> Policy:
        """An untrained policy, its vocabulary built from `instructions`. The global random state is left as it was.

        Args:
            chunks: of the training data, float32 (n, k, a) in the robot's units, for a head that takes something from them.
        """
        preprocessing = preprocessing or Preprocessing()
        if chunks is not None:
            chunks = _action_steps(preprocessing, spec, statistics).forward(chunks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = VLANetwork(config.fit(list(instructions), chunks), spec)
        return Policy(network, spec, statistics, preprocessing)

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def config(self) -> NetworkConfig:
        return self.network.config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def blinded(self) -> Policy:
        """The same policy (it shares the weights) that never sees a word: the baseline of language."""
        return Policy(self.network, self._spec, self.statistics, self.preprocessing, blind=True)

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the robot's own units and within its ranges.

        A network that sees several frames at once, has a memory, or is told what it has done gives out `ActionChunk.memory`, to
        be given back with the next observation of the same episode (agents do); `Observation.time_s` tells it how old what it
        remembers is. Frames and actions that are not remembered are masked.

        Each chunk's `extras` hold ``"keypoints"`` (v, 3, 2): where in each image the policy looks for the target, the
        receptacle and the reference, x right and y down in [−1, 1]; of a network with tasks ``"tasks"`` {name: probability}; of
        one that foretells grasps ``"grasp"`` (s,), the state in which the hand is to take hold, in the robot's units; of one with
        a contrast ``"alignment"``, the cosine of what is seen and what is said.

        Raises `SpecError` for an observation that does not fit, `PolicyError` where no action was ever learned (`thoughts` then
        tells the rest).
        """
        if not observations:
            return []
        check_acts(self.config)
        sights = [self.look(observation) for observation in observations]
        batch = self.observe(observations, sights)
        with torch.inference_mode():
            seeds = [observation.sample_seed for observation in observations]
            prediction = self.network.predict(batch, seeds=seeds if any(seed is not None for seed in seeds) else None)
        actions = self.action_steps.inverse(prediction.actions.cpu().numpy())
        extras = [self._thoughts(i, prediction) for i in range(len(actions))]
        memories = [self._memory(i, observations[i], sights[i], batch, prediction) for i in range(len(actions))]
        if self.config.acted:
            memories = [keep_chunk(m, a, o.time_s) for m, a, o in zip(memories, actions, observations, strict=True)]
        values = [None] * len(actions) if prediction.value is None else prediction.value.tolist()
        rows = zip(actions, observations, extras, memories, values, strict=True)
        return [ActionChunk(a, o.time_s, e, m, v) for a, o, e, m, v in rows]

    def thoughts(self, observations: Sequence[Observation]) -> list[dict[str, Any]]:
        """The `extras` of each chunk that `predict` would give, also of a policy that has not learned to act."""
        if not observations:
            return []
        batch = self.observe(observations, [self.look(observation) for observation in observations])
        with torch.inference_mode():
            prediction = self.network.predict(batch)
        return [self._thoughts(row, prediction) for row in range(len(observations))]

    def collate(self, window: WindowBatch) -> Batch:
        """A batch of raw windows as the network's tensors, images still uint8."""
        fit = FitImage(window.images.shape[-3:-1], self._size)

        def seen(points: FloatArray, mask: np.ndarray) -> tuple[FloatArray, np.ndarray]:
            places = fit.points(points).astype(np.float32)
            return places, mask & (np.abs(places) <= 1).all(-1)

        keypoints, keypoints_mask = seen(window.keypoints, window.keypoints_mask)
        _, recall_mask = seen(window.keypoints, window.recall_mask)
        batch = self._batch(
            images=fit.forward(window.images),
            images_mask=window.images_mask,
            state=self._state.forward(window.state),
            state_mask=window.state_mask,
            instructions=window.instructions,
            actions=self.action_steps.forward(window.actions),
            actions_mask=window.actions_mask,
            keypoints=keypoints,
            keypoints_mask=keypoints_mask,
            recall_mask=recall_mask,
            **({"steps_left": window.steps_left} if self.config.value_weight else {}),
            **({"features": window.features} if window.features.size else {}),
            **({"task": window.task} if self.config.head_tasks is not None else {}),
            **(self._grasps(window.grasp, window.grasp_mask) if self.config.grasp_weight else {}),
            **(self._acted(window.acted, window.acted_mask) if self.config.acted else {}),
        )
        if self.config.goal:
            batch = dataclasses.replace(batch, **self._goals(list(window.goal), window.goal_mask))
        read = (lambda told: self.network.language.prepare([""] * len(told))) if self.blind else self.network.language.prepare
        places, mask = map(torch.from_numpy, seen(window.question_keypoints, window.question_mask))
        questions, captions = prepare_asked(read, window.questions, (places, mask), window.captions)
        return dataclasses.replace(batch, questions=questions, captions=captions).to(self.device)

    def save(self, path: str | os.PathLike[str], card: str = "") -> None:
        """Write one directory, complete or not at all; one that was there is replaced.

        Args:
            card: Markdown for the model card: recipe, commit, figures.
        """
        files = {
            WEIGHTS: save({name: tensor.cpu().contiguous() for name, tensor in merged(self.network).items()}),
            CONFIG: to_json(
                {
                    "format": FORMAT,
                    "spec": self._spec.to_json(),
                    "network": self.config.to_json(),
                    "preprocessing": dataclasses.asdict(self.preprocessing),
                    "blind": self.blind,
                }
            ),
            STATISTICS: to_json(self.statistics.to_json()),
            CARD: (self._card() + card).encode(),
        }
        files[MANIFEST] = to_json({"format": FORMAT, "sha256": {name: sha256(data) for name, data in files.items()}})
        write(Path(path), files)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Policy:
        """Inverse of `save`, verified. Raises `PolicyError` where it is incomplete, `CorruptFileError` naming a changed file."""
        files = read(policy_folder(path), (WEIGHTS, CONFIG, STATISTICS))
        try:
            record = json.loads(files[CONFIG])
            spec = RobotSpec.from_json(record["spec"])
            config, blind = NetworkConfig.from_json(record["network"]), record["blind"]
            preprocessing = Preprocessing(**record["preprocessing"])
            statistics = Statistics.from_json(json.loads(files[STATISTICS]))
        except (ConfigError, DataError, KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"{path}: this version of verbot cannot read the policy: {error}") from error
        network = VLANetwork(config, spec)
        network.load_state_dict(load(files[WEIGHTS]))
        return Policy(network.eval(), spec, statistics, preprocessing, blind)

    def look(self, observation: Observation) -> ProcessedObservation:
        """The observation, checked, as the network takes it."""
        self._check(observation)
        images = np.zeros((len(self._spec.cameras), *self._size, 3), np.uint8)
        mask = np.array([camera.name in observation.images for camera in self._spec.cameras])
        for view in np.flatnonzero(mask):
            image = observation.images[self._spec.cameras[view].name]
            images[view] = FitImage(image.shape[:2], self._size).forward(image)
        return ProcessedObservation(images, mask, self._state.forward(observation.state), observation.time_s)

    def observe(self, observations: Sequence[Observation], sights: Sequence[ProcessedObservation]) -> Batch:
        """A batch of what each `look` has given, and of what is remembered with it."""
        frames = self.config.history
        images = np.zeros((len(sights), frames, *sights[0].images.shape), np.uint8)
        images_mask = np.zeros(images.shape[:3], bool)
        state = np.zeros((len(sights), frames, self._spec.state_size), np.float32)
        state_mask = np.zeros(state.shape[:2], bool)
        for row, (observation, latest) in enumerate(zip(observations, sights, strict=True)):
            earlier = look_back(observation.memory, latest.time_s, frames - 1, self._step_s)
            for frame, sight in enumerate([*earlier, latest]):
                if sight is not None:
                    images[row, frame], images_mask[row, frame] = sight.images, sight.images_mask
                    state[row, frame], state_mask[row, frame] = sight.state, True
        acted = self._acted(*last_actions(observations, self._spec)) if self.config.acted else {}
        batch = self._batch(images, images_mask, state, state_mask, [o.instruction for o in observations], **acted)
        if self.config.goal:
            goals = [o.goal_image for o in observations]
            batch = dataclasses.replace(batch, **self._goals(goals, np.array([goal is not None for goal in goals])))
        if self.network.memory is None:
            return batch
        return dataclasses.replace(batch, **self._remembered(observations)).to(self.device)

    def _acted(self, actions: FloatArray, mask: np.ndarray) -> dict[str, np.ndarray]:
        if actions.shape[-1] != self._spec.action_size:
            raise ConfigError("this network is told what was done before, and these windows are not: make them with acted=True")
        return {"acted": self.action_steps.forward(actions), "acted_mask": mask}

    def _grasps(self, states: FloatArray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"grasp": self._state.forward(states), "grasp_mask": mask}

    @property
    def _step_s(self) -> float:
        """Between two frames that the network sees, or two writings into its memory."""
        return self.config.stride / self._spec.rate_hz

    def _goals(self, goals: Sequence[np.ndarray | None], mask: np.ndarray) -> dict[str, Any]:
        images = np.zeros((len(goals), *self._size, 3), np.uint8)
        for row, goal in enumerate(goals):
            if mask[row] and goal is not None:
                images[row] = FitImage(goal.shape[:2], self._size).forward(goal)
        shown = {"goal": torch.from_numpy(images).movedim(-1, -3), "goal_mask": torch.from_numpy(mask)}
        return {name: value.to(self.device) for name, value in shown.items()}

    def _remembered(self, observations: Sequence[Observation]) -> dict[str, Any]:
        """What every episode's memory holds, and whether it is time to write into it again."""
        nothing: MemoryState = self.network.memory.initial(1)  # type: ignore[union-attr]

        def row(memory: Memory | None, name: str) -> torch.Tensor:
            return nothing[name] if memory is None else torch.from_numpy(np.array(field(memory, f"memory.{name}")))[None]

        state = {name: torch.cat([row(o.memory, name) for o in observations]) for name in nothing}
        due = [o.memory is None or o.time_s - float(field(o.memory, "written_s")) > 0.999 * self._step_s for o in observations]
        return {"memory": state, "writes": torch.tensor(due)}

    def _memory(
        self, row: int, seen: Observation, sight: ProcessedObservation, batch: Batch, prediction: Prediction
    ) -> Memory | None:
        """What the episode of this row is to be remembered by."""
        kept: dict[str, Any] = {}
        if self.config.history > 1:
            kept |= keep(seen.memory, sight, (self.config.history - 1) * self._step_s)
        if prediction.memory is not None:
            assert batch.writes is not None
            written = seen.time_s if bool(batch.writes[row]) or seen.memory is None else seen.memory["written_s"]
            kept |= {f"memory.{name}": value[row].cpu().numpy().copy() for name, value in prediction.memory.items()}
            kept["written_s"] = np.asarray(written, np.float64)
        return kept or None

    def _thoughts(self, row: int, prediction: Prediction) -> dict[str, Any]:
        """What the policy can show beside its actions."""
        shown: dict[str, Any] = {}
        if prediction.keypoints is not None:
            shown["keypoints"] = prediction.keypoints[row].cpu().numpy()
        if prediction.tasks is not None and self.config.head_tasks:
            shown["tasks"] = dict(zip(self.config.head_tasks, prediction.tasks[row].tolist(), strict=True))
        if prediction.grasp is not None:
            shown["grasp"] = self._state.inverse(prediction.grasp[row].cpu().numpy())
        if prediction.alignment is not None:
            shown["alignment"] = prediction.alignment[row].item()
        return shown

    def _batch(
        self,
        images: np.ndarray,
        images_mask: np.ndarray,
        state: FloatArray,
        state_mask: np.ndarray,
        instructions: Sequence[str],
        **targets: np.ndarray,
    ) -> Batch:
        text = self.network.language.prepare([""] * len(instructions) if self.blind else instructions)
        pixels = torch.from_numpy(images).movedim(-1, -3)  # (b, t, v, 3, h, w), in the memory of the windows
        arrays: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in targets.items()}
        seen = (pixels, torch.from_numpy(images_mask), torch.from_numpy(state), torch.from_numpy(state_mask))
        batch = dataclasses.replace(Batch(*seen, text), **arrays)
        return batch if self.device.type == "cpu" else batch.to(self.device)

    def _check(self, observation: Observation) -> None:
        spec = self._spec
        if self.preprocessing.allow_missing_cameras:
            spec = dataclasses.replace(spec, cameras=tuple(c for c in spec.cameras if c.name in observation.images))
        observation.check(spec)

    def _card(self) -> str:
        config, count = self.config, sum(p.numel() for p in self.network.parameters())
        parts = [f"- {label}: `{getattr(config, label).name}`" for label in ("vision", "language", "state", "fusion", "head")]
        lines = [
            f"# A verbot policy for {self._spec.name}",
            "",
            f"{count:,} parameters; sees {', '.join(self._spec.camera_names)}; "
            f"predicts {config.chunk} actions at {self._spec.rate_hz:g} Hz.",
            "",
            *parts,
            "",
            "```python",
            "import verbot",
            'policy = verbot.load_policy("this directory")',
            "chunk, = policy.predict([observation])",
            "```",
            "",
            "",
        ]
        return "\n".join(lines)


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy saved in a directory, verified and ready to predict; ``"starter"`` is the one that ships with verbot.

    Raises:
        PolicyError: the directory is incomplete, or is not a policy's.
        CorruptFileError: a file has changed since it was saved.

    Example:
        >>> import tempfile, verbot
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     policy = load_policy(verbot.train("tiny", out=folder, steps=1, progress=False).policy)
        >>> policy.spec.camera_names, policy.config.chunk
        (('front', 'wrist'), 4)
    """
    return Policy.load(path)


def _action_steps(preprocessing: Preprocessing, spec: RobotSpec, statistics: Statistics) -> Pipeline:
    normal = normalizer(preprocessing.action, statistics["action"], spec.action, KEPT_KINDS)
    return Pipeline((Clip(spec.action_low(), spec.action_high()), normal))
