"""Networks that remember, that are shown goals, that see through some cameras: trained as any other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_loop import losses, same
from toys import PLAIN, changed, toy_config

from verbot.errors import ConfigError, UnknownNameError
from verbot.models.network import Part
from verbot.policy.opening import load_policy
from verbot.policy.policy import Preprocessing
from verbot.spec import Observation
from verbot.training import train_policy


def look(color: int, cameras: tuple[str, ...] = ("front", "wrist")) -> Observation:
    image = np.full((16, 16, 3), color, np.uint8)
    return Observation(dict.fromkeys(cameras, image), np.zeros(4, np.float32), "touch the red cube")


def remembering(toy, **settings):
    base = toy_config(toy, **settings)
    network = changed(base.network, memory=Part("external", {"slots": 4}), sequence=4, stride=2)
    return changed(base, network=network, batch_size=16)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_memory_resumes_to_the_bit(toy, tmp_path, processes):
    config = remembering(toy, processes=processes)
    whole = train_policy(config, tmp_path / "whole", progress=False)
    assert whole.samples == 4 * 16
    train_policy(config, tmp_path / "halves", progress=False, stop_at=2)
    train_policy(config, tmp_path / "halves", progress=False)
    assert same(tmp_path / "whole", tmp_path / "halves")


def test_a_memory_learns_and_its_policy_remembers(toy, tmp_path):
    config = remembering(toy, steps=60, learning_rate=5e-3, augment=PLAIN, log_every=10, validate_every=1000)
    policy = load_policy(train_policy(config, tmp_path, progress=False).policy)
    curve = losses(tmp_path)
    assert curve[-1] < 0.7 * curve[0]
    (first,) = policy.predict([look(10)])
    (second,) = policy.predict([dataclasses.replace(look(200), memory=first.memory, time_s=0.2)])
    assert not np.allclose(second.values, policy.predict([look(200)])[0].values)


def test_a_batch_must_hold_whole_sequences(toy):
    with pytest.raises(ConfigError, match="a batch of 18 in sequences of 4 cannot be shared evenly by 1 processes"):
        changed(remembering(toy), batch_size=18)


def test_a_goal_image_is_learned_from(toy, tmp_path):
    shows = dataclasses.replace(PLAIN, goal_image=0.5)
    with pytest.raises(ConfigError, match="needs a network that reads goal images"):
        toy_config(toy, augment=shows)
    network = dataclasses.replace(toy_config(toy).network, goal=Part("goal_conv", {"channels": 4}))
    policy = load_policy(train_policy(toy_config(toy, augment=shows, network=network), tmp_path, progress=False).policy)
    goal = np.full((16, 16, 3), 90, np.uint8)
    shown = dataclasses.replace(look(10), instruction="", goal_image=goal)
    blank = dataclasses.replace(look(10), instruction="")
    assert not np.allclose(policy.predict([shown])[0].values, policy.predict([blank])[0].values)


def test_a_policy_sees_through_the_cameras_it_was_trained_with(toy, tmp_path):
    config = toy_config(toy, cameras=("wrist",), preprocessing=Preprocessing(action="quantile"))
    policy = load_policy(train_policy(config, tmp_path, progress=False).policy)
    assert policy.spec.camera_names == ("wrist",) and policy.preprocessing.action == "quantile"
    one, both = policy.predict([look(50, ("wrist",)), look(50)])
    assert np.array_equal(one.values, both.values)
    with pytest.raises(UnknownNameError, match="wrst"):
        train_policy(toy_config(toy, cameras=("wrst",)), tmp_path / "other", progress=False)
