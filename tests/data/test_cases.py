"""Every input of ``tests/cases`` is used by a test."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
CASES = sorted(path.stem for path in (TESTS / "cases").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", CASES)
def test_has_a_test(name):
    used = [path for path in TESTS.rglob("test_*.py") if f'"{name}"' in path.read_text()]
    assert used, f"no test uses the input {name!r}"
