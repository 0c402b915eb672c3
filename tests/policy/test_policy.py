import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from verbot.agents import ChunkAgent
from verbot.contracts import Policy
from verbot.data.samples.labels import MaskedArray
from verbot.errors import CorruptFileError, DataError, PolicyError, SpecError
from verbot.models.network import NetworkConfig
from verbot.models.registries import Part, memories
from verbot.policy.opening import load_policy
from verbot.policy.policy import Preprocessing, VLAPolicy
from verbot.spec import Camera, Component, Observation, RobotSpec
from verbot.statistics import Statistics


def component(name, kind, size, low=-1.0, high=1.0):
    return Component(name, kind, tuple(f"{name}{i}" for i in range(size)), "1", "base", (low,) * size, (high,) * size)


SPEC = RobotSpec(
    "tiny",
    10.0,
    (Camera("front", 16, 16), Camera("wrist", 16, 16)),
    (component("ee_position", "position", 3), component("gripper", "gripper", 1, 0.0)),
    (component("position_delta", "position_delta", 3, -0.05, 0.05), component("gripper", "gripper", 1, 0.0)),
)
CONFIG = NetworkConfig(width=16, chunk=4, fusion=Part("mlp", {"hidden": 32}))
TEXTS = ["pick up the red cube", "push the green ball"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def statistics(seed=0):
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(50, 4)) * [0.1, 0.1, 0.0, 1.0] + [0.5, 0.0, 0.2, 0.0]  # a constant third dimension
    return Statistics.of({"state": state, "action": np.c_[rng.uniform(-0.05, 0.05, (50, 3)), rng.integers(0, 2, 50)]})


def make_policy(config=CONFIG, preprocessing=None, seed=0):
    return VLAPolicy.create(config, SPEC, statistics(), TEXTS, preprocessing, seed)


def observation(seed=0, text=TEXTS[0], cameras=("front", "wrist")):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for name in ("front", "wrist")}
    return Observation({n: images[n] for n in cameras}, rng.normal(size=4).astype(np.float32), text, time_s=seed * 0.1)


def points(values):
    values = values.astype(np.float32)
    return MaskedArray(values, np.ones(values.shape[:-1], bool), "image_points", of_goal=True, visible=True)


def window(rows=3, side=16, frames=1):
    rng = np.random.default_rng(1)
    return SimpleNamespace(
        images=rng.integers(0, 256, (rows, frames, 2, side, side, 3), dtype=np.uint8),
        images_mask=np.ones((rows, frames, 2), bool),
        state=rng.normal(size=(rows, frames, 4)).astype(np.float32),
        state_mask=np.ones((rows, frames), bool),
        actions=rng.uniform(-0.05, 0.05, (rows, 4, 4)).astype(np.float32),
        actions_mask=np.ones((rows, 4), bool),
        instructions=[TEXTS[i % 2] for i in range(rows)],
        targets={"keypoints": points(rng.uniform(-1, 1, (rows, 2, 3, 2)))},
        grounding_queries=[()] * rows,
        captions=[()] * rows,
        query_keypoints=points(np.zeros((rows, 0, 2, 3, 2))),
        text_tasks=[None] * rows,
        previous_action=np.zeros((rows, 0), np.float32),
        previous_action_mask=np.zeros(rows, bool),
        goal=np.zeros((rows, 0, 0, 3), np.uint8),
        goal_mask=np.zeros(rows, bool),
        features=np.zeros((rows, frames, 2, 0, 0), np.float16),
    )


def test_predictions_fit_the_contract():
    policy = make_policy()
    assert isinstance(policy, Policy) and policy.spec == SPEC and policy.predict([]) == []
    chunks = policy.predict([observation(i) for i in range(3)])
    assert [c.time_s for c in chunks] == pytest.approx([0.0, 0.1, 0.2])
    for chunk in chunks:
        assert chunk.values.shape == (4, 4) and chunk.values.dtype == np.float32
        assert (chunk.values >= SPEC.action_low()).all() and (chunk.values <= SPEC.action_high()).all()
        assert chunk.extras["keypoints"].shape == (2, 3, 2)


