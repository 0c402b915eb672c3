"""Both multi-task recipes from their names to policies that act; every robot gets its own demonstrations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import verbot
from verbot.data import open_dataset
from verbot.errors import ConfigError
from verbot.policy.opening import load_policy
from verbot.recipes.config import resolve
from verbot.rollout.collect import collect
from verbot.spec import Observation
from verbot.workflows import stages

FEW = {"steps": 3, "batch_size": 4, "processes": 1, "warmup_steps": 1, "validation.batches": 1, "validation.share": 0.25}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Four demonstrations on the table, four on the floor."""
    paths = []
    for suite in ("tabletop-starter", "navigation-compass"):
        paths.append(str(tmp_path_factory.mktemp("datasets") / suite))
        collect(suite, paths[-1], 4, workers=1)
    return paths


def predicted(policy, path):
    episode = open_dataset(path)[0]
    images = {camera: episode.images(camera)[0] for camera in policy.spec.camera_names}
    (chunk,) = policy.predict([Observation(images, episode.states[0], episode.instruction)])
    return chunk


def test_two_robots_learn_four_tasks_with_encoders_in_common(datasets, tmp_path):
    result = verbot.train("multi-task-net", data=datasets[::-1], out=tmp_path, progress=False, **FEW)
    assert (result.steps, result.finished) == (3, True)
    folders = ("policy", "policy-navigation-rover")
    arm, rover = (load_policy(tmp_path / name) for name in folders)
    assert (arm.spec.name, rover.spec.name) == tuple(open_dataset(path).spec.name for path in datasets)
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in folders]
    same = {name for name in weights[0] if name in weights[1] and torch.equal(weights[0][name], weights[1][name])}
    assert {"vision.trunks.0.stem.weight", "sentence.query", "fusion.blocks.0.attention.query.weight"} <= same
    assert "head.out.weight" not in same
    assert {name: weight for name, weight in arm.network.weighting.weights.items() if weight} == {
        "action": 1, "keypoints": 1, "grounding_queries": 1, "grasp_state": 0.1
    }  # fmt: skip
    assert {name: weight for name, weight in rover.network.weighting.weights.items() if weight} == {
        "action": 0.3, "keypoints": 0.3, "grounding_queries": 0.3
    }  # fmt: skip
    manipulated, navigated = predicted(arm, datasets[0]), predicted(rover, datasets[1])
    assert manipulated.values.shape == (10, 7)
    assert manipulated.extras["grasp"].shape == (8,)
    assert set(np.unique(navigated.values)) <= set(range(7)), "the rover's own choices"
    assert "grasp" not in navigated.extras


def test_the_starter_names_its_tasks(datasets, tmp_path):
    result = verbot.train("multi-task", data=datasets[0], out=tmp_path, progress=False, **FEW)
    policy = load_policy(result.policy)
    recorded = {episode.extras["request"]["task"] for episode in open_dataset(datasets[0])}
    assert policy.config.head_tasks == tuple(sorted(recorded))
    assert set(predicted(policy, datasets[0]).extras["tasks"]) == recorded


def test_a_robot_without_demonstrations_is_named(datasets, tmp_path):
    with pytest.raises(ConfigError, match="navigation-rover would have nothing to train on: the datasets are of tabletop"):
        verbot.train("multi-task-net", data=datasets[0], out=tmp_path, progress=False, **FEW)
    with pytest.raises(ConfigError, match="the first robot would have nothing to train on: the datasets are of navigation-rover"):
        verbot.train("multi-task-net", data=datasets[1], out=tmp_path, progress=False, **FEW)


def test_the_recipe_gathers_the_demonstrations_of_both(tmp_path, monkeypatch):
    gathered = []
    monkeypatch.setattr(stages.collect, "run", lambda config, path, progress: gathered.append((config.env, path)))
    found = stages.all_demonstrations(resolve("multi-task-net"), tmp_path / "dataset", progress=False)
    assert [path.name for path in found] == ["dataset", "dataset-navigation-compass"]
    assert set(gathered) == {("tabletop-starter", found[0]), ("navigation-compass", found[1])}
