import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


layers, size = load("layers"), load("size")


def tree(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / "verbot" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_tree_keeps_the_rule():
    assert layers.main() == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data/storage/writer.py", "from verbot.envs import make_env"),
        ("data/storage/writer.py", "import verbot.models.tokens"),
        ("data/storage/writer.py", "from ...policy import load_policy"),
        ("data/storage/writer.py", "def f():\n    from verbot.policy.policy import load_policy"),
        ("data/storage/writer.py", "import importlib\nimportlib.import_module('verbot.envs')"),
        ("data/storage/writer.py", "import verbot"),
        ("data/storage/writer.py", "from verbot import Observation"),
        ("spec.py", "from verbot.registry import Registry"),
        ("training/imitation/loop.py", "from verbot.evaluation import evaluate"),
        ("rollout/vector.py", "from verbot.policy.policy import load_policy"),
        ("deploy/server.py", "from verbot.models import network"),
        ("teleop/session.py", "from verbot.policy.policy import load_policy"),
        ("console/page.py", "from verbot.recipes import recipes"),
        ("recipes/starter.py", "from verbot.cli import main"),
        ("newcomer.py", "from verbot.spec import Camera"),
    ],
)
def test_a_violation_is_found(tmp_path, capsys, name, text):
    assert layers.main(tree(tmp_path, {name: text})) == 1
    assert f"verbot/{name}:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["env.step(a)", "self._env.step(a)", "make_env('x').step(a)", "envs[0].step(a)", "f = toy_env.step"]
)
def test_an_env_is_stepped_in_the_loop_alone(tmp_path, capsys, text):
    source = tmp_path / "src"
    assert layers.main(tree(source, {"rollout/episode.py": text, "envs/physics.py": "world.step(a)\noptimizer.step()"})) == 0
    tree(source, {"training/rl/envs.py": text})
    assert layers.main(source) == 1
    assert "verbot/training/rl/envs.py:1: steps an env" in capsys.readouterr().out
    (source / "verbot/training/rl/envs.py").unlink()
    for folder in layers.SCRIPTS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "study.py").write_text(f"x = 1\n{text}\n")
        assert layers.main(source) == 1
        assert f"{folder}/study.py:2: steps an env" in capsys.readouterr().out
        (tmp_path / folder / "study.py").unlink()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data/storage/writer.py", "from verbot.spec import Camera\nfrom verbot.data import windows\nfrom . import video"),
        ("spec.py", "from verbot.errors import SpecError"),
        ("policy.py", "from verbot.models.network import VLANetwork\nimport verbot.transforms"),
        ("cli.py", "def f():\n    from verbot.recipes import recipes"),
        ("__init__.py", "from verbot.recipes import train"),
    ],
)
def test_what_is_allowed_passes(tmp_path, name, text):
    assert layers.main(tree(tmp_path, {name: text})) == 0


def test_a_long_function_must_be_listed(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("def f():\n" + "    pass\n" * 60)
    assert size.main(tmp_path, {}) == 1
    assert "src/a.py::f: 61 lines, limit 60" in capsys.readouterr().out
    assert size.main(tmp_path, {"src/a.py::f": "a table"}) == 0
    assert "61 lines, limit 60: a table" in capsys.readouterr().out


def test_a_long_file_must_be_listed_and_a_short_one_not(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\n" * 401)
    assert size.main(tmp_path, {}) == 1
    assert size.main(tmp_path, {"src/a.py": "a table", "src/b.py": "gone"}) == 1
    assert "src/b.py: listed as an exception" in capsys.readouterr().out


@pytest.mark.parametrize("second", ["from verbot.data.a import A", "def f():\n    from verbot.data.a import A"])
def test_an_import_circle_inside_a_package_is_found(tmp_path, capsys, second):
    source = tree(tmp_path, {"data/__init__.py": "", "data/a.py": "from verbot.data import b", "data/b.py": "import numpy"})
    assert layers.main(source) == 0
    tree(tmp_path, {"data/b.py": second})
    assert layers.main(source) == 1
    assert "import circle: verbot.data.a, verbot.data.b" in capsys.readouterr().out
