import copy
import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import verbot
from verbot.contracts import Demonstrator, Expert, TaskEnv
from verbot.data.importers import recognize
from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig, Part
from verbot.recipes.config import resolve
from verbot.registry import Registry
from verbot.robots.simulated import SimulatedRobot
from verbot.rollout.results import read_results
from verbot.training import read_log

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def example(request):
    """The module of an example, forgotten afterwards."""
    name = request.param
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    modules = [module for key, module in sys.modules.items() if key.partition(".")[0] == "verbot"]
    for registry in {id(r): r for module in modules for r in vars(module).values() if isinstance(r, Registry)}.values():
        registry._factories = {key: made for key, made in registry._factories.items() if made.__module__ != name}
    del sys.modules[name]


@pytest.mark.parametrize("example", ["tour"], indirect=True)
def test_tour(example, tmp_path, capsys):
    assert 0 <= example.main(tmp_path) <= 1
    out = capsys.readouterr().out
    assert "4 episodes" in out
    assert "success_rate" in out


@pytest.mark.parametrize("example", ["own_head"], indirect=True)
def test_own_head(example, tmp_path):
    policy = example.main(tmp_path, steps=3)
    assert isinstance(policy.network.head, example.Bounded)
    assert policy.network.head.reach == 3.0


@pytest.mark.parametrize("example", ["own_encoder"], indirect=True)
def test_own_encoder(example, tmp_path):
    policy = example.main(tmp_path, steps=3)
    vision = policy.network.backbone.vision
    assert isinstance(vision, example.Grid) and len(vision.position) == 2 * 2 * len(policy.spec.cameras)
    before = policy.predict([seen_by(policy, "push the red cube")])[0].values
    for p in vision.reduce.parameters():
        p.data.zero_()
    blind = policy.predict([seen_by(policy, "push the red cube")])[0].values
    assert not np.allclose(before, blind, atol=1e-5), "the actions depend on its tokens"


@pytest.mark.parametrize("example", ["own_agent"], indirect=True)
def test_own_agent(example, capsys):
    smooth, plain = (example.main(share) for share in (0.3, 1.0))
    assert "success True" in capsys.readouterr().out.splitlines()[1]
    change = [np.abs(np.diff(actions[:8], axis=0)).mean() for actions in (smooth, plain)]
    assert change[0] < 0.7 * change[1]
    np.testing.assert_allclose(smooth[1], 0.3 * plain[1] + 0.7 * plain[0], atol=0.05)


@pytest.mark.parametrize("example", ["own_recipe"], indirect=True)
def test_own_recipe(example, tmp_path):
    recipe = resolve("pick-only")
    assert recipe.evaluation.tasks == recipe.collection.tasks == ("pick",)
    assert recipe.stages[0].imitation.optimizer.learning_rate == 1e-3
    small = {"samples": 16, "batch_size": 8, "collection.episodes": 3, "evaluation.episodes": 2, "evaluation.conditions": []}
    small |= {"evaluation.workers": 1, "collection.workers": 1, "evaluation.baselines": False, "parallelism.processes": 1}
    assert example.main(tmp_path, resolve("pick-only", small)) == 0
    assert {result.task for result in read_results(tmp_path / "evaluation" / "results.jsonl")} == {"pick"}


def seen_by(policy, instruction, seed=0):
    """A random observation of the policy's robot."""
    rng, spec = np.random.default_rng(seed), policy.spec
    images = {camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in spec.cameras}
    return verbot.Observation(images, rng.normal(size=spec.state_size).astype(np.float32), instruction)


@pytest.mark.parametrize("example", ["own_backbone"], indirect=True)
def test_own_backbone(example, tmp_path):
    policy = example.main(tmp_path / "first", steps=3)
    backbone = policy.network.backbone
    assert isinstance(backbone, example.Bytes) and policy.config.backbone.name == "bytes"
    observation = seen_by(policy, "push the red cube")
    (chunk,) = policy.predict([observation])
    assert chunk.values.shape == (policy.config.chunk, policy.spec.action_size)

    batch = policy.collate_observations([observation], [policy.preprocess(observation)])
    batch = dataclasses.replace(
        batch, actions=torch.ones(1, *chunk.values.shape), actions_mask=torch.ones(1, 4, dtype=torch.bool)
    )
    policy.network.losses(batch)["loss"].backward()
    assert all(p.grad.any() for p in backbone.parameters()), "the loss reaches every weight"
    for part in (backbone.patches, backbone.letters, backbone.state):
        before = copy.deepcopy(part.state_dict())
        for p in part.parameters():
            p.data.zero_()
        assert not np.allclose(policy.predict([observation])[0].values, chunk.values, atol=1e-5), part
        part.load_state_dict(before)
    for other in (seen_by(policy, "push the green ball"), seen_by(policy, "push the red cube", seed=1)):
        assert not np.allclose(policy.predict([other])[0].values, chunk.values, atol=1e-5)

    further = {"init_from": str(tmp_path / "first" / "policy"), "steps": 1, "progress": False}
    again = verbot.load_policy(verbot.train("tiny", out=tmp_path / "second", **further).policy)
    assert isinstance(again.network.backbone, example.Bytes)
    moved = [(p - q).abs().max() for p, q in zip(again.network.parameters(), policy.network.parameters(), strict=True)]
    assert 0 < max(moved) < 0.1, "it goes on from the weights that it starts from"


