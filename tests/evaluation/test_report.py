from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from verbot.evaluation import PolicySource, run_evaluation
from verbot.evaluation.protocol.conditions import EvaluationConfig
from verbot.evaluation.report import text as wording
from verbot.evaluation.report.clips import choose
from verbot.rollout.results import EpisodeResult, Job

Make = Callable[..., EpisodeResult]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.syspath_prepend(str(Path(__file__).parent))
        import toy_world

        out = tmp_path_factory.mktemp("report")
        config = EvaluationConfig(suite="toy", episodes=12, side_episodes=6, videos=12, latency_calls=5, workers=1)
        source = PolicySource("half <deaf>", toy_world.half_deaf)
        run_evaluation(source, config, out, make=toy_world.ToyEnv, command="verbot evaluate half-deaf & more", progress=False)
        return (out / "report.html").read_text()


@pytest.fixture
def page(report: str, read_page: Callable[[str], Any]) -> Any:
    return read_page(report)


def test_page_is_well_formed_and_complete(page: Any) -> None:
    assert page.open == []
    text = " ".join("".join(page.text).split())
    assert "The policy succeeded in" in text
    for name in ("success_rate", "strict_counterfactual", "language_sensitivity", "spl", "latency_p99_ms"):
        assert name in text
    for heading in ("Language following", "One scene, different instructions", "Failures", "Reproduction", "Baselines"):
        assert heading in text
    assert "half <deaf>" in text
    assert "verbot evaluate half-deaf & more" in text
    assert "$" not in text


def test_page_makes_no_network_requests(page: Any, report: str) -> None:
    assert page.sources
    assert all(source.startswith("data:") for source in page.sources)
    style = report.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.findall(r"https?://", report)


def test_videos_have_the_border_of_their_outcome(page: Any, report: str) -> None:
    assert page.videos.count("failure") >= 2
    assert page.videos.count("success") >= 4
    assert report.count("data:video/mp4;base64,AAAA") == len(page.videos)
    assert len(report) < 6_000_000


def test_clips_are_the_first_of_every_task(made: Make) -> None:
    def pair(index: int, task: str, outcome: str = "success", goal: int = 0) -> tuple[Job, EpisodeResult]:
        from verbot.contracts import EpisodeRequest

        return Job("policy", EpisodeRequest(task=task, index=index)), made(index, outcome, task=task, goal_index=goal)

    main = [pair(i, task, "failure" if i == 1 else "success") for i in range(4) for task in ("go", "visit")]
    scenes = [pair(i, "go", "error" if i == 0 else "success", goal) for i in range(3) for goal in range(2)]
    chosen = choose(main, scenes, 9)
    clips = [(clip.section, clip.result.task, clip.result.index) for clip in chosen]
    assert [c for c in clips if c[0] == "failures"] == [("failures", "go", 1), ("failures", "visit", 1)]
    assert [c[1:] for c in clips if c[0] == "counterfactual"] == [("go", 1), ("go", 1)]  # whole scenes without errors
    assert [c[1:] for c in clips if c[0] == "successes"] == [("go", 0), ("visit", 0), ("go", 2), ("visit", 2), ("go", 3)]
    assert choose(main, scenes, 0) == []


def test_reasons_of_failures(made: Make) -> None:
    assert wording.reason(made(0)) == ""
    assert wording.reason(made(0, "failure", first_contact=None)) == "no contact with any object"
    assert wording.reason(made(0, "failure", first_contact="blue")) == "first contact with the blue"
    assert wording.reason(made(0, "failure", final_error_m=0.124)) == "correct object, 12 cm off at the end"
    assert wording.reason(made(0, "failure", target_object=None, final_error_m=None)) == "goal not reached in time"


def test_on_a_phone_bars_have_a_row_of_their_own_and_long_names_break():
    """Beside a label and a number in 390 pixels a bar would have no width left."""
    page = (files("verbot.evaluation.report") / "page.html").read_text(encoding="utf-8")
    phone = re.search(r"@media \(max-width: 760px\) \{\n(.*?)\n\}\n", page, re.DOTALL)[1]
    rules = dict(re.findall(r"^  ([^{]+) \{ (.*) \}$", phone, re.MULTILINE))
    assert "grid-template-columns: minmax(0, 1fr) max-content" in rules[".bars"]
    assert "grid-column: 1 / -1" in rules[".bars svg"]
    breaking = next(names for names, rule in rules.items() if "overflow-wrap: anywhere" in rule)
    assert {".label", "td code", ".kicker"} <= set(breaking.split(", "))
