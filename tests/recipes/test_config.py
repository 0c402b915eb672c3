"""Recipes are complete and frozen, overrides are checked, and the tiny one goes all the way to a policy."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from verbot.configuration import dump_yaml, replace, to_plain
from verbot.data import open_dataset
from verbot.errors import ConfigError, UnknownNameError, VerbotDeprecationWarning
from verbot.policy.opening import load_policy
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe, Reinforcement, change, process_count, resolve
from verbot.workflows.train_evaluate import train


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_reads_back_from_yaml_and_fits_together(name, tmp_path):
    run = resolve(name)
    assert run.name == name
    dump_yaml(run, tmp_path / "recipe.yaml")
    assert resolve(tmp_path / "recipe.yaml") == run
    for stage in run.stages:
        if isinstance(stage, Imitation):
            assert run.collection.env == run.evaluation.suite
            assert stage.imitation.dagger.rounds == 0 or stage.imitation.dagger.env == run.collection.env
        else:
            assert stage.reinforcement.env.name == run.evaluation.suite


def test_names_that_do_not_exist_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="no recipe named 'startr'. Did you mean 'starter'"):
        resolve("startr")
    with pytest.raises(ConfigError, match="cannot read the configuration .*none.yaml"):
        resolve(tmp_path / "none.yaml")


def test_changes_touch_what_they_name_and_one_budget_replaces_another():
    base = resolve("starter")
    changed = change(base, {"steps": 7, "dagger": {"rounds": 2}}, seed=5)
    assert (changed.training.budget.steps, changed.training.budget.minutes, changed.training.budget.samples) == (7, None, None)
    assert changed.training.dagger.rounds == 2
    assert changed.stages[0].collections == ()
    assert changed.training.dagger.episodes == base.training.dagger.episodes
    assert {changed.training.seed, changed.collection.seed, changed.evaluation.seed} == {5}
    plain, other = to_plain(base.training), to_plain(changed.training)
    assert {name for name in plain if plain[name] != other[name]} == {"budget", "dagger", "seed"}
    assert change(base, {}) == base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepps": 3}, "no setting 'stepps'. Did you mean 'steps'"),
        ({"steps": "many"}, "budget.steps is 'many'; expected int"),
        ({"steps": 3, "minutes": 2.0}, "give one of steps, samples and minutes; got steps and minutes"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"batch_size": 7, "processes": 2}, "a batch of 7 cannot be shared evenly by 2 processes"),
        ({"network": {"chunks": 3}}, "network has no field 'chunks'. Did you mean 'chunk'"),
        ({"schedule": "cosin"}, "schedule.name is 'cosin'; expected one of 'cosine', 'step', 'constant'"),
        ({"validation.share": 1.5}, "validation.share is 1.5; expected at least 0 and below 1"),
        ({"weights": [1.0, 2.0]}, "1 datasets but 2 weights"),
        ({"datasets": []}, "no dataset to train on"),
    ],
)
def test_wrong_changes_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        change(resolve("starter"), changes)


def test_processes_share_a_batch_evenly(monkeypatch):
    monkeypatch.setattr("verbot.recipes.config.cores", lambda: 6)
    assert [process_count(size) for size in (64, 63, 61, 60)] == [4, 3, 1, 6]


def test_the_tiny_recipe_trains_on_its_own_demonstrations_and_continues(tmp_path):
    paused = train("tiny", out=tmp_path, steps=2, progress=False)
    assert paused.finished
    assert len(open_dataset(tmp_path / "dataset")) == resolve("tiny").collection.episodes
    card = (tmp_path / "policy" / "README.md").read_text()
    assert "Recipe `tiny`" in card
    assert "episodes: 6" in card
    assert load_policy(paused.policy).spec.name == "tabletop-panda"
    again = train("tiny", out=tmp_path / "again", data=tmp_path / "dataset", steps=2, progress=False)
    assert again.loss == paused.loss
    twice = [tmp_path / "dataset"] * 2
    mixed = train("tiny", out=tmp_path / "mixed", data=twice, weights=[0.75, 0.25], steps=2, progress=False)
    assert mixed.finished
    with pytest.raises(ConfigError, match="2 datasets but 3 weights"):
        train("tiny", out=tmp_path / "other", data=twice, weights=[1.0, 2.0, 3.0], progress=False)
    with pytest.raises(ConfigError, match="another budget.steps"):
        train("tiny", out=tmp_path, steps=3, progress=False)


def test_randomized_demonstrations_differ_from_the_starter_in_nothing_else():
    plain, random = resolve("starter"), resolve("starter-random")
    assert random.collection == dataclasses.replace(plain.collection, randomize={"all": 2})
    changed = {
        "augment": dataclasses.replace(plain.training.augment, camera_dropout=0.5),
        "preprocessing": random.training.preprocessing,
        "budget": random.training.budget,
    }
    assert dataclasses.replace(plain.training, **changed) == random.training
    assert random.training.preprocessing.allow_missing_cameras


def test_files_of_older_shapes_are_read_with_a_warning(tmp_path):
    for name, stage in (("tiny", "training"), ("navigation-ppo", "reinforcement")):
        run = resolve(name)
        plain = to_plain(run)
        old = {key: plain[key] for key in ("name", "about", "collection", "evaluation")}
        old[stage] = to_plain(run.training if stage == "training" else run.reinforcement)
        if stage == "training":
            old["beside"] = []
        else:
            del old["collection"]
        (tmp_path / "old.yaml").write_text(yaml.safe_dump(old, allow_unicode=True))
        with pytest.warns(VerbotDeprecationWarning, match=f"the field of Recipe {stage} is now called stages.0"):
            assert resolve(tmp_path / "old.yaml") == run


def test_a_recipe_has_stages_that_fit_together():
    tiny, ppo = resolve("tiny"), resolve("starter-ppo")
    with pytest.raises(ConfigError, match="recipe 'tiny' has no stages"):
        dataclasses.replace(tiny, stages=())
    with pytest.raises(ConfigError, match="imitates demonstrations, and has no collection"):
        dataclasses.replace(tiny, collection=None)
    with pytest.raises(ConfigError, match="a stage after the first starts from the stage before, not from outputs/demo/policy"):
        dataclasses.replace(tiny, stages=(*tiny.stages, *ppo.stages))
    with pytest.raises(ConfigError, match="learns from rewards alone: it has no imitation"):
        ppo.training  # noqa: B018
    with pytest.raises(ConfigError, match="learns from demonstrations alone: it has no reinforcement"):
        tiny.reinforcement  # noqa: B018


def two_stages() -> Recipe:
    """Imitation in the tabletop env, then two PPO updates from its policy."""
    tiny, ppo = resolve("tiny"), resolve("starter-ppo")
    small = {
        "env": {"options": {"image_size": 32}, "num_envs": 2},
        "init": {"init_from": None},
        "steps": 16,
        "ppo": {"num_steps": 8, "batch_size": 16, "epochs": 1, "critic_warmup": 0},
        "parallelism": {"workers": 1},
    }
    rewards = replace(ppo.reinforcement, small)
    return dataclasses.replace(tiny, name="two", stages=(*tiny.stages, Reinforcement(rewards)))


def test_one_command_trains_imitation_then_reinforcement(tmp_path):
    result = train(two_stages(), out=tmp_path, progress=False, **{"imitation.budget.steps": 2, "imitation.network.chunk": 1})
    first, second = load_policy(tmp_path / "stage-1" / "policy"), load_policy(result.policy)
    assert result.steps == 16
    assert (tmp_path / "policy").is_dir()
    assert "Recipe `two`" in (tmp_path / "policy" / "README.md").read_text()
    assert second.config == first.config
    weights = [policy.network.state_dict() for policy in (first, second)]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
    with pytest.raises(ConfigError, match="'network.chunk' could be .*imitation.network.chunk, .*reinforcement.network.chunk"):
        train(two_stages(), out=tmp_path / "other", **{"network.chunk": 1})
    with pytest.raises(ConfigError, match="network.chunk cannot be set beside init_from"):
        train(two_stages(), out=tmp_path / "other", **{"reinforcement.network.chunk": 1})


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("tiny", {"execute": 2}, "evaluation.execute does not apply: training does not evaluate"),
        ("tiny", {"data": "x", "collection.episodes": 2}, "collection.episodes does not apply: data is given"),
        ("tiny+collection.episodes=3", {"data": "x"}, "collection.episodes does not apply: data is given"),
        ("navigation-ppo", {"data": "x"}, "data does not apply: recipe 'navigation-ppo' learns from rewards alone"),
        ("navigation-ppo", {"minutes": 3.0}, "there is no setting 'minutes'"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(recipe, settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(recipe, out=tmp_path, progress=False, **settings)
