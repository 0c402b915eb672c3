"""New instructions of recorded episodes are stored where LeRobot reads them and survive a crash; videos are not changed."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scripted import Page, after, lockstep

from verbot import cli
from verbot.data import DatasetWriter, EpisodeRecord, annotate, check_dataset, open_dataset
from verbot.data.storage.writer import example_dataset
from verbot.errors import DataError
from verbot.files import write_atomic
from verbot.teleop.annotate import annotate_in_page

FOREIGN = Path(__file__).parents[1] / "fixtures" / "lerobot_v3"


@pytest.fixture
def dataset(tmp_path):
    return example_dataset(tmp_path / "demos")


def sentences_of_lerobot(root) -> list[set[str]]:
    """The sentences that LeRobot reads for the frames of each episode, through the table of tasks."""
    table = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    sentences = dict(zip(table["task_index"], table["__index_level_0__"], strict=True))  # pandas' index is the sentence
    frames = pq.read_table(root / "data").to_pydict()
    out: dict[int, set[str]] = {}
    for episode, task in zip(frames["episode_index"], frames["task_index"], strict=True):
        out.setdefault(episode, set()).add(sentences[task])
    return [out[i] for i in range(len(out))]


def videos(root):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (root / "videos").rglob("*.mp4")}


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_sentences_from_a_file(dataset, tmp_path, capsys):
    before, frames = videos(dataset), open_dataset(dataset)[1].images("front")
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"1": ["go to the blue one", "touch the blue cube", "go to the blue one"]}))
    code, out, _ = run(capsys, "data", "annotate", dataset, "--instructions", words)
    assert (code, out) == (0, f"1 episodes annotated: {dataset}\n")
    one, two = open_dataset(dataset)
    assert one.instructions == ("touch the red cube",)
    assert two.instruction == "go to the blue one"
    assert two.instructions == ("go to the blue one", "touch the blue cube")
    assert two.extras["recorded_as"] == ["touch the blue cube"]
    assert sentences_of_lerobot(dataset) == [{"touch the red cube"}, {"go to the blue one"}]
    assert videos(dataset) == before
    np.testing.assert_array_equal(two.images("front"), frames)
    assert run(capsys, "data", "check", dataset)[:2] == (0, f"{dataset}: all well\n")
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert (stats["task_index"]["min"], stats["task_index"]["max"]) == ([0], [2])


def test_an_annotated_dataset_accepts_more_episodes(dataset):
    annotate(dataset, {0: ["another", "way"]})
    spec, first = open_dataset(dataset).spec, open_dataset(dataset)[0]
    with DatasetWriter(dataset, spec) as writer:
        images = {"front": first.images("front")}
        writer.save_episode(EpisodeRecord("touch the red cube", first.states, first.actions, images))
        writer.save_episode(EpisodeRecord("something new", first.states, first.actions, images))
    annotate(dataset, {0: ["yet another"], 3: ["newer"]})
    assert [e.instruction for e in open_dataset(dataset)] == ["yet another", "touch the blue cube", "touch the red cube", "newer"]
    assert check_dataset(dataset) == []
    assert open_dataset(dataset).info["total_tasks"] == len(pq.read_table(dataset / "meta/tasks.parquet"))


def test_a_crash_between_any_two_writes_leaves_every_episode_consistent(dataset, tmp_path, monkeypatch):
    """For every reader each episode has the old or the new instruction, and a second attempt completes the change."""
    old, new = "touch the blue cube", "go to the blue one"
    stops, genuine = 0, write_atomic
    while True:
        root = tmp_path / f"crash-{stops}"
        shutil.copytree(dataset, root)
        left = stops

        def write(path, content, **options):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return genuine(path, content, **options)

        monkeypatch.setattr("verbot.data.storage.writer.write_atomic", write)
        try:
            annotate(root, {1: [new, "more words"]})
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            monkeypatch.setattr("verbot.data.storage.writer.write_atomic", genuine)
        reopened = open_dataset(root)
        assert reopened[0].instruction == "touch the red cube"
        assert reopened[1].instruction in (old, new)
        (red,), (blue,) = sentences_of_lerobot(root)
        assert red == "touch the red cube" and blue in (old, new)
        assert check_dataset(root) == []
        annotate(root, {1: [new, "more words"]})
        assert open_dataset(root)[1].instructions == (new, "more words")
        assert sentences_of_lerobot(root)[1] == {new}
        assert check_dataset(root) == []
        stops += 1
    assert stops >= 6


def test_a_copy_leaves_the_original_alone(dataset, tmp_path):
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    annotate(dataset, {0: ["in other words"]}, out=tmp_path / "copy")
    assert before == {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    assert open_dataset(tmp_path / "copy")[0].instruction == "in other words"
    assert check_dataset(tmp_path / "copy") == []
    with pytest.raises(DataError, match="exists already; choose another folder for the copy"):
        annotate(dataset, {0: ["again"]}, out=tmp_path / "copy")


def test_a_dataset_of_other_software_is_annotated_in_a_copy(tmp_path):
    with pytest.raises(DataError, match=r"was written or changed by other software; give --out \(or out=\)"):
        annotate(FOREIGN, {0: ["in other words"]})
    annotate(FOREIGN, {0: ["in other words"]}, out=tmp_path / "copy")
    theirs, ours = open_dataset(FOREIGN), open_dataset(tmp_path / "copy")
    assert len(ours) == len(theirs)
    assert ours[0].instruction == "in other words"
    assert ours[1].instruction == theirs[1].instruction
    np.testing.assert_array_equal(ours[1].actions, theirs[1].actions)
    assert check_dataset(tmp_path / "copy") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON ("),
        ('{"0": ["go"], "0": ["come"]}', "is not JSON (it has '0' twice in one table)"),
        ("[]", "is a JSON list; expected a table"),
        ("{}", "expected a map of episode numbers to lists of sentences"),
        ('{"one": ["go"]}', "expected a map of episode numbers"),
        ('{"0": "go"}', "episode 0 needs a list of at least one sentence; got 'go'"),
        ('{"0": []}', "episode 0 needs a list of at least one sentence"),
        ('{"0": ["a\\nb"]}', "episode 0: a sentence is one line of 1 to 300 printable characters"),
        ('{"7": ["go"]}', "there is no episode 7; it has 2"),
    ],
)
def test_an_invalid_file_is_refused_and_changes_nothing(dataset, tmp_path, capsys, text, problem):
    words = tmp_path / "words.json"
    words.write_text(text)
    code, _, err = run(capsys, "data", "annotate", dataset, "--instructions", words)
    assert code == 2
    assert problem in err
    assert [episode.instruction for episode in open_dataset(dataset)] == ["touch the red cube", "touch the blue cube"]


def test_annotation_in_the_page(dataset):
    states, saved = [], []

    def script(server):
        with Page(server.url) as page:
            state = page.receive()
            states.append(state)
            assert state["images"]["front"].startswith("data:image/jpeg;base64,")
            for add, text in ((False, "reach for the red cube"), (True, "touch it")):
                page.say(text, add)
                states.append(after(page))
                saved.append(open_dataset(dataset)[0].instructions)  # stored immediately
            states.append(after(page, "next"))
            states.append(after(page, "retake"))
            states.append(after(page, "Space"))
            page.press("quit")
            page.seen()

    threads = []

    def start(server):
        threads.append(threading.Thread(target=script, args=(server,)))
        threads[0].start()

    result = annotate_in_page(dataset, pace=lockstep, opened=start)
    threads[0].join()
    begin, replaced, added, following, back, paused = states
    assert (begin["episode"], begin["instruction"], begin["episodes"]) == (0, "touch the red cube", 2)
    assert (replaced["instruction"], replaced["added"], replaced["annotated"]) == ("reach for the red cube", [], 1)
    assert (added["instruction"], added["added"]) == ("reach for the red cube", ["touch it"])
    assert saved == [("reach for the red cube",), ("reach for the red cube", "touch it")]
    assert (following["episode"], following["instruction"]) == (1, "touch the blue cube")
    assert (back["episode"], paused["phase"]) == (0, "paused")
    assert (result.episodes, result.annotated) == (2, 1)
    assert check_dataset(dataset) == []
