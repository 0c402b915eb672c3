"""A policy: a network with its preprocessing, statistics and robot spec. It maps raw observations to actions of the robot."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

from verbot.configuration import former_names
from verbot.errors import ConfigError, DataError, PolicyError
from verbot.files import sha256
from verbot.folders import write_folder
from verbot.models.corrector import CorrectorNetwork, latent_of
from verbot.models.features import NetworkOutput
from verbot.models.lora import merged
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.queries import prepare_queries
from verbot.models.speaking import is_question, questions_of, text_targets
from verbot.models.tokens import Batch, Masked, TextBatch
from verbot.models.validation import check_acts
from verbot.policy.ahead import AHEAD, later_actions, model_files, states_ahead
from verbot.policy.answers import MOST, answer, check_answers, texts_of
from verbot.policy.batches import batch_of
from verbot.policy.card import model_card
from verbot.policy.checks import blank_images, check_memories, check_output, checksums, most_memory_bytes
from verbot.policy.corrector import LATENT, ActionCorrector, stored_corrector
from verbot.policy.depth import as_masked, depth_of_windows, depth_views
from verbot.policy.extras import extra_of, target_of
from verbot.policy.fitting import ImageFitter
from verbot.policy.identity import CARD, identity_of, policy_identity
from verbot.policy.loading import WEIGHTS, stored_policy
from verbot.policy.malformed import held
from verbot.policy.memory import ProcessedObservation, keep_chunk, last_actions, look_back, stacked
from verbot.policy.planned import planned_actions
from verbot.policy.recurrence import next_memory, remembered_state
from verbot.policy.storage import FORMAT, MANIFEST, notes_of, policy_folder, to_json
from verbot.policy.stored import CONFIG, STATISTICS, Preprocessing, action_transform, state_transform
from verbot.policy.thinking import Thinking, check_thinks
from verbot.spec import ActionChunk, FloatArray, ForwardModel, Observation, RobotSpec
from verbot.statistics import Statistics

if TYPE_CHECKING:
    from verbot.data.samples.windows import WindowBatch
else:
    __getattr__ = former_names(__name__, Policy="VLAPolicy", load_policy="verbot.policy.opening.load_policy")


class VLAPolicy:
    """Implements `verbot.contracts.Policy` and `AnsweringPolicy`.

    Make one with `VLAPolicy.create`, `VLAPolicy.load` or `verbot.load_policy`.

    Args:
        network: the parts and their weights; `network.config` says which.
        spec: the robot it was made for.
        statistics: statistics of ``"state"`` and ``"action"`` of the training data. Raises `DataError` if one is missing.
        blind: every instruction is replaced by ``""``.
        forward: where the robot will be, for a network that reads it; by default it follows its actions at once.
    """

    def __init__(
        self,
        network: VLANetwork,
        spec: RobotSpec,
        statistics: Statistics,
        preprocessing: Preprocessing | None = None,
        blind: bool = False,
        forward: ForwardModel | None = None,
    ):
        self.network, self.statistics, self.blind = network, statistics, blind
        self.equal_texts = False  # see `verbot.policy.batch_invariance`
        self.reasoning: Thinking | None = None  # see `thinking`
        self.corrector: ActionCorrector | None = None  # see `verbot.contracts.CorrectingPolicy`
        self.preprocessing = preprocessing or Preprocessing()
        self._spec, self.forward = spec, forward or ForwardModel(spec)
        self._state = state_transform(self.preprocessing, spec, statistics)
        self.action_transform = action_transform(self.preprocessing, spec, statistics)
        self._fitter = ImageFitter.of(network.config, network.sizes)
        self._color_cameras = spec.color_cameras
        self._depth_cameras = spec.depth_cameras if network.config.depth else ()
        self._identity: tuple[tuple[int, ...], str] | None = None

    @staticmethod
    def create(
        config: NetworkConfig,
        spec: RobotSpec,
        statistics: Statistics,
        instructions: Sequence[str],
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        chunks: FloatArray | None = None,
        forward: ForwardModel | None = None,
    ) -> VLAPolicy:
        """An untrained policy, its vocabulary built from `instructions`. The global random state is left as it was.

        Args:
            chunks: chunks of the training data, float32 (n, k, a) in the robot's units, for a head that is fitted to them.
        """
        preprocessing = preprocessing or Preprocessing()
        if chunks is not None:
            chunks = action_transform(preprocessing, spec, statistics).forward(chunks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = VLANetwork(config.with_image_size(spec).fit(list(instructions), chunks, spec.action), spec)
        return VLAPolicy(network, spec, statistics, preprocessing, forward=forward)

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @property
    def config(self) -> NetworkConfig:
        return self.network.config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def identity(self) -> str:
        """The content hash that `policy_identity` finds after `save`; of a policy that was loaded, that of its folder.

        It is computed anew after a weight has changed, which is found by checksums of all weights.
        """
        state = self._checksums()
        if self._identity is None or self._identity[0] != state:
            self._identity = state, identity_of(self._files())
        return self._identity[1]

    def _checksums(self) -> tuple[int, ...]:
        return checksums(self.network) + (() if self.corrector is None else checksums(self.corrector.network))

    @property
    def continuation(self) -> str:
        """How predictions continue `Observation.planned` (see `verbot.contracts.ContinuingPolicy`)."""
        return AHEAD if self.config.ahead else self.network.continuation

    @property
    def memory_bytes(self) -> int:
        """The most that the memory of a chunk holds, if the policy is asked at most once a control period."""
        one = self.preprocess(Observation(blank_images(self._spec), np.zeros(self._spec.state_size, np.float32)))
        return most_memory_bytes(one, self.config, self._spec.action_size, self.network.backbone.initial(1))

    def blinded(self) -> VLAPolicy:
        """The language-blind copy of this policy, which shares its weights: every instruction is replaced by ``""``."""
        blind = VLAPolicy(self.network, self._spec, self.statistics, self.preprocessing, True, self.forward)
        blind.corrector, blind.reasoning = self.corrector, self.reasoning
        return blind

    def thinking(self, first: str | None = None, plans: Sequence[str] = ()) -> VLAPolicy:
        """A copy that shares weights and says its reasoning before each action, as ``extras["text"]`` of a chunk.

        Args:
            first, plans: see `verbot.policy.thinking.Thinking`.

        Raises `PolicyError` for a policy whose actions are no words.
        """
        check_thinks(self.network)
        copy = VLAPolicy(self.network, self._spec, self.statistics, self.preprocessing, self.blind, self.forward)
        copy.equal_texts, copy.reasoning = self.equal_texts, Thinking(first, tuple(plans))
        return copy

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the robot's own units and within its ranges.

        A network with several input frames, a memory or the previous action returns `ActionChunk.memory`. The caller passes it
        back with the next observation of the same episode (agents do). `Observation.time_s` dates its content. Missing frames and
        actions are masked.

        A head that says words may say what means no actions. The chunk is then a hold (`verbot.spec.holding.HoldAction`) with
        ``extras["malformed"]``; agents of `verbot.agents` keep the gripper as it was commanded last.

        `extras` of a chunk holds the predictions of the objectives: ``"keypoints"`` (v, 3, 2), the positions of target,
        receptacle and reference in each image, x right and y down in [−1, 1]; ``"tasks"`` {name: probability}; ``"grasp"`` (s,),
        the state of the next grasp in the robot's units; ``"alignment"``, the cosine similarity of image and instruction.

        Raises `SpecError` for an observation that does not fit the spec, or with a memory that this policy does not write.
        Raises `PolicyError` if the prediction is not finite, and for a policy that was trained without actions; use
        `predict_extras` for such a policy.
        """
        if not observations:
            return []
        check_acts(self.config)
        processed = [self.preprocess(observation) for observation in observations]
        batch = self.collate_observations(observations, processed)
        with torch.inference_mode():
            seeds = [observation.sample_seed for observation in observations]
            forced = None if self.reasoning is None else self.reasoning.forced(self.network, observations)
            prediction = self.network.predict(batch, seeds=seeds if any(s is not None for s in seeds) else None, forced=forced)
        actions = self.action_transform.inverse(prediction.actions.cpu().numpy())
        actions, notes = held(self._spec, prediction, actions, observations)
        extras = [self._extras(i, prediction) | note for i, note in enumerate(notes)]
        if prediction.reasoning is not None:
            said = zip(extras, texts_of(self.network, prediction.reasoning), strict=True)
            extras = [each | {"text": text} for each, text in said]
        if self.corrector is not None:
            latents = self.latents(batch, prediction).cpu().numpy()
            extras = [each | {LATENT: latent} for each, latent in zip(extras, latents, strict=True)]
        span_s = (self.config.history - 1) * self._step_s
        rows_seen = zip(observations, processed, strict=True)
        memories = [next_memory(i, *each, span_s, batch.writes, prediction.memory) for i, each in enumerate(rows_seen)]
        check_output(self._spec.name, prediction, actions, memories)
        if self.config.previous_action:
            memories = [keep_chunk(m, a, o.time_s) for m, a, o in zip(memories, actions, observations, strict=True)]
        values = [each.pop("value", None) for each in extras]
        rows = zip(actions, observations, extras, memories, values, strict=True)
        return [ActionChunk(a, o.time_s, e, m, v) for a, o, e, m, v in rows]

    def attach(self, corrector: CorrectorNetwork | None) -> None:
        """Correct chunks by this network from now on; None corrects none. `save` writes it with the policy."""
        self.corrector = None if corrector is None else ActionCorrector(corrector, self.preprocess, self.action_transform)

    def latents(self, batch: Batch, prediction: NetworkOutput) -> torch.Tensor:
        """What a corrector knows of a prediction beside its actions, (b, l)."""
        assert prediction.fused is not None
        return latent_of(prediction.fused, self.network.backbone.count, batch.state)

    def predict_extras(self, observations: Sequence[Observation]) -> list[dict[str, Any]]:
        """The `extras` of each chunk, also for a policy that was trained without actions."""
        if not observations:
            return []
        processed = [self.preprocess(observation) for observation in observations]
        batch = self.collate_observations(observations, processed)
        with torch.inference_mode():
            prediction = self.network.predict(batch)
        every = (self._extras(row, prediction) for row in range(len(observations)))
        return [{name: value for name, value in extras.items() if name != "value"} for extras in every]

    def collate(self, window: WindowBatch) -> Batch:
        """Raw windows as a batch of tensors; images stay uint8."""
        fit = self._fitter.transform(*window.images.shape[-3:-1])
        batch = self._batch(
            images=fit.forward(window.images),
            images_mask=window.images_mask,
            state=self._state.forward(window.state),
            state_mask=window.state_mask,
            instructions=window.instructions,
            actions=self.action_transform.forward(window.actions),
            actions_mask=window.actions_mask,
            **({"features": window.features} if window.features.size else {}),
        )
        if any(is_question(task) for task in window.text_tasks):
            asked = [is_question(task) for task in window.text_tasks]
            batch = dataclasses.replace(batch, text=questions_of(self.network.backbone, self._read(window.instructions), asked))
        targets = {name: target_of(target, fit, self._state) for name, target in window.targets.items()}
        places = target_of(window.query_keypoints, fit, self._state)
        queries, captions = prepare_queries(self._prepare, window.grounding_queries, places, window.captions)
        previous_action = self._previous_action(window.previous_action, window.previous_action_mask)
        goals = self._goals(list(window.goal), window.goal_mask)
        depth = depth_of_windows(window, self._fitter) if self._depth_cameras else {}
        words = text_targets(self.network.backbone, window.text_tasks)
        extra: dict[str, Any] = {"targets": targets, "grounding_queries": queries, "captions": captions, "text_targets": words}
        extra |= {**previous_action, **goals, **depth}
        extra["later"] = later_actions(window, self._state, self.action_transform) if self.config.ahead else None
        return dataclasses.replace(batch, **extra).to(self.device)

    def save(self, path: str | os.PathLike[str], card: str = "") -> None:
        """Write one directory; instead of an existing one so that a crash leaves either. Raises `UnwritableError` on a full disk.

        Args:
            card: Markdown for the model card: recipe, commit, figures.
        """
        files = self._files()
        files[CARD] = (model_card(self.network, self._spec, (*self._color_cameras, *self._depth_cameras)) + card).encode()
        files[MANIFEST] = to_json({"format": FORMAT, "sha256": {name: sha256(data) for name, data in files.items()}})
        write_folder(Path(path), files | notes_of(Path(path), files))

    def _files(self) -> dict[str, bytes]:
        """What `save` writes, without the card."""
        return {
            WEIGHTS: save({name: tensor.cpu().contiguous() for name, tensor in merged(self.network).items()}),
            CONFIG: to_json(
                {
                    "format": FORMAT,
                    "spec": self._spec.to_json(),
                    "network": self.config.to_json(),
                    "preprocessing": dataclasses.asdict(self.preprocessing),
                    "blind": self.blind,
                    **(model_files(self.forward) if self.config.ahead else {}),
                }
            ),
            STATISTICS: to_json(self.statistics.to_json()),
            **({} if self.corrector is None else self.corrector.files()),
        }

    @staticmethod
    def load(path: str | os.PathLike[str]) -> VLAPolicy:
        """Inverse of `save`, verified.

        Raises `PolicyError` for an incomplete folder, an unknown format, a number that is not finite, and weights that are not
        the network's; `CorruptFileError` that names a changed file.
        """
        found = stored_policy(os.fspath(path))
        try:
            policy = VLAPolicy(found.network, found.spec, found.statistics, found.preprocessing, found.blind, found.forward)
        except (ConfigError, DataError) as error:
            raise PolicyError(f"{path}: this version of verbot cannot read the policy: {error}") from error
        policy.attach(stored_corrector(policy.network, found.others, policy_folder(os.fspath(path))))
        policy._identity = policy._checksums(), policy_identity(policy_folder(os.fspath(path)))
        return policy

    def answer(
        self, observations: Sequence[Observation], asked: Sequence[str], knows_state: bool = True, most: int = MOST
    ) -> list[str]:
        """The answer to each question about its observation, in the policy's own words; empty if it says nothing.

        Cameras may be missing. Words are read one by one, the most likely each time, without the past and the instruction.

        Args:
            knows_state: whether the states of the observations are known; otherwise they are not read.
            most: number of tokens of an answer.

        Raises `PolicyError` for a policy that has no words, `DataError` for another number of questions.
        """
        check_answers(self.network, len(observations), len(asked))
        if not asked:
            return []
        processed = [self.preprocess(observation, may_lack_cameras=True) for observation in observations]
        batch = self.collate_observations(observations, processed)
        return answer(self.network, batch, self._read(asked), knows_state, most)

    def preprocess(self, observation: Observation, may_lack_cameras: bool = False) -> ProcessedObservation:
        """The observation, validated, as input of the network: resized images and normalized state."""
        self._check(observation, may_lack_cameras)
        images, mask = self._fitter.views(observation.images, self._color_cameras)
        depth, depth_mask = depth_views(observation.images, self._depth_cameras, self._fitter)
        state = self._state.forward(observation.state)
        return ProcessedObservation(images, mask, state, observation.time_s, depth, depth_mask)

    def collate_observations(self, observations: Sequence[Observation], processed: Sequence[ProcessedObservation]) -> Batch:
        """A batch of preprocessed observations, with the past frames and the memory that come with them."""
        frames, initial_memory = self.config.history - 1, self.network.backbone.initial(1)
        pairs = list(zip(observations, processed, strict=True))
        check_memories(pairs, self.config, self._spec.action_size, initial_memory)
        shown = stacked([[*look_back(o.memory, latest.time_s, frames, self._step_s), latest] for o, latest in pairs])
        depth, depth_mask = shown.pop("depth"), shown.pop("depth_mask")
        batch = self._batch(**shown, instructions=[o.instruction for o in observations])
        text = batch.text.equally_long(self.network.backbone.most_tokens()) if self.equal_texts else batch.text
        previous_action = self._previous_action(*last_actions(observations, self._spec)) if self.config.previous_action else {}
        goals = [o.goal_image for o in observations]
        goal = self._goals(goals, np.array([goal is not None for goal in goals]))
        remembered = {} if initial_memory is None else remembered_state(observations, initial_memory, self._step_s)
        measured: dict[str, Any] = {"depth": as_masked(depth, depth_mask)} if self._depth_cameras else {}
        if self.config.ahead:
            measured["ahead"] = states_ahead(observations, self.forward, self._state)
        elif self.continuation:
            measured["planned"] = planned_actions(observations, self.config.chunk, self.action_transform)
        extra = {**previous_action, **goal, **remembered, **measured}
        return dataclasses.replace(batch, text=text, **extra).to(self.device)

    def _previous_action(self, actions: FloatArray, mask: np.ndarray) -> dict[str, Any]:
        if not self.config.previous_action:
            return {}
        if actions.shape[-1] != self._spec.action_size:
            raise ConfigError(
                "this network reads the previous action, and these windows have none: make them with previous_action"
            )
        arrays = (self.action_transform.forward(actions), mask)
        return {"previous_action": Masked(*(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays))}

    @property
    def _step_s(self) -> float:  # between two input frames, or between two writes to the memory
        return self.config.stride / self._spec.rate_hz

    def _goals(self, goals: Sequence[np.ndarray | None], mask: np.ndarray) -> dict[str, Any]:
        if not self.config.goal:
            return {}
        images = self._fitter.goals(goals, mask)
        shown = {"goal": torch.from_numpy(images).movedim(-1, -3), "goal_mask": torch.from_numpy(mask)}
        return {name: value.to(self.device) for name, value in shown.items()}

    def _extras(self, row: int, prediction: NetworkOutput) -> dict[str, Any]:
        """The predictions of the objectives for this row, without its actions."""

        points = functools.partial(self._fitter.points_inverse, cameras=self._color_cameras)
        return {name: extra_of(value, row, self._state, points) for name, value in prediction.extras.items()}

    def _batch(self, instructions: Sequence[str], **arrays: np.ndarray) -> Batch:
        others = {name: arrays.pop(name) for name in set(arrays) - {"images", "images_mask", "state", "state_mask"}}
        batch = batch_of(**arrays, text=self._prepare(instructions), others=others)
        return batch if self.device.type == "cpu" else batch.to(self.device)

    def _prepare(self, instructions: Sequence[str]) -> TextBatch:
        return self.network.backbone.prepare(self._read(instructions))

    def _read(self, instructions: Sequence[str]) -> Sequence[str]:
        return [""] * len(instructions) if self.blind else instructions

    def _check(self, observation: Observation, may_lack_cameras: bool = False) -> None:
        spec = self._spec
        if may_lack_cameras or self.preprocessing.allow_missing_cameras:
            spec = dataclasses.replace(spec, cameras=tuple(c for c in spec.cameras if c.name in observation.images))
        observation.check(spec)
