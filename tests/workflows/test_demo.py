import json

import pytest

import verbot
from verbot.errors import ConfigError, CorruptFileError
from verbot.workflows.demo import _timed, demo


def test_a_demo_leaves_everything_and_continues(tmp_path):
    out = tmp_path / "demo"
    summary = demo(out, "tiny", progress=False, command="verbot demo")
    assert summary.episodes == 3
    assert summary.errors == 0
    for name in ("dataset/meta/info.json", "policy/manifest.json", "evaluation/results.jsonl", "report.html"):
        assert (out / name).is_file(), name
    seconds = json.loads((out / "timing.json").read_text())
    assert list(seconds) == ["collect", "train", "evaluate"]
    assert all(value > 0 for value in seconds.values())
    assert (out / "report.html").read_text() == (out / "evaluation" / "report.html").read_text()
    card = (out / "policy" / "README.md").read_text()
    assert "Recipe `tiny`" in card
    assert "| `success_rate` |" in card
    assert verbot.load_policy(out / "policy").config.chunk == 4

    weights = (out / "policy" / "weights.safetensors").read_bytes()
    again = demo(out, "tiny", progress=False)
    assert again.played == 0
    assert again.metrics["success_rate"] == summary.metrics["success_rate"]
    assert (out / "policy" / "weights.safetensors").read_bytes() == weights
    with pytest.raises(ConfigError, match="holds the demo of another recipe or seed"):
        demo(out, "tiny", seed=3, progress=False)


def test_the_seconds_of_a_stage_hide_no_error_of_it(tmp_path):
    with pytest.raises(ZeroDivisionError), _timed(tmp_path, "train"):
        (tmp_path / "timing.json").mkdir()  # it cannot be written
        raise ZeroDivisionError
    (tmp_path / "timing.json").rmdir()
    for content in ("{", "[]", '{"train": "x"}', "[" * 100_000):
        (tmp_path / "timing.json").write_text(content)
        with pytest.raises(CorruptFileError, match="timing.json: "), _timed(tmp_path, "train"):
            raise AssertionError("the stage has begun")
