"""Robots that are co-trained share the configured weights, and act alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys import COLORS, PLAIN, SMALL, changed, toy_config

from verbot.data import DatasetWriter, EpisodeRecord
from verbot.errors import ConfigError
from verbot.policy.opening import load_policy
from verbot.spec import Camera, Component, Observation, RobotSpec
from verbot.training import CotrainingEmbodiment, DaggerConfig, checkpoint, read_log, train_policy
from verbot.training.imitation.cotraining import embodiment_config, tie_weights

MOVE = Component("choice", "discrete", ("action",), "1", "robot", (0.0,), (2.0,))
PLACE = Component("position", "position", ("x", "y"), "m", "base", (-1.0,) * 2, (1.0,) * 2)
ROVER = RobotSpec("rover", 5.0, (Camera("top", 16, 16),), (PLACE,), (MOVE,))


@pytest.fixture(scope="module")
def floor(tmp_path_factory) -> str:
    """A robot of other cameras, state and actions than the toy's: choice 2 for red, 0 for blue."""
    path = tmp_path_factory.mktemp("floor") / "floor"
    with DatasetWriter(path, ROVER) as writer:
        for number in range(8):
            color = list(COLORS)[number % 2]
            images = np.full((6, 16, 16, 3), 90, np.uint8)
            images[:, 4:9, 3:8] = COLORS[color]
            states = np.random.default_rng(number).uniform(-0.5, 0.5, (6, 2)).astype(np.float32)
            actions = np.full((6, 1), 2.0 if color == "red" else 0.0, np.float32)
            writer.save_episode(EpisodeRecord(f"go to the {color} cube", states, actions, {"top": images}))
    return str(path)


@pytest.fixture
def both(toy, floor):
    """A configuration of both robots, with whatever changes."""

    def make(shared=("language.*", "vision.trunks.0.*"), **changes):
        rover = CotrainingEmbodiment("rover", dataclasses.replace(SMALL, chunk=2), (floor,), shared, augment=PLAIN)
        return toy_config(toy, cotraining=(rover,), augment=PLAIN, **changes)

    return make


def test_both_learn_and_what_is_shared_is_the_same(both, tmp_path):
    config = both(shared=("language.*", "sentence.*"), steps=60, batch_size=8, learning_rate=5e-3, log_every=5)
    result = train_policy(config, tmp_path, progress=False)
    log = [line for line in read_log(tmp_path) if line["kind"] == "train"]
    assert log[-1]["action"] < 0.8 * log[0]["action"]
    assert log[-1]["rover.action"] < 0.5 * log[0]["rover.action"]
    assert log[0]["loss"] == pytest.approx(log[0]["action"] + log[0]["keypoints"] + log[0]["rover.loss"], rel=1e-5)
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("policy", "policy-rover")]
    same = {name for name in weights[0] if name in weights[1] and torch.equal(weights[0][name], weights[1][name])}
    assert {name for name in weights[0] if name.startswith(("language.", "sentence."))} <= same
    assert "head.out.weight" not in same
    assert not {name for name in same if name.startswith("fusion.layers")}
    assert result.parameters == sum(w.numel() for w in weights[0].values()) + sum(
        w.numel() for name, w in weights[1].items() if not name.startswith(("language.", "sentence."))
    )
    rover = load_policy(tmp_path / "policy-rover")
    assert rover.spec == ROVER
    for color, choice in (("red", 2.0), ("blue", 0.0)):
        image = np.full((16, 16, 3), 90, np.uint8)
        image[4:9, 3:8] = COLORS[color]
        (chunk,) = rover.predict([Observation({"top": image}, np.zeros(2, np.float32), f"go to the {color} cube")])
        assert chunk.values.tolist() == [[choice], [choice]]


def test_four_steps_are_two_and_two_to_the_bit(both, tmp_path):
    config = both()
    train_policy(config, tmp_path / "whole", progress=False)
    assert not train_policy(config, tmp_path / "halves", progress=False, stop_at=2).finished
    train_policy(config, tmp_path / "halves", progress=False)
    for name in ("policy", "policy-rover"):
        a, b = (load_file(tmp_path / run / name / "weights.safetensors") for run in ("whole", "halves"))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert read_log(tmp_path / "halves")[-1]["loss"] == read_log(tmp_path / "whole")[-1]["loss"]
    assert checkpoint.load_latest(tmp_path / "whole" / "checkpoints")[0].step == 4


def test_two_processes_learn_with_cotraining_too(both, tmp_path):
    """Chunks of one action have no padding, over whose rows the two halves of a batch would average differently."""
    seen = []
    for processes in (1, 2):
        config = both(processes=processes, steps=1, validation_share=0.0, network=dataclasses.replace(SMALL, chunk=1))
        train_policy(config, tmp_path / str(processes), progress=False)
        seen.append(read_log(tmp_path / str(processes))[-1])
    assert seen[0]["action"] == pytest.approx(seen[1]["action"], rel=1e-4)
    assert seen[0]["rover.action"] == pytest.approx(seen[1]["rover.action"], rel=0.1), "its chunks have padding"


def test_the_origin_of_a_dataset_is_that_of_one_robot(both, toy):
    config = both(**{"data.origin": toy})
    (rover,) = config.cotraining
    assert embodiment_config(config, rover).data.origin is None
    assert embodiment_config(config, dataclasses.replace(rover, origin="mine")).data.origin == "mine"


def test_only_weights_of_one_name_and_shape_are_shared():
    first = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(2, 2)})
    other = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 2), "b": torch.nn.Linear(2, 2)})
    assert tie_weights(first, other, ("a.*",)) == ["a.bias"], "the matrix has another shape"
    assert other["a"].bias is first["a"].bias and other["b"].weight is not first["b"].weight
    assert tie_weights(first, other, ("b.*", "*.weight")) == ["b.weight", "b.bias", "b.weight"]
    with pytest.raises(ConfigError, match=r"'c\.\*' matches no weight that both networks have"):
        tie_weights(first, other, ("c.*",))


def test_what_cannot_learn_together_is_named(both, toy, tmp_path):
    config = both()
    (rover,) = config.cotraining

    def attempt(*cotraining, **changes):
        train_policy(changed(config, cotraining=cotraining, **changes), tmp_path / "no", progress=False)

    with pytest.raises(ConfigError, match="the co-training embodiment 'rover' has no dataset"):
        attempt(dataclasses.replace(rover, datasets=()))
    with pytest.raises(ConfigError, match="is of the robot 'toy', not of the co-training embodiment 'rover'"):
        attempt(dataclasses.replace(rover, datasets=(toy,)))
    with pytest.raises(ConfigError, match="co-training embodiments are named twice: rover; one robot has one network"):
        attempt(rover, rover)
    with pytest.raises(ConfigError, match="init and dagger cannot be combined with cotraining: they are of one robot"):
        attempt(rover, init_from="policy", dagger=DaggerConfig(rounds=1))