def test_a_batch_predicts_what_each_alone_does():
    policy = make_policy()
    seen = [observation(i, TEXTS[i % 2]) for i in range(4)]
    for chunk, one in zip(policy.predict(seen), seen, strict=True):
        np.testing.assert_allclose(policy.predict([one])[0].values, chunk.values, atol=1e-5)


def test_actions_are_clipped_to_the_robots_range():
    policy = make_policy()
    with torch.no_grad():
        policy.network.head.out.bias.fill_(1e4)
    assert (policy.predict([observation()])[0].values == SPEC.action_high()).all()


def test_training_and_prediction_prepare_alike():
    policy = make_policy()
    raw = window(rows=2)
    with torch.inference_mode():
        trained = policy.network.predict(policy.collate(raw)).actions.numpy()
    seen = [
        Observation({"front": raw.images[i, 0, 0], "wrist": raw.images[i, 0, 1]}, raw.state[i, 0], raw.instructions[i])
        for i in range(2)
    ]
    for chunk, values in zip(policy.predict(seen), trained, strict=True):
        np.testing.assert_allclose(chunk.values, policy.action_transform.inverse(values), atol=1e-5)


def test_collate_normalizes_and_losses_are_finite():
    policy = make_policy()
    batch = policy.collate(window())
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (3, 1, 2, 3, 16, 16)
    assert (batch.state[..., 2] == 0).all()
    assert (batch.actions[..., 3] >= 0).all(), "a gripper keeps its own unit"
    assert policy.network.losses(batch)["loss"].isfinite()


def test_larger_cameras_are_brought_to_the_networks_size():
    spec = dataclasses.replace(SPEC, cameras=(Camera("front", 24, 32), Camera("wrist", 32, 32)))
    policy = VLAPolicy.create(dataclasses.replace(CONFIG, image_size=(16, 16)), spec, statistics(), TEXTS)
    colors = np.random.default_rng(0).integers(0, 256, (2, 2, 2, 3), dtype=np.uint8)  # of the quarters of each picture
    front, wrist = (np.repeat(np.repeat(colors[i], rows, 0), 16, 1) for i, rows in enumerate((12, 16)))
    seen = Observation({"front": front, "wrist": wrist}, np.zeros(4, np.float32), TEXTS[0])
    got = policy.collate_observations([seen], [policy.preprocess(seen)]).images[0, 0].numpy()
    for row, column in np.ndindex(2, 2):  # the middle of each quarter
        inner = got[:, :, 8 * row + 3 : 8 * row + 5, 8 * column + 3 : 8 * column + 5]
        assert (inner == colors[:, row, column, :, None, None]).all()
    before = policy.predict([seen])[0].values
    for name in ("front", "wrist"):
        (changed,) = policy.predict([dataclasses.replace(seen, images={**seen.images, name: 255 - seen.images[name]})])
        assert np.abs(changed.values - before).max() > 1e-6, name
    raw = window(side=32)
    assert policy.collate(raw).images.shape[-2:] == (16, 16)


def test_a_missing_camera_is_an_error_unless_allowed():
    with pytest.raises(SpecError, match="lacks camera 'wrist'"):
        make_policy().predict([observation(cameras=("front",))])
    policy = make_policy(preprocessing=Preprocessing(allow_missing_cameras=True))
    one, two = policy.predict([observation(cameras=("front",)), observation()])
    assert np.isfinite(one.values).all() and not np.array_equal(one.values, two.values)


def play(policy, seeds, every=0.1):
    """One episode of these observations, `every` seconds apart, with the memory handed on: the chunks."""
    memory, chunks = None, []
    for step, seed in enumerate(seeds):
        seen = dataclasses.replace(observation(seed), time_s=step * every, memory=memory)
        chunks += policy.predict([seen])
        memory = chunks[-1].memory
    return chunks


def test_past_frames_are_seen_and_absent_ones_masked():
    policy = make_policy(dataclasses.replace(CONFIG, history=2))
    alone = policy.predict([observation()])[0].values
    with_past, older = (play(policy, seeds)[-1].values for seeds in ((5, 1, 0), (7, 1, 0)))
    assert not np.allclose(alone, with_past) and np.array_equal(with_past, older), "only the last frame before counts"
    slower = play(policy, (1, 0), every=0.3)[-1].values
    assert np.array_equal(slower, alone), "what is three steps old is not the frame before"


