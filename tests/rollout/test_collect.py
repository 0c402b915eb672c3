"""Collection: what is saved, that it is a function of its seed, and that an interruption costs nothing."""

from __future__ import annotations

import importlib
import itertools
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing

import numpy as np
import pytest

from verbot.configuration import build
from verbot.contracts import observation_from_env
from verbot.data import WindowConfig, Windows, open_dataset
from verbot.envs import make_env
from verbot.errors import ConfigError, DataError, SimulationError, VerbotDeprecationWarning
from verbot.parallel.workers import WorkerDied, WorkerError
from verbot.rollout import collect as collection
from verbot.rollout.collect import CollectConfig, LeadIn, collect, demonstrate, request_for

OPTIONS = {"image_size": 32}


@pytest.fixture(scope="module")
def env():
    with closing(make_env("tabletop-starter", **OPTIONS)) as made:
        yield made


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    path = tmp_path_factory.mktemp("demos") / "whole"
    return collect("tabletop-starter", path, 5, seed=3, workers=2, options=OPTIONS, progress=False)


def contents(path):
    return [
        (e.instruction, e.states.tobytes(), e.actions.tobytes(), e.images("front").tobytes(), dict(e.extras)["request"])
        for e in open_dataset(path)
    ]


def test_what_an_episode_holds(demos):
    dataset = open_dataset(demos.path)
    assert (demos.episodes, len(dataset), demos.frames) == (5, 5, sum(len(e) for e in dataset))
    assert demos.attempts == demos.episodes + demos.failures + demos.errors
    tasks = [dataset[i].extras["goal"]["verb"] for i in range(3)]
    assert demos.failures or sorted(tasks) == ["pick", "push", "put"]
    for episode in dataset:
        extras = episode.extras
        assert extras["success"] is True
        assert episode.instruction in extras["instructions"]
        assert len(extras["instructions"]) >= 3
        assert extras["feasible"][0] == extras["goal"]
        assert len(extras["grounding"]) == len(extras["feasible"]) >= 3
        assert 0 < extras["first_contact_frame"] < len(episode)
        assert extras["request"]["split"] == "train"
        assert set(episode.calibration) == {"front", "wrist"}


