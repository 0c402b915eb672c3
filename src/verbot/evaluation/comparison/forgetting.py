"""How much of what was learned earlier is lost when more is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from verbot.evaluation.protocol.intervals import NOTHING, RESAMPLES, Estimate

Outcomes = Mapping[str, Sequence[bool]]  # task to the success of each of its scenes


def forgetting(stages: Sequence[Outcomes], order: Sequence[str]) -> Estimate:
    """The mean over all tasks but the last of (best success before the last stage − success after it).

    Negative where later stages helped. Source: Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning". The interval is
    a percentile bootstrap over scenes, which are the same after every stage; which stage was best is not drawn anew, and a best
    of several is a little too high by chance, so that what is forgotten is rather over- than understated.

    Args:
        stages: outcomes of every task after each stage, in the order of scenes; a task that is not learned yet may be left out.
        order: the tasks in the order in which they were learned, one a stage.

    Example:
        >>> before, after = {"pick": [True] * 4, "push": [False] * 4}, {"pick": [True, True, True, False], "push": [True] * 4}
        >>> forgetting([before, after], ["pick", "push"]).value
        0.25
    """
    lost = [_lost(stages, task, learned) for learned, task in enumerate(order[:-1])]
    if not lost:
        return NOTHING
    rng = np.random.default_rng(0)
    draws = np.mean([d[rng.integers(0, len(d), (RESAMPLES, len(d)))].mean(1) for d in lost], 0)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(float(np.mean([d.mean() for d in lost])), float(low), float(high), sum(len(d) for d in lost))


def _lost(stages: Sequence[Outcomes], task: str, learned: int) -> np.ndarray:
    """Of each scene, success after the best stage since it was learned minus success after the last: −1, 0 or 1."""
    *before, last = [np.asarray(outcomes[task], float) for outcomes in stages[learned:]]
    return max(before, key=np.mean) - last
