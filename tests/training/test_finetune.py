"""What a policy has learned stays when training begins with it, and a run knows which policy that was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_loop import losses, same
from toys import SMALL, SPEC, changed, toy_config

from verbot.configuration import load_yaml
from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.errors import ConfigError, PolicyError, UnknownNameError
from verbot.models.lora import LoraConfig
from verbot.models.network import Part
from verbot.policy.identity import policy_identity
from verbot.policy.opening import load_policy
from verbot.spec import Camera, Observation
from verbot.training import Selection, TrainConfig, train_policy
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.finetune import init_policy, resolved

LORA = LoraConfig(rank=2, train=("head.*", "language.embed.*"))


def write(
    path: Path, instruction: str = "nudge the green cube", spec=SPEC, episodes: int = 3, tasks=("nudge",), length: int = 8
) -> str:
    """Episodes of `spec` that say something else than the toy's; their tasks take turns."""
    with DatasetWriter(path, spec) as writer:
        for number in range(episodes):
            rng = np.random.default_rng(100 + number)
            images = {c.name: rng.integers(0, 255, (length, c.height, c.width, 3)).astype(np.uint8) for c in spec.cameras}
            states = rng.uniform(0, 0.5, (length, spec.state_size)).astype(np.float32)
            actions = rng.uniform(0, 0.02, (length, spec.action_size)).astype(np.float32)
            extras = {"request": {"task": tasks[number % len(tasks)]}}
            writer.save_episode(EpisodeRecord(instruction, states, actions, images, extras=extras))
    return str(path)


@pytest.fixture(scope="module")
def learned(toy, tmp_path_factory) -> str:
    return train_policy(toy_config(toy), tmp_path_factory.mktemp("learned"), progress=False).policy


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("data") / "other")


def at_first(config: TrainConfig, out: Path):
    """The policy that a run of `config` begins with, before a step."""
    config = resolved(config)
    with TrainingData(config, out, 0, 0) as training_data:
        data = training_data
        return init_policy(config.init, config.network, data.spec, data.statistics, data.instructions, config.seed)


def looks(count: int = 4, size: int = 16) -> list[Observation]:
    rng = np.random.default_rng(5)
    return [
        Observation(
            {name: rng.integers(0, 255, (size, size, 3)).astype(np.uint8) for name in ("front", "wrist")},
            rng.uniform(0, 0.5, 4).astype(np.float32),
            "touch the red cube",
        )
        for _ in range(count)
    ]


def predicted(policy, observations) -> np.ndarray:
    return np.stack([chunk.values for chunk in policy.predict(observations)])


@pytest.mark.parametrize("lora", [None, LORA])
def test_training_begins_with_the_predictions_of_its_start(learned, other, tmp_path, lora):
    policy = at_first(toy_config(other, init_from=learned, lora=lora), tmp_path)
    policy.network.eval()
    # A layer's adapter computes its weight anew, in other memory, where a matrix product may round otherwise.
    np.testing.assert_allclose(
        predicted(policy, looks()), predicted(load_policy(learned), looks()), rtol=0, atol=1e-6 if lora else 0
    )


def test_statistics_are_kept_unless_new_ones_are_asked_for(learned, other, tmp_path):
    kept, new = (
        at_first(toy_config(other, init_from=learned, statistics=which), tmp_path).statistics.to_json()
        for which in ("kept", "new")
    )
    assert kept == load_policy(learned).statistics.to_json()
    assert new == open_dataset(other).statistics().to_json()


def test_the_network_is_the_starts_whatever_the_recipe_says(learned, other, tmp_path):
    recipe = dataclasses.replace(SMALL, fusion=Part("concat"), chunk=5)
    result = train_policy(toy_config(other, network=recipe, init_from=learned), tmp_path / "run", progress=False)
    config = load_policy(result.policy).config
    assert (config.fusion.name, config.chunk) == ("mlp", 3)
    written = load_yaml(TrainConfig, tmp_path / "run" / "config.yaml")
    assert written.init.sha256 == policy_identity(Path(learned))
    assert written.init.sha256 in (Path(result.policy) / "README.md").read_text()


