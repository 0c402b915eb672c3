from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from verbot.evaluation.protocol import metrics
from verbot.evaluation.protocol.intervals import wilson
from verbot.rollout.results import EpisodeResult

Make = Callable[..., EpisodeResult]


def test_errors_are_in_no_metric(made: Make) -> None:
    results = [made(0), made(1, "failure"), made(2, "error"), made(3, "error", first_contact="blue")]
    assert metrics.success_rate(results) == wilson(1, 2)
    assert metrics.language_following(results).n == 2
    assert metrics.execution_accuracy(results).n == 2
    assert metrics.final_error_m(results).n == 2


def test_following_and_execution_are_separate(made: Make) -> None:
    results = [
        made(0),
        made(1, "failure"),  # touched the named object, then failed
        made(2, "failure", first_contact="blue"),  # touched another object
        made(3, "success", first_contact="blue"),  # touched another object first
        made(4, "failure", first_contact=None),  # never touched anything
    ]
    assert metrics.language_following(results) == wilson(2, 4)
    assert metrics.execution_accuracy(results) == wilson(1, 2)
    assert metrics.engagement_rate(results) == wilson(4, 5)


def test_goals_without_a_named_object_do_not_count_for_following(made: Make) -> None:
    results = [made(0, target_object=None, first_contact="blue"), made(1)]
    assert metrics.language_following(results).n == 1
    assert metrics.success_rate(results).n == 2


def test_counterfactual_counts_states_and_episodes(made: Make) -> None:
    results = [
        *(made(0, goal_index=0), made(0, goal_index=1)),
        *(made(1, goal_index=0), made(1, "failure", goal_index=1)),
        *(made(2, goal_index=0), made(2, "error", goal_index=1)),  # this state has an error
        made(3, goal_index=0),  # this one has only one goal
        *(made(0, task="visit", goal_index=0), made(0, "failure", task="visit", goal_index=1)),
    ]
    assert metrics.strict_counterfactual(results) == wilson(1, 3)
    assert metrics.language_understanding(results) == wilson(4, 6)


def test_retention_pairs_scenes(made: Make) -> None:
    reference = [made(i, "success" if i < 8 else "failure") for i in range(10)]
    condition = [made(i, "success" if i < 3 else "failure") for i in range(4)]
    estimate = metrics.retention(condition, reference)
    assert (estimate.value, estimate.n) == (0.75, 4)  # 3 of 4, where the reference solved all of these four
    assert metrics.unpaired_retention(condition, reference).value == pytest.approx(0.75 / 0.8)
    other = [dataclasses.replace(result, task="another") for result in reference]
    assert metrics.unpaired_retention(condition, [*reference, *other]).value == pytest.approx(0.75 / 0.8)


def test_sensitivity_is_the_share_of_success_lost_without_an_instruction(made: Make) -> None:
    reference = [made(i) for i in range(10)]
    blank = [made(i, "success" if i < 4 else "failure") for i in range(10)]
    estimate = metrics.language_sensitivity(reference, blank)
    assert estimate.value == pytest.approx(0.6)
    assert estimate.low < 0.6 < estimate.high


def test_spl_weighs_success_by_the_experts_length(made: Make) -> None:
    results = [made(0, steps=20), made(1, steps=5), made(2, "failure", steps=10), made(3)]
    expert = [made(0, steps=10), made(1, steps=10), made(2, steps=10), made(3, "failure")]
    estimate = metrics.spl(results, expert)
    assert estimate.value == pytest.approx((0.5 + 1 + 0) / 3)
    assert estimate.n == 3


def test_latency_in_milliseconds() -> None:
    found = metrics.latency([0.001 * i for i in range(1, 101)])
    assert list(found) == ["latency_p50_ms", "latency_p95_ms", "latency_p99_ms"]
    assert found["latency_p50_ms"].value == pytest.approx(50.5)
    assert metrics.latency([]) == {}


def test_every_metric_has_its_exact_name(made: Make) -> None:
    main = [made(i) for i in range(4)]
    conditions = {
        "canonical": main,
        "paraphrase": main,
        "longer": main[:2],
        "composition": main,
        "blank": main,
        "counterfactual": [made(i, goal_index=g) for i in range(4) for g in range(2)],
        "axis:lighting:2": [made(i, axes={"lighting": 2}) for i in range(4)],
    }
    found = metrics.policy_metrics(conditions, expert=main)
    assert set(found) == {
        *("success_rate", "execution_accuracy", "language_following", "language_understanding", "strict_counterfactual"),
        *("language_sensitivity", "paraphrase_retention", "composition_retention", "spl", "final_error_m"),
        *("longer_retention", "retention_lighting", "engagement_rate"),
    }
    assert found["longer_retention"].n == 2


def test_conditions_that_were_not_played_are_not_reported(made: Make) -> None:
    found = metrics.policy_metrics({"paraphrase": [made(0)]}, expert=[])
    assert not {"spl", "paraphrase_retention", "language_sensitivity", "strict_counterfactual"} & set(found)


def test_an_axis_at_several_strengths(made: Make) -> None:
    conditions = {"canonical": [made(i) for i in range(4)]}
    for strength, solved in ((1, 4), (2, 2)):
        results = [made(i, "success" if i < solved else "failure", axes={"camera": strength}) for i in range(4)]
        conditions[f"axis:camera:{strength}"] = results
    found = metrics.axis_retentions(conditions, conditions["canonical"])
    assert {name: estimate.value for name, estimate in found.items()} == {"retention_camera_1": 1.0, "retention_camera_2": 0.5}


def test_by_task(made: Make) -> None:
    results = [made(0), made(1, "failure"), made(0, task="visit")]
    assert metrics.by_task(results) == {"go": wilson(1, 2), "visit": wilson(1, 1)}
