from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verbot.data import DatasetWriter, FrameCache, open_dataset
from verbot.data.storage import cached_rows, frame_cache
from verbot.data.storage.frame_cache import FrameSelection
from verbot.data.storage.reader import Episode
from verbot.errors import CorruptFileError, DataError
from verbot.parallel.workers import cores
from verbot.transforms import FitImage


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """The episodes that were decoded, in order; nothing was decoded before."""
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path / "cache"))
    numbers: list[int] = []
    original = Episode.images

    def images(self, camera, rows=None, fit=None):
        numbers.append(self.index)
        return original(self, camera, rows, fit)

    monkeypatch.setattr(Episode, "images", images)
    return numbers


def copy_of(dataset, path):
    """A copy without the caches that other tests have left in a shared dataset."""
    shutil.copytree(dataset, path, ignore=shutil.ignore_patterns(".cache"))


def assert_right(dataset, camera="front"):
    frames = FrameCache(dataset, [camera]).frames(camera)
    start = 0
    for episode in dataset:
        assert np.array_equal(frames[start : start + len(episode)], episode.images(camera))
        start += len(episode)
    assert len(frames) == start


def test_frames_are_decoded_once(written, tmp_path, decoded):
    copy_of(written, tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    first = FrameCache(dataset)
    assert set(decoded) == set(range(7))
    decoded.clear()
    again = FrameCache(open_dataset(tmp_path / "d"))
    assert decoded == []
    for camera in ("front", "wrist"):
        assert np.array_equal(first.frames(camera), again.frames(camera))
        assert not again.frames(camera).flags.writeable
    assert_right(dataset)


def test_only_added_episodes_are_decoded(tmp_path, spec, make, decoded):
    """This also holds when the journal has been merged into other files meanwhile."""
    for rounds in range(3):
        with DatasetWriter(tmp_path / "d", spec, merge_every=2) as writer:
            for _ in range(3):
                writer.save_episode(make(len(writer)))
            dataset = open_dataset(tmp_path / "d")  # some of it still in the journal
            decoded.clear()
            FrameCache(dataset, ["front"])
            new = range(3 * rounds, 3 * rounds + 3)
            assert set(decoded) == set(new)
            assert_right(dataset)
    decoded.clear()
    FrameCache(open_dataset(tmp_path / "d"), ["front"])
    assert decoded == []
    assert_right(open_dataset(tmp_path / "d"))


def test_a_reader_that_opened_earlier_keeps_its_frames(tmp_path, spec, make, decoded):
    with DatasetWriter(tmp_path / "d", spec) as writer:
        writer.save_episode(make(0))
        early = open_dataset(tmp_path / "d")
        frames = FrameCache(early, ["front"]).frames("front")
        copy = frames.copy()
        writer.save_episode(make(1))
    FrameCache(open_dataset(tmp_path / "d"), ["front"])
    decoded.clear()
    assert len(FrameCache(early, ["front"]).frames("front")) == len(frames)
    assert decoded == [] and np.array_equal(frames, copy)


def test_another_dataset_at_the_same_path_is_decoded_again(tmp_path, spec, make, decoded):
    for numbers in ((0, 1), (2, 1)):
        with DatasetWriter(tmp_path / "d", spec) as writer:
            for number in numbers:
                writer.save_episode(make(number))
        FrameCache(open_dataset(tmp_path / "d"), ["front"], folder=tmp_path / "cache")
        assert_right(open_dataset(tmp_path / "d"))
        shutil.rmtree(tmp_path / "d")
    assert len(list((tmp_path / "cache").glob("front-*.rgb"))) == 1


def images_of(dataset, camera, folder, selection=None):
    cache = FrameCache(dataset, [camera], folder=folder, selection=selection)
    rows = np.arange(len(dataset[0]))
    return cache.take(camera, np.zeros(len(rows), np.int64), rows, rows)


def test_another_feature_under_the_name_of_a_camera_is_decoded_again(case, tmp_path, picture_number):
    root = case("l06_image_dtype")
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("observation.images.image2")
    turned = pa.array(table.column(place).to_pylist()[::-1], table.schema.field(place).type)  # so that the cameras differ
    pq.write_table(table.set_column(place, table.schema.field(place), turned), path)
    for key in ("image", "image2", "image"):
        dataset = open_dataset(root, features={"observation.images.front": (f"observation.images.{key}",)})
        for selection in (None, FrameSelection(("front",), (0,))):
            shown = images_of(dataset, "front", tmp_path / "cache", selection)
            assert [picture_number(image) for image in shown] == list(range(11) if key == "image" else range(19, 8, -1))


def test_pictures_that_were_replaced_or_are_sought_otherwise_are_decoded_again(case):
    root = case("l06_image_dtype")
    before = open_dataset(root)[0].pictures_identity("image")
    assert before == open_dataset(root)[0].pictures_identity("image") != open_dataset(root)[0].pictures_identity("image2")
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")
    assert open_dataset(root)[0].pictures_identity("image") != before
    root = case("l02_bframes")
    known, info = {open_dataset(root)[0].pictures_identity("front")}, json.loads((root / "meta/info.json").read_text())
    for change in ({"fps": 15}, {"tolerance_s": 0.02}):
        (root / "meta/info.json").write_text(json.dumps(info | change))
        known.add(open_dataset(root)[0].pictures_identity("front"))
    assert len(known) == 3


def test_runs_with_and_without_depth_share_the_frames_of_color_cameras(case, tmp_path, decoded):
    root, found = case("l10c_depth_png16"), []
    for depth in (False, True, False, True):
        decoded.clear()
        FrameCache(open_dataset(root, depth=depth))
        found.append(len(decoded))
    assert found[0] and found[1] and found[2:] == [0, 0]
    assert len(list((tmp_path / "cache").rglob("*.rgb"))) == len(list((tmp_path / "cache").rglob("*.depth"))) == 1


def test_an_interrupted_decoding_continues(tmp_path, written, monkeypatch, decoded):
    monkeypatch.setattr(frame_cache, "BLOCK", 3)
    copy_of(written, tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    original, calls = cached_rows.write_atomic, []

    def dies_at_the_second_commit(path, content, **options):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(path, content, **options)

    monkeypatch.setattr(cached_rows, "write_atomic", dies_at_the_second_commit)
    with pytest.raises(KeyboardInterrupt):
        FrameCache(dataset, ["front"])
    decoded.clear()
    FrameCache(dataset, ["front"])
    assert set(decoded) == {3, 4, 5, 6}
    assert_right(dataset)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"digests": ["x"], "file": "no"}'])
def test_an_unreadable_record_is_replaced(tmp_path, written, content, monkeypatch):
    monkeypatch.delenv("VERBOT_CACHE")
    copy_of(written, tmp_path / "d")
    FrameCache(open_dataset(tmp_path / "d"), ["front"])
    record = tmp_path / "d/.cache/frames/front.json"
    record.write_text(content)
    assert_right(open_dataset(tmp_path / "d"))
    assert len(json.loads(record.read_text())["digests"]) == 7


def test_a_folder_that_cannot_be_written_is_reported(written, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be cached in .*file/frames.*choose another folder"):
        FrameCache(open_dataset(written), ["front"], folder=tmp_path / "file/frames")


def test_cores_are_counted_where_the_system_does_not_share_them_out(written, tmp_path, monkeypatch):
    """As on macOS, which has no `os.sched_getaffinity`."""
    copy_of(written, tmp_path / "d")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert FrameCache(open_dataset(tmp_path / "d"))._threads == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


HALF = {camera: FitImage((24, 32), (12, 16)) for camera in ("front", "wrist")}


def test_frames_are_cached_at_the_size_and_for_the_episodes_that_are_used(written, tmp_path, decoded):
    dataset = open_dataset(written)
    selection = FrameSelection(("wrist",), (1, 4), HALF)
    cache = FrameCache(dataset, folder=tmp_path / "cache", selection=selection)
    assert set(decoded) <= {0, 1, 4} and cache.cameras == ("wrist",)  # the first episode gives the size of a picture
    frames = sum(len(dataset[number]) for number in (1, 4))
    (file,) = (tmp_path / "cache").glob("*.rgb")
    assert file.stat().st_size == frames * 12 * 16 * 3 == selection.bytes(dataset)
    for number in (1, 4):
        rows = np.arange(len(dataset[number]))
        got = cache.take("wrist", np.full(len(rows), number), rows, rows)
        assert np.array_equal(got, dataset[number].images("wrist", None, HALF["wrist"]))
    with pytest.raises(DataError, match="the frames of episode 2 are not cached"):
        cache.take("wrist", np.array([1, 2]), np.zeros(2, np.int64), np.zeros(2, np.int64))
    decoded.clear()
    FrameCache(open_dataset(written), folder=tmp_path / "cache", selection=selection)
    assert decoded == []


def test_a_cache_of_all_episodes_serves_some(written, tmp_path, decoded):
    dataset = open_dataset(written)
    FrameCache(dataset, ["front"], folder=tmp_path / "cache")
    decoded.clear()
    some = FrameCache(dataset, folder=tmp_path / "cache", selection=FrameSelection(("front",), (2, 3)))
    assert decoded == [] and len(list((tmp_path / "cache").glob("*.rgb"))) == 1
    rows = np.arange(5)
    assert np.array_equal(some.take("front", np.full(5, 3), rows, rows), dataset[3].images("front")[:5])


def test_a_read_only_dataset_is_cached_elsewhere(written, tmp_path, monkeypatch):
    copy_of(written, tmp_path / "d")
    before = sorted(path for path in (tmp_path / "d").rglob("*"))
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path / "elsewhere"))
    dataset = open_dataset(tmp_path / "d")
    FrameCache(dataset)
    assert sorted(path for path in (tmp_path / "d").rglob("*")) == before
    (folder,) = (tmp_path / "elsewhere/datasets").iterdir()
    assert folder.name.startswith("d-") and len(list((folder / "frames").glob("*.rgb"))) == 2
    assert cached_rows.cache_folders(dataset, tmp_path / "given")[0].is_relative_to(tmp_path / "given/datasets")
    monkeypatch.delenv("VERBOT_CACHE")
    assert cached_rows.cache_folders(dataset)[0] == tmp_path / "d/.cache"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cached_rows.cache_folders(dataset)[0].is_relative_to(Path.home() / ".cache/verbot")


