"""Policies, configurations and checkpoints of format 1 are read, and mean what they did."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import record

from verbot.configuration import build, load_yaml, to_plain
from verbot.errors import PolicyError, VerbotDeprecationWarning
from verbot.models.format_1 import network_record, weight_name
from verbot.models.network import NetworkConfig, Objective
from verbot.models.registries import contrastive_losses, language_encoders
from verbot.policy.policy import FORMAT, VLAPolicy
from verbot.policy.storage import MANIFEST, STARTER, sha256
from verbot.spec import Observation
from verbot.training import TrainConfig
from verbot.training.distributed.optimizer import Optimizer
from verbot.training.imitation.records import OptimizerConfig

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format_1"
TEXTS = ("pick up the red cube", "push the green ball to the left")


def to_the_bit() -> bool:
    """Whether this machine computes as that of the golden records, which also wrote the fixture."""
    known = json.loads((Path(record.__file__).parent / "fingerprint.json").read_text())
    here = json.loads(json.dumps({"packages": {"torch": version("torch")}, "processor": record._processor()}))
    return here["packages"]["torch"] == known["packages"]["torch"] and here["processor"] == known["processor"]


def predictions(policy: VLAPolicy) -> dict[str, np.ndarray]:
    """Three predictions of two episodes, each given the memory of the one before."""
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    with np.load(FIXTURE / "predictions.npz") as known:
        memories = [None, None]
        for step in range(3):
            seen = [
                Observation(
                    {name: known[f"{step} image {name}"][row] for name in ("front", "wrist")},
                    known[f"{step} state"][row],
                    TEXTS[row],
                    time_s=0.1 * step,
                    memory=memories[row],
                )
                for row in range(2)
            ]
            chunks = policy.predict(seen)
            memories = [chunk.memory for chunk in chunks]
            found |= {f"{step} actions": np.stack([chunk.values for chunk in chunks])}
            found |= {f"{step} value": np.array([chunk.value for chunk in chunks])}
            found |= {f"{step} {name}": np.stack([chunk.extras[name] for chunk in chunks]) for name in ("keypoints", "grasp")}
            found |= {f"{step} alignment": np.array([chunk.extras["alignment"] for chunk in chunks])}
            found |= {f"{step} tasks": np.array([list(chunk.extras["tasks"].values()) for chunk in chunks])}
    return found


def test_a_policy_of_format_1_predicts_the_same_and_is_saved_as_format_2(tmp_path):
    """The fixture was written by the last version of format 1: every objective, a memory, the previous action."""
    policy = VLAPolicy.load(FIXTURE / "policy")
    with np.load(FIXTURE / "predictions.npz") as known:
        for name, found in predictions(policy).items():
            if to_the_bit():
                np.testing.assert_array_equal(found, known[name], err_msg=name)
            np.testing.assert_allclose(found, known[name], atol=1e-5, err_msg=name)
    policy.save(tmp_path / "new")
    written = json.loads((tmp_path / "new" / "policy.json").read_text())
    assert written["format"] == FORMAT == "verbot-policy/2"
    assert not set(written["network"]) & {f"{name}_weight" for name in ("keypoint", "value", "recall")}
    for (name, one), two in zip(predictions(policy).items(), predictions(VLAPolicy.load(tmp_path / "new")).values(), strict=True):
        np.testing.assert_array_equal(one, two, err_msg=name)


def test_the_network_of_format_1_has_todays_objectives():
    config = VLAPolicy.load(FIXTURE / "policy").config
    assert list(config.objectives) == [
        "action", "task_classification", "keypoints", "grounding_queries", "keypoint_memory", "value", "contrastive",
        "grasp_state",
    ]  # fmt: skip
    assert config.objectives["value"] == Objective(0.1, {"discount": 0.9})
    assert config.objectives["contrastive"] == Objective(0.7, {"kind": "siglip", "space": 8})
    assert config.objectives["task_classification"].weight == 0.2
    assert (config.loss_weighting, config.previous_action_dropout, config.task_embeddings) == ("uncertainty", 0.25, 2)
    assert config.language.name == "word_embedding"


def test_a_plain_record_gets_the_usual_objectives():
    assert build(NetworkConfig, network_record({"keypoint_weight": 1.0, "width": 32})) == NetworkConfig(width=32)
    pretrained = network_record({"action_weight": 0.0, "keypoint_weight": 0.0, "contrast": {"name": "clip", "options": {}}})
    assert {name: each["weight"] for name, each in pretrained["objectives"].items()} == {
        "action": 0.0, "keypoints": 0.0, "grounding_queries": 0.0, "contrastive": 1.0,
    }  # fmt: skip
    today = to_plain(NetworkConfig())
    assert network_record(today) is today


def test_the_configuration_of_a_run_is_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: {datasets: [there]}\nbudget: {steps: 3}\naugment: {questions: 4}\n"
        "network: {language: {name: words, options: {}}, keypoint_weight: 0.5, recall_weight: 1.0, acted: {name: action}}\n"
    )
    with pytest.warns(VerbotDeprecationWarning, match="questions → grounding_queries"):
        config = load_yaml(TrainConfig, path)
    assert config.augment.grounding_queries == 4
    assert {name: each.weight for name, each in config.network.objectives.items()} == {
        "action": 1.0, "keypoints": 0.5, "grounding_queries": 0.5, "keypoint_memory": 1.0,
    }  # fmt: skip
    assert config.network.previous_action is not None


def test_a_checkpoint_of_format_1_goes_on():
    """Its weights are one vector, in the same order under other names."""
    network = VLAPolicy.load(FIXTURE / "policy").network
    optimizer = Optimizer(network, OptimizerConfig())
    old = {old_name(name): shape for name, shape in optimizer.layout.items()}
    assert set(old) != set(optimizer.layout)
    state = {name: value.clone() + 1 for name, value in optimizer.state().items()}
    optimizer.restore(state, old)
    assert torch.equal(optimizer.weights, state["weights"])


def old_name(name: str) -> str:
    """The name in format 1 of a weight of the fixture."""
    changes = {
        "objectives.keypoint_memory.": "recall.", "objectives.value.": "value.", "objectives.contrastive.pair.": "contrast.",
        "objectives.grasp_state.": "grasp.", "weighting.": "balance.", "task_embeddings.": "tasks.",
    }  # fmt: skip
    for new, old in changes.items():
        name = old + name.removeprefix(new) if name.startswith(new) else name
    name = "acted." + name.removeprefix("previous_action.") if name.startswith("previous_action.") else name
    return name.replace(".norms.previous_action", ".norms.acted").replace(".kinds.previous_action", ".kinds.acted")


def test_names_of_weights_are_mapped_once():
    network = VLAPolicy.load(FIXTURE / "policy").network
    for name in network.state_dict():
        assert weight_name(name) == name, "today's names stay"
        assert weight_name(old_name(name)) == name
        assert weight_name(f"1.{old_name(name)}") == f"1.{name}", "of another robot of the run"
        assert weight_name(f"actor.network.{old_name(name)}") == f"actor.network.{name}", "of a run of reinforcement"


def test_an_unknown_format_is_named(tmp_path):
    policy = VLAPolicy.load(FIXTURE / "policy")
    policy.save(tmp_path / "p")
    path, manifest = tmp_path / "p" / "policy.json", tmp_path / "p" / MANIFEST
    path.write_text(path.read_text().replace(FORMAT, "verbot-policy/9"))
    sealed = json.loads(manifest.read_text())
    sealed["sha256"]["policy.json"] = sha256(path.read_bytes())
    manifest.write_text(json.dumps(sealed))
    with pytest.raises(PolicyError, match="format is 'verbot-policy/9'; .* reads 'verbot-policy/2' and 'verbot-policy/1'.*newer"):
        VLAPolicy.load(tmp_path / "p")


def test_the_starter_policy_is_of_format_2():
    assert json.loads((Path(STARTER) / "policy.json").read_text())["format"] == FORMAT


def test_old_names_of_parts_stand_for_their_successors():
    for registry, old, new in ((language_encoders, "words", "word_embedding"), (contrastive_losses, "match", "siglip")):
        with pytest.warns(VerbotDeprecationWarning, match=f"{old!r} is now called {new!r}"):
            assert registry.get(old) is registry.get(new)
        assert old not in registry.names()
