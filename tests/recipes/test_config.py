"""Recipes are complete and frozen, overrides are checked, and the tiny one goes all the way to a policy."""

from __future__ import annotations

import dataclasses

import pytest

from verbot.configuration import dump_yaml, to_plain
from verbot.data import open_dataset
from verbot.errors import ConfigError, UnknownNameError
from verbot.policy.policy import load_policy
from verbot.recipes import recipes
from verbot.recipes.config import change, members, resolve
from verbot.workflows.train_evaluate import train


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_reads_back_from_yaml_and_fits_together(name, tmp_path):
    run = resolve(name)
    assert run.name == name
    dump_yaml(run, tmp_path / "recipe.yaml")
    assert resolve(tmp_path / "recipe.yaml") == run
    assert run.collection.env == run.evaluation.suite
    assert run.training.dagger.rounds == 0 or run.training.dagger.env == run.collection.env


def test_names_that_do_not_exist_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="no recipe named 'startr'. Did you mean 'starter'"):
        resolve("startr")
    with pytest.raises(ConfigError, match="cannot read the configuration .*none.yaml"):
        resolve(tmp_path / "none.yaml")


def test_changes_touch_what_they_name_and_one_budget_replaces_another():
    base = resolve("starter")
    changed = change(base, {"steps": 7, "dagger": {"rounds": 2}}, seed=5)
    assert (changed.training.steps, changed.training.minutes, changed.training.samples) == (7, None, None)
    assert changed.training.dagger.rounds == 2
    assert changed.training.dagger.episodes == base.training.dagger.episodes
    assert {changed.training.seed, changed.collection.seed, changed.evaluation.seed} == {5}
    plain, other = to_plain(base.training), to_plain(changed.training)
    assert {name for name in plain if plain[name] != other[name]} == {"steps", "minutes", "dagger", "seed"}
    assert change(base, {}) == base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepps": 3}, "no field 'stepps'. Did you mean 'steps'"),
        ({"steps": "many"}, "training.steps is 'many'; expected int"),
        ({"steps": 3, "minutes": 2.0}, "give one of steps, samples and minutes; came steps and minutes"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"batch_size": 7, "processes": 2}, "a batch of 7 cannot be shared evenly by 2 processes"),
        ({"network": {"chunks": 3}}, "training.network has no field 'chunks'. Did you mean 'chunk'"),
        ({"schedule": "cosin"}, "training.schedule is 'cosin'; expected one of 'cosine', 'step', 'constant'"),
        ({"validation_share": 1.5}, "validation_share is 1.5; expected 0 to 1"),
        ({"weights": [1.0, 2.0]}, "1 datasets but 2 weights"),
        ({"datasets": []}, "no dataset to train on"),
    ],
)
def test_wrong_changes_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        change(resolve("starter"), changes)


def test_members_share_a_batch_evenly(monkeypatch):
    monkeypatch.setattr("verbot.recipes.config.cores", lambda: 6)
    assert [members(size) for size in (64, 63, 61, 60)] == [4, 3, 1, 6]


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
    with pytest.raises(ConfigError, match="another steps"):
        train("tiny", out=tmp_path, steps=3, progress=False)


def test_randomized_demonstrations_differ_from_the_starter_in_nothing_else():
    plain, random = resolve("starter"), resolve("starter-random")
    assert random.collection == dataclasses.replace(plain.collection, randomize={"all": 2})
    changed = {
        "augment": dataclasses.replace(plain.training.augment, camera_dropout=0.5),
        "preprocessing": random.training.preprocessing,
        "minutes": random.training.minutes,
    }
    assert dataclasses.replace(plain.training, **changed) == random.training
    assert random.training.preprocessing.allow_missing_cameras
