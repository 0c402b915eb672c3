"""What all published policies have in common: their names, the robot that a person states, evaluation, and fine-tuning."""

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published_checkpoints import observation
from test_published_smolvla import smolvla

sys.path.append(str(Path(__file__).resolve().parents[2] / "evaluation"))
import toy_world

import verbot
from verbot.agents import ChunkAgent
from verbot.agents.guard import Guard
from verbot.contracts import IdentifiedPolicy, Policy, RememberingPolicy, SavablePolicy
from verbot.data.storage.reader import open_dataset
from verbot.data.storage.record import EpisodeRecord
from verbot.data.storage.writer import DatasetWriter
from verbot.errors import ConfigError, CorruptFileError, PolicyError, SpecError
from verbot.evaluation import EvaluationConfig, run_evaluation
from verbot.models.lora import LoraConfig
from verbot.policy.published.base import OpenOptions
from verbot.policy.published.images import padded_center, padded_corner, padded_uint8, unit_range
from verbot.policy.published.opening import family_of, open_published, published_folder
from verbot.policy.published.scaling import Scaling
from verbot.policy.published.specs import RobotMap
from verbot.rollout.episode import play
from verbot.spec import Camera, Component, RobotSpec
from verbot.training.published import FinetuneConfig, finetune_published
from verbot.workflows.load_policy import policy_source, policy_spec

ROBOT = RobotSpec(
    "arm", 20.0, (Camera("left", 12, 16), Camera("right", 12, 16)),
    (
        Component("joints", "joint_position", ("a", "b"), "rad", "base", (-3.0,) * 2, (3.0,) * 2),
        Component("speed", "joint_velocity", ("a", "b"), "rad/s", "base", (-3.0,) * 2, (3.0,) * 2),
        Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,)),
    ),
    (
        Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,)),
        Component("joints", "joint_position", ("a", "b", "c"), "rad", "base", (-3.0,) * 3, (3.0,) * 3),
    ),
)  # fmt: skip
MAP = RobotMap(ROBOT, {"top": "left", "wrist": "right"}, state=("gripper", "joints"), action=("joints", "gripper"))


def test_a_loaded_policy_keeps_the_contract(tmp_path):
    policy = smolvla(tmp_path)
    for protocol in (Policy, SavablePolicy, IdentifiedPolicy, RememberingPolicy):
        assert isinstance(policy, protocol)
    assert policy.predict([]) == [] and policy.memory_bytes == 0
    assert policy.spec.action[0].unit == policy.spec.state[0].unit == "unknown"
    chunk = policy.predict([observation(("top",), 3)])[0]
    chunk.check(policy.spec)
    one, two = (policy.predict([observation(("top",), 3, sample_seed=seed)])[0].values for seed in (1, 2))
    assert not np.array_equal(one, two)
    assert np.array_equal(one, policy.predict([observation(("top",), 3, sample_seed=1)])[0].values)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (observation((), 3), "has none of the cameras top, wrist; it has none"),
        (observation(("top",), 4), r"the state has shape \(4,\); this policy expects \(3,\)"),
        (dataclasses.replace(observation(("top",), 3), images={"top": np.zeros((4, 4))}), r"camera 'top' gave float64 \(4, 4\)"),
    ],
)
def test_an_observation_that_does_not_fit_is_named(tmp_path, seen, said):
    with pytest.raises(SpecError, match=said):
        smolvla(tmp_path).predict([seen])


def test_weights_that_are_not_finite_do_not_act(tmp_path):
    policy = smolvla(tmp_path, lambda weights: {name: value * torch.nan for name, value in weights.items()})
    with pytest.raises(PolicyError, match="predicted actions that are not finite"):
        policy.predict([observation(("top",), 3)])