def test_frames_that_lie_in_the_dataset_are_not_decoded_again(written, tmp_path, monkeypatch, decoded):
    copy_of(written, tmp_path / "d")
    with monkeypatch.context() as patched:
        patched.delenv("VERBOT_CACHE")
        FrameCache(open_dataset(tmp_path / "d"))
    decoded.clear()
    assert_right(open_dataset(tmp_path / "d"))
    assert not (tmp_path / "cache").exists()


def test_frames_for_which_there_is_no_room_are_refused_before_anything_is_written(written, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    figures = r"46 frames of front 24×32×3, wrist 24×32×3: 0.2 MB to write in .*cache, which has 0.1 MB free"
    with pytest.raises(DataError, match=f"does not fit on the disk: {figures}. Choose a smaller network.image_size, fewer"):
        FrameCache(open_dataset(written), folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    cache = FrameCache(
        open_dataset(written), folder=tmp_path / "cache", selection=FrameSelection(("wrist",), None, HALF), show=True
    )
    assert len(cache.frames("wrist")) == 46
    assert "frame cache: 46 frames of wrist 12×16×3: 0.0 MB to write in" in capsys.readouterr().err


class FullDisk:
    """Fails from the `n`-th change on: reserving, syncing or replacing a file."""

    def __init__(self, monkeypatch, n):
        self.left = n
        for name in ("posix_fallocate", "fsync", "replace"):
            monkeypatch.setattr(os, name, self._limited(getattr(os, name)))

    def _limited(self, genuine):
        def limited(*arguments):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return genuine(*arguments)

        return limited


def test_a_disk_that_is_full_at_any_instant_is_an_error_and_loses_nothing(written, tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache, "BLOCK", 3)
    for n in range(100):
        folder = tmp_path / f"cache{n}"
        with monkeypatch.context() as patched:
            disk, problem = FullDisk(patched, n), ""
            try:
                FrameCache(open_dataset(written), ["front"], folder=folder)
            except DataError as error:
                problem = str(error)
            if not problem:
                assert disk.left >= 0
                break
            assert "No space left on device" in problem and "free); choose another folder" in problem
        held = [path.name for path in folder.iterdir() if path.suffix != ".lock"]
        if (folder / "front.json").exists():
            state = json.loads((folder / "front.json").read_text())
            assert sorted(held) == sorted(["front.json", state["file"]])
            rows = sum(len(open_dataset(written)[number]) for number in range(len(state["digests"])))
            assert (folder / state["file"]).stat().st_size == rows * 24 * 32 * 3
        else:
            assert held == []
        frames = FrameCache(open_dataset(written), ["front"], folder=folder).frames("front")
        assert np.array_equal(frames[:5], open_dataset(written)[0].images("front"))
    assert n > 10


def test_a_disk_that_is_really_full(written, tmp_path):
    """Without reserved room the process would be killed by SIGBUS."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        usage = shutil.disk_usage(folder)
        assert usage.free < 46 * 24 * 32 * 3
        with pytest.raises(DataError, match="does not fit on the disk"):
            FrameCache(open_dataset(written), ["front"], folder=folder)
        with pytest.MonkeyPatch.context() as patched:  # the disk fills up after its room was looked at
            patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
            with pytest.raises(DataError, match="No space left on device"):
                FrameCache(open_dataset(written), ["front"], folder=folder)
        assert not list(folder.glob("*.rgb"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_system_without_reservation_writes_zeros(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(cached_rows, "ZEROS", bytes(7))
    with open(tmp_path / "rows", "w+b") as file:
        file.write(b"abcdefgh")
        cached_rows.allocate(file, 5, 25)
    assert (tmp_path / "rows").read_bytes() == b"abcde" + bytes(20)


def test_a_camera_does_not_remove_the_frames_of_another(written, tmp_path):
    """Their names begin alike."""
    dataset = open_dataset(written)
    rows = cached_rows.CachedRows(dataset, range(2), [tmp_path], "numbers", ".rgb", "uint8", 1)

    def fill(numbers, ends, out):
        out[ends[numbers.start] : ends[numbers.stop]] = 7

    for name in ("front-left", "front-left@12x16", "front"):
        rows.open(name, lambda: (2,), fill)
    assert len(list(tmp_path.glob("*.rgb"))) == 3


def test_pictures_of_several_sizes_are_an_error_that_says_what_to_do(written, tmp_path, monkeypatch):
    dataset, images = open_dataset(written), Episode.images
    monkeypatch.setattr(Episode, "images", lambda self, *options: images(self, *options)[:, : 24 - 4 * (self.index == 1)])
    with pytest.raises(DataError, match="'front' has pictures of 20×32 in episode 1; expected 24×32, as in the first: set net"):
        FrameCache(dataset, ["front"], folder=tmp_path / "cache")
    with pytest.raises(CorruptFileError, match="has pictures of 24×32; expected 48×64"):
        dataset[0].images("front", None, FitImage((48, 64), (12, 16)))
