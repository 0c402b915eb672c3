"""A policy folder is what was saved, or is refused in one line before anything large is made of it."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from verbot.errors import CorruptFileError, PolicyError
from verbot.files import sha256
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part
from verbot.policy.identity import policy_identity
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.spec import Camera, Component, RobotSpec
from verbot.statistics import Statistics

VALUES = (None, True, -1, 0, 2.5, 10**6, 10**18, math.nan, math.inf, "", "text", "64", [], [1], ["a"], [math.nan], {}, {"a": 1})


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    vector = (Component("arm", "joint_position", ("a", "b"), "rad", "base", (-1.0, -1.0), (1.0, 1.0)),)
    spec, rng = RobotSpec("tiny", 10.0, (Camera("front", 16, 16),), vector, vector), np.random.default_rng(0)
    statistics = Statistics.of({name: rng.normal(size=(20, 2)) for name in ("state", "action")})
    config = NetworkConfig(width=8, chunk=2, fusion=Part("mlp", {"hidden": 8}))
    root = tmp_path_factory.mktemp("policies") / "saved"
    VLAPolicy.create(config, spec, statistics, ["pick it up"]).save(root)
    return root


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    root = tmp_path / "policy"
    root.mkdir()
    for path in saved.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    return root


def table(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / name).read_text())


def put(root: Path, name: str, record: Any) -> None:
    """Write a file, and its sha256 into the manifest, so that its content is read."""
    (root / name).write_bytes(record if isinstance(record, bytes) else json.dumps(record).encode())
    if name != "manifest.json":
        manifest = table(root, "manifest.json")
        manifest["sha256"][name] = sha256((root / name).read_bytes())
        put(root, "manifest.json", manifest)


def put_weights(root: Path, weights: dict[str, np.ndarray]) -> None:
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, root / "weights.safetensors")
    put(root, "weights.safetensors", (root / "weights.safetensors").read_bytes())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_named(folder, value):
    weights = load_file(folder / "weights.safetensors")
    name = next(name for name, weight in weights.items() if weight.ndim == 2)
    put_weights(folder, {**weights, name: np.full_like(weights[name], value)})
    with pytest.raises(PolicyError, match=f"weights.safetensors: the weight {name} is not finite"):
        load_policy(folder)
    put_weights(folder, weights)
    load_policy(folder)
    statistics, record = table(folder, "statistics.json"), table(folder, "policy.json")
    put(folder, "statistics.json", {**statistics, "action": {**statistics["action"], "q50": [0.0, value]}})
    with pytest.raises(PolicyError, match="statistics.json: the quantile 0.5 of 'action' is (nan|inf) in dimension 1"):
        load_policy(folder)
    put(folder, "statistics.json", statistics)
    record["spec"]["action"][0]["high"][1] = value
    put(folder, "policy.json", record)
    with pytest.raises(PolicyError, match=r"policy.json: .*action.*(nan|inf)"):
        load_policy(folder)


def test_statistics_of_another_length_are_named(folder):
    short = Statistics.of({name: np.eye(3)[:, :1] for name in ("state", "action")})
    put(folder, "statistics.json", short.to_json())
    with pytest.raises(PolicyError, match="has statistics of 1 numbers of 'action'; the robot has 2"):
        load_policy(folder)


@pytest.mark.parametrize(("name", "value"), [("width", 10**6), ("chunk", 10**6), ("history", 10**9), ("width", 10**9)])
def test_a_network_that_its_weights_cannot_fill_is_not_allocated(folder, name, value):
    record = table(folder, "policy.json")
    record["network"][name] = value
    put(folder, "policy.json", record)
    tracemalloc.start()
    try:
        with pytest.raises(PolicyError, match=r"far larger|too large|at most"):
            load_policy(folder)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_weights_of_another_network_are_named(folder):
    weights = load_file(folder / "weights.safetensors")
    name = next(iter(weights))
    put_weights(folder, {each: value for each, value in weights.items() if each != name})
    with pytest.raises(PolicyError, match=f"lacks 1 weights of the network, among them {name}"):
        load_policy(folder)
    put_weights(folder, {**weights, "more": np.zeros(1, np.float32)})
    with pytest.raises(PolicyError, match="has 1 weights that the network lacks, among them more"):
        load_policy(folder)
    put_weights(folder, {**weights, name: np.zeros((2, 2, 2, 2, 2), np.float32)})
    with pytest.raises(PolicyError, match=f"the weight {name} is .2, 2, 2, 2, 2. of float32; the network has"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "a/b.json", "link", ""])
def test_a_manifest_names_only_files_of_its_folder(folder, name):
    (folder.parent / "outside.json").write_text("{}")
    (folder / "link").symlink_to(folder.parent / "outside.json")
    manifest = table(folder, "manifest.json")
    put(folder, "manifest.json", {**manifest, "sha256": {**manifest["sha256"], name: sha256(b"{}")}})
    for read in (load_policy, policy_identity):
        with pytest.raises(CorruptFileError, match="manifest.json: names"):
            read(folder)


def test_an_unknown_format_is_refused_before_anything_else(folder):
    put(folder, "manifest.json", {"format": "verbot-policy/9", "sha256": {}})
    with pytest.raises(PolicyError, match=r"format is 'verbot-policy/9'; this version of verbot reads 'verbot-policy/2' and"):
        load_policy(folder)


def test_a_file_that_is_a_pipe_is_refused(folder):
    (folder / "statistics.json").unlink()
    os.mkfifo(folder / "statistics.json")
    with pytest.raises(CorruptFileError, match=r"statistics.json"):
        load_policy(folder)


def test_every_changed_field_is_refused_in_one_line(folder):
    rng = random.Random(0)
    originals = {name: table(folder, name) for name in ("policy.json", "statistics.json", "manifest.json")}
    said: list[str] = []
    for number in range(60):
        name = ("policy.json", "policy.json", "statistics.json", "manifest.json")[number % 4]
        keys = rng.choice([keys for keys in fields(originals[name]) if keys])
        put(folder, name, changed(originals[name], keys, rng.choice(VALUES)))
        try:
            load_policy(folder)
        except (PolicyError, CorruptFileError) as error:
            said.append(str(error))
        for each, record in originals.items():
            (folder / each).write_text(json.dumps(record))
        put(folder, "statistics.json", originals["statistics.json"])
        put(folder, "policy.json", originals["policy.json"])
    assert len(said) > 30 and not any("\n" in each for each in said)


def fields(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from ((key, *rest) for rest in fields(value[key]))


def changed(value: Any, keys: tuple[Any, ...], change: Any) -> Any:
    if not keys:
        return change
    value = copy.copy(value)
    value[keys[0]] = changed(value[keys[0]], keys[1:], change)
    return value
