"""The number of the task for which the episode was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from verbot.data.samples.labels import MaskedArray, labels

if TYPE_CHECKING:
    from verbot.data.samples.episode_arrays import EpisodeArrays


@labels.register("task")
def task(episode: EpisodeArrays) -> MaskedArray:
    """The number (t,) int64 of the episode's task among `WindowConfig.tasks`; −1 and masked for other tasks."""
    number = np.full(len(episode.states), episode.task_number, np.int64)
    return MaskedArray(number, number >= 0)
