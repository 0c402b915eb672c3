"""Which object each pixel shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verbot.errors import UnknownNameError
from verbot.spec import Int32Array

NOTHING = -1


@dataclass(frozen=True)
class TabletopSegmentation:
    """What the cameras see at one instant, by object.

    Args:
        names: ids of the layout's objects and fixtures, then ``"robot"``, ``"table"`` and, where there is one, ``"screen"``.
        ids: camera to int32 (h, w): an index into `names`, or `NOTHING` for the floor, clutter and the void.
    """

    names: tuple[str, ...]
    ids: Mapping[str, Int32Array]

    def mask(self, camera: str, name: str) -> npt.NDArray[np.bool_]:
        """The pixels (h, w) of `camera` that show the object called `name`. Raises `UnknownNameError` for what is not there."""
        if camera not in self.ids:
            raise UnknownNameError("camera of this segmentation", camera, self.ids)
        if name not in self.names:
            raise UnknownNameError("object of this scene", name, self.names)
        return np.asarray(self.ids[camera] == self.names.index(name))


def from_geoms(shown: Mapping[str, Int32Array], geoms: Mapping[str, list[int]], count: int) -> TabletopSegmentation:
    """From the geom that each pixel shows, of `count` in the model, and the geoms of each object."""
    objects = np.full(count + 1, NOTHING, np.int32)  # the last one is for pixels that show no geom, which have −1
    for i, own in enumerate(geoms.values()):
        objects[own] = i
    return TabletopSegmentation(tuple(geoms), {camera: objects[image] for camera, image in shown.items()})
