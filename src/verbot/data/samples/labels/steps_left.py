"""The number of control steps until the episode ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verbot.data.samples.labels import MaskedArray, labels

if TYPE_CHECKING:
    from verbot.data.samples.episode_arrays import EpisodeArrays


@labels.register("steps_left")
def steps_left(episode: EpisodeArrays) -> MaskedArray:
    """Control steps (t,) int64 from each frame to the last one of the episode; −1 and masked for failed episodes."""
    count = len(episode.states)
    left = np.arange(count - 1, -1, -1) if episode.ended_well else np.full(count, -1)
    return MaskedArray(left, left >= 0)
