"""What the files of a policy hold, checked field by field before a network is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from verbot.configuration import build
from verbot.errors import ConfigError, CorruptFileError, DataError, MissingDependencyError, PolicyError, VerbotError
from verbot.models.bounded import bounded_network
from verbot.models.format_1 import network_record, weight_name
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.policy.ahead import stored_model
from verbot.policy.storage import OLDER, check_format, json_table, policy_folder, read
from verbot.policy.stored import CONFIG, STATISTICS, Preprocessing, one_line, shortened, stored_statistics, table_of
from verbot.spec import ForwardModel, RobotSpec
from verbot.spec.checks import with_clean_names
from verbot.spec.messages import MAX_ROWS
from verbot.statistics import Statistics

WEIGHTS = "weights.safetensors"
MOST_PIXELS, MOST_FRAMES = 2**24, 1024  # of the images of a network, and of its history; more is a damaged number
MOST = 2**20  # of any other whole number of a network, unless the weights hold as many
# What a part raises for options that it cannot have; they are plain JSON until then.
UNUSABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError, MemoryError)


@dataclass(frozen=True)
class StoredPolicy:
    """The content of a policy's folder."""

    network: VLANetwork
    spec: RobotSpec
    statistics: Statistics
    preprocessing: Preprocessing
    blind: bool
    forward: ForwardModel
    others: Mapping[str, bytes]  # files of the manifest beside those of the network


def stored_policy(name: str | Path) -> StoredPolicy:
    """The verified content of the folder of the policy called `name`, with every number finite and every weight in its place.

    Raises `PolicyError` that names the file and the field or the weight, `CorruptFileError` for a changed file.
    """
    folder = policy_folder(name)
    files = read(folder, (WEIGHTS, CONFIG, STATISTICS))
    path = folder / CONFIG
    record = json_table(files[CONFIG], path)
    try:
        check_format(record.get("format"), path)
        if not isinstance(record.get("blind"), bool):
            raise ConfigError(f"blind is {record.get('blind')!r}; expected true or false")
        spec = build(RobotSpec, with_clean_names(table_of(record, "spec")), "spec")
        config = _network(record)
        preprocessing = build(Preprocessing, table_of(record, "preprocessing"), "preprocessing")
        forward = stored_model(record, spec)
    except (ConfigError, DataError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise PolicyError(f"{path}: this version of verbot cannot read the policy: {one_line(error)}") from error
    statistics = stored_statistics(files[STATISTICS], spec, folder / STATISTICS)
    weights = _weights(files[WEIGHTS], record["format"] == OLDER, folder / WEIGHTS)
    network = _filled(config, spec, weights, folder)
    others = {name: content for name, content in files.items() if name not in (WEIGHTS, CONFIG, STATISTICS)}
    return StoredPolicy(network, spec, statistics, preprocessing, record["blind"], forward, others)


def _network(record: Mapping[str, Any]) -> NetworkConfig:
    network = table_of(record, "network")
    for place, value in _numbers(network, "network"):
        if not math.isfinite(value):
            raise ConfigError(f"{place} is {value}; expected a number")
    config = NetworkConfig.from_json(network_record(network) if record["format"] == OLDER else network)
    height, width = config.image_size or (1, 1)
    if height * width > MOST_PIXELS or config.chunk > MAX_ROWS or max(config.history, config.sequence) > MOST_FRAMES:
        raise ConfigError(
            f"image_size {config.image_size}, chunk {config.chunk}, history {config.history} or sequence {config.sequence} is "
            f"too large; expected at most {MOST_PIXELS} pixels, {MAX_ROWS} actions and {MOST_FRAMES} frames"
        )
    return config


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Every number in a JSON value, with the keys that lead to it."""
    if isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _numbers(item, f"{place}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value


def _weights(content: bytes, older: bool, path: Path) -> dict[str, Tensor]:
    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise PolicyError(f"{path} is not a file of weights ({one_line(error)})") from error
    return {weight_name(name): value for name, value in weights.items()} if older else weights


def _filled(config: NetworkConfig, spec: RobotSpec, weights: Mapping[str, Tensor], folder: Path) -> VLANetwork:
    """The network with its weights. No more is allocated than the file can fill."""
    path, most = folder / WEIGHTS, max(MOST, sum(weight.numel() for weight in weights.values()))
    try:
        for place, value in _numbers(config.to_json(), "network"):
            if isinstance(value, int) and abs(value) > most:
                raise ConfigError(f"{place} is {shortened(value)}; the weights hold {most} numbers at most")
        network = bounded_network(config, spec, weights)
        compare_weights(network.state_dict(), weights, path)
        network.load_state_dict(dict(weights))
    except (PolicyError, CorruptFileError, MissingDependencyError):
        raise
    except (VerbotError, *UNUSABLE) as error:
        raise PolicyError(f"{folder / CONFIG}: the network of the policy cannot be built: {one_line(error)}") from error
    return network.eval()


def compare_weights(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise `PolicyError` unless `weights` are those of a network: their names, shapes, kinds of numbers, and finite."""
    if other := sorted(set(expected) ^ set(weights)):
        missing = [name for name in other if name in expected]
        said = f"lacks {len(missing)} weights of the network" if missing else f"has {len(other)} weights that the network lacks"
        raise PolicyError(f"{path} {said}, among them {(missing or other)[0]}")
    for name, weight in weights.items():
        wanted = expected[name]
        if weight.shape != wanted.shape or weight.dtype.is_floating_point != wanted.dtype.is_floating_point:
            shapes = [f"{tuple(each.shape)} of {each.dtype}".replace("torch.", "") for each in (weight, wanted)]
            raise PolicyError(f"{path}: the weight {name} is {shapes[0]}; the network has {shapes[1]}")
        if weight.dtype.is_floating_point and not weight.to(wanted.dtype).isfinite().all():
            raise PolicyError(f"{path}: the weight {name} is not finite; the policy cannot act")
