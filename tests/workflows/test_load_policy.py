import json
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import verbot
from verbot import cli
from verbot.deploy import PolicyServer
from verbot.errors import ConfigError, PolicyError
from verbot.parallel.workers import WorkerError
from verbot.policy import storage
from verbot.policy.identity import policy_identity
from verbot.policy.policy import VLAPolicy
from verbot.training.distributed import device
from verbot.training.rl import ReinforceConfig
from verbot.training.rl.config import EnvConfig, ReinforceInitConfig
from verbot.training.rl.ppo import with_content_hashes
from verbot.workflows import load_policy
from verbot.workflows.watch import watch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out / "policy" if verbot.train("tiny", out=out, steps=1, progress=False) else None


def test_a_policy_is_known_by_its_content_not_by_its_card(folder):
    first = load_policy.policy_source(str(folder))
    assert first.name == str(folder)
    assert first.load().spec.name == "tabletop-panda"
    policy = verbot.load_policy(folder)
    policy.save(folder, card="another card")
    assert load_policy.policy_source(str(folder)).identity == first.identity
    next(policy.network.parameters()).data.add_(0.1)
    policy.save(folder)
    assert load_policy.policy_source(str(folder)).identity != first.identity


def test_a_served_policy_predicts_the_same(folder):
    policy = verbot.load_policy(folder)
    images = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in policy.spec.cameras}
    observation = verbot.Observation(images, np.array([0.5, 0, 0.2, 1, 0, 0, 0, 1], np.float32), "pick up the red cube")
    with PolicyServer(policy) as server:
        remote = load_policy.open_policy(server.url)
        np.testing.assert_array_equal(remote.predict([observation])[0].values, policy.predict([observation])[0].values)
        remote.close()


class Served:
    """What `RemotePolicy` says of a server."""

    identity = "a" * 64
    spec = None

    def __init__(self, url, token=None, cafile=None):
        self.url, self.token, self.cafile = url, token, cafile

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def predict(self, observations):
        return []


def test_a_served_policy_is_known_by_its_content_not_by_its_address(monkeypatch):
    monkeypatch.setattr("verbot.remote.RemotePolicy", Served)
    url = "ws://127.0.0.1:1"
    first = load_policy.policy_source(url)
    assert (first.name, first.identity) == (url, "a" * 16)
    first.load()
    monkeypatch.setattr(Served, "identity", "b" * 64)
    assert load_policy.policy_source(url).identity == "b" * 16
    with pytest.raises(ConfigError, match=f"{url} now serves policy {'b' * 16}; expected {'a' * 16}, as at the start"):
        first.load()
    monkeypatch.setattr(Served, "identity", "")  # an older server does not say: its results are not mixed with any
    assert load_policy.policy_source(url).identity.startswith(f"unknown to {url} at ")


def test_a_token_and_certificates_come_from_the_environment(monkeypatch):
    monkeypatch.setattr("verbot.remote.RemotePolicy", made := Mock(side_effect=Served))
    monkeypatch.setenv("VERBOT_TOKEN", "secret")
    monkeypatch.setenv("VERBOT_CAFILE", "cert.pem")
    for call in (load_policy.open_policy, load_policy.policy_spec, load_policy.policy_source):
        call("wss://robot.example:1")
        made.assert_called_with("wss://robot.example:1", token="secret", cafile="cert.pem")
    assert load_policy.open_policy("ws://127.0.0.1:1").cafile is None


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"spec": 3}', '{"spec": []}'])
def test_the_robot_of_a_damaged_policy_is_not_known(text, folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "policy")
    (damaged / "policy.json").write_text(text)
    assert load_policy.policy_spec(str(damaged)) is None


