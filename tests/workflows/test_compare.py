"""A comparison of real, tiny overrides: its metrics, the trainings that entries share, and that nothing runs twice."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

import verbot
from verbot import training
from verbot.configuration import build, to_plain
from verbot.errors import ConfigError, DataError, UnknownNameError
from verbot.evaluation.protocol.intervals import wilson
from verbot.files import lock
from verbot.recipes.overrides import override
from verbot.recipes.variants import parse_variant, resolve_variant
from verbot.training.imitation import loop
from verbot.training.imitation.data import TrainingData
from verbot.workflows import compare, stages

BROKEN = "tiny+fusion=concat+fusion.heads=3"  # 16 is not a multiple of 3, which only building it tells
WORDS = ["tiny", "tiny+vision=query_conv", "tiny+execute=1", BROKEN]
N = 2
SCENES = {"episodes": N, "conditions": ["paraphrase", "counterfactual"], "workers": 1, "progress": False}
BUDGET = {"steps": 4}


def compared(entries, *, out, command=None, progress=True, **settings):
    record = {"entries": list(entries), **settings}
    return compare.run_comparison(build(compare.ComparisonConfig, to_plain(record)), out, command=command, progress=progress)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def table(out):
    return compared(WORDS, out=out, budget=BUDGET, command="verbot compare", **SCENES)


@pytest.fixture
def data(table, out):
    return out / "dataset"


def rows_of(out):
    return {row["name"]: row for row in json.loads((out / "table.json").read_text())["rows"]}


def calls(monkeypatch):
    """Names of what is trained and played from now on."""
    seen = {"learn": [], "measure": []}
    learn, measure = stages.learn, compare.run_evaluation

    def learned(run, *arguments, **more):
        seen["learn"].append(run.name)
        return learn(run, *arguments, **more)

    def measured(source, *arguments, **more):
        seen["measure"].append(source if isinstance(source, str) else source.name)
        return measure(source, *arguments, **more)

    monkeypatch.setattr(stages, "learn", learned)
    monkeypatch.setattr(compare, "run_evaluation", measured)
    return seen


def test_every_figure_is_that_of_its_episodes(table, out):
    rows = rows_of(out)
    assert list(rows) == [*WORDS, "expert", "random"]
    for name, row in rows.items():
        if name == BROKEN:
            continue
        lines = [json.loads(line) for line in (out / row["evaluation"] / "results.jsonl").read_text().splitlines()]
        canonical = [line for line in lines if "/goal0/canonical/" in line["key"]]
        assert len(canonical) == N
        solved = sum(line["outcome"] == "success" for line in canonical)
        assert row["metrics"]["success_rate"] == wilson(solved, N).to_json()
        assert sum(estimate["n"] for estimate in row["by_task"].values()) == N
        if row["kind"] == "recipe":
            unseen = [line["outcome"] == "success" for line in lines if "/unseen/" in line["key"]]
            assert row["conditions"]["paraphrase"] == wilson(sum(unseen), N).to_json()
            assert row["metrics"]["strict_counterfactual"]["n"] == N
            assert len(lines) == N + N + N
            assert row["metrics"]["latency_p50_ms"]["n"] == 3
    assert rows["expert"]["metrics"]["success_rate"]["value"] == 1.0
    assert rows["tiny"]["against_base"] is None
    assert rows["tiny+execute=1"]["against_base"]["n"] == N
    assert rows["tiny+execute=1"]["against_base"]["p"] == 1.0


def test_what_was_trained_is_reported(table, out):
    rows = rows_of(out)
    for name in WORDS[:3]:
        assert (rows[name]["samples"], rows[name]["error"]) == (4 * 8, None)
        assert rows[name]["samples_per_s"] == pytest.approx(32 / rows[name]["seconds"])
    (folder,) = out.glob("trainings/tiny-vision=query_conv-*")
    policy = verbot.load_policy(folder / "policy")
    assert policy.config.vision.name == "query_conv"
    assert rows[WORDS[1]]["parameters"] == sum(p.numel() for p in policy.network.parameters())
    assert rows[WORDS[1]]["settings"] == {"vision": "query_conv"}
    assert "Recipe `tiny+vision=query_conv`" in (folder / "policy" / "README.md").read_text()


def test_a_design_that_raises_is_a_row_and_stops_nobody(table, out):
    row = rows_of(out)[BROKEN]
    assert row["error"] == "ConfigError: width 16 does not divide into 3 heads"
    assert (row["metrics"], row["samples"], table.exit_code) == ({}, None, 1)
    (whole,) = (out / "errors").glob("*.txt")
    assert "Traceback" in whole.read_text()
    for name in ("table.md", "report.html"):
        assert row["error"] in (out / name).read_text()
    assert json.loads((out / "table.json").read_text())["pending"] == []


def test_entries_that_differ_in_execution_only_share_one_training(table, out):
    names = sorted(path.name.rsplit("-", 1)[0] for path in (out / "trainings").iterdir())
    assert names == ["tiny", "tiny-fusion=concat-fusion.heads=3", "tiny-vision=query_conv"]
    runs = {row.name: json.loads((row.folder / "run.json").read_text()) for row in table.rows if row.folder}
    assert runs["tiny"]["identity"] == runs["tiny+execute=1"]["identity"] != runs[WORDS[1]]["identity"]
    assert (runs["tiny"]["execute"], runs["tiny+execute=1"]["execute"]) == (2, 1)


def test_again_nothing_is_done_twice_and_others_may_join(table, out, monkeypatch):
    seen = calls(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("results.jsonl")}
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    first = (out / "table.json").read_text()
    compared(WORDS[:3], out=out, budget=BUDGET, **SCENES)
    assert seen == {"learn": [], "measure": []}
    added = compared(["tiny+execute=1", "tiny+execute=3", "tiny"], out=out, budget=BUDGET, base="tiny", **SCENES)
    assert seen == {"learn": [], "measure": ["tiny+execute=3"]}
    assert (added.base, added.exit_code) == ("tiny", 0)
    rows = rows_of(out)
    assert rows["tiny"]["verdict"] == "base"
    assert rows["tiny+execute=1"] | {"against_base": None} == json.loads(first)["rows"][2] | {"against_base": None}
    assert all(path.stat().st_mtime_ns == time for path, time in (before | weights).items())
    compared(["tiny+seed=3"], out=out, budget=BUDGET, baselines=False, **SCENES)
    assert seen["learn"] == ["tiny+seed=3"]


def test_interrupted_it_goes_on_where_it_was(data, tmp_path, monkeypatch):
    """Stopped in the middle of the second training, after a checkpoint: only the other half of it is trained."""
    words, asked = ["tiny", "tiny+chunk=2"], {"budget": {"steps": 4}, "data": [data], "baselines": False, **SCENES}

    def half(run, datasets, out, **more):
        stop_at = 2 if run.name == "tiny+chunk=2" else None
        config = override(run.training, {"datasets": [str(path) for path in datasets]})
        result = training.train_policy(config, out, stop_at=stop_at, progress=False)
        if not result.finished:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(stages, "learn", half)
        with pytest.raises(KeyboardInterrupt):
            compared(words, out=tmp_path, **asked)
    record = json.loads((tmp_path / "table.json").read_text())
    assert ([row["name"] for row in record["rows"]], record["pending"]) == (["tiny"], ["tiny+chunk=2"])
    assert "1 pending" in (tmp_path / "report.html").read_text()

    seen, steps, descend = calls(monkeypatch), [], loop._compute_gradients
    monkeypatch.setattr(
        loop, "_compute_gradients", lambda session, *more: (steps.append(session.state.step), descend(session, *more))[1]
    )
    compared(words, out=tmp_path, **asked)
    assert seen == {"learn": ["tiny+chunk=2"], "measure": ["tiny+chunk=2"]}
    assert steps == [2, 3]
    compared(words[1:], out=tmp_path / "whole", **asked)
    weights = "trainings/tiny-chunk*/policy/weights.safetensors"
    (one,), (other,) = tmp_path.glob(weights), (tmp_path / "whole").glob(weights)
    halves, whole = load_file(one), load_file(other)
    assert all(halves[name].equal(tensor) for name, tensor in whole.items())


def test_every_design_is_shown_the_same_windows_in_the_same_order(data, tmp_path):
    drawn = []
    for word in (
        "tiny",
        "tiny+vision=query_conv",
        "tiny+history=2+chunk=7",
        "tiny+augment.grounding_queries=2",
        "tiny+head=flow",
    ):
        run = resolve_variant(parse_variant(word), {"samples": 64}, 3)
        config = override(run.training, {"datasets": [str(data)]})
        with TrainingData(config, tmp_path, 0, 0) as supply:
            drawn.append([supply.batch(step, 0).index.tolist() for step in range(6)])
    assert all(order == drawn[0] for order in drawn)
    assert len({tuple(batch) for batch in drawn[0]}) == 6


def test_a_list_a_policy_and_an_evaluation_stand_in_one_table(table, out, data, tmp_path):
    (tmp_path / "mine.yaml").write_text("recipe: tiny\nentries:\n  quick: {about: in a hurry, settings: {execute: 4}}\n")
    (policy,) = out.glob("trainings/tiny-????" + "?" * 6)
    evaluation = table.rows[0].folder
    words = [str(policy / "policy"), str(evaluation)]
    found = compared(
        words, out=tmp_path / "out", list=tmp_path / "mine.yaml", budget=BUDGET, data=[data], baselines=False, **SCENES
    )
    assert [(row.name, row.kind) for row in found.rows] == [("quick", "recipe"), (words[0], "policy"), (words[1], "policy")]
    assert found.rows[1].cost.parameters == found.rows[0].cost.parameters
    assert found.rows[2].cost.parameters is None
    assert [row.against_base is None for row in found.rows] == [True, False, False]
    assert found.exit_code == 0
    assert not (tmp_path / "out" / "dataset").exists()


def test_an_episode_that_is_an_error_is_not_a_failure(data, tmp_path):
    found = compared(["tiny+execute=9"], out=tmp_path, budget=BUDGET, data=[data], baselines=False, **SCENES)
    (row,) = found.rows
    assert row.error is not None
    assert "every episode was an error: " in row.error
    assert "choose execute between 1 and 4" in row.error
    assert (row.figures.errors, row.measured, found.exit_code) == (3 * N, False, 1)


def test_what_cannot_be_compared_is_said_before_anything_is_done(table, out, tmp_path):
    with pytest.raises(UnknownNameError, match="no entry of this comparison named 'tny'. Did you mean 'tiny'"):
        compared(["tiny"], out=tmp_path, budget=BUDGET, base="tny", **SCENES)
    with pytest.raises(ConfigError, match="there is no condition 'paraphrases'. Did you mean 'paraphrase'"):
        compared(["expert"], out=tmp_path, **SCENES | {"conditions": ["paraphrases"]})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="dataset holds demonstrations of another recipe or seed; choose another folder"):
        compared(["tiny"], out=out, budget=BUDGET, seed=1, **SCENES)


def test_two_comparisons_never_write_into_one_folder(tmp_path):
    with (
        lock(tmp_path / ".lock", wait=False, holder="the first"),
        pytest.raises(DataError, match="another comparison is at work here; choose another folder, or wait for it"),
    ):
        compared(["expert"], out=tmp_path, **SCENES)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
