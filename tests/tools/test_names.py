import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("names", ROOT / "tools" / "names.py")
names = importlib.util.module_from_spec(spec)
sys.modules["names"] = names
spec.loader.exec_module(names)


def check(tmp_path, files):
    package = tmp_path / "verbot"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return names.main(package)


def test_the_tree_defines_each_public_name_once():
    assert names.main() == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("class Episode: ...", "class Episode: ..."),
        ("class Episode: ...", "Episode = dict[str, int]"),
        ("Goal = dict", "Goal: TypeAlias = dict"),
        ("class CVAE: ...", "class CVAE: ..."),
        ("class HFVision: ...", "if True:\n    class HFVision: ..."),
    ],
)
def test_a_second_class_or_alias_is_found_with_both_places(tmp_path, capsys, first, second):
    assert check(tmp_path, {"data/a.py": f"\n{first}\n", "envs/b.py": second}) == 1
    assert "is defined in data/a.py:2, envs/b.py:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "exported",
    [
        '__all__ = ["train"]\n',
        "from verbot.training.loop import train\n",
        "if TYPE_CHECKING:\n    from verbot.training.loop import train\n",
        "from .loop import train\n",
        '__all__ = ["train"]\n\n\ndef train(): ...\n',
    ],
)
def test_a_second_definition_of_an_exported_function_is_found(tmp_path, capsys, exported):
    files = {"training/__init__.py": exported, "training/loop.py": "def train(): ...", "cli.py": "def train(): ..."}
    assert check(tmp_path, files) == 1
    assert "train is defined in cli.py:1, training/" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "class _Block: ...",
        "def find(): ...",
        "COLORS = {}",
        "T = TypeVar('T')",
        "class Own:\n    class Inner: ...\n    def find(self): ...",
        "from verbot.errors import ConfigError",
    ],
)
def test_private_names_functions_constants_and_imports_may_repeat(tmp_path, text):
    own = text.replace("Own", "Other")
    assert check(tmp_path, {"__init__.py": "", "a.py": text, "b.py": own}) == 0


def test_what_a_package_with_all_only_imports_may_repeat(tmp_path):
    init = 'from verbot.configuration import build\n\n__all__ = ["run"]\n'
    files = {"evaluation/__init__.py": init, "configuration.py": "def build(): ...", "towers.py": "def build(): ..."}
    assert check(tmp_path, files) == 0


def test_the_branches_of_an_if_define_a_name_once(tmp_path):
    assert check(tmp_path, {"a.py": "if True:\n    class Viewer: ...\nelse:\n    class Viewer: ...\n"}) == 0
