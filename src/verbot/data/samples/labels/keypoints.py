"""The image points of the goal in each view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verbot.data.samples.keypoints import project
from verbot.data.samples.labels import MaskedArray, labels

if TYPE_CHECKING:
    from verbot.data.samples.episode_arrays import EpisodeArrays


@labels.register("keypoints")
def keypoints(episode: EpisodeArrays) -> MaskedArray:
    """Target, receptacle and reference (t, v, 3, 2) in each view, masked if unknown, outside the image, or covered."""
    places, mask = project(episode.matrices, episode.points)
    frames = np.arange(len(places))
    mask[(frames >= episode.unseen) & (frames < episode.first_contact)] = False
    return MaskedArray(places, mask, "image_points", of_goal=True, visible=True)


@labels.register("known_keypoints")
def known_keypoints(episode: EpisodeArrays) -> MaskedArray:
    """As `keypoints`, but not masked if covered or if the view is missing: targets for a memory."""
    return MaskedArray(*project(episode.matrices, episode.points), "image_points", of_goal=True)
