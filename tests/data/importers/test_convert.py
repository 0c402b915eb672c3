"""What all formats share: recognition, resuming, specs, limits, the command, and training on the outcome."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from verbot import cli
from verbot.data import ImportConfig, WindowConfig, Windows, import_dataset, open_dataset
from verbot.data.importers import recognize, sources
from verbot.data.importers.convert import REQUEST
from verbot.data.importers.known_robots import ROBOTS, known
from verbot.data.importers.plan import ImportPlan
from verbot.data.storage.writer import example_dataset
from verbot.errors import ConfigError, DataError, UnknownNameError, UnwritableError
from verbot.spec import Camera, Component, RobotSpec

SOURCE = Path(__file__).parents[3] / "src"

# Imports until it has saved so many episodes, then dies as of a kill -9.
MORTAL = """
import os, signal, sys
from verbot.data.importers.convert import ImportConfig, import_dataset
from verbot.data.storage.writer import DatasetWriter

source, target, lives = sys.argv[1], sys.argv[2], int(sys.argv[3])
save = DatasetWriter.save_episode

def mortal(self, record):
    global lives
    lives -= 1
    if lives < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, record)

DatasetWriter.save_episode = mortal
import_dataset(source, target, ImportConfig(rate_hz=10))
"""


@pytest.fixture
def truths(truth):
    return [truth(number) for number in range(7)]


@pytest.fixture
def folder(tmp_path, truths):
    """Seven tensor files, one an episode; the fourth is cut short."""
    root = tmp_path / "raw"
    root.mkdir()
    for number, one in enumerate(truths):
        arrays = {"observations.front": one.images["front"], "observations.state": one.states, "actions": one.actions}
        save_file(arrays, root / f"{number}.safetensors", {"language": json.dumps(one.instruction)})
    path = root / "3.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    return root


def content(path):
    dataset = open_dataset(path)
    return dataset.spec, [(e.identity, e.instruction, e.states.tobytes(), e.actions.tobytes(), e.extras) for e in dataset]


def test_an_import_killed_twice_and_repeated_gives_the_same_dataset(tmp_path, folder):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    for saved, lives in ((2, 2), (5, 3)):
        command = [sys.executable, "-c", MORTAL, str(folder), str(tmp_path / "killed"), str(lives)]
        assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
        assert len(open_dataset(tmp_path / "killed")) == saved
    again = import_dataset(folder, tmp_path / "killed", ImportConfig(rate_hz=10))
    whole = import_dataset(folder, tmp_path / "whole", ImportConfig(rate_hz=10))
    assert (again.already, again.episodes, whole.already, whole.episodes) == (5, 6, 0, 6)
    assert again.table == whole.table and {row.episodes for row in whole.table.rows} == {6}
    assert again.skipped == whole.skipped and [skipped.episode for skipped in whole.skipped] == ["3.safetensors"]
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert again.problems == () and not list((tmp_path / "killed").rglob("*.tmp"))


def test_a_repeated_import_does_nothing_and_a_different_one_is_refused(tmp_path, folder):
    import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10))
    before = content(tmp_path / "out")
    result = import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10))
    assert (result.already, result.episodes) == (6, 6) and content(tmp_path / "out") == before
    with pytest.raises(DataError, match=r"was imported with \{'rate_hz': 10\}; this call has \{'rate_hz': 20\}\. Choose another"):
        import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=20))
    example_dataset(tmp_path / "other")
    with pytest.raises(DataError, match="is already a dataset and not the result of an import; choose another folder"):
        import_dataset(folder, tmp_path / "other", ImportConfig(rate_hz=10))


def test_images_without_loss(capsys, tmp_path, folder, truths):
    (folder / "3.safetensors").unlink()
    given = ["import", folder, tmp_path / "out", "--rate-hz", "10"]
    assert run(capsys, *given, "--images", "image")[0] == 0
    dataset = open_dataset(tmp_path / "out")
    assert dataset.info["features"]["observation.images.front"]["dtype"] == "image"
    assert np.array_equal(dataset[0].images("front"), truths[0].images["front"])
    code, _, err = run(capsys, *given)
    assert code == 2 and "was imported with {'images': 'image'}; this call has {'images': None}" in err


def test_a_limit_can_be_raised(tmp_path, folder, truths, same):
    result = import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10, limit=2))
    assert (result.episodes, result.skipped) == (2, ())
    low = open_dataset(tmp_path / "out").spec.action[0].low
    np.testing.assert_allclose(low, np.concatenate([one.actions for one in truths[:2]]).min(0))
    assert import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10)).already == 2
    dataset = same(tmp_path / "out", [*truths[:3], *truths[4:]])
    assert dataset.spec.action[0].low == low


def test_a_given_spec_defines_the_robot_and_selects_cameras(tmp_path, folder, truths):
    arm = Component("arm", "joint_position", ("a", "b", "c", "d"), "rad", "base", (-2.0,) * 4, (2.0,) * 4)
    move = Component("move", "position_delta", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
    spec = RobotSpec("mine", 25.0, (), (arm,), (move,))
    import_dataset(folder, tmp_path / "out", ImportConfig(spec=spec))
    dataset = open_dataset(tmp_path / "out")
    assert dataset.spec == spec and dataset[0].actions.tobytes() == truths[0].actions.tobytes()
    save_file({"actions": truths[0].actions}, tmp_path / "unlabeled.safetensors")
    with pytest.raises(ConfigError, match="holds no instructions"):
        import_dataset(tmp_path / "unlabeled.safetensors", tmp_path / "unlabeled", ImportConfig(spec=spec))
    assert not (tmp_path / "unlabeled").exists()
    wrong = RobotSpec("mine", 25.0, (Camera("top", 8, 8),), (), (move,))
    text = r"0.safetensors, episode 0: states have shape \(5, 4\); robot 'mine' expects \(5, 0\) \(and 6 more\)"
    with pytest.raises(DataError, match=f"no episode of raw can be imported: {text}"):
        import_dataset(folder, tmp_path / "wrong", ImportConfig(spec=wrong))
    assert not (tmp_path / "wrong").exists()


def test_formats_are_recognized(tmp_path, folder):
    assert recognize(folder) == "tensors"
    with pytest.raises(DataError, match="nowhere does not exist"):
        recognize(tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes is of no known format: it has readme.txt. Known: hdf5: \.hdf5 files of ALOHA"):
        recognize(tmp_path / "notes")
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="looks like manifest and like tensors; choose one with --format"):
        recognize(folder)
    with pytest.raises(UnknownNameError, match="there is no dataset format named 'tensor'. Did you mean 'tensors'"):
        import_dataset(folder, tmp_path / "out", ImportConfig("tensor"))
    assert {"hdf5", "manifest", "mcap", "rlds", "tensors"} <= set(sources.names())


def test_a_native_dataset_needs_no_import(tmp_path):
    path = example_dataset(tmp_path / "dataset")
    with pytest.raises(DataError, match=r"is a LeRobotDataset v3\.0, which verbot reads as it is"):
        import_dataset(path, tmp_path / "out")
    (path / "meta/info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(DataError, match=r"is a LeRobotDataset v2\.1, which verbot reads as it is"):
        import_dataset(path, tmp_path / "out")
    (path / "meta/info.json").write_text('{"codebase_version": "v1.6"}')
    with pytest.raises(DataError, match=r"is a LeRobotDataset v1\.6; convert it to v3\.0 with LeRobot"):
        import_dataset(path, tmp_path / "out")


def test_wrong_options_and_robots_are_reported(tmp_path, folder):
    with pytest.raises(ConfigError, match="format 'tensors' has no option 'split'; it has state, action, images, .*, floats"):
        import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10, options={"split": "train"}))
    with pytest.raises(UnknownNameError, match="there is no known robot named 'driod'. Did you mean 'droid'"):
        import_dataset(folder, tmp_path / "out", ImportConfig(robot="driod"))
    with pytest.raises(ConfigError, match="format 'tensors' does not record the rate of raw; give --rate-hz"):
        import_dataset(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="limit is 0; expected at least 1"):
        import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10, limit=0))
    with pytest.raises(ConfigError, match="rate_hz is -1; expected more than 0"):
        import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=-1))
    assert not (tmp_path / "out").exists()


def test_episodes_that_are_not_finite_have_no_range(tmp_path):
    source = tmp_path / "raw"
    source.mkdir()
    for number, value in enumerate((np.nan, 1.0, np.inf)):
        save_file({"actions": np.full((2, 1), value, np.float32)}, source / f"{number}.safetensors")
    result = import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=10, instruction=""))
    assert [skipped.problem for skipped in result.skipped] == ["actions are not finite at frame 0"] * 2
    spec = open_dataset(tmp_path / "out").spec
    assert spec.action[0].low[0] < spec.action[0].high[0] == 1.0  # a range is not a point
    (source / "1.safetensors").unlink()
    with pytest.raises(
        DataError, match="no episode of raw can be imported: 0.safetensors, episode 0: its numbers are not finite"
    ):
        import_dataset(source, tmp_path / "none", ImportConfig(rate_hz=10, instruction=""))


def test_an_import_that_saves_nothing_leaves_what_was_there(monkeypatch, tmp_path, folder):
    target = tmp_path / "mounted/target"
    (target / "mine").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(ImportPlan, "fill", lambda *_: fail(UnwritableError(target, OSError(28, "No space left on device"))))
    with pytest.raises(UnwritableError, match="No space left"):
        import_dataset(folder, target, ImportConfig(rate_hz=10))
    monkeypatch.setattr(ImportPlan, "fill", lambda *_: fail(DataError("none")))
    for root in (target, tmp_path / "new/one"):
        with pytest.raises(DataError, match="none"):
            import_dataset(folder, root, ImportConfig(rate_hz=10))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_import_holds_its_target_and_writes_nothing_beside_it(monkeypatch, tmp_path, folder):
    target = tmp_path / "mounted/target"
    target.mkdir(parents=True)
    whole = ImportPlan.fill

    def fill(*arguments):
        assert [path.name for path in target.parent.iterdir()] == ["target"]
        with pytest.raises(DataError, match="another process is importing to target"):
            import_dataset(folder, target, ImportConfig(rate_hz=10))
        return whole(*arguments)

    monkeypatch.setattr(ImportPlan, "fill", fill)
    import_dataset(folder, target, ImportConfig(rate_hz=10, limit=1))
    assert [path.name for path in target.parent.iterdir()] == ["target"] and not (target / ".import.lock").exists()


def fail(error):
    raise error


def test_fields_of_another_name_are_not_mixed_up(tmp_path):
    source = tmp_path / "raw"
    source.mkdir()
    for number, name in enumerate(("arm", "hand")):
        arrays = {"actions": np.ones((2, 1), np.float32), f"observations.{name}": np.ones((2, 3), np.float32)}
        save_file(arrays, source / f"{number}.safetensors")
    (skipped,) = import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=10, instruction="")).skipped
    assert skipped.problem == "its state has hand; the dataset's has arm"


def test_episodes_of_another_size_are_named(tmp_path, folder, truth):
    for name, one in {"8": truth(0, actions=2), "9": truth(0, states=3), "99": truth(0, cameras=("side",))}.items():
        arrays = {"observations.state": one.states, "actions": one.actions}
        arrays |= {f"observations.{camera}": frames for camera, frames in one.images.items()}
        save_file(arrays, folder / f"{name}.safetensors", {"language": '"x"'})
    save_file({"actions": np.zeros((0, 3), np.float32)}, folder / "100.safetensors")
    result = import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10))
    problems = {skipped.episode: skipped.problem for skipped in result.skipped[1:]}
    assert problems == {
        "8.safetensors, episode 0": "its action 'actions' has 2 numbers a frame; the dataset's has 3",
        "9.safetensors, episode 0": "its state 'state' has 3 numbers a frame; the dataset's has 4",
        "99.safetensors, episode 0": "the episode has cameras side; robot 'generic' has front",
    }


def test_every_known_robot_can_be_a_spec():
    for name in ROBOTS:
        robot = known(name)
        for meaning, chosen in ((robot.state, robot.state_fields), (robot.action, robot.action_fields)):
            assert set(chosen) <= set(meaning)
            for parts in meaning.values():
                for part in parts:
                    ends = [part.low or (0.0,) * len(part.axes), part.high or (1.0,) * len(part.axes)]
                    Component(part.name, part.kind, part.axes, part.unit, part.frame, *ends)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_the_command_names_what_it_skipped_and_exits_with_1(capsys, tmp_path, folder):
    code, out, err = run(capsys, "import", folder, tmp_path / "out", "--rate-hz", "10")
    assert code == 1
    assert "6 episodes, 36 frames of 'generic' from tensors, 1 skipped in" in out
    assert "skipped 3.safetensors: " in err and "cannot be read" in err and "import: 7/7" not in out
    (folder / "3.safetensors").unlink()
    code, out, _ = run(capsys, "import", folder, tmp_path / "out", "--rate-hz", "10", "--json")
    record = json.loads(out)
    assert code == 0 and (record["already"], record["episodes"], record["skipped"]) == (6, 6, [])
    code, _, err = run(capsys, "import", tmp_path / "out", tmp_path / "two")
    assert code == 2 and "which verbot reads as it is" in err
    code, out, _ = run(capsys, "export", tmp_path / "out", tmp_path / "all.hdf5", "--to", "hdf5", "--limit", "2")
    assert code == 0 and out.startswith("2 episodes, 11 frames: ")


def test_the_command_takes_a_spec_and_options(capsys, tmp_path, folder):
    (folder / "3.safetensors").unlink()
    import_dataset(folder, tmp_path / "first", ImportConfig(rate_hz=10))
    spec = json.loads((tmp_path / "first" / REQUEST).read_text())["found"]
    (tmp_path / "spec.json").write_text(json.dumps({**spec, "name": "mine", "rate_hz": 20.0}))
    code, out, _ = run(capsys, "import", folder, tmp_path / "out", "--spec", tmp_path / "spec.json", "--set", "floats=unit")
    assert code == 0 and "of 'mine' from tensors" in out
    assert open_dataset(tmp_path / "out").spec.rate_hz == 20


def test_an_imported_dataset_trains(tmp_path, folder):
    pytest.importorskip("torch")
    import verbot

    import_dataset(folder, tmp_path / "out", ImportConfig(rate_hz=10, limit=3))
    batch = Windows(open_dataset(tmp_path / "out"), WindowConfig(history=1, chunk=4)).batch(
        np.arange(4), np.random.default_rng(0)
    )
    assert batch.actions.shape[1:] == (4, 3) and batch.images.shape[-3:] == (24, 32, 3)
    result = verbot.train("tiny", data=(tmp_path / "out",), out=tmp_path / "run", steps=2)
    assert result.steps == 2 and result.skipped == 0


def test_an_import_that_continues_takes_its_fields_from_the_same_episode(tmp_path, truth):
    """The first episode has other columns and numbers that are not finite: neither survey nor continuation defines by it."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        one = truth(number)
        arrays = {"actions": one.actions, "observations.state": one.states, "observations.front": one.images["front"]}
        if number:
            arrays["rewards"] = np.zeros(len(one), np.float32)
        else:
            arrays["actions"] = np.full_like(one.actions, np.nan)
        save_file(arrays, source / f"{number}.safetensors")
    config = ImportConfig(rate_hz=10, instruction="go")
    for target, limit in (("whole", None), ("parts", 2)):
        import_dataset(source, tmp_path / target, dataclasses.replace(config, limit=limit))
    import_dataset(source, tmp_path / "parts", config)
    whole, parts = (open_dataset(tmp_path / name) for name in ("whole", "parts"))
    assert [sorted(e.columns) for e in whole] == [sorted(e.columns) for e in parts] == [["next.reward"]] * 2
