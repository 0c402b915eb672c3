"""The robot state at the next grasp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verbot.data.samples.keypoints import gripper_open
from verbot.data.samples.labels import MaskedArray, labels
from verbot.spec import FloatArray, RobotSpec

if TYPE_CHECKING:
    from verbot.data.samples.episode_arrays import EpisodeArrays

HELD = 0.1  # share of its range by which a gripper stays open around an object
SETTLED = 3  # control steps until closing fingers have come to rest


@labels.register("grasp_state")
def grasp_state(episode: EpisodeArrays) -> MaskedArray:
    """The state (t, s) at the next grasp, for the frames (t,) before one."""
    return grasps(episode.states, episode.actions, episode.spec)


def grasps(states: FloatArray, actions: FloatArray, spec: RobotSpec) -> MaskedArray:
    """As `grasp_state`, of plain arrays (t, s) and (t, a).

    A hindsight label, as in `verbot.data.samples.keypoints`: every frame has the state of the frame whose action next closes the
    gripper, with the final opening of the fingers. A gripper that closes on nothing, for example to push, does not grasp. Zero
    if no grasp follows.
    """
    found, mask = np.zeros_like(states), np.zeros(len(states), bool)
    is_open = gripper_open(actions, spec)
    grips = [(c, w.start) for c, w in zip(spec.state, spec.state_slices().values(), strict=True) if c.kind == "gripper"]
    if is_open is None or not grips:
        return MaskedArray(found, mask, "state")
    component, column = grips[0]
    least = component.low[0] + HELD * (component.high[0] - component.low[0])
    begin = 0
    for frame in np.flatnonzero(np.concatenate([is_open[:1], is_open[:-1]]) & ~is_open).tolist():
        opening = states[min(frame + SETTLED, len(states) - 1), column]
        if opening >= least:
            found[begin : frame + 1], mask[begin : frame + 1] = states[frame], True
            found[begin : frame + 1, column] = opening
        begin = frame + 1
    return MaskedArray(found, mask, "state")
