"""A table's figures compared with hand-computed values, its verdicts, and its page."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from verbot.errors import ConfigError, CorruptFileError
from verbot.evaluation import EvaluationConfig, run_evaluation
from verbot.evaluation.comparison.page import write_comparison_page
from verbot.evaluation.comparison.paired import compare_evaluations
from verbot.evaluation.comparison.ranking import holm, rank, versus
from verbot.evaluation.comparison.rows import Cost, Figures, TableRow
from verbot.evaluation.comparison.table import Table, read_figures
from verbot.evaluation.protocol.intervals import Estimate, wilson
from verbot.evaluation.report.plots import Dot, place_labels, scatter
from verbot.rollout.results import EpisodeResult, ResultsJournal
from verbot.workflows.compare import _complete, _cost

Make = Callable[..., EpisodeResult]
KEY = "policy/{task}/test/{index}/goal{goal}/{wording}/seen/seed0"


def played(folder: Path, made: Make, solved: set[tuple[str, int, int, str]], errors: int = 0) -> Path:
    """Twelve scenes of two tasks in canonical wording; six also under their second goal, and six also in unseen wording."""
    folder.mkdir()
    with ResultsJournal(folder / "results.jsonl") as journal:
        for task, index in itertools.product(("go", "visit"), range(6)):
            for goal, wording in ((0, "canonical"), (1, "canonical"), (0, "unseen")):
                if (goal, wording) == (0, "canonical") or index < 3:
                    outcome = "success" if (task, index, goal, wording) in solved else "failure"
                    outcome = "error" if index < errors and (task, goal, wording) == ("go", 0, "canonical") else outcome
                    key = KEY.format(task=task, index=index, goal=goal, wording=wording)
                    fault = "the toy fell apart" if outcome == "error" else None
                    journal.add(made(index, outcome, key=key, task=task, goal_index=goal, error=fault))
    return folder


def plain(*numbers: int) -> set[tuple[str, int, int, str]]:
    return {("go", i, 0, "canonical") for i in numbers}


DAMAGED = ["{", "[]", "[" * 100_000, "{}", '{"metrics": 3}', '{"metrics": {"a": {"x": 1}}}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_of_an_evaluation_is_named(tmp_path: Path, made: Make, content: str) -> None:
    folder = played(tmp_path / "a", made, plain(0))
    for name, read in (
        ("summary.json", read_figures),
        ("run.json", lambda folder: compare_evaluations(folder, folder)),
        ("result.json", _cost),
    ):
        (folder / name).write_text(content)
        with pytest.raises(CorruptFileError, match=f"a/{name}: "):
            read(folder)
    assert not _complete(folder)


@pytest.mark.parametrize("content", DAMAGED[:3])
def test_an_evaluation_does_not_go_on_beside_a_damaged_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CorruptFileError, match="run.json: is"):
        run_evaluation("expert", EvaluationConfig(episodes=3), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["run.json"]


def test_figures_of_an_interrupted_evaluation_are_counted_from_its_episodes(tmp_path: Path, made: Make) -> None:
    solved = plain(0, 1, 2, 3) | {("go", 0, 1, "canonical"), ("go", 1, 1, "canonical"), ("go", 0, 0, "unseen")}
    figures = read_figures(played(tmp_path / "a", made, solved))
    assert figures.main == "canonical"
    assert figures.metrics["success_rate"] == wilson(4, 12)
    assert figures.by_task == {"go": wilson(4, 6), "visit": wilson(0, 6)}
    assert figures.metrics["strict_counterfactual"] == wilson(2, 6)  # scenes 0 and 1 of go, under both goals
    assert figures.conditions["counterfactual"] == wilson(5, 12)
    assert figures.metrics["paraphrase_retention"].value == pytest.approx(1 / 3)  # of the six scenes with both wordings
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "results.jsonl").touch()
    with pytest.raises(ConfigError, match="none holds no episodes yet"):
        read_figures(tmp_path / "none")


def test_errors_are_counted_and_the_first_is_reported(tmp_path: Path, made: Make) -> None:
    figures = read_figures(played(tmp_path / "a", made, plain(0, 1, 2, 3), errors=2))
    assert (figures.errors, figures.metrics["success_rate"]) == (2, wilson(2, 10))
    assert figures.fault == "policy/go/test/0/goal0/canonical/seen/seed0: the toy fell apart"
    row = TableRow("a", "policy", figures=figures)
    table = Table("", "a", (row,), {})
    assert table.exit_code == 1
    assert table.faults() == [f"a: 2 episodes had errors; the first: {figures.fault}"]


def test_p_is_mcnemars_on_the_shared_episodes(tmp_path: Path, made: Make) -> None:
    a = played(tmp_path / "a", made, plain(0, 1, 2, 3, 4, 5) | {("visit", 0, 0, "canonical")})
    b = played(tmp_path / "b", made, plain(0) | {("visit", 1, 0, "canonical")})
    found = versus(a, b)["canonical"]
    only_a, only_b = 6, 1
    p = 2 * sum(math.comb(7, i) for i in range(only_b + 1)) / 2**7
    assert (found.only_first, found.only_second, found.first.n, found.p) == (only_a, only_b, 12, pytest.approx(p))
    assert found.difference.value == pytest.approx(7 / 12 - 2 / 12)
    goals = versus(a, b)["counterfactual"]  # the six scenes of which another goal was played, under both goals
    assert (goals.first.n, goals.only_first, goals.only_second) == (12, 3, 1)
    assert "blank" not in versus(a, b)
    assert versus(a, tmp_path) == {}


def test_holm_corrects_for_the_number_of_rows(tmp_path: Path, made: Make) -> None:
    assert holm([]) == []
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    everything = {(t, i, 0, "canonical") for t in ("go", "visit") for i in range(6)}
    base = played(tmp_path / "base", made, set())
    good = played(tmp_path / "good", made, everything)  # 12 to 0: p = 0.0005
    some = played(tmp_path / "some", made, {("go", i, 0, "canonical") for i in range(6)})  # 6 to 0: p = 0.031
    rows = [TableRow("base", "policy", folder=base, figures=read_figures(base))]
    for name, folder in (("good", good), ("some", some)):
        rows.append(TableRow(name, "policy", figures=read_figures(folder), conditions_against_base=versus(folder, base)))
    assert Table("", "base", tuple(rows), {}).verdicts() == {"base": "base", "good": "better", "some": "better"}
    more = [
        *rows,
        *(
            TableRow(f"more{i}", "policy", figures=rows[2].figures, conditions_against_base=rows[2].conditions_against_base)
            for i in range(3)
        ),
    ]
    assert Table("", "base", tuple(more), {}).verdicts()["some"] == "same"
    assert Table("", "base", tuple(more), {}).verdicts()["good"] == "better"
    worse = TableRow("base", "policy", figures=read_figures(base), conditions_against_base=versus(base, good))
    assert Table("", "good", (worse,), {}).verdicts() == {"base": "worse"}


@pytest.fixture
def table(tmp_path: Path, made: Make) -> Table:
    base = played(tmp_path / "base", made, plain(0, 1))
    (base / "report.html").write_text("a page")
    speed = {"latency_p50_ms": Estimate(2.0, 1.9, 2.2, 100)}

    def row(name: str, folder: Path, **more: object) -> TableRow:
        found = read_figures(folder)
        figures = Figures(found.main, {**found.metrics, **speed}, found.conditions, found.by_task)
        beside = versus(folder, base) if folder != base else {}
        return TableRow(name, "recipe", folder=folder, figures=figures, conditions_against_base=beside, **more)  # type: ignore[arg-type]

    rows = (
        row("plain", base, about="as it is", recipe="tiny", cost=Cost(1_250_000, 64_000, 80.0)),
        row("a|<b>", played(tmp_path / "b", made, plain(0, 1, 2)), recipe="tiny", settings={"chunk": 2}),
        TableRow("torn", "recipe", about="fails & falls", recipe="tiny", error="ValueError: <nothing> fits"),
        TableRow("expert", "baseline", folder=None, figures=read_figures(base)),
    )
    about = {"suite": "toy", "episodes": 12, "seed": 3, "samples": 64_000}
    return Table("Comparison on toy", "plain", rows, about, ("late",), "verbot compare & more", tmp_path)


def test_json_markdown_and_text_agree(table: Table) -> None:
    table.save()
    record = json.loads((table.out / "table.json").read_text())
    plain_row, other, torn, expert = record["rows"]
    assert (record["base"], record["episodes"], record["samples"], record["pending"]) == ("plain", 12, 64_000, ["late"])
    assert (plain_row["samples_per_s"], plain_row["parameters"], plain_row["against_base"]) == (800.0, 1_250_000, None)
    assert (other["settings"], other["against_base"]["only_this"], other["verdict"]) == ({"chunk": 2}, 1, "same")
    assert (torn["error"], torn["metrics"], expert["kind"]) == ("ValueError: <nothing> fits", {}, "baseline")
    markdown = (table.out / "table.md").read_text()
    assert "| plain | as it is | 16.7 % [4.7, 44.8] |" in markdown
    assert "| base | 1.25 M | 2.00 | 800 | 64 000 | 80 |" in markdown
    assert "| a\\|<b> |  | 25.0 % [8.9, 53.2] |" in markdown
    assert "| 12 | 1.000 | – | 2.00 | – | – | – |" in markdown
    assert "## Success by task" in markdown
    assert "| plain | 33.3 % [9.7, 70.0] | 0.0 % [0.0, 39.0] |" in markdown
    assert "## Success by condition" in markdown
    assert "| a\\|<b> | 25.0 % [8.9, 53.2], p = 1.000 | " in markdown and "| plain | 16.7 % [4.7, 44.8] | " in markdown
    assert other["conditions_against_base"]["canonical"] == other["against_base"]
    assert set(other["conditions_against_base"]) == {"canonical", "counterfactual", "paraphrase"}
    assert "- torn: ValueError: <nothing> fits" in markdown
    columns = {line.count("|") - line.count("\\|") for line in markdown.split("\n## ")[0].splitlines() if line.startswith("|")}
    assert len(columns) == 1
    assert "25.0 % [8.9, 53.2]" in table.text()
    assert "error: torn: ValueError: <nothing> fits" in table.text()
    assert table.exit_code == 1


def test_the_page_is_complete_and_makes_no_requests(table: Table, read_page: Callable[[str], Any]) -> None:
    html = write_comparison_page(table, table.out / "report.html").read_text()
    page = read_page(html)
    assert page.open == []
    text = " ".join("".join(page.text).split())
    assert "a|<b> succeeded in 3 of 12 unseen scenes, the most of 2 entries." in text
    assert "64 000 samples of training each · 12 episodes, seed 3 · 1 pending" in text
    assert "torn: ValueError: <nothing> fits" in text
    assert "fails & falls" in text
    assert "not significant" in text
    assert "verbot compare & more" in text
    for heading in ("Success against latency", "All entries", "By task and by condition", "Reproduction"):
        assert heading in text
    assert "$" not in html.split("</style>")[1].split("<script>")[0]
    assert page.sources == ["data:,", "base/report.html"]
    assert not re.findall(r"https?://|url\(|@import", html)
    assert html.count('class="dot"') == 2  # the rows with a latency
    assert [d for d in re.findall(r'data-row="([^"]*)"', html) if d == "plain"] == ["plain"] * 2  # in the plot and in its row


def test_a_page_without_results_reports_it(tmp_path: Path) -> None:
    page = write_comparison_page(Table("Comparison", "a", (), {}, ("a",), out=tmp_path), tmp_path / "report.html").read_text()
    assert "No results yet." in page
    assert 'class="scatter"' not in page


def test_a_scatter_puts_points_where_their_figures_are() -> None:
    def dot(name: str, x: float, y: float) -> Dot:
        return Dot(name, Estimate(x, x, x, 10), Estimate(y, y - 0.05, min(1.0, y + 0.05), 100))

    assert scatter([], "x", "y") == ""
    assert scatter([Dot("none", Estimate(None, None, None, 0), Estimate(0.5, 0.4, 0.6, 9))], "x", "y") == ""
    svg = scatter([dot("slow", 10.0, 0.9), dot("fast", 1.0, 0.1)], "x", "y")
    circles = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    (slow, fast) = circles
    assert slow[0] > fast[0]
    assert slow[1] < fast[1]
    middle = re.findall(r'cx="([\d.]+)"', scatter([dot("a", 1.0, 0.5), dot("b", 10**0.5, 0.5), dot("c", 10.0, 0.5)], "x", "y"))
    left, center, right = map(float, middle)
    assert center == pytest.approx((left + right) / 2, abs=0.2)  # logarithmic
    ticks = re.findall(r'text-anchor="end">(\d+) %', scatter([dot("a", 1.0, 0.96), dot("b", 2.0, 0.9)], "x", "y"))
    assert ticks == ["80", "90", "100"]  # all high: the axis does not begin at 0


def test_labels_stay_clear_of_each_other_and_of_points() -> None:
    places = [(300.0 + 3 * i, 200.0 + 5 * (i % 4)) for i in range(12)]
    boxes = [box for box in place_labels(places, [f"design-{i}" for i in range(12)]) if box is not None]
    assert len(boxes) >= 10
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for left, top, right, bottom in boxes:
        assert not any(left < x < right and top < y < bottom for x, y in places)


def table_row(folder: Path, made: Make, name: str, solved: int, p50: float, millions: float, speed: float) -> TableRow:
    """A row that solved the first `solved` of 12 scenes, with a prediction time of `p50` milliseconds."""
    scenes = [(task, i, 0, "canonical") for task in ("go", "visit") for i in range(6)][:solved]
    played(folder / name, made, set(scenes))
    figures = read_figures(folder / name)
    metrics = {**figures.metrics, "latency_p50_ms": Estimate(p50, p50, p50, 10)}
    figures = Figures(figures.main, metrics, figures.conditions, figures.by_task)
    cost = Cost(round(millions * 1e6), 1000, 1000 / speed)
    return TableRow(name, "recipe", folder=folder / name, figures=figures, cost=cost)


def test_the_ranking_names_the_best_and_the_cheapest(tmp_path: Path, made: Make) -> None:
    rows = (
        table_row(tmp_path, made, "best", 12, 9.0, 3.0, 100),
        table_row(tmp_path, made, "near", 11, 4.0, 2.0, 300),
        table_row(tmp_path, made, "slow", 11, 12.0, 1.0, 200),
        table_row(tmp_path, made, "poor", 1, 2.0, 0.5, 900),
        TableRow("broken", "recipe", error="it broke"),
        TableRow("random", "baseline"),
    )
    ranking = rank(rows)
    assert ranking is not None
    assert [row.name for row in ranking.equals] == ["best", "near", "slow"]  # poor: p = 2⁻¹⁰, three times as much by Holm
    assert [row.name for row in ranking.front] == ["poor", "near", "best"]
    assert list(ranking.lines()) == [
        f"**best** has the highest success rate: 100.0 % [{100 * wilson(12, 12).low:.1f}, 100.0].",
        "Not significantly worse on the same scenes: near, slow.",
        "Of these, **near** predicts fastest: 4.00 ms.",
        "Of these, **slow** is smallest: 1.00 M parameters.",
        "Of these, **near** trained fastest: 300 samples/s.",
        "No other row is both faster and better than: poor (2.00 ms, 8.3 %), near (4.00 ms, 91.7 %), best (9.00 ms, 100.0 %).",
    ]
    table = Table("toy", "best", rows, {}, out=tmp_path)
    assert "## Ranking\n\n- **best** has the highest success rate" in table.markdown()
    assert "<li><b>best</b> has the highest success rate" in write_comparison_page(table, tmp_path / "page.html").read_text()


def test_a_single_row_has_no_ranking_and_the_best_of_a_task_is_named(tmp_path: Path, made: Make) -> None:
    first = table_row(tmp_path, made, "first", 8, 1.0, 1.0, 1.0)
    assert rank([first, TableRow("random", "baseline")]) is None
    visit = {("visit", i, 0, "canonical") for i in range(6)}
    other = TableRow("other", "policy", folder=played(tmp_path / "other", made, visit))
    assert other.folder is not None
    other = TableRow("other", "policy", folder=other.folder, figures=read_figures(other.folder))
    ranking = rank([first, other])
    assert ranking is not None and "Best at visit: other." in ranking.lines()
