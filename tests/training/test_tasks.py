"""Training takes the tasks from its demonstrations, and the policy says which one it takes a sentence for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys import COLORS, PLAIN, SMALL, SPEC, toy_config

from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.errors import ConfigError
from verbot.models.network import Part
from verbot.policy.opening import load_policy
from verbot.spec import Observation
from verbot.training import read_log, train_policy

NETWORK = dataclasses.replace(SMALL.with_objectives(task_classification=1.0, grasp_state=1.0), head=Part("multi_task"))


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> str:
    """Red objects are pushed to the left, blue ones lifted and held; the hand closes at another height for each."""
    path = tmp_path_factory.mktemp("tasks") / "labeled"
    with DatasetWriter(path, SPEC) as writer:
        for number in range(12):
            task, color = [("lift", "blue"), ("push", "red")][number % 2]
            lifts, rng = number % 2 == 0, np.random.default_rng(number)
            states = rng.uniform(-0.02, 0.02, (8, 4)).astype(np.float32)
            states[:, 2] += 0.5 if lifts else -0.5
            states[:, 3] = [1, 1, 1, 1, 0.6, 0.6, 0.6, 0.6]
            actions = np.zeros((8, 4), np.float32)
            actions[:, 2 if lifts else 0] = 0.03
            actions[:4, 3] = 1.0
            images = np.full((8, 16, 16, 3), 90, np.uint8)
            images[:, 4:9, 3:8] = COLORS[color]
            views = {"front": images, "wrist": images}
            extras = {"request": {"task": task}}
            writer.save_episode(EpisodeRecord(f"{task} the {color} cube", states, actions, views, extras=extras))
    return str(path)


def test_a_policy_learns_tasks_and_grasps_from_episodes(labeled, tmp_path):
    config = toy_config(
        labeled, network=NETWORK, steps=100, batch_size=16, learning_rate=5e-3, augment=PLAIN, log_every=100, validate_every=1000
    )
    policy = load_policy(train_policy(config, tmp_path, progress=False).policy)
    assert policy.config.head_tasks == ("lift", "push")
    assert [line["task_accuracy"] for line in read_log(tmp_path) if line["kind"] == "train"][-1] > 0.8
    for number, episode in enumerate(list(open_dataset(labeled))[:2]):
        images = {camera: episode.images(camera)[0] for camera in SPEC.camera_names}
        (chunk,) = policy.predict([Observation(images, episode.states[0], episode.instruction)])
        task = ("lift", "push")[number]
        assert chunk.extras["tasks"][task] > 0.9
        assert sum(chunk.extras["tasks"].values()) == pytest.approx(1, abs=1e-5)
        assert chunk.values[0, 2 if number == 0 else 0] > 0.015, "the movement of this task"
        assert abs(chunk.extras["grasp"][2] - (0.5, -0.5)[number]) < 0.15, "in the robot's own units"
        assert abs(chunk.extras["grasp"][3] - 0.6) < 0.1


def test_a_network_with_tasks_begins_with_parts_of_one_without(labeled, tmp_path):
    start = train_policy(toy_config(labeled, steps=1), tmp_path / "start", progress=False).policy
    config = toy_config(labeled, network=NETWORK, steps=1, learning_rate=1e-9, init_from=start, parts=("vision",))
    policy = load_policy(train_policy(config, tmp_path / "first", progress=False).policy)
    assert policy.config.head_tasks == ("lift", "push")
    old, new = (p.network.backbone.vision.state_dict() for p in (load_policy(start), policy))
    assert all(torch.allclose(new[name], old[name], atol=1e-6) for name in new)


def test_episodes_must_say_what_they_are_of(toy, labeled, tmp_path):
    with pytest.raises(ConfigError, match=r"the head 'multi_task' needs the task of an episode, and no episode of .*records it"):
        train_policy(toy_config(toy, network=NETWORK), tmp_path / "a", progress=False)
    known = NETWORK.with_tasks(["lift", "throw"])
    with pytest.raises(ConfigError, match="the head has the tasks lift, throw; the episodes also have push"):
        train_policy(toy_config(labeled, network=known), tmp_path / "b", progress=False)
