"""Forgetting in sequential training: the loss of success on earlier tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from verbot.evaluation.protocol.intervals import NOTHING, RESAMPLES, Estimate

Outcomes = Mapping[str, Sequence[bool]]  # the success in each scene, by task


def forgetting(stages: Sequence[Outcomes], order: Sequence[str]) -> Estimate:
    """The mean over all tasks but the last of (best success before the last stage − success after it).

    It is negative if later stages helped. Source: Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning". The interval
    is a percentile bootstrap over scenes, which are the same after every stage. The best stage is not resampled. The best of
    several stages is slightly too high by chance, so that the estimate tends to overstate forgetting.

    Args:
        stages: outcomes of every task after each stage, in the order of scenes; tasks not trained yet may be missing.
        order: the tasks in the order of training, one per stage.

    Example:
        >>> before, after = {"pick": [True] * 4, "push": [False] * 4}, {"pick": [True, True, True, False], "push": [True] * 4}
        >>> forgetting([before, after], ["pick", "push"]).value
        0.25
    """
    lost = [_lost(stages, task, first) for first, task in enumerate(order[:-1])]
    if not lost:
        return NOTHING
    rng = np.random.default_rng(0)
    draws = np.mean([d[rng.integers(0, len(d), (RESAMPLES, len(d)))].mean(1) for d in lost], 0)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(float(np.mean([d.mean() for d in lost])), float(low), float(high), sum(len(d) for d in lost))


def _lost(stages: Sequence[Outcomes], task: str, first: int) -> np.ndarray:
    """For each scene, success after the best stage from `first` on, minus success after the last stage: −1, 0 or 1."""
    *before, last = [np.asarray(outcomes[task], float) for outcomes in stages[first:]]
    return max(before, key=np.mean) - last
