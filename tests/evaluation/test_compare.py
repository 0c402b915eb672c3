from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from verbot.errors import ConfigError
from verbot.evaluation.comparison.paired import compare_evaluations
from verbot.rollout.results import EpisodeResult, ResultsJournal
from verbot.workflows.train_evaluate import compare_policies

Make = Callable[..., EpisodeResult]


def save(folder: Path, results: list[EpisodeResult], policy: str = "policy A") -> Path:
    folder.mkdir()
    with ResultsJournal(folder / "results.jsonl") as journal:
        for result in results:
            journal.add(result)
    (folder / "run.json").write_text(json.dumps({"policy": policy}))
    return folder


def test_same_episodes_are_compared_and_others_counted(tmp_path: Path, made: Make) -> None:
    wording = {"key": "policy/go/test/0/goal0/unseen/seen/seed0"}
    a = save(tmp_path / "a", [*(made(i) for i in range(12)), made(0, **wording)])
    b = save(
        tmp_path / "b",
        [*(made(i, "failure" if i < 9 else "success") for i in range(10)), made(10, "error"), made(0, "failure", **wording)],
        "policy B",
    )
    found = compare_evaluations(a, b)
    canonical, paraphrase = found.conditions
    assert (canonical.group, canonical.first.n, canonical.only_first, canonical.only_second) == ("canonical", 10, 9, 0)
    assert canonical.difference.value == pytest.approx(0.9)
    assert canonical.p == pytest.approx(2 / 512)
    assert (paraphrase.group, paraphrase.p) == ("paraphrase", 1.0)
    assert found.unmatched == 2  # an error in b's, and one that only a played
    assert [row.group for row in found.tasks] == ["go"]


def test_table_and_file_agree(tmp_path: Path, made: Make) -> None:
    a = save(tmp_path / "a", [made(i) for i in range(10)])
    b = save(tmp_path / "b", [made(i, "failure") for i in range(10)], "policy B")
    found = compare_evaluations(a, b)
    record = json.loads(found.save(tmp_path / "out" / "comparison.json").read_text())
    assert record["conditions"]["canonical"]["difference"]["value"] == 1
    assert record["conditions"]["canonical"]["p"] == pytest.approx(2 / 1024)
    assert "A = policy A" in found.table()
    assert "100.0 %" in found.table()
    assert "= 0.002" in found.table()


def test_a_policy_against_the_expert(tmp_path: Path, made: Make) -> None:
    a = save(tmp_path / "a", [made(0, "failure")])
    key = made(0).key.replace("policy/", "expert/")
    b = save(tmp_path / "b", [made(0, key=key, agent="expert")], "expert")
    assert compare_evaluations(a, b).conditions[0].only_second == 1


def test_two_policies_on_the_real_tabletop(tmp_path: Path) -> None:
    found = compare_policies("expert", "random", "tabletop-starter", out=tmp_path, episodes=6, workers=1, progress=False)
    assert (found.first, found.second) == ("expert", "random")
    assert found.conditions[0].only_first == 6
    assert found.conditions[0].p == pytest.approx(2 / 64)
    assert [row.group for row in found.tasks] == ["pick", "push", "put"]


def test_folders_without_common_or_any_episodes_are_refused(tmp_path: Path, made: Make) -> None:
    a, b = save(tmp_path / "a", [made(0)]), save(tmp_path / "b", [made(1)])
    with pytest.raises(ConfigError, match="no episode in common: evaluate both on the same suite, with the same seed and mode"):
        compare_evaluations(a, b)
    with pytest.raises(ConfigError, match=r"holds no results.jsonl; `verbot evaluate POLICY"):
        compare_evaluations(a, tmp_path / "nowhere")
