from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from verbot.configuration import build
from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation.comparison.paired import condition_of
from verbot.evaluation.protocol.conditions import EvaluationConfig, condition_axes, make_plan
from verbot.rollout.results import EpisodeResult

TASKS = ("pick", "push", "put")


def test_tasks_alternate_and_smaller_sets_are_part_of_larger_ones() -> None:
    plan = make_plan(EvaluationConfig(episodes=20), TASKS)
    main = plan.conditions["canonical"]
    assert Counter(job.request.task for job in main) == {"pick": 7, "push": 7, "put": 6}
    assert len({job.key for job in main}) == 20
    assert make_plan(EvaluationConfig(episodes=8), TASKS).conditions["canonical"] == main[:8]


def test_conditions_share_scenes_and_differ_in_one_aspect() -> None:
    plan = make_plan(EvaluationConfig(episodes=12), TASKS)
    assert list(plan.conditions) == ["canonical", "paraphrase", "composition", "counterfactual", "blank"]
    main, other = plan.conditions["canonical"][0].request, plan.conditions["paraphrase"][0].request
    assert (other.task, other.index, other.wording, main.wording) == (main.task, main.index, "unseen", "canonical")
    assert plan.conditions["composition"][0].request.composition == "unseen"
    assert [job.request.goal for job in plan.conditions["counterfactual"][:4]] == [0, 1, 0, 1]
    assert all(job.request.split == "test" for jobs in plan.conditions.values() for job in jobs)


def test_no_episode_is_played_twice() -> None:
    """Goal 0 of a counterfactual scene is the canonical episode; the blind baseline plays the episodes of the blank condition."""
    plan = make_plan(EvaluationConfig(episodes=200), TASKS)
    jobs = plan.jobs()
    assert len({job.key for job in jobs}) == len(jobs)
    # canonical 200, paraphrase, composition, second goals, blank (= blind), random 100 each, expert 200
    assert len(jobs) == 200 + 5 * 100 + 200
    assert plan.baselines["blind"] == plan.conditions["blank"]


def test_longer_instructions_use_the_same_scenes_and_keep_their_condition(made: Callable[..., EpisodeResult]) -> None:
    plan = make_plan(EvaluationConfig(episodes=6, conditions=("longer",)), TASKS)
    main, longer = plan.conditions["canonical"], plan.conditions["longer"]
    assert [(j.request.task, j.request.index, j.request.wording) for j in longer] == [
        (j.request.task, j.request.index, "longer") for j in main
    ]
    assert {condition_of(job.key.split("/", 1)[1], made(0)) for job in longer} == {"longer"}


def test_baselines_play_the_main_conditions_scenes() -> None:
    plan = make_plan(EvaluationConfig(episodes=6, mode="paraphrase"), TASKS)
    assert list(plan.conditions) == ["paraphrase"]
    for agent in ("random", "expert"):
        assert [job.agent for job in plan.baselines[agent]] == [agent] * 6
        assert [job.request for job in plan.baselines[agent]] == [job.request for job in plan.conditions["paraphrase"]]
    assert {job.request.wording for job in plan.baselines["blind"]} == {"blank"}
    assert not make_plan(EvaluationConfig(episodes=6, baselines=False), TASKS).baselines


def test_own_templates_reach_every_episode_with_words() -> None:
    config = build(EvaluationConfig, {"episodes": 3, "templates": {"pick": ["grab the {object}"]}})
    plan = make_plan(config, TASKS)
    assert list(plan.conditions) == ["canonical"]
    assert all(job.request.templates == {"pick": ("grab the {object}",)} for job in plan.conditions["canonical"])
    assert all(job.request.templates is None for job in plan.baselines["blind"])
    plain = make_plan(EvaluationConfig(episodes=3), TASKS).conditions["canonical"]
    assert not {job.key for job in plain} & {job.key for job in plan.conditions["canonical"]}


def test_axis_conditions() -> None:
    config = EvaluationConfig(episodes=4, conditions=("axis:camera:3", "axis:lighting:1"))
    plan = make_plan(config, TASKS)
    assert plan.conditions["axis:camera:3"][0].request.axes == {"camera": 3}
    assert plan.conditions["axis:lighting:1"][0].request.index == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "canonic"}, "no instruction mode 'canonic'. Did you mean 'canonical'"),
        ({"axes": {"lightning": 2}}, "no randomization axis 'lightning'. Did you mean 'lighting'"),
        ({"axes": {"lighting": 4}}, "axis 'lighting' has strength 4; expected 0 .nominal. to 3"),
        ({"conditions": ("paraphrases",)}, "no condition 'paraphrases'. Did you mean 'paraphrase'"),
        ({"conditions": ("axis:camera:hard",)}, "axis 'camera' has strength 'hard'"),
        ({"episodes": 0}, "episodes is 0; expected at least 1"),
        ({"goals": 1}, "goals is 1; expected at least 2"),
        (
            {"delay": 2},
            "a delay of 2 steps with 0 of the answers lost needs a method of real-time chunking: set",
        ),
        ({"delay_estimate": 0}, "delay_estimate needs a method of real-time chunking"),
        (
            {"delay": 2, "delay_jitter": 3, "real_time": "hold"},
            "a delay of 2 steps cannot have a jitter of 3; expected at most",
        ),
        ({"drop": 2, "real_time": "hold"}, "drop is 2; expected at least 0 and at most 1"),
        ({"real_time": "holds"}, "no method of real-time chunking 'holds'. Did you mean 'hold'"),
        ({"real_time": "hold", "decay": 0.1}, "decay averages chunks in place of executing them"),
    ],
)
def test_wrong_settings_teach(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(**settings)  # type: ignore[arg-type]


def test_condition_names_parse() -> None:
    assert condition_axes("axis:robot_start:3") == {"robot_start": 3}
    assert condition_axes("blank") == {}


def test_the_composition_condition_has_only_tasks_with_undemonstrated_combinations():
    plan = make_plan(EvaluationConfig(episodes=6), TASKS, compositional=TASKS[:1])
    assert {job.request.task for job in plan.conditions["composition"]} == {TASKS[0]}
    assert {job.request.task for job in plan.conditions["canonical"]} == set(TASKS)
    alone = make_plan(EvaluationConfig(episodes=6, mode="composition"), TASKS, compositional=TASKS[:1])
    assert {job.request.task for job in alone.conditions["composition"]} == {TASKS[0]}


def test_a_subset_of_tasks_is_played_in_the_same_scenes():
    whole, some = (
        make_plan(EvaluationConfig(episodes=count, **changes), TASKS) for count, changes in ((12, {}), (4, {"tasks": TASKS[1:2]}))
    )
    for condition, jobs in some.conditions.items():
        played = [job.request for job in jobs]
        assert {request.task for request in played} == {TASKS[1]}
        known = [job.request for job in whole.conditions[condition] if job.request.task == TASKS[1]]
        assert played[: len(known)] == known[: len(played)]


def test_a_task_that_the_env_lacks_is_named():
    with pytest.raises(UnknownNameError, match="no task of env 'tabletop-starter' named 'pik'. Did you mean 'pick'?"):
        make_plan(EvaluationConfig(tasks=("pik",)), TASKS)


def test_a_condition_that_fits_no_task_is_refused():
    plan = make_plan(EvaluationConfig(tasks=TASKS[:1], conditions=()), TASKS, compositional=TASKS[1:])
    assert list(plan.conditions) == ["canonical"]
    with pytest.raises(ConfigError, match="no task supports the condition 'composition'"):
        make_plan(EvaluationConfig(tasks=TASKS[:1]), TASKS, compositional=TASKS[1:])
