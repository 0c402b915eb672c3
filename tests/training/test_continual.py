"""Tasks one after another: each begins with the one before, and the shares of what is replayed are what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from test_finetune import write
from toys import toy_config

from verbot.configuration import load_yaml
from verbot.errors import ConfigError
from verbot.policy.identity import policy_identity
from verbot.training import Selection, TrainConfig, train_policy
from verbot.training.imitation.continual import ContinualTask, continual_task_config, train_sequentially
from verbot.training.imitation.data import TrainingData

TASKS = ("nudge", "touch", "lift")


@pytest.fixture(scope="module")
def continual_tasks(tmp_path_factory):
    data = write(tmp_path_factory.mktemp("data") / "tasks", episodes=6, tasks=TASKS)
    return [ContinualTask(task, data, Selection(tasks=(task,)), samples=8) for task in TASKS]


@pytest.mark.parametrize("replay", [0.0, 0.4])
def test_old_episodes_have_the_share_that_was_asked_for(continual_tasks, replay, tmp_path):
    config = continual_task_config(toy_config("any", validation_share=0.0), continual_tasks, 2, replay=replay)
    assert (config.budget.steps, config.budget.samples, len(config.data.datasets)) == (None, 8, 3 if replay else 1)
    with TrainingData(config, tmp_path, 0, 0) as training_data:
        mixture = training_data._loader_now.source
        deck = np.concatenate([mixture.deck(np.random.default_rng(i)) for i in range(20)])
    owner = np.searchsorted(np.cumsum([len(source) for source in mixture.sources]), deck, side="right")
    shares = np.bincount(owner) / len(owner)
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2] if replay else [1.0], atol=0.02)


def test_each_task_begins_with_the_policy_of_the_one_before(continual_tasks, tmp_path):
    results = train_sequentially(toy_config("any"), continual_tasks, tmp_path, replay=0.25, progress=False)
    configs = [load_yaml(TrainConfig, tmp_path / task / "config.yaml") for task in TASKS]
    assert [config.init.init_from for config in configs] == [None, results[0].policy, results[1].policy]
    assert configs[2].init.sha256 == policy_identity(tmp_path / "touch" / "policy")
    assert configs[2].data.selections == tuple(Selection(tasks=(task,)) for task in ("lift", "nudge", "touch"))
    again = train_sequentially(toy_config("any"), continual_tasks, tmp_path, replay=0.25, progress=False)
    assert again == results


def test_what_the_start_knows_is_replayed_and_not_learned_anew(continual_tasks, tmp_path):
    start = train_policy(continual_task_config(toy_config("any"), continual_tasks, 0), tmp_path / "start", progress=False).policy
    results = train_sequentially(
        toy_config("any", init_from=start), continual_tasks[:2], tmp_path / "more", known=1, progress=False
    )
    assert len(results) == 1
    config = load_yaml(TrainConfig, tmp_path / "more" / "touch" / "config.yaml")
    assert (config.init.init_from, config.data.weights) == (start, (0.75, 0.25))


def test_wrong_continual_tasks_are_refused(continual_tasks, tmp_path):
    with pytest.raises(ConfigError, match="replay is the fraction of old samples, at least 0 and below 1; got 1"):
        continual_task_config(toy_config("any"), continual_tasks, 1, replay=1.0)
    with pytest.raises(ConfigError, match="each task needs a name of its own; got nudge, nudge"):
        train_sequentially(toy_config("any"), [continual_tasks[0]] * 2, tmp_path)
    with pytest.raises(ConfigError, match=r"known names nudge, and no policy was trained on them"):
        train_sequentially(toy_config("any"), continual_tasks, tmp_path, known=1)
