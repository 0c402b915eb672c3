"""Every listed mutation applies, and the tool tells a killed mutation from one that survives."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("mutants", ROOT / "tools" / "mutants.py")
mutants = importlib.util.module_from_spec(spec)
sys.modules["mutants"] = mutants  # dataclasses look their module up
spec.loader.exec_module(mutants)

SOURCE = "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return 2 * a\n"
TEST = """from toy import add, double


def test_sum():
    assert add(1, 2) == 3


def test_double():
    assert double(2) == 4
"""
SUM = {"name": "sum", "file": "src/toy.py", "find": "a + b", "replace": "a - b", "tests": ["tests/test_toy.py"]}
PRODUCT = {**SUM, "name": "product", "find": "2 * a", "replace": "a * a", "tests": ["tests/test_toy.py::test_double"]}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a toy needs none, and loading them takes longer than its tests

    def make(*records, source=SOURCE, test=TEST):
        files = {"src/toy.py": source, "tests/test_toy.py": test, "tests/mutants/toy.yaml": yaml.safe_dump(list(records))}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_every_listed_mutation_applies():
    assert mutants.main(["--check"]) == 0


def test_a_mutation_is_killed_where_a_test_fails_and_survives_where_all_pass(toy, capsys, monkeypatch):
    root = toy(SUM, PRODUCT)
    assert mutants.main([], root) == 1
    *rows, counts = capsys.readouterr().out.splitlines()[-3:]
    assert [row.split() for row in rows] == [
        ["sum", "killed", "src/toy.py", "test_sum"],
        ["product", "survived", "src/toy.py"],  # 2 * 2 and 2 ** 2 are the same
    ]
    assert counts == "mutants: 1 killed, 1 survived"
    monkeypatch.setattr(mutants, "unchanged", lambda root, chosen: None)  # it was found to pass above
    assert mutants.main(["--only", "sum"], root) == 0
    assert (root / "src" / "toy.py").read_text() == SOURCE, "the checkout is never edited"


def test_tests_that_fail_anyway_kill_nothing(toy, capsys):
    assert mutants.main([], toy(SUM, test=TEST.replace("== 4", "== 5"))) == 1
    assert "the tests fail on the unchanged source" in capsys.readouterr().out


def test_a_mutation_that_cannot_be_imported_is_an_error(toy, capsys):
    assert mutants.main([], toy({**SUM, "replace": "a +"})) == 1
    assert "sum: error\npytest ended with exit code 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"find": "a * b"}, "the text to find occurs 0 times in src/toy.py; expected once"),
        ({"find": "return "}, "the text to find occurs 2 times"),
        ({"replace": "a + b"}, "the replacement is the text itself"),
        ({"file": "src/other.py"}, "there is no src/other.py"),
        ({"tests": []}, "no test is named"),
        ({"tests": ["tests/test_other.py"]}, "there is no test file tests/test_other.py"),
        ({"tests": ["tests/test_toy.py::test_sub"]}, "tests/test_toy.py has no test test_sub"),
    ],
)
def test_a_mutation_that_does_not_apply_is_reported(toy, capsys, changes, message):
    assert mutants.main(["--check"], toy({**SUM, **changes}, PRODUCT)) == 1
    out = capsys.readouterr().out
    assert f"sum: does not apply: {message}" in out and "1 of 2 apply" in out


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{**SUM, "test": []}], "tests/mutants/toy.yaml, record 1 has no field 'test'. Did you mean 'tests'?"),
        ([SUM, SUM], "record 2: the name 'sum' is taken"),
        ([{**SUM, "find": 3}], "record 1.find is 3; expected"),
        ([], "tests/mutants has no records"),
    ],
)
def test_a_malformed_record_is_refused(toy, capsys, records, message):
    assert mutants.main(["--check"], toy(*records)) == 1
    assert message in capsys.readouterr().err


def test_records_are_listed_by_name(toy, capsys):
    assert mutants.main(["--list", "--only", "prod"], toy(SUM, PRODUCT)) == 0
    assert capsys.readouterr().out == "product: src/toy.py: tests/test_toy.py::test_double\n"
    assert mutants.main(["--only", "quotient"], toy(SUM)) == 1
    assert "has 'quotient' in its name; see --list" in capsys.readouterr().err
