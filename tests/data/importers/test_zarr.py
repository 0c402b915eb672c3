import importlib
import json
import re
import shutil
import sys
import zipfile

import numpy as np
import pytest

zarr = pytest.importorskip("zarr")

from verbot.cli import main  # noqa: E402
from verbot.data import ImportConfig, import_dataset, open_dataset  # noqa: E402
from verbot.data.importers import open_source, recognize  # noqa: E402
from verbot.data.importers.zarr_store import ZarrStore  # noqa: E402
from verbot.errors import ConfigError, CorruptFileError, DataError, MissingDependencyError  # noqa: E402

UMI = "robot0_eef_pos,robot0_eef_rot_axis_angle,robot0_gripper_width"


def stored(path, name):
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else zarr.storage.LocalStore(path)
    values = zarr.open_array(store, path=name, mode="r", zarr_format=2)[:]
    store.close()
    return values


def notes_of(raw):
    return {note.field: (note.taken_as, note.reason) for note in raw.notes}


def test_an_empty_buffer_is_refused_with_what_it_lacks(case, tmp_path):
    root = case("z01_zarr")
    assert recognize(root) == "zarr"
    with pytest.raises(DataError, match=r"replay_buffer\.zarr has no array in data and no array meta/episode_ends.*complete"):
        import_dataset(root, tmp_path / "out")


def test_a_buffer_of_diffusion_policy(case, tmp_path, picture_number):
    root = case("z02_pusht")
    with pytest.raises(ConfigError, match="format 'zarr' does not record the rate of z02_pusht; give --rate-hz"):
        import_dataset(root, tmp_path / "no", ImportConfig(instruction="push"))
    result = import_dataset(root, tmp_path / "out", ImportConfig(instruction="push the T", rate_hz=10))
    assert (result.format, result.episodes, result.skipped) == ("zarr", 2, ())
    dataset, start = open_dataset(tmp_path / "out"), 0
    for episode, length in zip(dataset, (9, 11), strict=True):
        for found, name in ((episode.actions, "data/action"), (episode.states, "data/state")):
            np.testing.assert_array_equal(found, stored(root / "pusht.zarr", name)[start : start + length])
        assert [picture_number(frame) for frame in episode.images("img")] == list(range(length))
        start += length
    raw = next(open_source("zarr", root, None, {}).items()).read()
    images = raw.cameras["img"]()
    assert images.dtype == np.uint8 and np.array_equal(images, stored(root / "pusht.zarr", "data/img")[:9])
    notes = notes_of(raw)
    assert notes["data/img"][0] == "camera img" and notes["data/keypoint"][0] == "left out"
    assert notes["data/keypoint"][1].endswith("--set state=state,keypoint") and notes["data/n_contacts"][0] == "left out"


def test_a_buffer_of_umi_needs_its_actions_named(case, tmp_path, picture_number):
    root = case("z03_umi")
    with pytest.raises(DataError, match=rf"has no data/action.*predict the poses themselves.*--set action={UMI}$"):
        import_dataset(root, tmp_path / "no", ImportConfig(instruction="", rate_hz=60))
    config = ImportConfig(instruction="fold", rate_hz=60, options={"action": UMI})
    assert import_dataset(root, tmp_path / "out", config).skipped == ()
    episode = open_dataset(tmp_path / "out")[1]
    poses = [stored(root / "dataset.zarr.zip", f"data/{name}")[9:] for name in UMI.split(",")]
    np.testing.assert_array_equal(episode.actions, np.concatenate(poses, 1))
    np.testing.assert_array_equal(episode.states, np.concatenate(poses, 1))
    assert [picture_number(frame) for frame in episode.images("camera0_rgb")] == list(range(11))
    raw = next(open_source("zarr", root, None, {"action": UMI}).items()).read()
    assert notes_of(raw)["data/robot0_demo_start_pose"] == (
        "left out",
        "UMI's pose of the whole episode, the same in every frame",
    )


def test_two_hands_are_suggested_in_order(case, tmp_path):
    case("z03_umi")
    importlib.import_module("z03_umi").make(tmp_path / "two", hands=2)
    with pytest.raises(DataError, match=rf"--set action={UMI},{UMI.replace('robot0', 'robot1')}$"):
        import_dataset(tmp_path / "two", tmp_path / "no", ImportConfig(instruction="", rate_hz=60))


def test_a_codec_that_is_not_installed_is_named(case, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    root = case("z04_jpeg_xl")
    config = ImportConfig(instruction="fold", rate_hz=60, options={"action": UMI})
    with pytest.raises(MissingDependencyError, match=r"camera0_rgb is compressed with imagecodecs_jpegxl.*install imagecodecs"):
        import_dataset(root, tmp_path / "out", config)


def test_an_unknown_codec_is_named(case, tmp_path):
    root = case("z02_pusht")
    meta = root / "pusht.zarr/data/state/.zarray"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "compressor": {"id": "own_codec"}}))
    with pytest.raises(DataError, match=r"data/state: is stored by the codec 'own_codec'; expected blosc"):
        import_dataset(root, tmp_path / "out", ImportConfig(instruction="", rate_hz=10))


