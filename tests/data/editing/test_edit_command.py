from __future__ import annotations

import json
import shutil

import pytest

from verbot import cli
from verbot.data import open_dataset


@pytest.fixture
def call(capsys):
    """``call("delete", …)`` gives the exit code and what ``verbot data edit`` printed."""

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["data", "edit", *map(str, words)])
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "dataset", ignore=shutil.ignore_patterns(".*"))


def lengths(root):
    return {episode.extras["number"]: len(episode) for episode in open_dataset(root)}


def test_every_option(call, root, tmp_path):
    (tmp_path / "words.json").write_text(json.dumps({"pick up object 1": "take it"}))
    code, out, _ = call(
        root, "--delete", "0", "length>8", "--trim", "1", "1:5", "--trim", "2", ":-3", "--split", "3", "2", "5",
        "--split", "6", "3", "--rename-camera", "front=top", "--instruction", "5=go there",
        "--instructions", tmp_path / "words.json", "--out", tmp_path / "e",
    )  # fmt: skip
    assert code == 0 and str(tmp_path / "e") in out
    dataset = open_dataset(tmp_path / "e")
    assert [(e.extras["number"], len(e), e.instruction) for e in dataset] == [
        (1, 4, "take it"), (2, 4, "pick up object 2"), (3, 2, "pick up object 0"), (3, 3, "pick up object 0"),
        (3, 3, "pick up object 0"), (5, 5, "go there"), (6, 3, "pick up object 0"), (6, 3, "pick up object 0"),
    ]  # fmt: skip
    assert dataset.camera_names == ("top", "wrist")
    for line in (
        "deleted    2 of 7 episodes: 0, 4",
        "trimmed    episode 1 to frames 1 to 5, episode 2 to frames 0 to 4",
        "split      episode 3 at 2, 5, episode 6 at 3",
        "renamed    front to top",
        "sentences  episode 5: go there, pick up object 1 is now take it",
        "images     8 copied, 8 encoded again (one camera of one episode each)",
        "now        8 episodes, 27 frames; before 7 and 46",
    ):
        assert line in out


def test_in_place_and_as_json(call, root):
    code, out, _ = call(root, "--keep", "2:5", "--where", "length>7", "--subsample", "2", "--json")
    record = json.loads(out)
    assert code == 0 and lengths(root) == {3: 4, 4: 5} and open_dataset(root).spec.rate_hz == 5
    assert (record["episodes"], record["frames"], record["frames_before"], record["path"]) == (2, 9, 46, str(root))


def test_deleting_what_satisfies_all_conditions(call, root):
    assert call(root, "--delete", "--where", "length<7", "number!=0")[0] == 0
    assert list(lengths(root)) == [0, 2, 3, 4]


def test_merging_and_resampling(call, root, written):
    assert call(root, "--merge", written, "--rate-hz", "5")[0] == 0
    assert len(open_dataset(root)) == 14 and open_dataset(root).spec.rate_hz == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trim", "1"], "--trim has ''; expected an episode and start:stop, as in --trim 5 10:50"),
        (["--trim", "1", "5"], "--trim has '5'; expected"),
        (["--trim", "x", "1:5"], "--trim has 'x' in place of the number of an episode"),
        (["--split", "1", "a"], "--split has 'a'; expected an episode and frames, as in --split 5 30 60"),
        (["--rename-camera", "front"], "--rename-camera 'front': expected two names or values with = between them"),
        (["--instruction", "x=y"], "--instruction has 'x' in place of the number of an episode"),
        (["--instructions", "none.json"], "none.json: cannot be read (No such file or directory)"),
        (["--instructions", "/dev/full"], "/dev/full: is a device; expected a plain file"),
        ([], "nothing is to change"),
    ],
)
def test_a_wrong_option_is_one_line(call, root, words, message):
    code, _, err = call(root, *words)
    assert code == 2 and err.startswith("verbot: ") and message in err and err.count("\n") == 1
    assert len(open_dataset(root)) == 7


@pytest.mark.parametrize(
    "content",
    ["[1]", '{"0": 3}', '{"a sentence": 3}', '{"a sentence": []}', '{"a": "b", "1": ["c"]}', '{"a": "b", "a": "c"}', "{"],
)
def test_a_file_of_instructions_that_is_none_is_one_line(call, root, tmp_path, content):
    (tmp_path / "words.json").write_text(content)
    code, _, err = call(root, "--instructions", tmp_path / "words.json")
    assert code == 2 and err.startswith("verbot: ") and err.count("\n") == 1 and len(open_dataset(root)) == 7
