from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.evaluation import EvaluationConfig, PolicySource, Summary, read_results, run_evaluation
from verbot.files import lock
from verbot.parallel.workers import WorkerError
from verbot.rollout.results import EpisodeResult, ResultsJournal, decode_actions

SMALL = {"suite": "toy", "episodes": 8, "side_episodes": 6, "videos": 0, "latency_calls": 5, "workers": 1}


def evaluate(out: Path, load: str = "listening", world: dict[str, object] | None = None, **settings: object) -> Summary:
    import toy_world

    source = PolicySource("toy policy", getattr(toy_world, load), load)
    make = functools.partial(toy_world.ToyEnv, **(world or {}))
    config = EvaluationConfig(**(SMALL | settings))  # type: ignore[arg-type]
    return run_evaluation(source, config, out, make=make, progress=False)


def outcomes(out: Path) -> dict[str, tuple[object, ...]]:
    return {r.key: (r.outcome, r.steps, r.first_contact, r.actions) for r in read_results(out / "results.jsonl")}


def test_a_language_following_policy_and_its_baselines(tmp_path: Path) -> None:
    summary = evaluate(tmp_path)
    assert summary.metrics["success_rate"].value == 1
    assert summary.metrics["strict_counterfactual"].value == 1
    assert summary.metrics["paraphrase_retention"].value == 1
    assert summary.metrics["language_sensitivity"].value > 0.3
    assert 0 < summary.metrics["spl"].value < 0.9  # half steps where the expert takes whole ones
    assert summary.baselines["expert"]["success_rate"].value == 1
    assert summary.baselines["random"]["success_rate"].value < 0.5
    assert summary.baselines["blind"]["success_rate"].value == summary.conditions["blank"].value < 0.8
    assert summary.exit_code == 0


def test_files_follow_the_contract(tmp_path: Path) -> None:
    evaluate(tmp_path)
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["policy"] == "toy policy"
    assert (record["suite"], record["episodes"], record["errors"], record["seed"]) == ("toy", 8, 0, 0)
    assert set(record["metrics"]["success_rate"]) == {"value", "low", "high", "n"}
    assert record["metrics"]["success_rate"]["n"] == 8
    assert set(record["by_task"]) == {"go", "visit"}
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines})


def test_sampled_actions_are_a_function_of_the_episode_and_the_step(tmp_path: Path) -> None:
    alone: dict[str, object] = {"load": "shaky", "conditions": (), "baselines": False}
    plain, sampled, again = (tmp_path / name for name in ("plain", "sampled", "again"))
    evaluate(plain, **alone)
    evaluate(sampled, sample=True, **alone)
    evaluate(again, sample=True, slots=3, workers=2, **alone)  # beside others, in other processes
    assert outcomes(sampled) == outcomes(again)
    assert all(outcomes(sampled)[key][3] != actions for key, (*_, actions) in outcomes(plain).items())
    evaluate(tmp_path / "seed", sample=True, seed=1, **alone)
    actions = {found[3][:8] for folder in (sampled, tmp_path / "seed") for found in outcomes(folder).values()}
    assert len(actions) == 16, "every episode has draws of its own"
    with pytest.raises(ConfigError, match="sample: True, now False"):
        evaluate(sampled, **alone)
    record = json.loads((plain / "run.json").read_text())
    del record["sample"]  # as a run of an older version left it
    (plain / "run.json").write_text(json.dumps(record))
    evaluate(plain, **alone)


def test_a_delay_reaches_the_workers_and_is_recorded_in_the_folder(tmp_path: Path) -> None:
    late: dict[str, object] = {"conditions": (), "execute": 2, "baselines": False, "latency_calls": 3, "real_time": "hold"}
    summary = evaluate(tmp_path, delay=2, **late)
    assert summary.errors == 0 and summary.metrics["success_rate"].value == 1 and summary.metrics["latency_p50_ms"].n == 3
    played = [decode_actions(r.actions, 1) for r in read_results(tmp_path / "results.jsonl")]
    assert len(played) == 8 and all((actions[:2] == 0).all() and actions[2] != 0 for actions in played)
    with pytest.raises(ConfigError, match="delay: 2, now 1"):
        evaluate(tmp_path, delay=1, **late)


