"""A published policy: its network and its processing, as a `verbot.contracts.Policy`."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from verbot.errors import ConfigError, PolicyError, SpecError
from verbot.files import destination, drafting, sha256, write
from verbot.folders import recover, replace_folder
from verbot.models.lora import merged
from verbot.models.published.base import PublishedNetwork
from verbot.models.published.components import SUFFIX, write_component
from verbot.models.trunks.weights import INDEX
from verbot.policy.checks import checksums
from verbot.policy.published.base import PublishedParts
from verbot.policy.published.history import FrameHistory
from verbot.policy.published.specs import ROBOT, RobotMap
from verbot.policy.storage import to_json
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec


class PublishedPolicy:
    """Implements `verbot.contracts.Policy` with a published network. Make one with ``verbot.load_policy("hf:...")``.

    Args:
        parts: what its family opened.
        folder: of its files.
        family: its name.
        robot: the robot that it acts on; None acts on the generic one of the files.

    Raises `ConfigError` if the robot does not fit the files.
    """

    def __init__(self, parts: PublishedParts, folder: Path, family: str, robot: RobotMap | None = None):
        if robot is not None:
            robot.check(parts.spec)
        self.parts, self.folder, self.family, self.robot = parts, folder, family, robot
        self._history = FrameHistory(parts.history, parts.spec, 1 / self.spec.rate_hz, parts.resized)
        self._loaded = self._versions()
        self.one_by_one = False  # rounding then depends on no other observation of a batch
        self._identity = ""

    @property
    def network(self) -> PublishedNetwork:
        return self.parts.network

    @property
    def spec(self) -> RobotSpec:
        return self.parts.spec if self.robot is None else self.robot.spec

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def memory_bytes(self) -> int:
        """The most that the memory of a chunk holds; 0 for a policy that reads one observation."""
        return self._history.most_bytes

    @property
    def identity(self) -> str:
        """A hash of the files, and of the weights once they have changed."""
        if not self._identity:
            names = sorted({*self.parts.names.files.values(), *self.parts.kept})
            digests = {name: _digest(self.folder / name) for name in names}
            self._identity = sha256(to_json({"family": self.family, "files": digests}))
        changed: dict[str, Any] = {} if self.robot is None else {"robot": self.robot.to_json()}
        if self._versions() != self._loaded:  # far cheaper than reading gigabytes of memory-mapped weights at each call
            changed["weights"] = list(checksums(self.network))
        return sha256(to_json({"of": self._identity, **changed})) if changed else self._identity

    def _indices(self) -> list[str]:
        return [path.name for path in self.folder.glob(INDEX)]

    def _versions(self) -> tuple[int, ...]:
        """They grow when a weight is changed in place, as optimizers do."""
        return tuple(weight._version for weight in self.network.parameters())

    def on(self, robot: RobotMap | None) -> PublishedPolicy:
        """The same policy, with the same weights, for another robot. Raises `ConfigError` if it does not fit."""
        return PublishedPolicy(self.parts, self.folder, self.family, robot)

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the robot's units; they are not clipped, who executes them does.

        Noise is drawn with `Observation.sample_seed`; without one by a seed that follows from state and time, because a published
        policy knows no most likely action.

        Raises `SpecError` for an observation that does not fit the spec, `PolicyError` if the prediction is not finite.
        """
        if self.one_by_one and len(observations) > 1:
            return [chunk for each in observations for chunk in self.predict([each])]
        if not observations:
            return []
        seen = [self._seen(observation) for observation in observations]
        episodes = [self._history.episode(each) for each in seen]
        inputs = {name: value.to(self.device) for name, value in self.parts.processing.inputs(episodes).items()}
        generators = [torch.Generator().manual_seed(_seed(each)) for each in seen]
        with torch.inference_mode():
            outputs = self.network.act(inputs, generators)
        if not bool(outputs.isfinite().all()):
            raise PolicyError(
                f"the published policy {self.folder} predicted actions that are not finite: its weights are damaged"
            )
        actions = self.parts.processing.actions(outputs.float().cpu(), episodes)
        actions = actions if self.robot is None else self.robot.answered(actions)
        memories = [self._history.kept(each) for each in seen]
        return [
            ActionChunk(np.ascontiguousarray(a, np.float32), o.time_s, {}, memory)
            for a, o, memory in zip(actions, observations, memories, strict=True)
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy in its published layout, under its published names, into a new folder.

        Files of weights that were not trained are copied. Trained ones are written anew, with merged adapters, and without the
        tensors that the network does not have. Raises `UnwritableError` on a full disk, and `ConfigError` for a folder that holds
        something already.
        """
        target = destination(Path(path))
        recover(target)
        if target.resolve() == self.folder.resolve() or (target.is_dir() and any(target.iterdir())):
            raise ConfigError(f"{target} holds files already; give a new folder for a published policy")
        with drafting(target) as draft:
            draft.mkdir()
            kept = [*self.parts.kept]
            if self._versions() == self._loaded:
                kept += [*dict.fromkeys(self.parts.names.files.values()), *self._indices()]
            else:
                files = self.parts.names.published(merged(self.network))
                for name, tensors in files.items():
                    _write_weights(draft / name, tensors)
                places = {tensor: name for name, tensors in files.items() if not name.endswith(SUFFIX) for tensor in tensors}
                for name in self._indices():
                    write(draft / name, to_json({"metadata": {}, "weight_map": places}))
            for name in kept:
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, draft / name)
            if self.robot is not None:
                write(draft / ROBOT, to_json(self.robot.to_json()))
            replace_folder(draft, target)

    def _seen(self, observation: Observation) -> Observation:
        """The observation in terms of the checkpoint, checked."""
        own = self.parts.spec
        if self.robot is not None:
            observation.check(self.robot.spec)
            observation = self.robot.seen(observation, own)
        if not self.parts.resized:
            observation.check(own)
            return observation
        for camera in own.cameras:
            image = observation.images.get(camera.name)
            if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size):
                raise SpecError(f"camera {camera.name!r} gave {image.dtype} {image.shape}; expected uint8 (h, w, 3)")
        if not any(camera.name in observation.images for camera in own.cameras):
            has = ", ".join(observation.images) or "none"
            raise SpecError(f"the observation has none of the cameras {', '.join(own.camera_names)}; it has {has}")
        if observation.state.shape != (own.state_size,) or not np.isfinite(observation.state).all():
            raise SpecError(
                f"the state has shape {observation.state.shape}; this policy expects ({own.state_size},), finite throughout"
            )
        return observation


def _seed(observation: Observation) -> int:
    if observation.sample_seed is not None:
        return observation.sample_seed
    state: FloatArray = np.ascontiguousarray(observation.state, np.float32)
    return zlib.crc32(state.tobytes() + np.float64(observation.time_s).tobytes())


def _write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if path.suffix == SUFFIX:
        write_component(path, tensors)
    elif path.suffix == ".safetensors":
        save_file(dict(tensors), path, {"format": "pt"})
    else:
        raise ConfigError(f"trained weights cannot be written as {path.name}, a file of flax; only untrained ones are copied")


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
