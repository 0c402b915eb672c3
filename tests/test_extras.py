"""Every command that an extra promises works without the other extras; the others say in one line what to install."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = ROOT / "tests" / "without"  # its sitecustomize.py hides packages
spec = importlib.util.spec_from_file_location("extras", ROOT / "tools" / "extras.py")
extras = importlib.util.module_from_spec(spec)
sys.modules["extras"] = extras
spec.loader.exec_module(extras)


# Workers are forked from a process that has imported torch, and lacks the same packages; see `warm_workers.py`.
WARM = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from warm_workers import new_start
sys.path.pop(0)
from verbot.parallel import workers
workers._start = new_start(workers._start, {{"process": None, "use": True}})
"""


def without(modules):
    path = os.pathsep.join([str(WITHOUT), str(ROOT / "src")])
    return {"VERBOT_TEST_MISSING": ",".join(modules), "PYTHONPATH": path}


def python(code, modules=()):
    """What `code` prints where these packages look as if they were not installed."""
    env = {**os.environ, **without(modules)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", extras.PROMISES, ids=lambda name: name or "core")
def test_every_command_that_the_extras_promise_works(name, tmp_path):
    before = WARM if "torch" in name.split(",") else ""
    assert not extras.check(name, tmp_path, sys.executable, without(extras.hidden(name)), before)


def test_every_extra_has_its_modules_and_every_command_is_promised():
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert set(extras.MODULES) == known - {"dev", "docs"}
    from verbot.cli import COMMANDS

    promised = " ".join(command for promise in extras.PROMISES.values() for command in promise.works)
    absent = [name for name in COMMANDS if not re.search(rf"(^| ){name}( |$)", promised)]
    # They need a recording of another format, and an arm; other tests have both.
    assert absent == ["data import", "robot calibrate"]


def test_a_hidden_package_looks_as_if_it_were_not_installed():
    code = (
        "import importlib.util, importlib.metadata as m\n"
        "print(importlib.util.find_spec('torch'), [d for d in m.distributions() if d.metadata['Name'] == 'torch'])\n"
        "try: import torch.nn\nexcept ModuleNotFoundError as e: print(e.name)"
    )
    assert python(code, ["torch"]) == "None []\ntorch\n"


def test_listing_imports_nothing_heavy_and_says_what_is_missing():
    code = "import sys\nfrom verbot.workflows.inspect import listing\nprint(*listing(), sep='\\n')\nprint(' '.join(sys.modules))"
    *lines, loaded = python(code).splitlines()
    assert not {"torch", "mujoco", "transformers", "stable_baselines3", "h5py", "mcap"}.intersection(loaded.split())
    assert "heads: action_tokens, bins, cvae" in "\n".join(lines)
    hidden = dict(line.split(": ", 1) for line in python(code, extras.hidden("")).splitlines()[:-1])
    assert hidden["envs"].startswith("navigation, navigation-compass; tabletop, tabletop-full")
    assert hidden["envs"].endswith("(pip install 'verbot[sim]')")
    models = hidden["reward-models"]
    assert models == "openai; matcher (pip install 'verbot[torch]'); huggingface (pip install 'verbot[torch,hf]')"
    assert hidden["recipes"].endswith("navigation-ppo, starter-ppo (pip install 'verbot[torch,rl]')")


def test_every_listed_part_is_there_or_names_what_it_needs():
    code = (
        "from verbot.workflows.inspect import _registries\n"
        "from verbot.errors import MissingDependencyError\n"
        "for registry in _registries():\n"
        "    for name in registry.names():\n"
        "        try: registry.get(name)\n"
        "        except MissingDependencyError as error: assert registry.missing(name), (registry.kind, name, error)\n"
        "        else: print(registry.kind, name)"
    )
    found = python(code, ["torch"]).splitlines()
    assert "dataset format hdf5" in found and "reward model openai" in found
    assert not [line for line in found if line.startswith(("head ", "fusion ", "vision encoder "))]


def test_doctor_says_which_commands_work_and_what_the_others_need():
    from verbot.cli import COMMANDS
    from verbot.workflows import doctor

    listed = ", ".join(doctor.COMMANDS).replace(":", ",").replace("verbot ", "").replace(";", ",") + ","
    assert not [name for name in COMMANDS if f"{name}," not in listed and f"{name} --" not in listed and name != "doctor"], listed
    known = {module for modules in extras.MODULES.values() for module in modules}
    assert {module for modules in doctor.COMMANDS.values() for module in modules} <= known
    code = "from verbot.workflows.doctor import _commands\nfor f in _commands(): print(f.good, f.what, '|', f.detail)"
    core = python(code, extras.hidden("")).splitlines()
    assert "True verbot list | works" in core
    assert "False verbot demo, train, config | needs torch, mujoco: pip install 'verbot[torch,sim]'" in core
    simulated = python(code, extras.hidden("sim")).splitlines()
    assert "False verbot demo, train, config | needs torch: pip install 'verbot[torch]'" in simulated
    playing = "verbot collect, teleop, evaluate, compare, robustness, watch, console: the expert or a policy server"
    assert f"True {playing}, in the tabletop | works" in simulated
    assert all(
        line.startswith("True") for line in python(code, ["ray"]).splitlines() if "ray" not in line and "speech" not in line
    )
