import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import verbot
from verbot.contracts import Demonstrator, Expert, TaskEnv
from verbot.robots.simulated import SimulatedRobot
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


@pytest.mark.parametrize("example", ["own_objective"], indirect=True)
def test_own_objective(example, tmp_path):
    policy = example.main(tmp_path, steps=40)
    assert isinstance(policy.network.objectives["tool_ahead"], example.ToolAhead)
    losses = [line["tool_ahead"] for line in read_log(tmp_path) if line["kind"] == "train"]
    assert 0 < losses[-1] < losses[0]
    spec = policy.spec
    images = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in spec.cameras}
    (chunk,) = policy.predict([verbot.Observation(images, np.zeros(spec.state_size, np.float32), "push the red cube")])
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
    rng = np.random.default_rng(0)
    source = tmp_path / "raw"
    source.mkdir()
    arrays = []
    for i in range(3):
        arrays.append({name: rng.uniform(0, 1, (6, 7)).astype(np.float32) for name in ("joints", "commands")})
        np.savez(source / f"{i}.npz", task=f"task {i}", images=rng.integers(0, 255, (6, 16, 24, 3), np.uint8), **arrays[i])
    assert example.import_folder(source, tmp_path / "set") == 3
    dataset = verbot.open_dataset(tmp_path / "set")
    assert [episode.instruction for episode in dataset] == ["task 0", "task 1", "task 2"]
    np.testing.assert_array_equal(dataset[1].actions, arrays[1]["commands"])
    assert dataset[2].images("side").shape == (6, 16, 24, 3)
    assert example.import_folder(source, tmp_path / "set") == 3


@pytest.mark.parametrize("example", ["serve"], indirect=True)
def test_serve(example, tmp_path):
    verbot.train("tiny", out=tmp_path, steps=1, progress=False)
    assert example.main(verbot.load_policy(tmp_path / "policy")) == 0.0
    assert example.main(verbot.load_policy("starter")) == 0.0


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    assert all(f'"{path.stem}"' in text for path in EXAMPLES.glob("*.py"))
