"""Nothing outside the folders that a person names is written, deleted or read, whatever other people's data say."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from verbot.cli import main
from verbot.data import (
    DatasetWriter,
    EditPlan,
    EpisodeRecord,
    FrameCache,
    ImportConfig,
    annotate,
    check_dataset,
    edit,
    import_dataset,
    open_dataset,
)
from verbot.data.importers import open_source, refused_items
from verbot.data.importers.bag_folders import recordings
from verbot.data.importers.table import read_table
from verbot.data.importers.zarr import _stores
from verbot.data.storage.containers import open_video
from verbot.data.storage.features import FeatureRoles
from verbot.data.storage.info import seal
from verbot.data.storage.journal import EpisodeJournal
from verbot.data.storage.recorded_extras import RecordedExtras
from verbot.data.storage.video import Decoder, encode_video
from verbot.errors import ConfigError, CorruptFileError, DataError, SpecError
from verbot.files import below, regular_file
from verbot.spec import Camera, Component, RobotSpec

GRIP = Component("grip", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
SPEC = RobotSpec("toy", 10.0, (Camera("front", 16, 16),), (GRIP,), (GRIP,))
CLIMB = "x/../../../victim/videos/observation.images.front"


def episode(instruction: str = "go", **extras: object) -> EpisodeRecord:
    return EpisodeRecord(
        instruction, np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), {"front": np.full((3, 16, 16, 3), 90, np.uint8)},
        extras=extras,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stored") / "dataset"
    with DatasetWriter(root, SPEC) as writer:
        writer.save_episode(episode())
    return root


@pytest.fixture
def dataset(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "dataset"))


def foreign(root: Path, **changes: object) -> Path:
    """The dataset as other software has it, with other fields in its info."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    del info["verbot"]
    path.write_text(json.dumps(info | changes))
    return root


def manifest(folder: Path, pictures: object) -> Path:
    folder.mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "a.png")
    entry = {"image_path": pictures, "instruction": "go", "action": [0.1], "episode_id": 0}
    (folder / "manifest.json").write_text(json.dumps([entry] * 3))
    return folder


def test_cameras_of_a_source_get_clean_names_of_their_own_and_the_table_says_so(tmp_path: Path, stored: Path) -> None:
    victim = shutil.copytree(stored, tmp_path / "victim")
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    source = manifest(tmp_path / "source", dict.fromkeys((CLIMB, "left shoulder", "left_shoulder", "\ud83d"), "a.png"))
    result = import_dataset(source, tmp_path / "target", ImportConfig(rate_hz=10.0))
    assert result.episodes == 1
    names = open_dataset(tmp_path / "target").camera_names
    assert len(names) == 4 and "left_shoulder" in names and "_" in names
    assert {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()} == before
    table = read_table(tmp_path / "target")
    assert table is not None and any("renamed from 'left shoulder'" in row.reason for row in table.rows)


