"""Every script that takes its settings from the command line says what they are."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("experiments", "profiling", "tools")
    for path in (ROOT / folder).glob("*.py")
    if "import argparse" in path.read_text() or "import tyro" in path.read_text()
)


def test_every_experiment_and_every_profile_takes_arguments():
    folders = [script.partition("/")[0] for script in SCRIPTS]
    for folder in ("experiments", "profiling"):
        assert folders.count(folder) == len(list((ROOT / folder).glob("*.py")))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_and_lists_its_arguments(script, monkeypatch, capsys):
    for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS"):  # scripts set them; here they are set back
        monkeypatch.setenv(name, "1")
    path, known = ROOT / script, set(sys.modules)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    for name in {"multitask", "scripted"} & (set(sys.modules) - known):
        del sys.modules[name]
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "usage" in shown.lower() and "--help" in shown