def test_new_words_are_added_and_the_old_ones_stay(learned, other, tmp_path):
    policy, old = at_first(toy_config(other, init_from=learned), tmp_path), load_policy(learned)
    before, after = (p.config.language.options["vocabulary"] for p in (old, policy))
    assert after == [*before, "green", "nudge"]
    known = old.network.backbone.language.embed.weight
    assert torch.equal(policy.network.backbone.language.embed.weight[: len(known)], known)
    assert policy.network.backbone.language.embed.weight[len(known) :].abs().min() > 0
    again = at_first(toy_config(other, init_from=learned), tmp_path)
    assert torch.equal(again.network.backbone.language.embed.weight, policy.network.backbone.language.embed.weight)


def test_sentences_of_new_words_grow_too(toy, other, tmp_path):
    network = dataclasses.replace(SMALL, language=Part("hierarchical"))
    start = train_policy(toy_config(toy, network=network, steps=1), tmp_path / "start", progress=False).policy
    policy = at_first(toy_config(other, init_from=start), tmp_path)
    assert policy.config.language.options["base_options"]["vocabulary"][-2:] == ["green", "nudge"]


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_paused_run_goes_on_to_the_bit(learned, other, tmp_path, lora):
    config = toy_config(other, init_from=learned, lora=lora)
    train_policy(config, tmp_path / "whole", progress=False)
    train_policy(config, tmp_path / "halves", progress=False, stop_at=2)
    train_policy(config, tmp_path / "halves", progress=False)
    assert same(tmp_path / "whole", tmp_path / "halves")
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")


def test_two_processes_begin_with_the_same(learned, other, tmp_path):
    for processes in (1, 2):
        config = toy_config(other, init_from=learned, lora=LORA, processes=processes, steps=2)
        train_policy(config, tmp_path / str(processes), progress=False)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)


