"""Labels: targets for each frame of a recorded episode besides the actions, one file per label.

A label is a function ``(episode: EpisodeArrays) -> MaskedArray`` that is registered by name. `Windows` computes the labels that
its configuration names; each window gets its row. A label of another package is registered with `labels.register`, or by an
entry point of the group ``verbot.labels``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from verbot.registry import Registry

if TYPE_CHECKING:
    from verbot.data.samples.episode_arrays import EpisodeArrays

Space = Literal["plain", "state", "image_points"]


@dataclass(frozen=True)
class MaskedArray:
    """Values, some of them unknown, with one row per frame or window.

    Args:
        values: (n, …).
        mask: bool (n, …), over the first axes of `values`; False for unknown values, which may be any number.
        space: ``"plain"`` is not transformed. ``"state"`` is in the units of the robot's state and is normalized like it.
            ``"image_points"`` are points (n, v, p, 2) in each view, x right and y down in [-1, 1]; they shift with augmented
            images, and points outside the image are masked.
        of_goal: image points of the goal's target, receptacle and reference. A window with the instruction of another goal gets
            that goal's points; every other label is masked there.
        visible: masked if the view is missing.
    """

    values: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]
    space: Space = "plain"
    of_goal: bool = False
    visible: bool = False

    def take(self, rows: Any) -> MaskedArray:
        """These rows, in this order."""
        return dataclasses.replace(self, values=self.values[rows], mask=self.mask[rows])

    @staticmethod
    def concatenate(parts: Sequence[MaskedArray]) -> MaskedArray:
        """All rows of `parts`, one after another."""
        values, mask = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "mask"))
        return dataclasses.replace(parts[0], values=values, mask=mask)


LabelFunction = Callable[["EpisodeArrays"], MaskedArray]

labels: Registry[LabelFunction] = Registry("label", package="verbot.data.samples.labels", group="verbot.labels")
