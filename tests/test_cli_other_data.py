"""Commands on datasets of other software, whose features have other names."""

import json

import h5py
import pytest

from verbot.cli import main
from verbot.data import open_dataset

MAP = ("--map", "state=state", "action=actions", "images.front=image", "images.wrist=wrist_image")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code, capsys.readouterr()


def test_every_command_takes_the_names_of_features(case, capsys, tmp_path):
    root = case("l08_openpi_keys")
    code, said = run(capsys, "data", "info", root, *MAP)
    assert code == 0 and "2 episodes, 20 frames" in said.out and "camera front: 96×64" in said.out
    assert run(capsys, "data", "check", root, *MAP)[0] == 0
    code, said = run(capsys, "data", "view", root, *MAP, "--episode", 1, "--out", tmp_path / "one.mp4")
    assert code == 0 and (tmp_path / "one.mp4").is_file()
    code, said = run(capsys, "data", "lint", root, *MAP, "--json")
    assert code == 0 and json.loads(said.out)["episodes"] == 2
    for command in ("info", "check", "view", "lint"):
        code, said = run(capsys, "data", command, root)
        assert code != 0 and "--map action=actions" in said.out + said.err


def test_edits_and_exports_take_the_names_of_features(case, capsys, tmp_path):
    root = case("l08_openpi_keys")
    code, said = run(capsys, "data", "edit", root, "--out", tmp_path / "ours", "--delete", 0, *MAP)
    assert code == 0 and "1 of 2 episodes" in said.out and open_dataset(tmp_path / "ours").camera_names == ("front", "wrist")
    code, said = run(capsys, "data", "export", root, tmp_path / "all.hdf5", *MAP)
    assert code == 0 and said.out.startswith("2 episodes, 20 frames: ")
    with h5py.File(tmp_path / "all.hdf5") as file:
        assert {"front_image", "wrist_image"} <= set(file["data/demo_0/obs"])
    for command, out in (("edit", ["--out", tmp_path / "two"]), ("export", [tmp_path / "two.hdf5"])):
        code, said = run(capsys, "data", command, root, *out)
        assert code == 2 and "--map action=actions" in said.err


def test_what_is_not_read_is_said(case, capsys):
    code, said = run(capsys, "data", "info", case("l10_depth_video"))
    assert code == 0 and "left out observation.images.front_depth: " in said.out


def test_every_sentence_is_shown(case, capsys):
    code, said = run(capsys, "data", "info", case("l07_two_tasks_in_episode"))
    assert code == 0 and "2 instructions, such as: open the drawer; put the spoon in the drawer" in said.out