def test_an_interrupted_collection_becomes_the_same_dataset(demos, tmp_path):
    script = (
        "from verbot.rollout.collect import collect\n"
        f"collect('tabletop-starter', {str(tmp_path / 'cut')!r}, 5, seed=3, workers=1, options={OPTIONS}, progress=False)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    journal = tmp_path / "cut"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and _saved(journal) < 2:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert _saved(journal) >= 2
    result = collect("tabletop-starter", journal, 5, seed=3, workers=1, options=OPTIONS, progress=False)
    assert contents(journal) == contents(demos.path)
    assert (result.episodes, result.attempts, result.failures) == (5, demos.attempts, demos.failures)


def _saved(path) -> int:
    try:
        return len(open_dataset(path))
    except DataError:
        return 0


def test_every_attempt_draws_its_strengths_from_its_number_and_the_dataset_tells_them(tmp_path):
    drawn = {"randomize": {"all": 2, "sensor_noise": 0}, "options": OPTIONS, "progress": False}
    path = collect("tabletop-starter", tmp_path / "random", 3, seed=3, workers=1, **drawn).path
    config = CollectConfig(seed=3, randomize=drawn["randomize"])
    for episode in open_dataset(path):
        request, attempt = episode.extras["request"], episode.extras["collection"]["attempt"]
        assert request == request_for(config, ("pick", "push", "put"), attempt)
        assert "sensor_noise" not in request["axes"]
        assert set(request["axes"].values()) <= {0, 1, 2}
    requests = [request_for(config, ("pick",), index)["axes"] for index in range(30)]
    assert len({tuple(axes.values()) for axes in requests}) > 25
    plain = request_for(CollectConfig(seed=3), ("pick", "push", "put"), 4)
    assert request_for(config, ("pick", "push", "put"), 4) == {**plain, "axes": requests[4]}  # the same scene, otherwise


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"randomize": {"camera_dropout": 2}}, "randomize cannot draw camera_dropout"),
        ({"randomize": {"camera": 2}, "axes": {"camera": 1}}, "'camera' has a fixed strength in axes and a drawn one"),
        ({"randomize": {"camera": 5}}, "randomize.camera is 5; expected at least 0 and at most 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_played(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        collect("tabletop-starter", tmp_path / "refused", 3, workers=1, progress=False, **settings)
    assert not (tmp_path / "refused").exists()


def test_labels_are_clean_while_noise_is_executed(env):
    request = request_for(CollectConfig(seed=1), env.tasks, 0)
    executed, labels = [], []
    genuine = env.step

    def step(action):
        executed.append(np.array(action))
        return genuine(action)

    env.step = step
    try:
        record = demonstrate(env, request, noise=0.3, seed=1, index=0).record
    finally:
        del env.step
    assert record is not None
    labels, executed = record.actions, np.stack(executed)
    assert labels.shape == executed.shape
    assert np.abs(labels - executed).max() > 0.005
    expert, (observation, _) = env.expert(), env.reset(seed=1, options=request)
    expert.reset(observation["instruction"])
    np.testing.assert_allclose(labels[0], expert.act(observation_from_env(observation)), atol=1e-6)


def test_a_lead_in_is_not_recorded(env):
    class Still:
        def reset(self, instruction):
            self.steps = 0

        def act(self, observation):
            self.steps += 1
            return np.array([0, 0, -0.02, 0, 0, 0, 1], np.float32)

    agent, request = Still(), request_for(CollectConfig(seed=1), env.tasks, 0)
    whole = demonstrate(env, request, noise=0.0, seed=1, index=0)
    after = demonstrate(env, request, noise=0.0, seed=1, index=0, lead_in=LeadIn(agent, 4))
    assert agent.steps == 4
    assert after.record is not None
    assert not np.allclose(after.record.states[0], whole.record.states[0])
    assert np.allclose(after.record.states[0][2], whole.record.states[0][2] - 0.08, atol=0.03)


def test_an_agent_that_never_ends_leaves_nothing(env):
    class Still:
        def reset(self, instruction):
            pass

        def act(self, observation):
            return np.array([0, 0, 0, 0, 0, 0, 1], np.float32)

    attempt = demonstrate(env, request_for(CollectConfig(), env.tasks, 0), 0.0, 0, 0, LeadIn(Still(), 10_000))
    assert (attempt.record, attempt.over, attempt.error) == (None, True, None)


def test_a_fault_is_an_error_not_a_failure(env, monkeypatch):
    def fault(action):
        raise SimulationError("NaN in qpos")

    monkeypatch.setattr(env, "step", fault)
    attempt = demonstrate(env, request_for(CollectConfig(), env.tasks, 0), 0.0, 0, 0)
    assert (attempt.record, attempt.error) == (None, "NaN in qpos")


def test_tasks_take_turns_in_an_order_of_the_seed():
    tasks = ("a", "b", "c")
    requests = [request_for(CollectConfig(seed=2, axes={"lighting": 1}), tasks, i) for i in range(30)]
    assert all({r["task"] for r in requests[i : i + 3]} == set(tasks) for i in range(0, 30, 3))
    assert len({tuple(r["task"] for r in requests[i : i + 3]) for i in range(0, 30, 3)}) > 1
    assert requests[7]["axes"] == {"lighting": 1}
    assert [r["index"] for r in requests] == list(range(30))


def test_wrong_tasks_and_a_hopeless_expert_are_reported(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="has no task stir; it has pick, push, put"):
        collect("tabletop-starter", tmp_path / "a", 1, tasks=("stir",), options=OPTIONS)
    monkeypatch.setattr(collection, "demonstrations", lambda *args: (collection.Demonstration(i, None) for i in args[1]))
    with pytest.raises(DataError, match="only 0 of 2 demonstrations after 24 attempts"):
        collect("tabletop-starter", tmp_path / "b", 2, options=OPTIONS, progress=False)


MORTAL = """
    import contextlib, dataclasses, os, pathlib, signal
    from verbot.rollout.collect import Demonstration

    @dataclasses.dataclass(frozen=True)
    class Mortal:
        folder: str

        @contextlib.contextmanager
        def open(self):
            yield self

        def answers(self, requests):
            folder = pathlib.Path(self.folder)
            for index in requests:
                with open(folder / str(index), "a") as tries:
                    tries.write("x")
                if index == 3 and (folder / "3").stat().st_size <= int((folder / "deaths").read_text()):
                    os.kill(os.getpid(), signal.SIGSEGV)
                yield Demonstration(index, None)
"""


@pytest.fixture
def mortal(tmp_path, monkeypatch):
    (tmp_path / "mortal_worker.py").write_text(textwrap.dedent(MORTAL))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mortal_worker", raising=False)
    return importlib.import_module("mortal_worker").Mortal(str(tmp_path))


def test_a_worker_that_dies_is_replaced_and_no_episode_is_lost(mortal, tmp_path):
    (tmp_path / "deaths").write_text("1")
    done = [demonstration.index for demonstration in collection.demonstrations(mortal, range(9), 2)]
    assert done == list(range(9))
    assert (tmp_path / "3").read_text() == "xx"


def test_an_episode_that_kills_twice_is_the_end_of_it(mortal, tmp_path):
    (tmp_path / "deaths").write_text("2")
    with pytest.raises(WorkerDied, match="exit code -11"):
        list(collection.demonstrations(mortal, range(9), 2))


def test_frames_in_which_colors_are_covered_teach_no_places(tmp_path):
    settings = {"workers": 1, "options": {**OPTIONS, "tasks": ["pick"]}, "progress": False}
    result = collect("tabletop-memory", tmp_path / "covered", 2, seed=1, **settings)
    dataset = open_dataset(result.path)
    windows = Windows(dataset, WindowConfig(grounding_queries=3, labels=("keypoints", "known_keypoints")))
    batch = windows.batch(np.arange(len(windows)), np.random.default_rng(0))
    start = 0
    for episode in dataset:
        covered, first_contact = episode.extras["unseen_frame"], episode.extras["first_contact_frame"]
        assert 8 < covered < first_contact
        labeled = batch.targets["keypoints"].mask[start : start + len(episode)].any((1, 2))
        asked = np.array([bool(queries) for queries in batch.grounding_queries[start : start + len(episode)]])
        assert labeled[:covered].all() and asked[:covered].all(), "while the colors show"
        known = batch.targets["known_keypoints"].mask[start : start + len(episode)].any((1, 2))
        assert known[:first_contact].all(), "who remembers could tell where it was"
        assert not labeled[covered:first_contact].any() and not asked[covered:].any(), "nobody could tell"
        assert labeled[first_contact:].any(), "the hand tells what it handles"
        start += len(episode)


def test_a_camera_that_fails_cannot_be_recorded(tmp_path):
    with pytest.raises(WorkerError, match="collect without camera_dropout"):
        collect("tabletop-starter", tmp_path / "lost", 1, workers=1, axes={"camera_dropout": 3}, options=OPTIONS, progress=False)


def test_scenes_are_visited_twice_and_runs_span_both_visits(tmp_path):
    settings = {"seed": 2, "workers": 2, "options": OPTIONS, "progress": False}
    made = collect("tabletop-memory", tmp_path / "twice", 4, tasks=("pick", "push"), revisit_env="tabletop-revisit", **settings)
    dataset = open_dataset(made.path)
    pairs = [(a, b) for a, b in itertools.pairwise(dataset) if b.extras.get("visit")]
    assert pairs
    for shown, covered in pairs:
        assert shown.extras["request"] == covered.extras["request"]
        assert (shown.extras["goal"], shown.extras["grounding"]) == (covered.extras["goal"], covered.extras["grounding"])
        assert shown.extras["unseen_frame"] > 0 == covered.extras["unseen_frame"]
    windows, starts = Windows(dataset, WindowConfig(sequence=6, stride=5)), np.cumsum([0, *(len(episode) for episode in dataset)])
    number = next(i for i, episode in enumerate(dataset) if episode.extras.get("visit"))
    batch = windows.gather(np.array([starts[number] + 7]), np.zeros((1, 3)))
    assert batch.images_mask[:, 0, 0].tolist() == [True, True, True, False, True, True]
    before = number - 1
    for row, (visit, frame) in enumerate([(before, 0), (before, 5), (before, 10), (number, 0), (number, 2), (number, 7)]):
        assert np.array_equal(batch.images[row, 0, 0], dataset[visit].images("front")[frame])


def test_a_second_visit_needs_the_same_tasks(tmp_path):
    with pytest.raises(ConfigError, match=r"'tabletop-revisit' has no task put_back; it has pick, push, put"):
        collect("tabletop-memory", tmp_path / "twice", 4, revisit_env="tabletop-revisit", progress=False)
    with pytest.raises(ConfigError, match="different robots"):
        collect("tabletop-memory", tmp_path / "twice", 4, tasks=("pick",), revisit_env="tabletop-occluded", progress=False)


def test_scenes_are_recorded_with_captions_and_without_demonstrations(tmp_path):
    settings = {"workers": 1, "progress": False, "options": {**OPTIONS, "captions": 5}}
    made = collect("tabletop-starter", tmp_path / "scenes", 3, max_frames=4, seed=3, **settings)
    assert (made.frames, made.attempts) == (12, 3)
    dataset = open_dataset(made.path)
    for episode in dataset:
        assert len(episode) == 4 and len(episode.extras["captions"]) == 5 and episode.extras["handed_back"]
    windows = Windows(dataset, WindowConfig(captions=2, labels=("keypoints",)))
    batch = windows.batch(np.arange(len(windows)), np.random.default_rng(0))
    assert all(len(said) == 2 for said in batch.captions)
    known = [{(c["true"], c["false"]) for c in episode.extras["captions"]} for episode in dataset]
    assert all(set(said) <= known[row // 4] for row, said in enumerate(batch.captions))
    assert len(set(batch.captions)) > 6, "others at each time"
    assert not batch.targets["keypoints"].mask[..., :2].any(), "nobody knows where the hand would have gone"
    assert not any(Windows(dataset).batch([0], np.random.default_rng(0)).captions)
    with pytest.warns(VerbotDeprecationWarning, match="the setting of collect first is now called max_frames"):
        assert collect("tabletop-starter", tmp_path / "scenes", 3, first=4, seed=3, **settings).frames == 12
    with pytest.warns(VerbotDeprecationWarning, match="again → revisit_env"):
        assert build(CollectConfig, {"again": "tabletop-revisit"}) == CollectConfig(revisit_env="tabletop-revisit")
    with pytest.raises(ConfigError, match="max_frames is 0; expected at least 1 frame, or none for whole demonstrations"):
        collect("tabletop-starter", tmp_path / "none", 1, max_frames=0, progress=False)


def test_images_without_loss(demos, tmp_path):
    collect("tabletop-starter", tmp_path / "exact", 1, seed=3, workers=1, options=OPTIONS, images="image", progress=False)
    (episode,) = open_dataset(tmp_path / "exact")
    features = episode.dataset.info["features"]
    assert {features[f"observation.images.{name}"]["dtype"] for name in episode.dataset.camera_names} == {"image"}
    lossy = open_dataset(demos.path)[0]
    assert np.array_equal(episode.states, lossy.states) and not np.array_equal(episode.images("front"), lossy.images("front"))