def test_color_alignment_helps_under_other_light_and_is_recorded_in_the_folder(tmp_path: Path) -> None:
    alone: dict[str, object] = {"load": "seeing", "conditions": (), "baselines": False}
    aligned = {"align": {"front": (40.0, 40.0, 40.0)}}
    bright: dict[str, object] = {"light": 80}
    assert evaluate(tmp_path / "nominal", **alone).metrics["success_rate"].value == 1
    assert evaluate(tmp_path / "nominal-aligned", **alone, **aligned).metrics["success_rate"].value == 1
    assert evaluate(tmp_path / "bright", world=bright, **alone).metrics["success_rate"].value == 0
    assert evaluate(tmp_path / "bright-aligned", world=bright, **alone, **aligned).metrics["success_rate"].value == 1
    with pytest.raises(ConfigError, match="holds results of another evaluation .align: "):
        evaluate(tmp_path / "bright-aligned", world=bright, **alone)


def test_results_do_not_depend_on_workers_or_slots(tmp_path: Path) -> None:
    evaluate(tmp_path / "a", workers=1, slots=1)
    evaluate(tmp_path / "b", workers=2, slots=5)
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b")


def test_a_policy_whose_rounding_depends_on_the_batch_size_plays_the_same_to_the_bit(tmp_path: Path) -> None:
    evaluate(tmp_path / "a", "touchy", workers=1, slots=4)
    evaluate(tmp_path / "b", "touchy", workers=2, slots=4)
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b")


@pytest.mark.parametrize("torn", [b"", b'{"key": "policy/go/te'])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, torn: bytes) -> None:
    whole = evaluate(tmp_path / "whole")
    evaluate(tmp_path / "cut")
    path = tmp_path / "cut" / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:9]) + torn)
    resumed = evaluate(tmp_path / "cut")
    assert resumed.played == len(lines) - 9
    assert outcomes(tmp_path / "cut") == outcomes(tmp_path / "whole")
    timed = {name for name in whole.metrics if name.startswith("latency")}
    for name in set(whole.metrics) - timed:
        assert resumed.metrics[name] == whole.metrics[name]


def test_two_policies_behind_one_address_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_world

    from verbot.workflows import load_policy

    class Served(toy_world.ToyPolicy):
        """What `RemotePolicy` says of a server."""

        identity = "a" * 64

        def __init__(self, url: str, **access: object):
            super().__init__()

        def __enter__(self) -> Served:
            return self

        def __exit__(self, *exception: object) -> None: ...

    monkeypatch.setattr("verbot.remote.RemotePolicy", Served)
    config = EvaluationConfig(**(SMALL | {"conditions": (), "baselines": False}))  # type: ignore[arg-type]
    run = functools.partial(run_evaluation, config=config, out=tmp_path, make=toy_world.ToyEnv, progress=False)
    source = functools.partial(load_policy.policy_source, "ws://127.0.0.1:1")
    listening = functools.partial(dataclasses.replace, load=toy_world.listening)  # what a worker process can load
    assert run(listening(source())).played == 8
    assert run(listening(source())).played == 0
    monkeypatch.setattr(Served, "identity", "b" * 64)
    with pytest.raises(ConfigError, match=f"identity: '{'a' * 16}', now '{'b' * 16}'"):
        run(listening(source()))


def test_a_second_evaluation_into_one_folder_is_refused_at_once(tmp_path: Path) -> None:
    lean: dict[str, object] = {"conditions": (), "baselines": False, "episodes": 2}
    evaluate(tmp_path, **lean)
    before = (tmp_path / "results.jsonl").read_bytes()
    with (
        lock(tmp_path / ".lock", wait=False, holder="a test"),  # as the other process holds it
        pytest.raises(DataError, match=f"{tmp_path}: another evaluation runs here; choose another folder, or wait for it"),
    ):
        evaluate(tmp_path, **lean | {"episodes": 4})
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert evaluate(tmp_path, **lean).played == 0


def test_more_episodes_keep_those_already_played(tmp_path: Path) -> None:
    first = evaluate(tmp_path, episodes=4, side_episodes=2)
    more = evaluate(tmp_path, episodes=8, side_episodes=2)
    assert first.played + more.played == len(outcomes(tmp_path))
    assert more.metrics["success_rate"].n == 8


def test_another_policys_folder_is_refused(tmp_path: Path) -> None:
    evaluate(tmp_path)
    with pytest.raises(ConfigError, match="another evaluation .*identity: 'listening', now 'half_deaf'"):
        evaluate(tmp_path, "half_deaf")


