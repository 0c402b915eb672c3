"""What a finished episode tells of its frames beside its actions: which task was asked for, and how the hand took hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verbot.data.samples.keypoints import gripper_open
from verbot.data.storage.reader import Episode
from verbot.spec import FloatArray, RobotSpec

HELD = 0.1  # of its range the gripper stays open where it has closed on something
SETTLED = 3  # control steps after which closing fingers lie where they stay


def task_of(episode: Episode) -> str | None:
    """What kind of task was asked for: of the recorder's request, or the verb of its goal; None where neither was noted."""
    found = (episode.extras.get("request") or {}).get("task") or (episode.extras.get("goal") or {}).get("verb")
    return None if found is None else str(found)


def task_numbers(tasks: Sequence[str | None], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Which of `names` each of `tasks` is (n,); −1 where it is none of them, or not known."""
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers.get(str(task), -1) for task in tasks], np.int64)


def grasps(states: FloatArray, actions: FloatArray, spec: RobotSpec) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """The state (t, s) in which the hand next takes hold of something, and for which frames (t,) one is ahead.

    Hindsight, as `verbot.data.samples.keypoints`: the state at the frame whose action next closes the gripper, with the opening
    that the fingers then keep, for every frame up to that one. A hand that closes on nothing, as to push, takes no hold. Zero
    where none is ahead.
    """
    found, mask = np.zeros_like(states), np.zeros(len(states), bool)
    is_open = gripper_open(actions, spec)
    grips = [(c, w.start) for c, w in zip(spec.state, spec.state_slices().values(), strict=True) if c.kind == "gripper"]
    if is_open is None or not grips:
        return found, mask
    component, column = grips[0]
    least = component.low[0] + HELD * (component.high[0] - component.low[0])
    begin = 0
    for frame in np.flatnonzero(np.concatenate([is_open[:1], is_open[:-1]]) & ~is_open).tolist():
        opening = states[min(frame + SETTLED, len(states) - 1), column]
        if opening >= least:
            found[begin : frame + 1], mask[begin : frame + 1] = states[frame], True
            found[begin : frame + 1, column] = opening
        begin = frame + 1
    return found, mask
