import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("size", ROOT / "tools" / "size.py")
size = importlib.util.module_from_spec(spec)
sys.modules["size"] = size
spec.loader.exec_module(size)

LONG = "def f():\n" + "    x = 1\n" * 60


def check(tmp_path, text, exceptions=None):
    (tmp_path / "src").mkdir(exist_ok=True)
    (tmp_path / "src" / "a.py").write_text(text)
    return size.main(tmp_path, exceptions or {})


def test_the_tree_keeps_the_limits():
    assert size.main() == 0
    assert len(size.EXCEPTIONS) <= size.MOST == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n" * 401, "src/a.py: 401 lines, limit 400"),
        (LONG, "src/a.py::f: 61 lines, limit 60"),
        ("def f(a, b, c, d, e, f, g, h, i): ...\n", "src/a.py::f: 9 parameters, limit 8"),
        ("async def f(a, b, /, c, d, *, e, f, g, h, i): ...\n", "src/a.py::f: 9 parameters"),
        ("def f(a, b, c, d, e, f, g, *h, **i): ...\n", "src/a.py::f: 9 parameters"),
        ("class A:\n  def __init__(self, a, b, c, d, e, f, g, h, i): ...\n", "src/a.py::A.__init__: 9 parameters"),
        ("class A:\n  @staticmethod\n  def f(a, b, c, d, e, f, g, h, i): ...\n", "src/a.py::A.f: 9 parameters"),
        ("if True:\n  def f():\n    def g(a, b, c, d, e, f, g, h, i): ...\n", "src/a.py::f.g: 9 parameters"),
    ],
)
def test_what_is_over_a_limit_is_found_and_may_be_listed_with_a_reason(tmp_path, capsys, text, message):
    assert check(tmp_path, text) == 1
    assert message in capsys.readouterr().out
    assert check(tmp_path, text, {message.partition(": ")[0]: "a reason"}) == 0
    assert "a reason" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 400,
        LONG.replace("    x = 1\n", "", 1),
        "def f(a, b, c, d, e, f, g, h): ...\n",
        "class A:\n  def __init__(self, a, b, c, d, e, f, g, h): ...\n",
        "class A:\n  @classmethod\n  def f(cls, a, b, c, d, e, f, g, h): ...\n",
    ],
)
def test_what_is_at_its_limit_passes(tmp_path, text):
    assert check(tmp_path, text) == 0


def test_the_largest_are_printed(tmp_path, capsys):
    check(tmp_path, "def f(a, b): ...\ndef g(): ...\n")
    assert "size: 2 functions, the most parameters: src/a.py::f 2, src/a.py::g 0" in capsys.readouterr().out


def test_an_exception_that_is_within_its_limit_and_a_sixth_are_refused(tmp_path, capsys):
    assert check(tmp_path, "def f(): ...\n", {"src/a.py::f": "gone"}) == 1
    assert "src/a.py::f: listed as an exception" in capsys.readouterr().out
    many = "def f{}(a, b, c, d, e, f, g, h, i): ...\n"
    listed = {f"src/a.py::f{number}": "a reason" for number in range(6)}
    assert check(tmp_path, "".join(many.format(number) for number in range(5)), dict(list(listed.items())[:5])) == 0
    assert check(tmp_path, "".join(many.format(number) for number in range(6)), listed) == 1
    assert "6 exceptions are listed in tools/size.py; at most 5 may be" in capsys.readouterr().out