def test_a_start_may_move_and_may_not_change(learned, other, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(learned, start)
    train_policy(toy_config(other, init_from=str(start)), tmp_path / "run", progress=False, stop_at=2)
    start.rename(tmp_path / "moved")
    train_policy(toy_config(other, init_from=str(tmp_path / "moved")), tmp_path / "run", progress=False, stop_at=3)
    other_policy = load_policy(learned)
    with torch.no_grad():
        next(other_policy.network.parameters()).add_(1)
    other_policy.save(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"run that started from a policy with sha256 \w+, and .*moved is \w+: restore that"):
        train_policy(toy_config(other, init_from=str(tmp_path / "moved")), tmp_path / "run", progress=False)
    written = load_yaml(TrainConfig, tmp_path / "run" / "config.yaml")
    with pytest.raises(ConfigError, match=r"has changed since this run started: sha256 \w+, not \w+"):
        resolved(changed(written, init_from=str(tmp_path / "moved")))


def test_the_card_of_a_start_may_change(learned, tmp_path):
    policy = load_policy(learned)
    policy.save(tmp_path / "same", card="Another card.")
    assert policy_identity(tmp_path / "same") == policy_identity(Path(learned))
    with pytest.raises(PolicyError, match=r"is not a policy directory: it has no manifest\.json"):
        policy_identity(tmp_path)


def robot(**changes):
    return dataclasses.replace(SPEC, name="other", **changes)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            robot(action=SPEC.action[:1]),
            r"its action is position_delta \(3 of position_delta\), gripper \(1 of gripper\) of robot 'toy', and theirs is "
            r"position_delta \(3 of position_delta\) of 'other'; an initial policy must have the same components",
        ),
        (robot(state=SPEC.state[:1]), r"its state is ee_position .* and theirs is ee_position \(3 of position\) of 'other'"),
        (robot(cameras=SPEC.cameras[:1]), r"uses the cameras front, wrist, with weights for each, and .* lacks wrist: an"),
    ],
)  # fmt: skip
def test_a_robot_that_does_not_fit_raises_with_the_differences(learned, tmp_path, spec, message):
    data = write(tmp_path / "data", spec=spec)
    with pytest.raises(ConfigError, match=message):
        train_policy(toy_config(data, init_from=learned), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_other_cameras_than_the_starts_cannot_be_chosen(learned, other, tmp_path):
    with pytest.raises(ConfigError, match=r"would use wrist, front: an initial policy needs its own cameras, in their order"):
        train_policy(toy_config(other, init_from=learned, cameras=("wrist", "front")), tmp_path / "run", progress=False)


def test_a_changed_robot_of_equal_numbers_is_learned(learned, tmp_path):
    """Another reach, another rate, larger images and one camera more."""
    narrow = dataclasses.replace(SPEC.action[0], low=(-0.01,) * 3, high=(0.01,) * 3)
    cameras = (Camera("side", 24, 24), Camera("wrist", 24, 24), Camera("front", 24, 24))
    spec = robot(rate_hz=5.0, cameras=cameras, action=(narrow, SPEC.action[1]))
    data = write(tmp_path / "data", spec=spec)
    config = toy_config(data, init_from=learned, steps=1, **{"data.out_of_range": "clip"})
    policy = load_policy(train_policy(config, tmp_path / "run", progress=False).policy)
    assert (policy.spec.name, policy.spec.camera_names, policy.spec.rate_hz) == ("other", ("front", "wrist"), 5.0)
    assert np.abs(predicted(policy, looks(size=24))[..., :3]).max() <= 0.01 + 1e-7


def test_lora_leaves_the_rest_as_it_was_and_says_how_much_it_trained(learned, other, tmp_path):
    result = train_policy(toy_config(other, init_from=learned, lora=LORA), tmp_path / "run", progress=False)
    before, after = (load_file(Path(p) / "weights.safetensors") for p in (learned, result.policy))
    moved = {name for name in before if name in after and not torch.equal(before[name], after[name][: len(before[name])])}
    assert set(before) == set(after)
    assert {"fusion.layers.0.weight", "head.out.weight", "language.embed.weight"} <= moved
    assert not [name for name in moved if before[name].ndim == 4], "convolutions"
    assert not [name for name in moved if name.endswith(".bias") and not name.startswith("head.")]
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    total = sum(p.numel() for p in load_policy(result.policy).network.parameters())
    assert (record["trained"], record["parameters"]) == (result.trained, total)
    assert 0 < result.trained < total / 2
    assert "by adapters of rank 2" in (Path(result.policy) / "README.md").read_text()


def test_new_words_without_a_trained_embedding_are_refused(learned, other, tmp_path):
    with pytest.raises(
        ConfigError, match=r"words that .* does not know, and with lora language\.embed\.weight would keep random"
    ):
        train_policy(toy_config(other, init_from=learned, lora=LoraConfig()), tmp_path / "run", progress=False)


@pytest.mark.parametrize("setting", [{"lora": LoraConfig()}, {"sha256": "0"}])
def test_what_is_about_a_start_needs_one(toy, setting):
    with pytest.raises(ConfigError, match="lora, parts and sha256 need an initial policy: set init_from"):
        toy_config(toy, **setting)


def test_a_start_that_is_not_there_is_said_so(toy, tmp_path):
    with pytest.raises(PolicyError, match="is not a policy directory"):
        train_policy(toy_config(toy, init_from=str(tmp_path)), tmp_path / "run", progress=False)


def test_selections_take_tasks_and_the_first_episodes(learned, tmp_path):
    data = write(tmp_path / "data", episodes=6, tasks=("nudge", "touch", "nudge"))
    chosen = (Selection(tasks=("nudge",), episodes=3), Selection(tasks=("touch",)))
    config = toy_config(data, datasets=(data, data), selections=chosen, weights=(0.75, 0.25), validation_share=0.0)
    with TrainingData(config, tmp_path, 0, 0) as training_data:
        mixture = training_data._loader_now.source
        assert [len(windows) for windows in mixture.sources] == [3 * 8, 2 * 8]
        deck = mixture.deck(np.random.default_rng(0))
        assert np.mean(deck < 24) == pytest.approx(0.75)
    alone = toy_config(data, selections=(Selection(tasks=("touch",)),))
    with TrainingData(alone, tmp_path, 0, 0) as training_data:
        assert training_data.statistics["action"].count == 16


@pytest.mark.parametrize(
    ("selections", "error", "message"),
    [
        ((Selection(tasks=("nugde",)),), UnknownNameError, "nugde.*nudge"),
        ((Selection(episodes=4),), ConfigError, "has 3 of the selected episodes; 4 were requested"),
    ],
)
def test_selections_that_find_too_little_say_so(other, tmp_path, selections, error, message):
    with pytest.raises(error, match=message):
        TrainingData(toy_config(other, selections=selections), tmp_path, 0, 0)


def test_selections_are_one_for_each_dataset(other):
    with pytest.raises(ConfigError, match="1 datasets but 2 selections"):
        toy_config(other, selections=(Selection(), Selection()))
    with pytest.raises(ConfigError, match="a selection of 0 episodes is empty"):
        Selection(episodes=0)
