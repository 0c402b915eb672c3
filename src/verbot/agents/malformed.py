"""A chunk that holds the robot because the policy's answer meant no actions."""

from __future__ import annotations

from verbot.spec import MALFORMED_ANSWER, ActionChunk, FloatArray, RobotSpec


def is_malformed(chunk: ActionChunk) -> bool:
    """Whether the answer that this chunk stands for meant no actions."""
    return bool(chunk.extras.get(MALFORMED_ANSWER))


def keeping_gripper(values: FloatArray, spec: RobotSpec, last: FloatArray | None) -> FloatArray:
    """Rows (k, a) of a hold, with grippers as they were commanded `last` (a,): a measured one would loosen its grip."""
    if last is None:
        return values
    values, slices = values.copy(), spec.action_slices()
    for component in spec.action:
        if component.kind == "gripper":
            values[:, slices[component.name]] = last[slices[component.name]]
    return values