def test_the_same_policy_by_another_name_continues(tmp_path: Path) -> None:
    import toy_world

    evaluate(tmp_path)
    source = PolicySource("./toy", toy_world.listening, "listening")
    config = EvaluationConfig(**SMALL)  # type: ignore[arg-type]
    assert run_evaluation(source, config, tmp_path, make=toy_world.ToyEnv, progress=False).played == 0


@pytest.mark.parametrize("fault", ["broken", "raises"])
def test_a_fault_is_an_error_and_never_a_failure(tmp_path: Path, fault: str) -> None:
    sound = evaluate(tmp_path / "sound")
    summary = evaluate(tmp_path / "faulty", world={fault: (1,)})
    faults = [r for r in read_results(tmp_path / "faulty" / "results.jsonl") if r.outcome == "error"]
    assert {r.index for r in faults} == {1}
    assert summary.errors == len(faults) > 0
    assert summary.exit_code == 1
    assert summary.metrics["success_rate"].n == 6  # two tasks, one scene of each lost
    assert summary.metrics["success_rate"].value == sound.metrics["success_rate"].value == 1
    expected = {"broken": "SimulationError: NaN in qpos", "raises": "RuntimeError: the toy fell apart"}[fault]
    assert expected in summary.error_messages[0]


def test_episodes_with_errors_are_repeated(tmp_path: Path) -> None:
    evaluate(tmp_path, world={"broken": (1,)})
    assert evaluate(tmp_path).errors == 0


def test_a_policy_that_does_not_load_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="these weights are torn"):
        evaluate(tmp_path, "unloadable")


def test_a_policy_for_another_robot_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="trained for camera 'front' of 32×32; the env has 'front' of 16×16"):
        evaluate(tmp_path, "misfit")


def test_a_dead_worker_costs_only_its_own_episodes(tmp_path: Path) -> None:
    summary = evaluate(tmp_path, "listening", {"kills": (3,)}, workers=2, slots=1, conditions=(), baselines=False)
    assert 1 <= summary.errors < 8
    assert "exit code" in summary.error_messages[0]
    assert summary.metrics["success_rate"].n == 8 - summary.errors


def test_the_run_stops_when_no_worker_is_left(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="all evaluation workers died with [0-9]+ episodes left"):
        evaluate(tmp_path, "listening", {"kills": (0,)}, slots=1, conditions=(), baselines=False)
    assert "error" in {outcome for outcome, *_ in outcomes(tmp_path).values()}


def test_scripted_agents_can_be_tested_too(tmp_path: Path) -> None:
    import toy_world

    config = EvaluationConfig(**SMALL)  # type: ignore[arg-type]
    summary = run_evaluation("expert", config, tmp_path, make=toy_world.ToyEnv, progress=False)
    assert summary.metrics["success_rate"].value == 1
    assert set(summary.baselines) == {"random", "expert"}
    with pytest.raises(ConfigError, match="no agent 'export' without a policy; known: random, expert"):
        run_evaluation("export", config, tmp_path, make=toy_world.ToyEnv)


def test_counterfactual_mode_plays_every_goal_of_every_scene(tmp_path: Path) -> None:
    summary = evaluate(tmp_path, "half_deaf", mode="counterfactual", goals=3, episodes=6, baselines=False)
    assert summary.metrics["success_rate"].n == 18
    assert summary.metrics["strict_counterfactual"].value == 0  # green is always one of the three
    assert summary.metrics["language_understanding"].value == pytest.approx(2 / 3)


def test_axis_run_measures_its_retention(tmp_path: Path) -> None:
    summary = evaluate(tmp_path, axes={"lighting": 2}, baselines=False)
    assert summary.condition == "canonical lighting:2"
    assert summary.metrics["retention_lighting"].value == 1
    assert set(summary.conditions) == {"canonical lighting:2", "canonical"}


def test_a_broken_middle_line_is_named(tmp_path: Path, made: Callable[..., EpisodeResult]) -> None:
    path = tmp_path / "results.jsonl"
    with ResultsJournal(path) as journal:
        journal.add(made(0))
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(CorruptFileError, match="line 1 is not an episode result"):
        ResultsJournal(path)


def test_one_real_episode_of_every_agent(tmp_path: Path) -> None:
    config = EvaluationConfig(episodes=3, conditions=(), videos=2, workers=1, slots=3)
    summary = run_evaluation("expert", config, tmp_path, progress=False)
    assert summary.errors == 0
    assert summary.metrics["success_rate"].n == 3
    assert summary.metrics["final_error_m"].value < 0.05
    assert "data:video/mp4;base64," in (tmp_path / "report.html").read_text()
