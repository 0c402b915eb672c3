"""The channel medians of a dataset's images, by camera."""

from __future__ import annotations

import numpy as np

from verbot.data.storage.reader import Dataset
from verbot.errors import DataError

EPISODES = 100  # enough: a table has one color


def channel_medians(dataset: Dataset, episodes: int = EPISODES) -> dict[str, tuple[float, float, float]]:
    """Camera to the median (red, green, blue), 0 to 255, of the first pictures of `episodes` episodes, evenly spread.

    Raises `DataError` for a dataset without episodes.
    """
    if not len(dataset):
        raise DataError(f"{dataset.root} has no episodes yet, so nothing tells which colors are usual")
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(episodes, len(dataset))).round().astype(int))
    found = {}
    for camera in dataset.camera_names:
        pixels = np.concatenate([dataset[int(i)].images(camera)[0].reshape(-1, 3) for i in chosen])
        red, green, blue = np.median(pixels, axis=0).tolist()
        found[camera] = (red, green, blue)
    return found