def test_frames_of_the_past_are_a_stride_apart_however_often_it_is_asked():
    policy = make_policy(dataclasses.replace(CONFIG, history=3, stride=2))
    seen_often, seen_twice = play(policy, (1, 5, 2, 6, 0))[-1], play(policy, (1, 2, 0), every=0.2)[-1]
    assert np.array_equal(seen_often.values, seen_twice.values)
    assert len(seen_often.memory["time_s"]) == 5 and len(play(policy, range(9))[-1].memory["time_s"]) == 5, "no more is kept"
    raw = window(frames=3)
    trained = policy.network.predict(policy.collate(raw)).actions.detach().numpy()
    memory = None
    for frame in range(3):
        images = {"front": raw.images[0, frame, 0], "wrist": raw.images[0, frame, 1]}
        seen = Observation(images, raw.state[0, frame], raw.instructions[0], time_s=frame * 0.2, memory=memory)
        (chunk,) = policy.predict([seen])
        memory = chunk.memory
    np.testing.assert_allclose(chunk.values, policy.action_transform.inverse(trained[0]), atol=1e-5)


@pytest.mark.parametrize("name", memories.names())
def test_a_memory_travels_with_the_episode_and_is_written_once_a_stride(name):
    config = dataclasses.replace(CONFIG, memory=Part(name), sequence=8, stride=2)
    policy = make_policy(config)
    alone = policy.predict([observation()])[0]
    first, second = (play(policy, seeds)[-1] for seeds in ((1, 4, 0), (2, 4, 0)))
    assert not np.allclose(first.values, second.values) and not np.allclose(first.values, alone.values)
    assert np.array_equal(play(policy, (1, 4, 0))[-1].values, play(policy, (1, 7, 0))[-1].values), "too soon to be written"
    one, two = (dataclasses.replace(observation(3), time_s=0.6, memory=chunk.memory) for chunk in (first, second))
    together = policy.predict([one, observation(4), two])
    for chunk, seen in zip(together, (one, observation(4), two), strict=True):
        np.testing.assert_allclose(chunk.values, policy.predict([seen])[0].values, atol=1e-5)
    both = make_policy(dataclasses.replace(config, history=2))
    assert not np.allclose(play(both, (1, 4, 0))[-1].values, play(both, (2, 4, 0))[-1].values)
    assert {"images", "written_s"} < set(play(both, (1, 4, 0))[-1].memory)
    with pytest.raises(SpecError, match="this memory is of another policy: it has no"):
        policy.predict([dataclasses.replace(observation(), memory={"time_s": np.zeros(1)})])


@pytest.mark.parametrize("name", memories.names())
def test_what_is_remembered_outlives_the_file_but_not_the_episode(name, tmp_path):
    policy = make_policy(dataclasses.replace(CONFIG, memory=Part(name), sequence=8))
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    for ours, theirs in zip(play(policy, (1, 4, 2, 0)), play(loaded, (1, 4, 2, 0)), strict=True):
        assert np.array_equal(ours.values, theirs.values)
        assert all(np.array_equal(ours.memory[key], theirs.memory[key]) for key in ours.memory)
    agent, actions = ChunkAgent(loaded), []
    for seeds in ((1, 4, 0), (0, 4, 0), (1, 4, 0)):
        agent.reset(TEXTS[0])
        actions.append([agent.act(dataclasses.replace(observation(s), time_s=i * 0.1)) for i, s in enumerate(seeds)])
    assert np.array_equal(actions[0], actions[2]), "nothing is left of the episode before"
    assert not np.allclose(actions[0][2], actions[1][2])


def test_a_goal_image_is_seen_where_there_is_one():
    policy = make_policy(dataclasses.replace(CONFIG, goal=Part("goal_conv")))
    goals = [np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8) for i in range(2)]
    instructed, shown, other = policy.predict([observation(), *(dataclasses.replace(observation(), goal_image=g) for g in goals)])
    assert not np.allclose(instructed.values, shown.values) and not np.allclose(shown.values, other.values)
    plain, ignored = make_policy().predict([observation(), dataclasses.replace(observation(), goal_image=goals[0])])
    assert np.array_equal(plain.values, ignored.values), "a policy of words alone does not look"
    raw = window()
    raw.goal, raw.goal_mask = np.stack([goals[0]] * 3), np.array([True, False, True])
    batch = policy.collate(raw)
    assert batch.goal.shape == (3, 3, 16, 16) and batch.goal_mask.tolist() == [True, False, True]
    assert (batch.goal[1] == 0).all()