def test_the_starter_policy_lies_in_the_package(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(storage, "STARTER", tmp_path)
    with pytest.raises(PolicyError, match=r"came without its starter policy: `verbot demo` trains one"):
        load_policy.policy_folder("starter")
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    assert load_policy.policy_folder("starter") == tmp_path
    assert load_policy.policy_folder(str(folder)) == folder


def test_what_is_no_policy_is_said(tmp_path):
    with pytest.raises(PolicyError, match=r"is not a policy directory: it has no manifest\.json"):
        load_policy.policy_source(str(tmp_path))


def test_a_policy_computes_where_it_shall(folder, monkeypatch):
    """In the place of a GPU: torch's meta device, which every worker's copy must be on."""
    with pytest.raises(ConfigError, match=r"no device 'cuda:99' here; there are cpu"):
        load_policy.policy_source(str(folder), "cuda:99")
    assert load_policy.policy_source(str(folder)).load().device == torch.device("cpu")
    monkeypatch.setattr(device, "existing", lambda: [torch.device("cpu"), torch.device("meta")])
    assert load_policy.policy_source(str(folder), "meta").load().device == torch.device("meta")


def test_a_policy_in_memory_is_measured_like_its_folder(folder, tmp_path):
    settings = {
        "episodes": 2,
        "videos": 0,
        "baselines": False,
        "conditions": (),
        "progress": False,
        "options": {"image_size": 32, "max_seconds": 1.0},
    }
    ours = verbot.evaluate(verbot.load_policy(folder), out=tmp_path / "memory", **settings)
    theirs = verbot.evaluate(folder, out=tmp_path / "folder", **settings)
    assert ours.metrics["final_error_m"] == theirs.metrics["final_error_m"]
    with pytest.raises(PolicyError, match="a policy of type object cannot be saved, so no worker can load it"):
        verbot.evaluate(object(), out=tmp_path / "nothing")


def test_the_policy_that_ships_is_small_sound_and_obeys():
    assert sum(file.stat().st_size for file in storage.STARTER.iterdir()) <= 5_000_000
    assert watch("put the red cube in the blue box", load_policy.agent_maker("starter")).success
    assert watch("push the yellow ball to the left", load_policy.agent_maker("starter")).success


def test_the_starter_policy_is_known_by_name_wherever_a_policy_is(tmp_path):
    assert verbot.load_policy("starter").spec == VLAPolicy.load(storage.STARTER).spec == load_policy.policy_spec("starter")
    config = ReinforceConfig(EnvConfig("tabletop-starter"), ReinforceInitConfig("starter"))
    assert with_content_hashes(config).init.sha256 == policy_identity(storage.STARTER)


def test_a_policy_of_other_pictures_is_played_in_an_env_that_draws_them(tmp_path, capsys):
    """From `collect --image-size` to each command that plays."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(list(map(str, arguments)))
        assert stopped.value.code == 0, capsys.readouterr().err

    run("collect", tmp_path / "data", "--image-size", 24, "--episodes", 2, "--workers", 1, "--tasks", "pick")
    run("train", "tiny", "--data", tmp_path / "data", "--steps", 1, "--out", tmp_path / "run")
    policy = tmp_path / "run" / "policy"
    assert load_policy.policy_spec(str(policy)).cameras[0].width == 24
    playing = ("--episodes", 1, "--workers", 1, "--no-baselines")
    run("evaluate", policy, *playing, "--videos", 1, "--out", tmp_path / "evaluation")
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text())["errors"] == 0
    assert json.loads((tmp_path / "evaluation" / "run.json").read_text())["options"] == {"image_size": 24}
    with pytest.raises(SystemExit):
        cli.main(["watch", "pick up the red cube", "--policy", str(policy), "--out", str(tmp_path / "watch.mp4")])
    assert (tmp_path / "watch.mp4").stat().st_size > 0
    run("explain", policy, "--index", 1, "--out", tmp_path / "explain")
    options = {"image_size": 32}  # what a person sets stands
    with pytest.raises(WorkerError, match="trained for camera 'front' of 24×24; the env has 'front' of 32×32"):
        verbot.evaluate(policy, out=tmp_path / "other", episodes=1, workers=1, progress=False, options=options)
