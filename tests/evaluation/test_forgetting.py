"""Forgetting compared with hand-computed values, and its interval."""

from __future__ import annotations

import pytest

from verbot.evaluation.comparison.forgetting import forgetting


def won(share: float, n: int = 20) -> list[bool]:
    return [i < share * n for i in range(n)]


def test_the_best_earlier_stage_counts_from_when_a_task_was_learned():
    stages = [
        {"pick": won(0.8), "push": won(1.0), "put": won(0.0)},  # push before its training does not count
        {"pick": won(0.9), "push": won(0.7), "put": won(0.0)},
        {"pick": won(0.6), "push": won(0.8), "put": won(0.5)},
    ]
    found = forgetting(stages, ("pick", "push", "put"))
    assert found.value == pytest.approx(((0.9 - 0.6) + (0.7 - 0.8)) / 2)
    assert found.low < found.value < found.high
    assert found.n == 40


def test_forgetting_refers_to_the_best_earlier_stage():
    """A mutation that compares with the second-to-last stage fails, because the best one is the first."""
    stages = [
        {"pick": won(0.9), "push": won(0.0), "put": won(0.0)},
        {"pick": won(0.5), "push": won(0.8), "put": won(0.0)},
        {"pick": won(0.6), "push": won(0.8), "put": won(0.5)},
    ]
    assert forgetting(stages, ("pick", "push", "put")).value == pytest.approx(((0.9 - 0.6) + (0.8 - 0.8)) / 2)


def test_retained_tasks_are_not_forgotten():
    stages = [{"pick": won(1.0), "push": won(0.0)}, {"pick": won(1.0), "push": won(1.0)}]
    found = forgetting(stages, ("pick", "push"))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert forgetting(stages[:1], ("pick",)).n == 0


def test_a_task_need_not_be_measured_before_it_was_learned():
    whole = [
        {"pick": won(0.8), "push": won(0.1), "put": won(0.0)},
        {"pick": won(0.9), "push": won(0.7), "put": won(0.0)},
        {"pick": won(0.6), "push": won(0.5), "put": won(0.5)},
    ]
    order = ("pick", "push", "put")
    learned = [{task: stage[task] for task in order[: number + 1]} for number, stage in enumerate(whole)]
    assert forgetting(learned, order) == forgetting(whole, order)