def test_the_map_orders_cameras_states_and_actions(tmp_path):
    policy = smolvla(tmp_path)
    mapped = policy.on(MAP)
    assert mapped.spec == ROBOT and mapped.network is policy.network
    seen = observation(("left", "right"), 5, size=(12, 16), sample_seed=2)
    own = dataclasses.replace(
        seen, images={"top": seen.images["left"], "wrist": seen.images["right"]}, state=seen.state[[4, 0, 1]]
    )
    assert np.array_equal(mapped.predict([seen])[0].values, policy.predict([own])[0].values[:, [3, 0, 1, 2]])
    with pytest.raises(SpecError, match="lacks camera"):
        mapped.predict([own])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cameras": {"top": "back"}}, "robot 'arm' has no camera 'back'; it has left, right"),
        ({"state": ("wheels",)}, "the state of robot 'arm' has no component 'wheels'"),
        ({"action": ("joints",)}, "the map answers joints; robot 'arm' needs each of gripper, joints once"),
        ({"cameras": {"front": "left"}}, "the policy has no camera 'front'; it has top, wrist"),
        ({"state": ("joints",)}, "the state of the policy has 3 numbers; the components that the map names have 2"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        smolvla(tmp_path).on(dataclasses.replace(MAP, **change))


def test_the_robot_beside_the_files_is_read_and_saved(tmp_path):
    smolvla(tmp_path / "a").on(MAP).save(tmp_path / "b")
    found = verbot.load_policy(f"hf:{tmp_path / 'b'}")
    assert found.robot == MAP and found.spec == ROBOT and policy_spec(f"hf:{tmp_path / 'b'}") == ROBOT
    assert found.identity != smolvla(tmp_path / "a").identity
    (tmp_path / "b" / "robot.json").write_text(json.dumps({"spec": ROBOT.to_json(), "camera": {}}))
    with pytest.raises(ConfigError, match="robot.json does not say which robot the policy is for: it has camera; expected"):
        verbot.load_policy(f"hf:{tmp_path / 'b'}")


def test_a_guard_refuses_a_robot_without_limits(tmp_path):
    policy = smolvla(tmp_path)
    with pytest.raises(ConfigError, match="has no motion limits for 'action'"):
        Guard(policy.spec)


@pytest.fixture
def for_the_toy(tmp_path):
    """A policy with the state and action of the toy env, and its map beside the files."""
    folder = tmp_path / "policy"
    smolvla(folder)
    record = json.loads((folder / "config.json").read_text())
    record["input_features"]["observation.state"]["shape"] = [4]
    record["output_features"]["action"]["shape"] = [1]
    record["normalization_mapping"] = {"STATE": "IDENTITY", "ACTION": "IDENTITY"}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "robot.json").write_text(json.dumps(RobotMap(toy_world.SPEC, {"top": "front"}).to_json()))
    return f"hf:{folder}"


def test_it_acts_in_an_env_through_its_map(for_the_toy):
    source = policy_source(for_the_toy)
    policy = source.load()
    assert source.spec == toy_world.SPEC and source.identity == policy.identity[:16]
    steps = list(itertools.islice(play(toy_world.ToyEnv(), ChunkAgent(policy, 2), {"task": "go", "index": 0}), 6))
    assert len(steps) == 6 and len({float(step.action[0]) for step in steps}) == 6
    pair = [observation(("front",), 4, seed, size=(16, 16)) for seed in (1, 2)]
    alone = [policy.predict([each])[0].values for each in pair]
    assert all(np.array_equal(one, two.values) for one, two in zip(alone, policy.predict(pair), strict=True))


@pytest.mark.soak
def test_it_is_evaluated(for_the_toy, tmp_path):
    config = EvaluationConfig(
        suite="toy", episodes=4, side_episodes=2, videos=0, latency_calls=2, workers=1, baselines=False, conditions=()
    )
    summary = run_evaluation(policy_source(for_the_toy), config, tmp_path / "out", make=toy_world.ToyEnv, progress=False)
    assert summary.exit_code == 0 and summary.metrics["success_rate"].n == 4


def test_names_of_published_policies(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, revision=None, allow_patterns=None, local_files_only=False):
        asked.append((name, revision, local_files_only))
        if local_files_only or name == "some/lost":
            raise OSError
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert published_folder("hf:some/one@v2") == tmp_path and asked == [("some/one", "v2", True), ("some/one", "v2", False)]
    with pytest.raises(PolicyError, match="no published policy 'some/lost': no such folder is here, and the hub did not give it"):
        verbot.load_policy("hf:some/lost")
    for name in ("hf:", "hf:/lost/folder", "hf:one"):
        with pytest.raises(PolicyError, match="expected hf:FOLDER"):
            verbot.load_policy(name)
    smolvla(tmp_path)
    assert family_of(tmp_path) == "smolvla"


def test_shards_are_read_as_one(tmp_path):
    policy = smolvla(tmp_path / "a")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "model.safetensors").unlink()
    names = sorted(weights)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, own in files.items():
        save_file({name: weights[name] for name in own}, tmp_path / "a" / file)
    index = {"weight_map": {name: file for file, own in files.items() for name in own}}
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded, seen = verbot.load_policy(f"hf:{tmp_path / 'a'}"), observation(("top",), 3)
    assert np.array_equal(sharded.predict([seen])[0].values, policy.predict([seen])[0].values)
    with torch.no_grad():
        sharded.network.action_out_proj.bias += 1
    sharded.save(tmp_path / "b")
    again = verbot.load_policy(f"hf:{tmp_path / 'b'}")
    assert torch.equal(again.network.action_out_proj.bias, sharded.network.action_out_proj.bias)
    (tmp_path / "a" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptFileError):
        verbot.load_policy(f"hf:{tmp_path / 'a'}")


def dataset(folder):
    generator = np.random.default_rng(0)
    with DatasetWriter(folder, ROBOT, images="image") as writer:
        for number in range(2):
            images = {name: generator.integers(0, 256, (9, 12, 16, 3), dtype=np.uint8) for name in ("left", "right")}
            state = generator.uniform(0, 1, (9, 5)).astype(np.float32)
            actions = np.full((9, 4), 0.25 + 0.5 * number, np.float32)
            writer.save_episode(EpisodeRecord("go left" if number else "go right", state, actions, images))
    return open_dataset(folder)