def test_blinded_never_sees_a_word():
    policy = make_policy()
    blind = policy.blinded()
    said, other = ([observation(0, text)] for text in TEXTS)
    assert not np.array_equal(policy.predict(said)[0].values, policy.predict(other)[0].values)
    assert np.array_equal(blind.predict(said)[0].values, blind.predict(other)[0].values)
    assert np.array_equal(blind.predict(said)[0].values, policy.predict([observation(0, "")])[0].values)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(CONFIG, vision=Part("vit", {"depth": 1}), head=Part("flow"), fusion=Part("concat")),
        dataclasses.replace(CONFIG, language=Part("minilm"), history=2),
    ],
    ids=["film_conv", "vit+flow", "minilm"],
)
def test_a_fresh_process_predicts_the_same_bits(config, tmp_path, monkeypatch):
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path / "cache"))
    policy = make_policy(config, Preprocessing(action="quantile"), seed=3)
    policy.save(tmp_path / "policy", card="Trained on nothing.")
    seen = observation()
    np.savez(tmp_path / "seen.npz", state=seen.state, **seen.images)
    script = """
import sys, numpy, torch
torch.set_num_threads(1)
from verbot.policy.opening import load_policy
from verbot.spec import Observation
with numpy.load(sys.argv[2]) as f:
    seen = Observation({"front": f["front"], "wrist": f["wrist"]}, f["state"], sys.argv[3])
sys.stdout.write(load_policy(sys.argv[1]).predict([seen])[0].values.tobytes().hex())
"""
    command = [sys.executable, "-c", script, str(tmp_path / "policy"), str(tmp_path / "seen.npz"), seen.instruction]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert done.stdout == policy.predict([seen])[0].values.tobytes().hex()
    assert "Trained on nothing." in (tmp_path / "policy" / "README.md").read_text()


def environment():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", ["weights.safetensors", "policy.json", "statistics.json", "README.md"])
def test_a_changed_file_is_named(name, tmp_path):
    make_policy().save(tmp_path / "p")
    path = tmp_path / "p" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="sha256") as caught:
        load_policy(tmp_path / "p")
    assert caught.value.path == str(path)
    path.unlink()
    with pytest.raises(CorruptFileError, match=f"{name}: missing"):
        load_policy(tmp_path / "p")


def test_missing_statistics_are_an_error(tmp_path):
    policy = make_policy()
    with pytest.raises(DataError, match="no statistics of 'action'"):
        VLAPolicy(policy.network, SPEC, Statistics({"state": statistics()["state"]}))
    policy.save(tmp_path / "p")
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    del manifest["sha256"]["statistics.json"]
    (tmp_path / "p" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PolicyError, match=r"lacks statistics\.json"):
        load_policy(tmp_path / "p")
    with pytest.raises(PolicyError, match="not a policy directory"):
        load_policy(tmp_path)


def test_saving_replaces_as_a_whole(tmp_path):
    make_policy(seed=0).save(tmp_path / "p")
    second = make_policy(seed=1)
    second.save(tmp_path / "p")
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    loaded = load_policy(tmp_path / "p")
    assert np.array_equal(loaded.predict([observation()])[0].values, second.predict([observation()])[0].values)


def test_creation_is_a_function_of_the_seed_and_leaves_the_global_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, three = make_policy(seed=1), make_policy(seed=1), make_policy(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    values = [p.predict([observation()])[0].values for p in (one, two, three)]
    assert np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])


def test_saving_keeps_a_persons_notes_and_replaces_nothing_else(tmp_path):
    policy = make_policy()
    policy.save(tmp_path / "policy")
    (tmp_path / "policy/notes.txt").write_text("mine")
    policy.save(tmp_path / "policy")
    assert (tmp_path / "policy/notes.txt").read_text() == "mine"
    load_policy(tmp_path / "policy")
    for folder, name in ((tmp_path / "policy", "plots"), (tmp_path / "project", "code")):
        (folder / name).mkdir(parents=True)
        with pytest.raises(PolicyError, match=name):
            policy.save(folder)
        assert (folder / name).is_dir()