def test_features_get_clean_names_and_say_so(dataset: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    features = {"action": info["features"]["action"]}
    features |= dict.fromkeys(("关节.cam 1", "observation.images.cam/left"), info["features"]["observation.images.front"])
    roles = FeatureRoles.of(features, dataset)
    assert dict(roles.cameras) == {"cam_1": "关节.cam 1", "cam_left": "observation.images.cam/left"}
    assert "is the camera 'cam_left'" in roles.left_out["observation.images.cam/left"]
    with pytest.raises(ConfigError, match="expected 1 to 128"):
        FeatureRoles.of(features, dataset, {"observation.images.a b": ("关节.cam 1",)})


@pytest.mark.parametrize("name", [CLIMB, "..", ".", "", "a b", "a" * 129, "\ud83d"])
def test_a_name_that_leads_out_is_no_name(name: str) -> None:
    for make in (lambda: Camera(name, 8, 8), lambda: dataclasses.replace(GRIP, name=name)):
        with pytest.raises(SpecError, match="rename it, for example to|expected a name of its own"):
            make()


def test_a_spec_of_an_older_version_is_read_with_clean_names(dataset: Path) -> None:
    path = dataset / "meta/info.json"
    info = json.loads(path.read_text().replace('"name": "grip"', '"name": "left grip"'))
    info["verbot"]["seal"] = seal(info)
    path.write_text(json.dumps(info))
    assert [part.name for part in open_dataset(dataset).spec.action] == ["left_grip"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rate_hz": float("nan")},
        {"rate_hz": float("inf")},
        {"rate_hz": 1e9},
        {"state": [{**SPEC.to_json()["state"][0], "high": [float("nan")]}]},
        {"state": [{**SPEC.to_json()["state"][0], "low": [-1e39]}]},
        {"cameras": [{"name": "front", "height": 10**6, "width": 8}]},
        {"cameras": [{"name": "front", "height": float("inf"), "width": 8}]},
        {"cameras": "front"},
    ],
    ids=str,
)
def test_a_spec_holds_finite_numbers_of_a_sane_size(changes: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        RobotSpec.from_json(SPEC.to_json() | changes)


@pytest.mark.parametrize("kind", ["data", "videos", "journal"])
def test_opening_for_writing_goes_through_no_link(dataset: Path, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim" / "chunk-000"
    victim.mkdir(parents=True)
    (victim / "file-001.parquet").write_text("another's")
    shutil.rmtree(dataset / kind, ignore_errors=True)
    (dataset / kind).symlink_to(victim.parent)
    with pytest.raises(DataError, match=f"{kind} is a link to a folder"):
        DatasetWriter(dataset, SPEC)
    assert (victim / "file-001.parquet").read_text() == "another's"


def test_a_persons_notes_survive_and_check_names_them(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = [dataset / name for name in ("data/chunk-000/notes.txt", "data/todo", "journal/episode-x.episode", "readme.tmp")]
    draft, uncommitted = dataset / "data/chunk-000/.file-001.parquet.77.tmp", dataset / "data/chunk-000/file-001.parquet"
    for path in (*notes, draft, uncommitted):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with DatasetWriter(dataset, SPEC) as writer:
        assert not draft.exists() and not uncommitted.exists()  # of a writer that died
        writer.save_episode(episode())
    edit(dataset, EditPlan(instructions={0: ("go there",)}))
    assert all(path.read_text() == "mine" for path in notes)
    with pytest.raises(SystemExit, match="0"):
        main(["data", "check", str(dataset)])
    printed = capsys.readouterr().out
    assert "notes.txt: not part of the dataset" in printed and "all well" in printed
    assert {finding.kind for finding in check_dataset(dataset)} == {"note"}


def test_a_calibration_has_the_name_of_its_camera_among_all(tmp_path: Path) -> None:
    features = {f"observation.images.{name}": {} for name in ("left arm", "left_arm")}
    stored = SimpleNamespace(info={"total_episodes": 0, "features": features}, root=tmp_path)
    assert RecordedExtras(stored).table({"calibration": '{"left arm": 1}'}, "calibration") == {"left_arm-d5d5b5": 1}  # type: ignore[arg-type]


def test_a_copy_follows_no_link(dataset: Path, tmp_path: Path) -> None:
    for name, aim in (("loop", "."), ("out", tmp_path), ("gone", "nothing"), ("meta/secret.json", tmp_path / "s")):
        (dataset / name).symlink_to(aim)
    (dataset / "notes.txt").write_text("seen")
    os.mkfifo(dataset / "pipe")
    (tmp_path / "s").write_text("{}")
    annotate(dataset, {0: ["look"]}, tmp_path / "copy")
    found = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert "notes.txt" in found and not {"meta/secret.json", "pipe", "gone"} & found
    assert check_dataset(tmp_path / "copy") == [] and not list((tmp_path / "copy").glob("loop"))
    (file,) = dataset.rglob("meta/verbot/**/*.parquet")
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    with pytest.raises(DataError, match="leads out of"):
        annotate(dataset, {0: ["look"]}, tmp_path / "second")
    assert not list(tmp_path.glob("*second*")) and not list(tmp_path.glob(".second*"))


def test_a_cache_leads_nowhere_else(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VERBOT_CACHE", raising=False)
    frames = FrameCache(open_dataset(dataset)).frames("front").copy()
    record = dataset / ".cache/frames/front.json"
    (tmp_path / "x.rgb").write_bytes(bytes(frames.size))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"file": "../../../x.rgb"}))
    assert (FrameCache(open_dataset(dataset)).frames("front") == frames).all()
    shutil.rmtree(dataset / ".cache")
    (dataset / ".cache").symlink_to(tmp_path)
    assert (FrameCache(open_dataset(dataset)).frames("front") == frames).all()
    assert not (tmp_path / "frames").exists() and (tmp_path / "home/.cache/verbot").is_dir()


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile v.mp4\n", "#EXTM3U\n#EXTINF:1.0,\nv.mp4\n#EXT-X-ENDLIST\n"])
@pytest.mark.parametrize("suffix", ["mp4", "m3u8"])
def test_a_playlist_is_no_video(tmp_path: Path, text: str, suffix: str) -> None:
    (tmp_path / "v.mp4").write_bytes(encode_video(np.zeros((3, 16, 16, 3), np.uint8), 10.0))
    path = tmp_path / f"playlist.{suffix}"
    path.write_text(text)
    for video in (path, text.encode()):
        with pytest.raises(CorruptFileError, match="is not a video"):
            Decoder(video, path, 10.0)


def test_a_name_like_a_protocol_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v.mp4").write_bytes(encode_video(np.zeros((3, 16, 16, 3), np.uint8), 10.0))
    with pytest.raises(CorruptFileError, match="No such file"):
        open_video(Path("concat:v.mp4|v.mp4"))
    Path("file:v.mp4").write_bytes(Path("v.mp4").read_bytes())
    with open_video(Path("file:v.mp4")) as container:
        assert container.streams.video


@pytest.mark.parametrize("kind", ["external", "virtual", "link"])
def test_hdf5_takes_nothing_from_other_files(tmp_path: Path, kind: str) -> None:
    h5py = pytest.importorskip("h5py")
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "private.bin").write_bytes(np.full(6, 7, "<f4").tobytes())
    with h5py.File(tmp_path / "private.h5", "w") as file:
        file["x"] = np.full((3, 2), 7, np.float32)
    with h5py.File(source / "e.hdf5", "w") as file:
        file["observations/qpos"] = np.zeros((3, 2), np.float32)
        if kind == "external":
            file.create_dataset("action", (3, 2), "<f4", external=[(str(tmp_path / "private.bin"), 0, 24)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 2), "<f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "private.h5"), "x", (3, 2))
            file.create_virtual_dataset("action", layout)
        else:
            file["action"] = h5py.ExternalLink(str(tmp_path / "private.h5"), "x")
    with pytest.raises(DataError, match=r"action is (stored in|a link to) the file .*private"):
        import_dataset(source, tmp_path / "target", ImportConfig(rate_hz=10.0, instruction="go"))


def test_a_link_in_a_source_that_leads_out_is_refused(tmp_path: Path) -> None:
    source = manifest(tmp_path / "source", "b/a.png")
    (source / "a.png").rename(tmp_path / "a.png")
    (source / "b").symlink_to(tmp_path)
    with pytest.raises(DataError, match="is not a path within the manifest's folder"):
        import_dataset(source, tmp_path / "target", ImportConfig(rate_hz=10.0))
    (source / "manifest.json").rename(tmp_path / "manifest.json")
    (source / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(DataError, match="a link leads out of this folder"):
        import_dataset(source, tmp_path / "target", ImportConfig(rate_hz=10.0))


def test_a_link_beside_good_recordings_costs_none_of_them(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    values = {"actions": np.ones((2, 1), np.float32)}
    for folder in (source, other):
        folder.mkdir()
        save_file(values, folder / "0.safetensors")
    (source / "latest").symlink_to(other)
    (source / "1.safetensors").symlink_to(other / "0.safetensors")
    result = import_dataset(source, tmp_path / "target", ImportConfig(rate_hz=10.0, instruction="go"))
    assert result.episodes == 1 and [skipped.episode for skipped in result.skipped] == ["1.safetensors", "latest"]
    assert all("a link leads out of this folder" in skipped.problem for skipped in result.skipped)
    for folder in (source, other):
        (folder / "0.mcap").touch()
    assert [files.key for files in recordings(source)] == ["0.mcap"]
    assert [item.key for item in refused_items("rosbag", source)] == ["latest"]
    (source / "a.zarr").symlink_to(other)
    (source / "b.zarr").mkdir()
    assert [path.name for path in _stores(source)] == ["b.zarr"]
    (source / "b.zarr/data").symlink_to(other)
    with pytest.raises(DataError, match="b.zarr: there is the file 'data', which a link leads out of this folder"):
        open_source("zarr", source, None, {})


def test_a_dataset_whose_files_lie_elsewhere_is_refused(dataset: Path, tmp_path: Path, stored: Path) -> None:
    (dataset / "videos").rename(tmp_path / "videos")
    (dataset / "videos").symlink_to(tmp_path / "videos")
    with pytest.raises(CorruptFileError, match="leads out of"):
        open_dataset(dataset)[0].images("front")
    foreign(dataset, data_path="../dataset/data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet")
    with pytest.raises(CorruptFileError, match="expected a place below the dataset"):
        open_dataset(dataset)


def test_a_snapshot_of_hugging_face_is_read_through_its_links(dataset: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub/snapshots/abc", tmp_path / "hub/blobs"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    dataset.rename(snapshot)
    for number, path in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert open_dataset(snapshot)[0].images("front").shape == (3, 16, 16, 3)
    within = snapshot / "libero/1.0.0"  # a dataset in a folder of the repository
    within.mkdir(parents=True)
    for name in ("meta", "data", "videos"):
        (snapshot / name).rename(within / name)
    assert open_dataset(within)[0].images("front").shape == (3, 16, 16, 3)


@pytest.mark.parametrize("words", ["go \ud83d", "go \0", "go \x1b[2J"])
def test_text_that_no_file_can_hold_is_refused_before_it_is_saved(tmp_path: Path, words: str) -> None:
    with DatasetWriter(tmp_path, SPEC) as writer:
        with pytest.raises(DataError, match=r"the instruction holds U\+"):
            writer.save_episode(episode(words))
        if "\ud83d" in words:
            with pytest.raises(DataError, match=r"the extras hold U\+D83D"):
                writer.save_episode(episode(note=[words]))
        writer.save_episode(episode("go\nthere 👍"))
    assert open_dataset(tmp_path)[0].instruction == "go\nthere 👍"


def test_text_that_was_saved_once_is_merged_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpisodeRecord, "_check_texts", lambda record: None)  # as older versions saved it
    with DatasetWriter(tmp_path, SPEC) as writer:
        writer.save_episode(episode("go \ud83d", note="half \ud83d"))
    found = open_dataset(tmp_path)[0]
    assert (found.instruction, found.extras["note"]) == ("go �", "half �")
    assert list(EpisodeJournal(tmp_path).paths()) == []


def test_halves_of_characters_in_metadata_of_others_are_replaced(dataset: Path) -> None:
    foreign(dataset, robot_type="arm \ud83d\ude00 \ud83d")
    assert open_dataset(dataset).spec.name == "arm 😀 �"


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(CorruptFileError, match=f"is {kind}; expected a plain file"):
            regular_file(path)
    with pytest.raises(DataError, match="which is no path"):
        below(tmp_path, "half \ud83d")
