"""The files of a policy that LeRobot saved: its features, its statistics, and where they are in each of its versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from verbot.errors import ConfigError, CorruptFileError
from verbot.files import read_record
from verbot.models.trunks.weights import COMPILED, TensorFiles
from verbot.policy.published.base import record_of
from verbot.policy.published.scaling import NEEDED, Scaling
from verbot.policy.published.specs import generic_spec
from verbot.spec import Float64Array, RobotSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
STEPS = {PREPROCESSOR: "normalizer_processor", POSTPROCESSOR: "unnormalizer_processor"}
STATE, ENVIRONMENT, ACTION, IMAGES = "observation.state", "observation.environment_state", "action", "observation.image"
BUFFER = re.compile(r"(?:model\.)?(normalize_inputs|unnormalize_outputs)\.buffer_(.+)\.(\w+)")
OTHERS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "train_config.json")
LEAST_STEPS = ("chunk_size", "n_action_steps", "n_obs_steps", "horizon")


def is_lerobot(folder: Path, *kinds: str) -> bool:
    """Whether `folder` holds a policy of LeRobot of one of these types."""
    return record_of(folder).get("type") in kinds


@dataclass(frozen=True)
class LeRobotFiles:
    """A folder of LeRobot.

    Args:
        config: the content of its ``config.json``.
        tensors: of its weights.
        statistics: of each feature, by its name and that of the statistic.
        epsilon: of the normalization.
        kept: the files beside the weights that it is made of.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: TensorFiles
    statistics: Mapping[str, Mapping[str, Float64Array]]
    epsilon: float
    kept: tuple[str, ...]

    @staticmethod
    def read(folder: Path) -> LeRobotFiles:
        """Raises `CorruptFileError` for a file that cannot be read, `ConfigError` for features that make no policy."""
        config, tensors = read_record(folder / CONFIG), TensorFiles.find(folder, WEIGHTS)
        for name in ("input_features", "output_features"):
            if not isinstance(config.get(name), dict):
                raise ConfigError(
                    f"{folder / CONFIG} has no table {name}; files of LeRobot from before 2025 need its migration script first"
                )
        for name in LEAST_STEPS:
            if name in config and not (type(config[name]) is int and 1 <= config[name] <= 4096):
                raise ConfigError(f"{folder / CONFIG}: {name} is {config[name]!r}; expected a whole number from 1 to 4096")
        statistics, epsilon, files = _statistics(folder, tensors)
        kept = (CONFIG, *files, *(name for name in OTHERS if (folder / name).is_file()))
        return LeRobotFiles(folder, config, tensors, statistics, epsilon, kept)

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Height and width of each camera, by the name of its feature, in the order in which the policy reads them."""
        found = {}
        for name, feature in self.config["input_features"].items():
            if isinstance(feature, dict) and feature.get("type") == "VISUAL":
                shape = feature.get("shape")
                if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
                    raise ConfigError(f"{self.folder / CONFIG}: the shape of {name} is {shape!r}; expected [3, height, width]")
                found[name] = (shape[1], shape[2])
        return found

    def size(self, name: str, features: str = "input_features") -> int:
        """The numbers of a feature; 0 if there is none."""
        feature = self.config[features].get(name)
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if feature is None:
            return 0
        if not (isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int and 0 < shape[0] <= 4096):
            raise ConfigError(f"{self.folder / CONFIG}: the shape of {name} is {shape!r}; expected one whole number")
        return shape[0]

    @property
    def action_size(self) -> int:
        """Raises `ConfigError` if there is no action."""
        size = self.size(ACTION, "output_features")
        if not size:
            raise ConfigError(f"{self.folder / CONFIG} has no output feature {ACTION!r}; a policy needs one")
        return size

    def number(self, name: str, default: float) -> float:
        value = self.config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise ConfigError(f"{self.folder / CONFIG}: {name} is {value!r}; expected a number")
        return value

    def whole(self, name: str, default: int) -> int:
        value = self.number(name, default)
        if value != int(value) or value < 1:
            raise ConfigError(f"{self.folder / CONFIG}: {name} is {value!r}; expected a whole number of at least 1")
        return int(value)

    def refuse(self, **unsupported: object) -> None:
        """Raise `ConfigError` if an option is on that changes what is computed, and that this family does not have."""
        for name, off in unsupported.items():
            if self.config.get(name, off) not in (off, None):
                raise ConfigError(
                    f"{self.folder / CONFIG} has {name} {self.config[name]!r}, which verbot does not compute; expected {off!r}"
                )

    def refuse_feature(self, name: str) -> None:
        """Raise `ConfigError` if the policy reads a feature that no observation of verbot has."""
        if name in self.config["input_features"]:
            raise ConfigError(f"{self.folder / CONFIG}: the policy reads {name}, which verbot's observations do not have")

    def scaling(self, kind: str, feature: str, default: str) -> Scaling:
        """How a feature of a kind (``"STATE"``, ``"ACTION"``, ``"VISUAL"``) is normalized."""
        mapping = self.config.get("normalization_mapping") or {}
        method = str(mapping.get(kind, default)) if isinstance(mapping, Mapping) else default
        scaling = Scaling.lerobot(method, self.statistics.get(feature, {}), feature, self.epsilon)
        expected = 3 if kind == "VISUAL" else self.size(feature, "output_features" if kind == "ACTION" else "input_features")
        if scaling.size not in (None, expected):
            raise ConfigError(f"{self.folder} has statistics of {scaling.size} numbers of {feature}; it has {expected}")
        return scaling

    def unscaled(self, *features: tuple[str, str, str]) -> tuple[str, ...]:
        """A note for each feature (kind, name, default method) that is to be normalized, and of which there are no statistics."""
        mapping = self.config.get("normalization_mapping") or {}
        lost = [
            name
            for kind, name, default in features
            if NEEDED.get(str(mapping.get(kind, default))) and name not in self.statistics
        ]
        return tuple(
            f"it has no statistics of {name}, which therefore stays as it is: a base model, to be fine-tuned" for name in lost
        )

    def spec(self) -> RobotSpec:
        robot = str(self.config.get("type", "lerobot"))
        return generic_spec(f"{robot} of LeRobot", self.cameras, self.size(STATE), self.action_size)


def _statistics(folder: Path, tensors: TensorFiles) -> tuple[dict[str, dict[str, Float64Array]], float, list[str]]:
    """The statistics of all features, the epsilon, and the files that hold them; of the buffers of old files without any."""
    found, epsilon, files = dict[str, dict[str, Float64Array]](), 1e-8, list[str]()
    for name, step in STEPS.items():
        if not (folder / name).is_file():
            continue
        files.append(name)
        for each in read_record(folder / name).get("steps") or []:
            own = each if isinstance(each, dict) else {}
            file = own.get("state_file")
            if own.get("registry_name") != step or file is None:
                continue
            if not isinstance(file, str) or Path(file).name != file:
                raise CorruptFileError(folder / name, f"names {file!r}; expected the name of a file in its own folder")
            files.append(file)
            epsilon = float((own.get("config") or {}).get("eps", epsilon))
            for tensor, value in _numbers(folder / file).items():
                feature, _, kind = tensor.rpartition(".")
                # The action's are those of the postprocessor, which is read last.
                found.setdefault(feature, {})[kind] = value
    return (found, epsilon, files) if files else (_buffers(tensors), epsilon, [])


def _numbers(path: Path) -> dict[str, Float64Array]:
    try:
        return {name: np.asarray(value, np.float64).reshape(-1) for name, value in load_file(path).items()}
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise CorruptFileError(path, f"cannot be read as safetensors: {error}") from error


def _buffers(tensors: TensorFiles) -> dict[str, dict[str, Float64Array]]:
    """The statistics that old policies kept among their weights: ``normalize_inputs.buffer_observation_state.mean``."""
    found = dict[str, dict[str, Float64Array]]()
    for name, value in tensors.read([name for name in tensors.files if BUFFER.fullmatch(name.replace(COMPILED, ""))]):
        match = BUFFER.fullmatch(name.replace(COMPILED, ""))
        assert match is not None
        numbers = value.double().numpy().reshape(-1)
        if np.isfinite(numbers).all():  # infinite ones were never set
            found.setdefault(match[2], {})[match[3]] = numbers
    return _Underscored(found)


class _Underscored(dict[str, dict[str, Float64Array]]):
    """Features are found by their names with dots, which the names of buffers replace by underscores."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key.replace(".", "_"), default)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(str(key).replace(".", "_"))
