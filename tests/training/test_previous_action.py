"""What was done before is the same in training and in prediction, however many actions of a chunk are carried out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_loop import losses, same
from toys import PLAIN, SMALL, toy_config

from verbot.agents import ChunkAgent
from verbot.data import WindowConfig, Windows, open_dataset
from verbot.errors import ConfigError, SpecError
from verbot.models.network import Part
from verbot.policy.memory import keep_chunk, last_actions
from verbot.policy.opening import load_policy
from verbot.policy.policy import VLAPolicy
from verbot.spec import Observation
from verbot.training import train_policy

WITH_PREVIOUS = dataclasses.replace(SMALL, previous_action=Part("action", {"hidden": 16}))
NETWORKS = {
    "previous": WITH_PREVIOUS,
    "history": dataclasses.replace(WITH_PREVIOUS, history=2, stride=2),
    "memory": dataclasses.replace(WITH_PREVIOUS, memory=Part("external", {"slots": 4}), sequence=4, stride=2),
}


@pytest.fixture(scope="module")
def recorded(toy):
    return open_dataset(toy)


def make_policy(recorded, network=WITH_PREVIOUS) -> VLAPolicy:
    return VLAPolicy.create(network, recorded.spec, recorded.statistics(), [e.instruction for e in recorded])


def look(episode, frame: int) -> Observation:
    images = {camera: episode.images(camera)[frame] for camera in ("front", "wrist")}
    return Observation(images, episode.states[frame], time_s=frame / episode.dataset.spec.rate_hz)


def replay(policy: VLAPolicy, episode, execute: int):
    """The batches that the network is given in one episode in which it predicts what was recorded, by frame."""
    given, predict = {}, policy.network.predict

    def as_recorded(batch, generator=None, seeds=None, forced=None):
        given[frame] = batch
        rows = np.minimum(np.arange(frame, frame + policy.config.chunk), len(episode) - 1)
        actions = torch.from_numpy(policy.action_transform.forward(episode.actions[rows]))[None]
        return dataclasses.replace(predict(batch, generator), actions=actions)

    policy.network.predict = as_recorded
    agent = ChunkAgent(policy, execute)
    agent.reset(episode.instruction)
    for frame in range(len(episode)):
        done = agent.act(look(episode, frame))
        np.testing.assert_allclose(done, episode.actions[frame], atol=1e-6)
    return given


@pytest.mark.parametrize("execute", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_given_the_same_previous_action_in_an_episode_as_in_training(name, execute, recorded):
    network = NETWORKS[name]
    windows = Windows(
        recorded,
        WindowConfig(
            history=network.history, chunk=network.chunk, stride=network.stride, previous_action=True, cameras=("front", "wrist")
        ),
        episodes=[1],
    )
    episode = recorded[1]
    policy = make_policy(recorded, network)
    training = policy.collate(windows.batch(np.arange(len(episode)), np.random.default_rng(0)))
    given = replay(policy, episode, execute)
    assert sorted(given) == list(range(0, len(episode), execute))
    for frame, batch in given.items():
        assert bool(batch.previous_action.mask[0]) == bool(training.previous_action.mask[frame]) == (frame > 0)
        if frame:
            torch.testing.assert_close(
                batch.previous_action.values[0], training.previous_action.values[frame], rtol=1e-5, atol=1e-5
            )
        if frame > 1:
            assert (training.previous_action.values[frame] - training.previous_action.values[frame - 1]).abs().max() > 0.01, (
                "the frame before had another"
            )


def test_the_action_before_is_the_row_whose_turn_it_was(recorded):
    spec, chunk = recorded.spec, np.arange(12, dtype=np.float32).reshape(3, 4)
    memory = keep_chunk({"kept": np.ones(2)}, chunk, 0.7)
    assert set(memory) == {"kept", "last_chunk", "last_chunk_s"}
    seen = Observation({}, np.zeros(4, np.float32))
    times = {
        0.8: 0,
        0.84: 0,
        0.86: 1,
        0.9: 1,
        1.0: 2,
        1.04: 2,
        1.06: None,
        1.1: None,
        9.0: None,
        0.7: None,
        0.74: None,
        0.0: None,
    }
    asked = [dataclasses.replace(seen, time_s=time, memory=memory) for time in times]
    values, known = last_actions([*asked, dataclasses.replace(seen, time_s=0.8)], spec)
    assert known.tolist() == [row is not None for row in times.values()] + [False]
    for value, row in zip(values, times.values(), strict=False):
        assert np.array_equal(value, np.zeros(4) if row is None else chunk[row])
    chunk[:] = -1
    assert memory["last_chunk"].min() == 0, "what is kept is not the caller's"
    with pytest.raises(SpecError, match="of another policy: it has no 'last_chunk' but time_s"):
        last_actions([dataclasses.replace(seen, memory={"time_s": np.zeros(1)})], spec)


def test_what_is_remembered_counts_travels_in_a_batch_and_outlives_the_file(recorded, tmp_path):
    policy = make_policy(recorded)
    policy.save(tmp_path / "policy")
    loaded, episode = load_policy(tmp_path / "policy"), recorded[0]
    assert loaded.config.previous_action == WITH_PREVIOUS.previous_action
    for one in (policy, loaded):
        with torch.no_grad():
            one.network.head.out.bias[:3] += 1.0
    (first,) = policy.predict([look(episode, 0)])
    second = dataclasses.replace(look(episode, 1), memory=first.memory)
    other = dataclasses.replace(second, memory=keep_chunk(first.memory, -first.values, 0.0))
    late = dataclasses.replace(second, time_s=5.0)
    plain = look(episode, 1)
    chunks = policy.predict([second, other, late, plain])
    assert not np.allclose(chunks[0].values, chunks[1].values)
    assert not np.allclose(chunks[0].values, chunks[3].values)
    np.testing.assert_allclose(chunks[2].values, chunks[3].values, atol=1e-6)
    for chunk, seen in zip(chunks, (second, other, late, plain), strict=True):
        np.testing.assert_allclose(chunk.values, policy.predict([seen])[0].values, atol=1e-6)
        assert np.array_equal(chunk.memory["last_chunk"], chunk.values)
        assert chunk.memory["last_chunk_s"] == seen.time_s
    actions = []
    for one in (policy, loaded):
        agent = ChunkAgent(one, 2)
        for _ in range(2):
            agent.reset(episode.instruction)
            actions.append(np.stack([agent.act(look(episode, frame)) for frame in range(len(episode))]))
    assert all(np.array_equal(actions[0], again) for again in actions[1:]), (
        "saved or not, and nothing is left of the episode before"
    )


def test_windows_that_do_not_tell_are_refused(recorded):
    with pytest.raises(ConfigError, match="reads the previous action, and these windows have none"):
        make_policy(recorded).collate(Windows(recorded, WindowConfig(chunk=3)).batch([0], np.random.default_rng(0)))


@pytest.mark.parametrize("name", ["previous", "memory"])
def test_it_is_trained_and_resumes_to_the_bit(toy, tmp_path, name):
    config = toy_config(toy, network=NETWORKS[name], batch_size=8)
    whole = train_policy(config, tmp_path / "whole", progress=False)
    train_policy(config, tmp_path / "halves", progress=False, stop_at=2)
    train_policy(config, tmp_path / "halves", progress=False)
    assert same(tmp_path / "whole", tmp_path / "halves")
    before = VLAPolicy.create(NETWORKS[name], load_policy(whole.policy).spec, load_policy(whole.policy).statistics, ["touch"])
    old, new = (dict(p.network.backbone.previous_action.named_parameters()) for p in (before, load_policy(whole.policy)))
    assert all(not torch.equal(old[key], new[key]) for key in old)


def test_it_learns(toy, tmp_path):
    config = toy_config(
        toy, network=WITH_PREVIOUS, steps=60, learning_rate=5e-3, augment=PLAIN, log_every=10, validate_every=1000
    )
    train_policy(config, tmp_path, progress=False)
    curve = losses(tmp_path)
    assert curve[-1] < 0.7 * curve[0]
