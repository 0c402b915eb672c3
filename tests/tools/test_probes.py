import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("probes", ROOT / "tools" / "probes.py")
probes = importlib.util.module_from_spec(spec)
sys.modules["probes"] = probes
spec.loader.exec_module(probes)


def check(tmp_path, text, exceptions=None):
    (tmp_path / "envs").mkdir(exist_ok=True)
    (tmp_path / "envs" / "toy.py").write_text(text)
    return probes.main(tmp_path, exceptions or {})


def test_the_tree_has_no_capability_probe():
    assert probes.main() == 0


@pytest.mark.parametrize(
    "line",
    [
        'hasattr(env, "levels")',
        "hasattr(env, name)",
        'getattr(self.env, "levels", 1)',
        'getattr(heads.get(name), "fit")',
        "try:\n        env.levels\n    except AttributeError:\n        pass",
        "try:\n        env.levels\n    except (TypeError, AttributeError):\n        pass",
    ],
)
def test_a_probe_is_found_and_may_be_listed_with_a_reason(tmp_path, capsys, line):
    text = f"class A:\n  def f(self, env, name, heads):\n    {line}\n"
    assert check(tmp_path, text) == 1
    assert "envs/toy.py:" in (out := capsys.readouterr().out) and "'envs/toy.py::A.f'" in out
    assert check(tmp_path, text, {"envs/toy.py::A.f": "a reason"}) == 0


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(env, Leveled)",
        "[getattr(self, field.name) for field in fields]",
        "getattr(self, f'_on_{name}')()",
        "env.getattr('levels')",
        "try:\n        env.levels\n    except ValueError:\n        pass",
    ],
)
def test_other_ways_to_read_an_attribute_pass(tmp_path, line):
    assert check(tmp_path, f"def f(self, env, name, fields):\n    {line}\n") == 0


def test_an_exception_without_a_probe_is_reported(tmp_path, capsys):
    assert check(tmp_path, "x = 1\n", {"envs/toy.py::f": "gone"}) == 1
    assert "envs/toy.py::f: listed as an exception" in capsys.readouterr().out
