"""The corrector of a policy: a light network that corrects each row of a chunk when it is due, from what the robot sees then."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from verbot.configuration import build
from verbot.errors import ConfigError, PolicyError
from verbot.models.allocation import AllocationBudget
from verbot.models.bounded import CALLS, SLACK, TIMES
from verbot.models.corrector import CorrectorConfig, CorrectorNetwork, latent_size
from verbot.models.network import VLANetwork
from verbot.policy.loading import UNUSABLE, compare_weights
from verbot.policy.memory import ProcessedObservation
from verbot.policy.storage import json_table, to_json
from verbot.policy.stored import one_line
from verbot.spec import ActionChunk, FloatArray, Observation
from verbot.transforms import Pipeline

CORRECTOR, CORRECTOR_WEIGHTS = "corrector.json", "corrector.safetensors"
LATENT = "latent"  # in the extras of a chunk


class ActionCorrector:
    """Implements `verbot.contracts.Corrector` for the chunks of one policy. It always runs on the CPU.

    Args:
        network: made for the policy's network (see `new_corrector`).
        preprocess, transform: of the policy: for observations, and for actions.
    """

    def __init__(self, network: CorrectorNetwork, preprocess: Callable[[Observation], ProcessedObservation], transform: Pipeline):
        self.network, self._preprocess, self._transform = network.eval(), preprocess, transform

    def correct(self, observation: Observation, chunk: ActionChunk, row: int) -> FloatArray:
        """The action (a,) in place of row `row` of `chunk`, in the robot's units and within its ranges.

        Raises `PolicyError` for a chunk of a policy without this corrector, or if the action is not finite, `SpecError` for an
        observation that does not fit the spec.
        """
        network = self.network
        latent = np.asarray(chunk.extras.get(LATENT, ()), np.float32)
        if latent.shape != (network.latent,) or len(chunk.values) != network.sizes.chunk:
            raise PolicyError(
                f"this chunk of {len(chunk.values)} actions with a latent of {latent.size} numbers is not of the policy that the "
                f"corrector was trained for, whose chunks have {network.sizes.chunk} and {network.latent}"
            )
        seen = self._preprocess(observation)
        values = self._transform.forward(chunk.values).astype(np.float32)
        with torch.inference_mode():
            arrays = (np.moveaxis(seen.images, -1, -3), seen.images_mask, seen.state, values, np.asarray(row), latent)
            inputs = [torch.from_numpy(np.ascontiguousarray(array))[None] for array in arrays]
            base = inputs[3][:, row]
            action = network.decode(network(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4].view(1), inputs[5]), base)[0]
        corrected: FloatArray = self._transform.inverse(action.numpy())
        if not np.isfinite(corrected).all():
            raise PolicyError("the corrector made an action that is not finite: its weights or the observation are damaged")
        return corrected

    def files(self) -> dict[str, bytes]:
        """What `VLAPolicy.save` writes of it."""
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        return {CORRECTOR: to_json(dataclasses.asdict(self.network.config)), CORRECTOR_WEIGHTS: save(weights)}


def new_corrector(base: VLANetwork, config: CorrectorConfig | None = None) -> CorrectorNetwork:
    """An untrained corrector for the chunks of `base`, whose actions are those of the chunk.

    Raises `ConfigError` for a policy that it cannot follow: one with a memory, or with discrete actions alone.
    """
    if base.config.memory is not None or base.config.sequence > 1:
        raise ConfigError("a corrector is trained on single frames, and this policy has a memory: train one without")
    latent = latent_size(base.backbone.width, base.backbone.count, base.sizes.state)
    return CorrectorNetwork(config or CorrectorConfig(), base.sizes, latent)


def stored_corrector(base: VLANetwork, files: Mapping[str, bytes], folder: Path) -> CorrectorNetwork | None:
    """The corrector in the `files` of the folder of a policy with the network `base`; None if there is none.

    Raises `PolicyError` for files that are not those of a corrector of this network.
    """
    if CORRECTOR not in files and CORRECTOR_WEIGHTS not in files:
        return None
    if missing := {CORRECTOR, CORRECTOR_WEIGHTS} - set(files):
        raise PolicyError(f"{folder} lacks {', '.join(missing)} of its corrector")
    path = folder / CORRECTOR_WEIGHTS
    try:
        weights = load(files[CORRECTOR_WEIGHTS])
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise PolicyError(f"{path} is not a file of weights ({one_line(error)})") from error
    record: dict[str, Any] = json_table(files[CORRECTOR], folder / CORRECTOR)
    most = math.ceil(SLACK + TIMES * sum(weight.numel() for weight in weights.values()))
    try:
        with AllocationBudget(most, CALLS):
            network = new_corrector(base, build(CorrectorConfig, record))
    except (ConfigError, *UNUSABLE) as error:
        raise PolicyError(f"{folder / CORRECTOR}: the corrector cannot be built: {one_line(error)}") from error
    compare_weights(network.state_dict(), weights, path)
    network.load_state_dict(weights)
    return network
