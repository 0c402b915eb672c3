"""Text rows stand beside robot rows in their shares; what each holds is what the scene and the actions say."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from verbot.contracts import Reasoning, SceneTruth
from verbot.contracts.reasoning import PARTS, grid_place
from verbot.data import DatasetWriter, open_dataset
from verbot.data.samples.keypoints import projections
from verbot.envs import make_env
from verbot.errors import ConfigError, DataError, ReasoningError, UnknownNameError, VerbotError
from verbot.rollout.collect import demonstrate
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.records import AugmentConfig, BudgetConfig, DataConfig
from verbot.training.imitation.text_config import TextConfig, load_facts
from verbot.training.imitation.text_rows import TextRows

PLAIN = AugmentConfig(shift_pixels=0, brightness=0, contrast=0, saturation=0, blank_instruction=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two demonstrations with the truth of their scenes, the same without, and a file of facts."""
    root = tmp_path_factory.mktemp("text")
    with closing(make_env("tabletop-starter", render_cameras=False, image_size=16)) as env:
        for name in ("truth", "plain"):
            with DatasetWriter(root / name, env.robot_spec, images="image") as writer:
                for index, task in enumerate(("put", "pick")):
                    request = {"task": task, "index": index, "split": "train", "wording": "seen"}
                    writer.save_episode(demonstrate(env, request, 0.1, 0, index, truth=name == "truth").record)
    (root / "facts.jsonl").write_text('{"prompt": "what color is a lemon?", "answer": "yellow"}\n')
    return root


def configured(folders, name="truth", **text) -> TrainConfig:
    facts = (str(folders / "facts.jsonl"),) if text.get("fact") else ()
    chosen = TextConfig(facts=facts, **text)
    data = DataConfig((str(folders / name),), batch_size=32, cache=str(folders / "cache"), text=chosen)
    return TrainConfig(data, BudgetConfig(steps=4), augment=PLAIN)


def test_rows_come_in_their_shares_and_are_masked_as_their_kind_asks(folders, tmp_path):
    config, counts = configured(folders, question=0.3, caption=0.1, fact=0.2, reasoning=0.2), Counter()
    with TrainingData(config, tmp_path, 0, 0) as data:
        batches = [data.batch(step, 0) for step in range(10)]
        again = data.batch(3, 0)
        assert next(data.held_out()).text_tasks and set(data.instructions) < set(corpus := data.corpus())
        assert "yellow" in corpus and any("PLAN:" in text for text in corpus)
    for batch in batches:
        assert not {"scene", "scene_points"} & set(batch.targets)
        for row, task in enumerate(batch.text_tasks):
            kind = task.kind if task else "action"
            counts[kind] += 1
            acts, sees = batch.actions_mask[row].any(), batch.images_mask[row].all()
            assert (acts, sees) == {"action": (True, True), "reasoning": (True, True), "fact": (False, False)}.get(
                kind, (False, True)
            )
            assert batch.state_mask[row].all() == (kind != "fact")
            assert task is None or (task.frame == (None if kind == "fact" else batch.index[row]))
            assert task is None or batch.instructions[row] == task.prompt
            if kind in ("question", "caption", "fact"):
                assert not any(target.mask[row].any() for target in batch.targets.values())
    expected = {"question": 96, "caption": 32, "fact": 64, "reasoning": 64, "action": 64}
    assert all(abs(counts[kind] - n) < 4 * np.sqrt(n) for kind, n in expected.items()), counts
    assert again.text_tasks == batches[3].text_tasks and again.text_tasks != batches[4].text_tasks


def test_reasoning_says_what_scene_and_actions_say(folders, tmp_path):
    dataset = open_dataset(folders / "truth")
    stops = np.cumsum(dataset.lengths)
    with TrainingData(configured(folders, reasoning=1.0), tmp_path, 0, 0) as data:
        batch = data.batch(0, 0)
        index = batch.index
        frames = [data._train[0].locate(np.array([number])) for number in index]
    words = Counter()
    for task, (episode, frame) in zip(batch.text_tasks, frames, strict=True):
        number, row = int(episode[0]), int(frame[0])
        recorded = dataset[number]
        said, truth = Reasoning.parse(task.answer), SceneTruth.from_json(recorded.columns["scene"][row])
        assert (said.task, said.plan, said.subtask) == (truth.task, truth.plan, truth.plan[truth.subtask])
        matrix = projections(recorded.states, dataset.spec, recorded.calibration, ("front",))[row, 0]
        for name, *place in (*said.objects, *([("", *said.gripper)] if said.gripper else [])):
            where = truth.object(name).position_m if name else truth.tool_m
            x, y, depth = matrix @ (*where, 1.0)
            assert tuple(place) == grid_place(x / depth, y / depth)
            words["places"] += 1
        chunk = recorded.actions[row : row + 10]
        for axis, more, less in ((2, "up", "down"), (1, "right", "left"), (0, "forward", "backward")):
            moved = chunk[:, axis].sum()
            assert (more not in said.move.split(", turn")[0]) or moved > 0.009, (said.move, moved)
            assert (less not in said.move.split(", turn")[0]) or moved < -0.009
        if "close the gripper" in said.move:
            assert recorded.states[row, 7] > 0.8 and chunk[-1, 6] < 0.5
            words["close"] += 1
        words["moves"] += said.move != "hold still"
    assert stops[-1] == len(dataset[0]) + len(dataset[1]) and min(words["places"], words["close"], words["moves"]) > 0


