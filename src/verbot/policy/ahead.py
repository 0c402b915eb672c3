"""The state from which on a late answer is executed, as input of a network (after Tang et al. 2025, VLASH)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from verbot.configuration import build
from verbot.models.tokens import LaterActions
from verbot.policy.stored import table_of
from verbot.spec import ForwardModel, Observation, Response, RobotSpec
from verbot.transforms import Affine, Pipeline

if TYPE_CHECKING:
    from verbot.data.samples.windows import WindowBatch

AHEAD = "ahead"  # the continuation of a policy that reads where the robot will be, and its field in policy.json


def states_ahead(observations: Sequence[Observation], model: ForwardModel, transform: Affine) -> Tensor:
    """The normalized states (b, s) after the committed actions of each observation; the present one where there are none."""
    found = []
    for each in observations:
        committed = None if each.planned is None else each.planned[: each.committed]
        found.append(each.state if committed is None else model.ahead(each.state, each.previous_state, committed))
    return torch.from_numpy(transform.forward(np.stack(found)))


def later_actions(window: WindowBatch, state: Affine, action: Pipeline) -> LaterActions:
    """What windows have of later moments, normalized."""
    arrays = (state.forward(window.ahead), action.forward(window.ahead_actions), window.ahead_mask)
    return LaterActions(*(torch.from_numpy(np.ascontiguousarray(each)) for each in arrays))


def stored_model(record: Mapping[str, Any], spec: RobotSpec) -> ForwardModel:
    """The forward model of a policy's ``policy.json``. Raises `ConfigError` or `SpecError` for what is none."""
    if AHEAD not in record:
        return ForwardModel(spec)
    table = table_of(record, AHEAD)
    return ForwardModel(spec, {name: build(Response, table_of(table, name), f"{AHEAD}.{name}") for name in table})


def model_files(model: ForwardModel) -> dict[str, Any]:
    """The field of ``policy.json`` for `stored_model`."""
    return {AHEAD: {name: dataclasses.asdict(each) for name, each in model.responses.items()}}
