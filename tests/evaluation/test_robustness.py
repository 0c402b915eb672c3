"""Robustness compared with hand-computed values, paired by scene for each domain; the radar chart shows the same values."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation.comparison.robustness import read_robustness, table, write
from verbot.evaluation.protocol.conditions import AXES, EvaluationConfig, axes_suffix, make_plan
from verbot.evaluation.protocol.intervals import difference, mcnemar, wilson
from verbot.evaluation.report.radar import COLORS, FINE, Outline, place, radar
from verbot.rollout.results import EpisodeResult, ResultsJournal
from verbot.workflows.robustness import RobustnessConfig, robustness

Make = Callable[..., EpisodeResult]


def world(made: Make, won: str, **axes: int) -> list[EpisodeResult]:
    """Episodes of scenes 0, 1, …: 1 is a success, 0 a failure, x an error."""
    words = "".join(f"{axis}{strength}/" for axis, strength in sorted(axes.items()))
    outcome = {"1": "success", "0": "failure", "x": "error"}
    return [
        made(i, outcome[letter], axes=axes, key=f"policy/go/test/{i}/goal0/canonical/seen/{words}seed0")
        for i, letter in enumerate(won)
    ]


def save(folder: Path, *domains: list[EpisodeResult]) -> Path:
    folder.mkdir(parents=True)
    with ResultsJournal(folder / "results.jsonl") as journal:
        for result in (result for each in domains for result in each):
            journal.add(result)
    (folder / "run.json").write_text(json.dumps({"policy": f"{folder.name}/policy"}))
    return folder


def test_the_gap_is_paired_by_scene_and_leaves_errors_out(tmp_path: Path, made: Make) -> None:
    folder = save(
        tmp_path / "plain",
        world(made, "0001111111"),
        world(made, "1110000000", **dict.fromkeys(AXES, 2)),
        world(made, "00011111x1", camera=2),
        world(made, "0001110000", lighting=2),
    )
    found = read_robustness(folder)
    assert (found.policy, found.nominal, found.errors) == ("plain", wilson(7, 10), 1)
    lighting, camera, together = found.shifts
    assert [shift.label for shift in found.shifts] == ["lighting 2", "camera 2", "all at once 2"]
    pairs = [(letter == "1", other == "1") for letter, other in zip("0001111111", "0001110000", strict=True)]
    assert (lighting.gap, lighting.p) == (difference(pairs), mcnemar(pairs))
    assert lighting.gap.value == pytest.approx(0.4)
    assert lighting.retention.value == pytest.approx(3 / 7)
    assert (camera.success.n, camera.gap.n, camera.gap.value, camera.p) == (9, 9, 0.0, 1.0)
    assert together.gap.value == pytest.approx(0.4)
    assert together.p == mcnemar([(False, True)] * 3 + [(True, False)] * 7)


def test_the_table_and_the_file_agree(tmp_path: Path, made: Make) -> None:
    folders = [
        save(tmp_path / name, world(made, "1" * 10), world(made, won, camera=2), world(made, "1" * 10, lighting=2))
        for name, won in (("plain", "1000000000"), ("random", "1111111110"))
    ]
    gaps = [read_robustness(folder) for folder in folders]
    text = table(gaps)
    lines = [re.split(r" {2,}", line) for line in text.split("\n")]
    assert [line[0] for line in lines[1:]] == ["plain"] * 3 + ["random"] * 3
    assert ["camera 2", "10", "10.0 % [1.8, 40.4]"] in [line[1:4] for line in lines]
    record = json.loads((write(gaps, tmp_path / "out", "verbot robustness …") / "robustness.json").read_text())
    assert record["policies"][0]["shifts"][1]["gap"]["value"] == pytest.approx(0.9)
    assert record["policies"][1]["shifts"][1]["axes"] == {"camera": 2}
    assert (tmp_path / "out" / "robustness.png").is_file()


def test_a_missing_domain_is_reported(tmp_path: Path, made: Make) -> None:
    with pytest.raises(ConfigError, match=r"holds no shifted domain; `verbot robustness POLICY --out FOLDER` plays both"):
        read_robustness(save(tmp_path / "a", world(made, "11")))
    with pytest.raises(ConfigError, match="holds no nominal domain"):
        read_robustness(save(tmp_path / "b", world(made, "11", camera=1)))


def test_a_radar_chart_puts_each_value_on_its_spoke() -> None:
    spokes = ["nominal", "camera 2", "lighting 2", "all at once 2"]
    values = [wilson(9, 10), wilson(2, 10), None, wilson(5, 10)]
    picture = np.asarray(radar(spokes, [Outline("plain", values)])).astype(int)
    for number, estimate in enumerate(values):
        angle = 2 * np.pi * number / len(spokes)
        for share in (0.2, 0.5, 0.9):
            x, y = place(share, angle)
            marked = np.abs(picture[round(y), round(x)] - COLORS[0]).max() < 30
            if estimate is None:
                assert not marked
            elif estimate.value == pytest.approx(share):
                assert marked
    assert FINE * place(1.0, 0.3)[0] == pytest.approx(place(1.0, 0.3, FINE)[0])


@pytest.mark.parametrize(
    ("spokes", "outlines", "message"),
    [
        (["a", "b"], [Outline("p", [None, None])], "at least three spokes; got 2: a, b"),
        (["a", "b", "c"], [], "shows 1 to 6 policies; got 0"),
        (["a", "b", "c"], [Outline("p", [None])], "p has 1 values for 3 spokes"),
    ],
)
def test_invalid_radar_charts_are_refused(spokes: list[str], outlines: list[Outline], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        radar(spokes, outlines)


def test_several_axes_at_once_are_a_condition() -> None:
    config = EvaluationConfig(episodes=4, conditions=("axes:all:2", "axes:camera+lighting:3"))
    plan = make_plan(config, ("pick",))
    assert plan.conditions["axes:all:2"][1].request.axes == dict.fromkeys(AXES, 2)
    assert plan.conditions["axes:camera+lighting:3"][0].request.axes == {"camera": 3, "lighting": 3}
    assert EvaluationConfig(axes=dict.fromkeys(AXES, 3)).main == "canonical all:3"
    assert axes_suffix({"lighting": 1, "camera": 2, "dynamics": 0}) == " camera:2 lighting:1"
    with pytest.raises(ConfigError, match="there is no randomization axis 'lightning'"):
        EvaluationConfig(conditions=("axes:camera+lightning:2",))


def test_policies_are_played_in_every_domain_and_folders_are_read(tmp_path: Path) -> None:
    config = RobustnessConfig(axes=["camera", "robot_start"], episodes=2, workers=1)
    played = robustness(["expert"], tmp_path / "first", config, progress=False)
    assert [shift.label for shift in played[0].shifts] == ["camera 2", "robot start 2", "camera 2, robot start 2"]
    assert [shift.success.n for shift in played[0].shifts] == [2, 2, 2]
    others = dataclasses.replace(config, strengths=[3], alone=False)
    more = robustness(["expert"], tmp_path / "first", others, progress=False)
    assert len(more[0].shifts) == 4  # earlier results remain
    read = robustness([str(tmp_path / "first" / "expert")], tmp_path / "second", config, progress=False)
    assert read[0].shifts == more[0].shifts


def test_invalid_policies_and_axes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name at least one policy"):
        robustness([], out=tmp_path)
    with pytest.raises(ConfigError, match="two of these policies would have one name: run, run"):
        robustness(["a/run/policy", "b/run/policy"], out=tmp_path)
    with pytest.raises(ConfigError, match="name at least one strength"):
        RobustnessConfig(strengths=[])
    with pytest.raises(UnknownNameError, match="randomization axis named 'camer'"):
        RobustnessConfig(axes=["camer"])
