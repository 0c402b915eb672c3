"""A corrector learns from the newest observation what a late chunk could not know, and comes with its policy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import PLAIN, SPEC, toy_config

from verbot.cli import main
from verbot.contracts import CorrectingPolicy
from verbot.data import DatasetWriter, EpisodeRecord
from verbot.errors import CorruptFileError, PolicyError
from verbot.files import sha256
from verbot.models.corrector import CorrectorConfig
from verbot.policy.corrector import CORRECTOR, CORRECTOR_WEIGHTS, new_corrector
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.spec import ActionChunk, Observation
from verbot.training import train_policy
from verbot.training.imitation.corrector import CorrectorTraining, train_corrector
from verbot.training.imitation.records import BudgetConfig, DataConfig

SMALL = CorrectorConfig(channels=4, features=4, hidden=32)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> str:
    """Episodes in which the robot is pushed at every step, and each action is half of the way back: it cannot be foreseen."""
    folder = tmp_path_factory.mktemp("data") / "pushed"
    with DatasetWriter(folder, SPEC) as writer:
        for number in range(20):
            rng = np.random.default_rng(number)
            states = rng.uniform(-0.1, 0.1, (12, 4)).astype(np.float32)
            states[:, 3] = 1
            actions = (-0.5 * states).astype(np.float32)
            actions[:, 3] = states[:, 0] > 0
            images = {name: np.full((12, 16, 16, 3), 90, np.uint8) for name in ("front", "wrist")}
            writer.save_episode(EpisodeRecord("go home", states, actions, images))
    return str(folder)


@pytest.fixture(scope="module")
def base(pushed, tmp_path_factory) -> str:
    config = toy_config(pushed, steps=30, augment=dataclasses.asdict(PLAIN))
    return train_policy(config, tmp_path_factory.mktemp("base"), progress=False).policy


def config_of(base: str, data: str, steps: int = 200) -> CorrectorTraining:
    return CorrectorTraining(base, DataConfig((data,), batch_size=32), BudgetConfig(steps=steps), SMALL, PLAIN)


@pytest.fixture(scope="module")
def corrected(base, pushed, tmp_path_factory):
    torch.set_num_threads(1)
    return train_corrector(config_of(base, pushed), tmp_path_factory.mktemp("corrected"), progress=False)


def look(x: float) -> Observation:
    images = {name: np.full((16, 16, 3), 90, np.uint8) for name in ("front", "wrist")}
    return Observation(images, np.float32([x, 0, 0, 1]), "go home")


def opened(folder: str) -> VLAPolicy:
    policy = load_policy(folder)
    assert isinstance(policy, VLAPolicy)
    return policy


def test_it_corrects_what_the_chunk_could_not_know(corrected) -> None:
    before, after = corrected.errors["2"]
    assert after < 0.6 * before, corrected.table()
    policy = opened(corrected.policy)
    assert isinstance(policy, CorrectingPolicy) and policy.corrector is not None
    chunk = policy.predict([look(0.02)])[0]
    there, back = (policy.corrector.correct(look(x), chunk, 2) for x in (0.08, -0.08))
    assert there[0] < -0.02 and back[0] > 0.02  # half of the way back from where the robot is now
    assert there[3] > 0.5 > back[3]
    assert (there <= SPEC.action_high()).all() and there.shape == (4,)


def test_the_base_policy_stays_and_the_corrector_belongs_to_what_is_saved(base, corrected, tmp_path) -> None:
    plain, policy = opened(base), opened(corrected.policy)
    chunk = policy.predict([look(0.05)])[0]
    np.testing.assert_array_equal(plain.predict([look(0.05)])[0].values, chunk.values)
    assert plain.corrector is None and "latent" not in plain.predict([look(0.05)])[0].extras
    assert policy.identity != plain.identity
    policy.save(tmp_path / "copy")
    again = opened(str(tmp_path / "copy"))
    assert again.identity == policy.identity
    assert policy.corrector is not None and again.corrector is not None
    action = policy.corrector.correct(look(0.05), chunk, 1)
    np.testing.assert_array_equal(again.corrector.correct(look(0.05), chunk, 1), action)
    with torch.no_grad():
        policy.corrector.network.out.bias += 1
    assert policy.identity != again.identity
    with pytest.raises(PolicyError, match=r"3 actions with a latent of 0 numbers is not of the policy that"):
        again.corrector.correct(look(0.05), ActionChunk(chunk.values), 1)


def test_before_training_nothing_is_corrected(base) -> None:
    policy = opened(base)
    policy.attach(new_corrector(policy.network))
    assert policy.corrector is not None
    chunk = policy.predict([look(0.05)])[0]
    for row in range(3):
        np.testing.assert_allclose(policy.corrector.correct(look(-0.1), chunk, row), chunk.values[row], rtol=0, atol=1.5e-3)


def test_a_damaged_corrector_is_named(corrected, tmp_path) -> None:
    policy, folder = opened(corrected.policy), tmp_path / "policy"
    policy.save(folder)

    def change(name: str, content: bytes, listed: bool = True) -> None:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        (folder / name).write_bytes(content)
        if listed:
            manifest["sha256"][name] = sha256(content)
            (folder / "manifest.json").write_text(json.dumps(manifest))

    good = (folder / CORRECTOR).read_bytes()
    change(CORRECTOR, json.dumps({"channels": 4, "features": 4, "hidden": 4096}).encode())
    with pytest.raises(PolicyError, match=r"corrector\.(json|safetensors)"):
        load_policy(folder)
    change(CORRECTOR, good)
    weights = (folder / CORRECTOR_WEIGHTS).read_bytes()
    change(CORRECTOR_WEIGHTS, weights[:-4] + np.float32([np.nan]).tobytes())
    with pytest.raises(PolicyError, match=r"corrector\.safetensors: the weight .* is not finite"):
        load_policy(folder)
    change(CORRECTOR_WEIGHTS, weights[:-4], listed=False)
    with pytest.raises(CorruptFileError, match=r"corrector\.safetensors"):
        load_policy(folder)


def test_the_command_and_what_it_refuses(base, pushed, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    arguments = ["corrector", base, "--data", pushed, "--out", str(out), "--steps", "2", "--set", "network.hidden=16"]
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert not done.value.code, capsys.readouterr().err
    assert "steps late" in capsys.readouterr().out
    assert opened(str(out / "policy")).corrector is not None
    assert {"policy", "config.yaml", "log.jsonl", "result.json"} <= {path.name for path in Path(out).iterdir()}
    with pytest.raises(SystemExit) as done:
        main(["corrector", "ws://localhost:1", "--data", pushed, "--out", str(tmp_path / "no")])
    assert done.value.code and "is no policy on this machine" in capsys.readouterr().err