def test_a_piece_that_is_absent_is_no_zero(case, tmp_path):
    root = case("z05_incomplete")
    result = import_dataset(root, tmp_path / "out", ImportConfig(instruction="", rate_hz=10))
    assert result.episodes == 2
    (skipped,) = result.skipped
    assert skipped.episode == "buffer.zarr, episode 1"
    assert "data/action: 1 pieces of rows 8 to 16 are absent, 3.0 first" in skipped.problem and "absent=fill" in skipped.problem
    config = ImportConfig(instruction="", rate_hz=10, options={"absent": "fill"})
    assert import_dataset(root, tmp_path / "filled", config).skipped == ()
    with pytest.raises(ConfigError, match="absent is 'maybe'; expected error or fill"):
        open_source("zarr", root, None, {"absent": "maybe"})


@pytest.mark.parametrize("absent", ["error", "fill"])
def test_a_piece_that_is_a_link_costs_its_episode_alone(case, tmp_path, absent):
    root = case("z05_incomplete")
    piece, other = root / "buffer.zarr/data/action/3.0", root / "buffer.zarr/data/action/2.0"
    piece.symlink_to(shutil.copy(other, tmp_path / "outside"))
    result = import_dataset(root, tmp_path / "out", ImportConfig(instruction="", rate_hz=10, options={"absent": absent}))
    (skipped,) = result.skipped
    assert result.episodes == 2 and skipped.episode == "buffer.zarr, episode 1"
    assert "the file 'data/action/3.0', which a link leads out of this folder" in skipped.problem
    (root / "buffer.zarr/.zgroup").unlink(missing_ok=True)
    (root / "buffer.zarr/.zgroup").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="the file '.zgroup', which a link leads out of this folder"):
        open_source("zarr", root, None, {})


@pytest.mark.parametrize(
    ("ends", "problems", "episodes"),
    [
        ([9, 18], {"pusht.zarr": "rows 18 to 20 of data/"}, 2),
        ([9, 25], {"pusht.zarr, episode 1": r"is float32 \(20, \d\); the episode is rows 9 to 25"}, 1),
        ([12, 6, 20], {f"pusht.zarr, episode {i}": "expected ends that rise" for i in (1, 2)}, 1),
    ],
)
def test_ends_that_contradict_the_arrays_are_named(case, tmp_path, ends, problems, episodes):
    root = case("z02_pusht")
    folder = root / "pusht.zarr/meta"
    store = zarr.storage.LocalStore(folder)
    array = zarr.create_array(store, name="episode_ends", shape=(len(ends),), dtype="int64", zarr_format=2, overwrite=True)
    array[:] = ends
    result = import_dataset(root, tmp_path / "out", ImportConfig(instruction="", rate_hz=10))
    assert result.episodes == episodes and result.exit_code == 1
    found = {skipped.episode: skipped.problem for skipped in result.skipped}
    assert found.keys() == problems.keys()
    for key, pattern in problems.items():
        assert re.search(pattern, found[key]), found[key]


def test_format_3_and_named_fields(tmp_path):
    numbers = np.random.default_rng(0).normal(0, 1, (10, 3))
    frames = np.random.default_rng(0).integers(0, 255, (10, 16, 24, 3), np.uint8)
    root = zarr.open_group(tmp_path / "own.zarr", mode="w", zarr_format=3)
    for name, values in {"data/command": numbers, "data/joints": numbers[:, :2], "data/top": frames}.items():
        root.create_array(name, data=values)
    root.create_array("meta/episode_ends", data=np.array([4, 10]))
    with pytest.raises(DataError, match=r"own\.zarr has no data/action; it has command float64 \(10, 3\).*Name the actions"):
        open_source("zarr", tmp_path / "own.zarr", None, {})
    options = {"action": "command", "state": "joints", "images": {"front": "top"}}
    first, second = (item.read() for item in open_source("zarr", tmp_path, None, options).items())
    np.testing.assert_array_equal(second.action["command"], numbers[4:])
    np.testing.assert_array_equal(first.state["joints"], numbers[:4, :2])
    np.testing.assert_array_equal(second.cameras["front"](), frames[4:])
    with pytest.raises(DataError, match=r"data has no pictures 'side'; it has top"):
        open_source("zarr", tmp_path / "own.zarr", None, {**options, "images": "front=side"})


def test_broken_metadata_are_named(case, tmp_path, capsys):
    root = case("z02_pusht")
    (root / "pusht.zarr/data/action/.zarray").write_text("{")
    with pytest.raises(CorruptFileError, match="data/action: cannot be read"):
        open_source("zarr", root, None, {})
    with pytest.raises(SystemExit) as stop:
        main(["data", "import", str(root), str(tmp_path / "out"), "--rate-hz", "10", "--instruction", "x"])
    assert stop.value.code == 2 and "data/action: cannot be read" in capsys.readouterr().err


def test_a_damaged_piece_of_an_archive_is_named(tmp_path):
    path = tmp_path / "one.zarr.zip"
    store = zarr.storage.ZipStore(path, mode="w")
    zarr.create_array(store, name="action", data=np.arange(8, dtype=np.float32).reshape(8, 1), chunks=(4, 1), zarr_format=2)
    store.close()
    with zipfile.ZipFile(path) as archive:
        piece = next(each for each in archive.infolist() if each.filename == "action/0.0")
    content = bytearray(path.read_bytes())
    content[piece.header_offset + 30 + len(piece.filename) + 4] ^= 255
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"action/0\.0: cannot be read \(Bad CRC-32"):
        ZarrStore(path).rows("action", 0, 8)