def test_parts_of_reasoning_can_be_left_out(folders, tmp_path):
    with TrainingData(configured(folders, reasoning=1.0, parts=("subtask", "move")), tmp_path, 0, 0) as data:
        said = Reasoning.parse(data.batch(0, 0).text_tasks[0].answer)
    assert said.subtask and said.move and not (said.task or said.plan or said.gripper or said.objects)


def test_a_dataset_without_scenes_still_trains_and_says_what_it_lacks(folders, tmp_path):
    with TrainingData(configured(folders, "plain"), tmp_path, 0, 0) as data:
        assert data.batch(0, 0).text_tasks == [None] * 32
    with pytest.raises(
        ConfigError, match=r"need the truth of scenes, and .*plain has none: record it with `verbot collect --truth`"
    ):
        TrainingData(configured(folders, "plain", question=0.2), tmp_path, 0, 0)
    with TrainingData(configured(folders, "plain", fact=1.0), tmp_path, 0, 0) as data:
        assert {task.answer for task in data.batch(0, 0).text_tasks} == {"yellow"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no ACTION:"),
        ("hello PLAN: a ACTION:", "begins with 'hello'"),
        ("PLAN: a SUBTASK: b", "no ACTION:"),
        ("PLAN: a PLAN: b ACTION:", "twice"),
        ("MOVE: up TASK: a ACTION:", "out of order"),
        ("MOVE: ACTION:", "MOVE: is empty"),
        ("GRIPPER: 5 100 ACTION:", "no place"),
        ("OBJECTS: red cube 5 ACTION:", "no name and place"),
    ],
)
def test_malformed_reasoning_is_a_typed_error(text, words):
    with pytest.raises(ReasoningError, match=words) as caught:
        Reasoning.parse(text)
    assert isinstance(caught.value, VerbotError) and "\n" not in str(caught.value)


def test_reasoning_comes_back_whole():
    whole = Reasoning(
        "pick up it",
        ("reach it", "lift it"),
        "lift it",
        "move up, close the gripper",
        (0, 99),
        (("red cube", 1, 2), ("box", 3, 4)),
    )
    assert Reasoning.parse(whole.text()) == Reasoning.parse(whole.text() + " 17 42 ACTION: 3") == whole
    assert Reasoning.parse(whole.text(("plan",))) == Reasoning(plan=whole.plan)
    assert Reasoning.parse(Reasoning().text()) == Reasoning()
    for wrong in ({"move": "a PLAN: b"}, {"plan": ("a; b",)}, {"gripper": (100, 0)}, {"objects": (("a, b", 1, 2),)}):
        with pytest.raises(ReasoningError):
            Reasoning(**wrong)
    with pytest.raises(UnknownNameError, match="part of reasoning"):
        whole.text(("mood",))


def test_what_is_wrong_with_a_text_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"add up to 1\.2"):
        TextConfig(question=0.7, reasoning=0.5)
    with pytest.raises(ConfigError, match="text.fact needs facts"):
        TextConfig(fact=0.1)
    with pytest.raises(ConfigError, match="no such file of facts"):
        load_facts(tmp_path / "none.jsonl")
    bad = tmp_path / "bad.jsonl"
    for line in (
        "{}",
        "not json",
        json.dumps({"prompt": "a", "answer": 3}),
        json.dumps({"prompt": "a", "answer": "b", "c": "d"}),
    ):
        bad.write_text('{"prompt": "a", "answer": "b"}\n' + line)
        with pytest.raises(ConfigError, match="line 2"):
            load_facts(bad)
    joints = make_env("navigation").robot_spec
    with pytest.raises(ConfigError, match="MOVE needs actions"):
        TextRows(TextConfig(reasoning=0.5, parts=PARTS), joints)
    with pytest.raises(DataError):
        TextRows(TextConfig(question=0.5), joints).corpus(["nonsense"], 0)
