"""Old flat configurations of reinforcement learning are read for one version, with a warning that names the successor."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import yaml

from verbot.configuration import build, dump_yaml, field_types, load_yaml, old_names, record_type
from verbot.errors import ConfigError, VerbotDeprecationWarning
from verbot.models.registries import Part
from verbot.recipes.config import Reinforcement, change, resolve
from verbot.training.rl import ReinforceConfig, ppo
from verbot.training.rl.config import (
    EnvConfig,
    PerceptionWarmup,
    PPOConfig,
    ReinforceInitConfig,
    ReinforceParallelismConfig,
    RewardShaping,
    renamed_options,
)

FLAT = {
    "env": "navigation-compass", "options": {"image_size": 32}, "tasks": ["go"], "axes": {"lighting": 2}, "worlds": 4,
    "policy": "somewhere", "policy_sha256": "abc", "reward": {"name": "world", "options": {}}, "steps": 512, "rollout": 64,
    "batch_size": 32, "epochs": 2, "learning_rate": 1e-4, "discount": 0.9, "trace": 0.5, "clip": 0.1, "target_kl": 0.02,
    "entropy": 0.002, "entropy_end": 0.0, "value_weight": 3.0, "value_apart": True, "critic_pace": 30.0, "clip_norm": 1.0,
    "log_std": -2.0, "warmup": 12, "keypoint_weight": 1.0, "questions": 4, "curriculum": None, "shaping": 0.0, "headway": 2.0,
    "looking": {"updates": 30, "batch_size": 64, "learning_rate": 3e-3, "tasks": ["go"], "pace": 0.5}, "ratchet": 0.8,
    "workers": 2, "threads": 3, "device": "cuda", "seed": 5, "checkpoint_every": 7,
}  # fmt: skip
NESTED = ReinforceConfig(
    env=EnvConfig("navigation-compass", {"image_size": 32}, ("go",), {"lighting": 2}, 4),
    init=ReinforceInitConfig("somewhere", "abc"),
    reward_shaping=RewardShaping(0.0, 2.0, 0.8),
    steps=512,
    ppo=PPOConfig(64, 32, 2, 1e-4, 0.9, 0.5, 0.1, 0.02, 0.002, 0.0, 3.0, True, 30.0, 12, 1.0, -2.0),
    perception_warmup=PerceptionWarmup(30, 64, 3e-3, ("go",), 0.5),
    keypoint_weight=1.0,
    grounding_queries=4,
    parallelism=ReinforceParallelismConfig(2, 3, "cuda"),
    seed=5,
    checkpoint_every=7,
)


def test_a_flat_configuration_is_read_with_a_warning(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(FLAT))
    with pytest.warns(VerbotDeprecationWarning) as warned:
        assert load_yaml(ReinforceConfig, tmp_path / "config.yaml") == NESTED
    text = " ".join(str(each.message) for each in warned)
    assert all(part in text for part in ("worlds → env.num_envs", "trace → ppo.gae_lambda", "pace → lr_multiplier"))


def test_todays_configuration_is_read_without_a_warning(tmp_path):
    dump_yaml(NESTED, tmp_path / "config.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_yaml(ReinforceConfig, tmp_path / "config.yaml") == NESTED
    assert len(dataclasses.fields(ReinforceConfig)) <= 15


@pytest.mark.parametrize(("old", "path"), sorted(old_names(ReinforceConfig).items()))
def test_every_old_name_has_a_successor_that_exists(old, path):
    kind = ReinforceConfig
    for step in path.split("."):
        hint = field_types(kind)[step]
        kind = record_type(hint)
    assert old not in field_types(ReinforceConfig) and old in FLAT


def test_old_settings_change_a_recipe_with_a_warning():
    recipe = resolve("navigation-ppo")
    with pytest.warns(VerbotDeprecationWarning) as warned:
        changed = change(recipe, {"worlds": 2, "rollout": 256})
    assert ["worlds is now called env.num_envs" in str(each.message) for each in warned].count(True) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert changed == change(recipe, {"num_envs": 2, "num_steps": 256}) != recipe
        assert change(recipe, {"batch_size": 256}).reinforcement.ppo.batch_size == 256, "the optimizer's, not the warm-up's"
        assert change(recipe, {"options.image_size": 32}).reinforcement.env.options == {"image_size": 32}
        assert change(recipe, {"env": "navigation"}).reinforcement.env.num_envs == 64, "a name keeps the other fields"


def test_init_from_is_a_setting_of_the_first_stage():
    tiny, fine_tuned = resolve("tiny"), resolve("starter-ppo")
    assert change(fine_tuned, {"init_from": "elsewhere"}).reinforcement.init.init_from == "elsewhere"
    later = dataclasses.replace(fine_tuned.reinforcement, init=ReinforceInitConfig())
    both = dataclasses.replace(tiny, stages=(*tiny.stages, Reinforcement(later)))
    changed = change(both, {"init_from": "elsewhere"})
    assert (changed.training.init.init_from, changed.reinforcement.init.init_from) == ("elsewhere", None)


def test_the_reward_model_may_still_be_called_a_scorer():
    old = {"reward": {"name": "language", "options": {"scorer": "a.safetensors", "cost": 0.25}}}
    today = Part("language", {"reward_model": "a.safetensors", "cost": 0.25})
    with pytest.warns(VerbotDeprecationWarning, match="scorer is now called reward_model"):
        assert build(ReinforceConfig, old).reward == today
    with pytest.raises(ConfigError, match="given reward_model and also scorer"):
        renamed_options("language", {"scorer": "a", "reward_model": "b"})


def test_options_of_the_adversarial_reward_are_read_by_their_former_names():
    old = {"groups": 4, "each": 2, "ended": 0.5, "reach": 3.0, "stays": 6.0, "width": 16}
    today = {"episodes_per_side": 4, "steps_per_episode": 2, "absorbing_fraction": 0.5, "reward_clip": 3.0,
             "absorbing_steps": 6.0, "width": 16}  # fmt: skip
    with pytest.warns(VerbotDeprecationWarning, match="of reward 'adversarial' .* is now called") as warned:
        config = build(ReinforceConfig, {"reward": {"name": "adversarial", "options": old}})
    assert config.reward == Part("adversarial", today)
    assert len(warned) == 5 and "groups is now called episodes_per_side" in str(warned[0].message)
    with pytest.raises(ConfigError, match="given reward_clip and also reach"):
        renamed_options("adversarial", {"reach": 3.0, "reward_clip": 2.0})


def test_a_run_with_an_old_configuration_is_recognized(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(FLAT))
    result = ppo.ReinforceResult("policy", 512, 3, 0.5, 0, 1.0)
    (tmp_path / "result.json").write_text(json.dumps(dataclasses.asdict(result)))
    elsewhere = dataclasses.replace(NESTED, parallelism=ReinforceParallelismConfig())
    with pytest.warns(VerbotDeprecationWarning):
        assert ppo._claim(elsewhere, tmp_path, True) == result, "where a run is computed may change"
    other = dataclasses.replace(NESTED, seed=6, ppo=dataclasses.replace(NESTED.ppo, gamma=0.8))
    with pytest.warns(VerbotDeprecationWarning), pytest.raises(ConfigError, match="with another ppo.gamma, seed; a new one"):
        ppo._claim(other, tmp_path, True)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == FLAT, "the folder is left as it is"
