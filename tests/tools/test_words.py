"""The vocabulary check finds banned words in a toy tree, and finds none in this repository."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def words():
    spec = importlib.util.spec_from_file_location("words", ROOT / "tools/words.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["words"] = module
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("words", None)


@pytest.fixture
def tree(tmp_path):
    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("told_first = 1\n", ["told"]),
        ("# Told twice: the robot is told.\n", ["Told", "told"]),
        ("# untold and toldness\n", []),
        ("errand2 = None\n", ["errand"]),
        ("everything = something = anything\n", []),
        ("view = Look(1)\n", ["Look"]),
        ("# Look at this\n", []),
        ("class Marks:\n    pass\n", ["Marks"]),
        ('x = "a `Marks` or a mark"\n', ["Marks"]),
        ("preset = recipe\n", ["preset"]),
        ("envs = config.worlds  # another world\n", ["worlds"]),
        ("if group.leads: pass  # what leads to it\n", ["leads"]),
        ('x = "`LanguageScorer`"\n', ["LanguageScorer"]),
    ],
)
def test_words_are_found_whole_and_names_in_their_case(words, tree, text, found):
    root = tree(src__a_dot_py=text)
    assert [word for _, word, _ in words.findings(root / "src/a.py", "src/a.py")] == found


def test_each_finding_has_its_line_and_successor(words, tree, capsys):
    root = tree(src__verbot__a_dot_py="x = 1\ny = 'a preset'\n", docs__b_dot_md="the errand\n", src__fixtures__c_dot_md="told\n")
    assert words.main(root) == 1
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "src/verbot/a.py:2: 'preset'; say: recipe",
        "docs/b.md:1: 'errand'; say: task, request",
        "words: 2 banned words",
    ]


def test_names_are_banned_in_python_only(words, tree):
    root = tree(docs__a_dot_md="The `Look(1)` of a page.\n")
    assert list(words.findings(root / "docs/a.md", "docs/a.md")) == []


def test_allowed_words_pass_in_their_file_only(words, tree):
    name = "src/verbot/data/storage/video.py"
    root = tree(src__verbot__data__storage__video_dot_py="OPTIONS = {'preset': 'fast', 'told': 1}\n")
    assert [word for _, word, _ in words.findings(root / name, name)] == ["told"]
    assert [word for _, word, _ in words.findings(root / name, "src/verbot/other.py")] == ["preset", "told"]


def test_a_finding_in_any_folder_fails_the_check(words, tree, capsys):
    root = tree(tests__deep__a_dot_py="told = 1\n")
    assert words.main(root) == 1
    (root / "tests/deep/a.py").write_text("given = 1\n")
    assert words.main(root) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "words: 0 banned words"


def test_allowed_files_exist_and_contain_what_is_allowed(words):
    for pattern, (allowed, _) in words.ALLOWED.items():
        found = [path for path in ROOT.glob(pattern) if path.is_file()]
        assert found, pattern
        if "*" in allowed:
            continue
        text = " ".join(path.read_text(encoding="utf-8") for path in found)
        assert not [word for word in allowed if word.lower() not in text.lower()], pattern


def test_the_tree_has_no_banned_words(words, capsys):
    assert words.main(ROOT) == 0, capsys.readouterr().out