def test_adapters_are_trained_on_a_dataset_and_saved_under_published_names(tmp_path):
    policy, recorded = smolvla(tmp_path / "a").on(MAP), dataset(tmp_path / "data")
    before = {name: value.clone() for name, value in policy.network.state_dict().items()}
    reported = []
    config = FinetuneConfig(steps=24, batch=4, lr=1e-2, lora=LoraConfig(rank=4, train=("action_out_proj.*", "expert.norm.*")))
    losses = finetune_published(policy, recorded, config, lambda step, loss: reported.append(step))
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8]) and reported == list(range(24))
    policy.save(tmp_path / "b")
    found = verbot.load_policy(f"hf:{tmp_path / 'b'}")
    seen = observation(("left", "right"), 5, size=(12, 16), sample_seed=2)
    assert np.allclose(found.predict([seen])[0].values, policy.predict([seen])[0].values, atol=1e-4)
    changed = {name for name, value in found.network.state_dict().items() if not torch.equal(value, before[name])}
    assert "vision.patch.weight" not in changed and "language.layers.0.mlp.up_proj.weight" in changed
    assert "action_out_proj.bias" in changed and "action_in_proj.bias" not in changed


def test_what_cannot_be_trained_is_refused(tmp_path):
    policy, recorded = smolvla(tmp_path / "a"), dataset(tmp_path / "data")
    with pytest.raises(ConfigError, match="open it with a RobotMap of that robot"):
        finetune_published(policy, recorded)
    half = open_published(tmp_path / "a", MAP, OpenOptions(dtype=torch.bfloat16))
    with pytest.raises(ConfigError, match="weights are trained in float32"):
        finetune_published(half, recorded)
    parts = dataclasses.replace(policy.parts, chunk=0)
    policy.parts = parts
    with pytest.raises(ConfigError, match="of the family 'smolvla' cannot be trained here"):
        finetune_published(policy.on(MAP), recorded)
    with pytest.raises(ConfigError, match="fine-tuning has steps 0; expected more than 0"):
        FinetuneConfig(steps=0)


def test_images_are_resized_as_published():
    wide = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    from PIL import Image

    shown = padded_uint8(wide, 8)  # openpi: PIL, 4 × 8 in the middle of black
    assert np.array_equal(shown[2:6], np.asarray(Image.fromarray(wide).resize((8, 4), Image.Resampling.BILINEAR)))
    assert not shown[:2].any() and not shown[6:].any()
    plain = torch.nn.functional.interpolate(unit_range(wide)[None], size=(4, 8), mode="bilinear", align_corners=False)[0]
    assert torch.equal(padded_center(unit_range(wide), 8)[:, 2:6], plain)  # LeRobot: torch, without antialiasing
    assert torch.equal(padded_corner(unit_range(wide), 8, 8)[:, 4:], plain)  # SmolVLA: below black
    odd = padded_center(unit_range(wide), 9)  # 4 rows in 9: two above and three below
    assert not odd[:, :2].any() and odd[:, 2:6].any() and not odd[:, 6:].any()
    same = unit_range(wide[:8, :8])
    assert padded_center(same, 8) is same and padded_uint8(wide[:8, :8], 8).shape == (8, 8, 3)


def test_normalization_of_each_kind():
    numbers = {"mean": [1.0, 2.0], "std": [0.5, 0.0], "min": [0.0, 1.0], "max": [2.0, 1.0], "q01": [0.0, 1.0], "q99": [4.0, 3.0]}
    given = {name: np.array(values) for name, values in numbers.items()}
    z = Scaling.lerobot("MEAN_STD", given, "state")
    assert np.allclose(z.forward(np.array([2.0, 2.0])), [2.0, 0.0], atol=1e-6) and np.allclose(z.inverse(np.ones(2)), [1.5, 2.0])
    ends = Scaling.lerobot("MIN_MAX", given, "state")
    assert np.allclose(ends.forward(np.array([2.0, 1.0])), [1.0, -1.0]) and np.allclose(ends.inverse(np.zeros(2)), [1.0, 1.0])
    quantiles = Scaling.lerobot("QUANTILES", given, "state")
    assert np.allclose(quantiles.inverse(quantiles.forward(np.array([3.0, 2.5]))), [3.0, 2.5], atol=1e-6)
    assert Scaling.lerobot("MEAN_STD", {}, "state").size is None
    with pytest.raises(ConfigError, match="the statistics of the action have no q10, which QUANTILE10 needs; they have mean"):
        Scaling.lerobot("QUANTILE10", given, "action")
    with pytest.raises(ConfigError, match="differ in size, or are not finite"):
        Scaling.openpi(False, {"mean": np.zeros(2), "std": np.array([1.0, np.nan])}, "actions")
