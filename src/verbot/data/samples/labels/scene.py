"""The recorded truth of each frame's scene, and where its objects are in each view: the source of text for co-training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verbot.contracts import SceneTruth
from verbot.data.samples.keypoints import project
from verbot.data.samples.labels import MaskedArray, labels

if TYPE_CHECKING:
    from verbot.data.samples.episode_arrays import EpisodeArrays

SCENE_LABELS = ("scene", "scene_points")
MOST_OBJECTS = 15  # of a scene whose places are known; further ones have none


@labels.register("scene")
def scene(episode: EpisodeArrays) -> MaskedArray:
    """The JSON (t,) of each frame's `verbot.contracts.SceneTruth`; empty and masked where none was recorded."""
    texts = np.full(len(episode.states), "", object)
    if len(episode.scenes):
        texts[:] = episode.scenes
    return MaskedArray(texts, texts != "")


@labels.register("scene_points")
def scene_points(episode: EpisodeArrays) -> MaskedArray:
    """The end effector and the objects of `scene`, in this order: (t, v, 1 + `MOST_OBJECTS`, 2); masked outside the image.

    Raises `DataError` for a scene that cannot be read.
    """
    points = np.full((len(episode.states), 1 + MOST_OBJECTS, 3), np.nan)
    for frame, text in enumerate(episode.scenes):
        if text:
            truth = SceneTruth.from_json(text)
            places = [truth.tool_m, *(each.position_m for each in truth.objects[:MOST_OBJECTS])]
            points[frame, : len(places)] = places
    return MaskedArray(*project(episode.matrices, points), "image_points")
