"""The planned actions of observations, as input of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from verbot.models.tokens import PlannedActions
from verbot.spec import Observation
from verbot.transforms import Pipeline


def planned_actions(observations: Sequence[Observation], chunk: int, transform: Pipeline) -> PlannedActions | None:
    """`Observation.planned` of all observations, normalized; None if there are none.

    Rows beyond those that are planned repeat the last one, in the robot's units. They have no weight; zeros would be the mean of
    the training data in normalized units.
    """
    plans = [o.planned if o.planned is not None and len(o.planned) else None for o in observations]
    like = next((plan for plan in plans if plan is not None), None)
    if like is None:
        return None
    values = np.zeros((len(plans), chunk, like.shape[1]), np.float32)
    known = np.zeros(len(plans), np.int64)
    for row, plan in enumerate(plans):
        if plan is not None:
            known[row] = min(len(plan), chunk)
            values[row] = plan[np.minimum(np.arange(chunk), len(plan) - 1)]
    committed = np.minimum([o.committed for o in observations], known)
    arrays = (transform.forward(values), known, committed)
    return PlannedActions(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