@pytest.mark.parametrize("example", ["own_backbone"], indirect=True)
def test_own_backbone_learns_by_reinforcement(example, tmp_path):
    pytest.importorskip("stable_baselines3")
    from verbot.training.rl import ReinforceConfig, train_ppo
    from verbot.training.rl.config import EnvConfig, PerceptionWarmup, PPOConfig, ReinforceParallelismConfig

    config = ReinforceConfig(
        env=EnvConfig("navigation", num_envs=2),
        network=NetworkConfig(backbone=Part("bytes", {"patch": 16}), width=16, chunk=1),
        steps=32,
        ppo=PPOConfig(num_steps=16, batch_size=16, epochs=1),
        parallelism=ReinforceParallelismConfig(workers=1),
    )
    policy = verbot.load_policy(train_ppo(config, tmp_path / "run", progress=False).policy)
    assert isinstance(policy.network.backbone, example.Bytes)
    assert all(p.isfinite().all() for p in policy.network.parameters())
    warming = dataclasses.replace(config, perception_warmup=PerceptionWarmup(1), keypoint_weight=1.0)
    with pytest.raises(ConfigError, match="takes the instruction last, such as 'query_conv'; 'bytes' does not"):
        train_ppo(warming, tmp_path / "other", progress=False)


@pytest.mark.parametrize("example", ["own_objective"], indirect=True)
def test_own_objective(example, tmp_path):
    policy = example.main(tmp_path, steps=40)
    assert isinstance(policy.network.objectives["tool_ahead"], example.ToolAhead)
    losses = [line["tool_ahead"] for line in read_log(tmp_path) if line["kind"] == "train"]
    assert 0 < losses[-1] < losses[0]
    (chunk,) = policy.predict([seen_by(policy, "push the red cube")])
    assert chunk.extras["tool_ahead"].shape == (3,)


@pytest.mark.parametrize("example", ["own_env"], indirect=True)
def test_own_env(example, tmp_path):
    env = verbot.make_env("dots")
    assert isinstance(env, TaskEnv) and isinstance(env, Demonstrator)
    assert isinstance(env.expert(), Expert)
    assert example.main(tmp_path, episodes=5) == 5
    first, again = (env.reset(seed=3, options={"index": 7})[0] for _ in range(2))
    np.testing.assert_array_equal(first["images"]["top"], again["images"]["top"])


@pytest.mark.parametrize("example", ["own_robot"], indirect=True)
def test_own_robot(example, capsys):
    now_s = [0.0]

    def sleep(seconds):
        now_s[0] += seconds

    assert isinstance(example.Cart(), verbot.Robot)
    assert example.main(3.0, lambda: now_s[0], sleep) == pytest.approx(0.5, abs=0.01)
    assert "after 3.0 s the cart is at 0.500 m" in capsys.readouterr().out
    env = verbot.make_env("navigation")
    rover = SimulatedRobot(env, {"task": "go"})
    assert example.drive(rover, env.expert(), "", 30.0, lambda: now_s[0], sleep).time_s == pytest.approx(30)
    assert rover.is_over and rover.info["success"]


@pytest.mark.parametrize("example", ["own_format"], indirect=True)
def test_own_format(example, tmp_path):
    rng, source, steps = np.random.default_rng(0), tmp_path / "raw", []
    for i in range(4):
        (source / f"run{i}" / "side").mkdir(parents=True)
        steps.append(rng.uniform(0, 1, (6, 14)).round(4))
        np.savetxt(source / f"run{i}" / "steps.csv", steps[i], delimiter=",")
        (source / f"run{i}" / "task.txt").write_text(f"task {i}\n")
        for t in range(6):
            Image.fromarray(np.full((16, 24, 3), 10 * t, np.uint8)).save(source / f"run{i}" / "side" / f"{t:03}.png")
    (source / "run3" / "steps.csv").write_text("1.0,many\n")
    assert recognize(source) == "csv"
    assert example.main(source, tmp_path / "set") == 3, "the broken one is left out"
    dataset = verbot.open_dataset(tmp_path / "set")
    assert [episode.instruction for episode in dataset] == ["task 0", "task 1", "task 2"]
    np.testing.assert_allclose(dataset[1].actions, steps[1][:, 7:], atol=1e-6)
    assert dataset[2].images("side").shape == (6, 16, 24, 3)
    assert [component.kind for component in dataset.spec.action] == ["joint_position", "gripper"]
    assert example.main(source, tmp_path / "set") == 3


@pytest.mark.parametrize("example", ["serve"], indirect=True)
def test_serve(example, tmp_path):
    verbot.train("tiny", out=tmp_path, steps=1, progress=False)
    assert example.main(verbot.load_policy(tmp_path / "policy")) == 0.0
    assert example.main(verbot.load_policy("starter")) == 0.0


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    assert all(f'"{path.stem}"' in text for path in EXAMPLES.glob("*.py"))
