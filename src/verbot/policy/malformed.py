"""What a policy answers where its language model said something that means no actions: the robot holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verbot.errors import ConfigError, PolicyError, SpecError
from verbot.models.features import NetworkOutput
from verbot.spec import MALFORMED_ANSWER, FloatArray, Observation, RobotSpec
from verbot.spec.holding import HoldAction


def held(
    spec: RobotSpec, output: NetworkOutput, actions: FloatArray, observations: Sequence[Observation]
) -> tuple[FloatArray, list[dict[str, bool]]]:
    """`actions` (b, k, a) in the robot's units with a hold where the output means none, and the extras that say so.

    Raises `PolicyError` for a robot that no hold is known for.
    """
    if output.are_valid is None or bool(output.are_valid.all()):
        return actions, [{} for _ in actions]
    are_malformed = (~output.are_valid).tolist()
    actions = actions.copy()
    for row in np.flatnonzero(are_malformed).tolist():
        try:
            actions[row] = HoldAction(spec).of(observations[row].state, None)
        except (ConfigError, SpecError) as error:
            raise PolicyError(
                f"the policy said what means no actions, and its robot cannot be held instead: {error}. A head of fast with "
                f"decode=well_formed says only what means some"
            ) from error
    return actions, [{MALFORMED_ANSWER: True} if is_malformed else {} for is_malformed in are_malformed]
