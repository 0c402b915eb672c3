"""The picture of a row is the one nearest to the row's time, whatever the video's own times are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from verbot.data import check_dataset, open_dataset
from verbot.data.storage.depth import DepthCode
from verbot.data.storage.packets import packet_times
from verbot.data.storage.video import Decoder, row_times
from verbot.errors import CorruptFileError
from verbot.transforms import FitImage

CASES = Path(__file__).parents[2] / "cases"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


@pytest.fixture(scope="module")
def v3():
    """The writer of `tests/cases`."""
    sys.path.insert(0, str(CASES))
    try:
        import _v3

        return _v3
    finally:
        sys.path.remove(str(CASES))


@pytest.fixture
def numbers(v3):
    """The numbers that pictures carry."""
    return lambda images: [v3.number(image) for image in images]


def with_video(v3, root, frames, rate_hz, n=20, fps=10, cams=(FRONT,), **options):
    """A dataset of one episode of `n` rows at `fps` with a video of pictures at `frames` (number, time)."""

    def write(where, camera, _):
        pictures = [v3.picture(number) for number, _ in frames]
        options_ = {"codec": "libx264", "options": {"bf": "0"}, **options}
        (where / "file-000.mp4").write_bytes(v3.video(pictures, rate_hz, pts=[time for _, time in frames], **options_))

    return v3.write(root, [v3.episode(n)], fps=fps, cams=cams, video_hook=write)


@pytest.mark.parametrize(
    "name",
    ["l01_plain_av1", "l02_bframes", "l03_odd_size", "l18_hw_timestamps", "l29_hevc_rotated", "l30_fps_29_97", "l38_video_files"],
)
def test_every_row_has_its_picture(case, numbers, name):
    dataset, start = open_dataset(case(name)), 0
    assert check_dataset(dataset.root) == []
    for episode in dataset:
        for camera in dataset.camera_names:
            assert numbers(episode.images(camera)) == list(range(start, start + len(episode)))
            rows = [len(episode) - 1, 2, 5, 2]  # in any order, from keyframes
            assert numbers(episode.images(camera, rows)) == [start + row for row in rows]
        start += len(episode)


def test_a_row_without_a_picture_near_it_is_an_error(case, numbers):
    root = case("l12b_dropped_frames")
    with pytest.raises(
        CorruptFileError, match=r"no picture within 0.05 s of 0.300 s, where frame 3 of episode 0 is: the nearest"
    ):
        open_dataset(root)[0].images("front")
    (found,) = [finding for finding in check_dataset(root) if finding.path.endswith(".mp4")]
    assert "4 of 21 frames of episode 0 have no picture within 0.05 s: frame 3 is at 0.300 s" in found.problem
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "tolerance_s": 0.11}))
    shown = numbers(open_dataset(root)[0].images("front"))
    assert shown == [row - (row % 5 == 3) for row in range(21)]  # of two equally near pictures the earlier one
    assert check_dataset(root) == []


def test_a_video_shorter_than_its_rows_is_an_error(case):
    root = case("l12c_short_video")
    with pytest.raises(
        CorruptFileError, match="holds 6 frames from 1.100 s on; 9 were recorded: it ends at 1.600 s, and frame 6"
    ):
        open_dataset(root)[1].images("front")
    assert ["3 of 9 frames of episode 1" in finding.problem for finding in check_dataset(root)] == [True]


def test_a_camera_that_lost_frames_beside_one_that_did_not(v3, tmp_path, numbers):
    def write(where, camera, frames):
        kept = [row for row in range(20) if camera != WRIST or row not in (7, 8)]
        (where / "file-000.mp4").write_bytes(
            v3.video([frames[row] for row in kept], 10, "libx264", pts=[row / 10 for row in kept])
        )

    dataset = open_dataset(v3.write(tmp_path / "d", [v3.episode(20)], cams=(FRONT, WRIST), video_hook=write))
    assert numbers(dataset[0].images("front")) == list(range(20))
    assert numbers(dataset[0].images("wrist", [5, 6, 9])) == [5, 6, 9]
    with pytest.raises(CorruptFileError, match="frame 7 of episode 0"):
        dataset[0].images("wrist")


def test_a_variable_rate(v3, tmp_path, numbers):
    times = np.arange(20) / 10 + np.random.default_rng(0).uniform(-0.04, 0.04, 20)
    times[0] = 0
    root = with_video(v3, tmp_path / "d", list(enumerate(times)), 10)
    assert numbers(open_dataset(root)[0].images("front")) == list(range(20))


def test_a_video_of_another_rate_than_the_rows(v3, tmp_path, numbers):
    """The camera ran at 30 Hz, the rows at 10: every third picture."""
    root = with_video(v3, tmp_path / "d", [(i, i / 30) for i in range(60)], 30)
    assert numbers(open_dataset(root)[0].images("front")) == [3 * row for row in range(20)]
    slow = with_video(v3, tmp_path / "s", [(i, i / 5) for i in range(10)], 5, fps=10)
    info = json.loads((slow / "meta/info.json").read_text())
    (slow / "meta/info.json").write_text(json.dumps({**info, "tolerance_s": 0.1}))
    assert numbers(open_dataset(slow)[0].images("front")) == [row // 2 for row in range(20)]


def test_a_video_that_begins_late(v3, tmp_path, numbers):
    """The first picture is not at 0: no row before it has one, and no later row is shifted."""
    root = with_video(v3, tmp_path / "d", [(i, 0.2 + i / 10) for i in range(18)], 10)
    dataset = open_dataset(root)
    assert numbers(dataset[0].images("front", range(2, 20))) == list(range(18))
    with pytest.raises(CorruptFileError, match="frame 0 of episode 0 is: the nearest is at 0.200 s"):
        dataset[0].images("front")


def test_pictures_that_an_edit_list_cuts_off_are_not_shown(v3, tmp_path, numbers):
    root = with_video(v3, tmp_path / "d", [(i, (i - 2) / 10) for i in range(22)], 10, options={"bf": "0", "g": "1"})
    path = root / f"videos/{FRONT}/chunk-000/file-000.mp4"
    with av.open(str(path)) as container:
        discarded = [packet.is_discard for packet in container.demux(video=0) if packet.size]
    assert sum(discarded) == 2 or len(discarded) == 20
    assert packet_times(path).times_s == pytest.approx(np.arange(20) / 10, abs=1e-4)
    assert numbers(open_dataset(root)[0].images("front")) == list(range(2, 22))


def test_a_picture_that_stands_twice(v3, tmp_path, numbers):
    """A camera that froze: two pictures are equal, and each row still has its own."""
    root = with_video(v3, tmp_path / "d", [(i - (i == 5), i / 10) for i in range(20)], 10)
    assert numbers(open_dataset(root)[0].images("front")) == [row - (row == 5) for row in range(20)]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        (np.arange(5) / 10, np.arange(5) / 10),
        (np.array([0, 1, 3, 4, 7]) / 10, np.array([0, 1, 3, 4, 7]) / 10),  # rows were dropped, pictures were not
        (1.7e9 + np.arange(5) / 10, np.arange(5) / 10),  # clock time
        (np.arange(5) / 10 + [0, 0.02, -0.01, 0.03, 0], np.arange(5) / 10),  # jitter
        (np.array([0, 0, 1, 2, 3]) / 10, np.arange(5) / 10),  # not ascending
        (np.array([0, 1, np.nan, 3, 4]) / 10, np.arange(5) / 10),
        (np.arange(3) / 10, np.arange(5) / 10),  # not one for each row
        (np.arange(5) / 10 + 100, np.arange(5) / 10),  # later than the episode's part of the video
    ],
)
def test_recorded_times_count_where_they_are_relative_and_regular(stamps, expected):
    assert row_times(stamps.astype(np.float32), 5, 10.0, duration_s=2.0) == pytest.approx(expected, abs=1e-6)


def test_a_gap_in_times_that_are_not_used_is_found(v3, tmp_path):
    times = np.arange(20) / 10 + np.random.default_rng(0).uniform(0.003, 0.01, 20)
    late = times + 0.3 * (np.arange(20) > 6)

    def write(name, stamps):
        def rows(found):
            found[0][f"videos/{FRONT}/to_timestamp"] = 2.3
            return found

        episode = {**v3.episode(20), "timestamp": stamps.tolist()}
        frames = lambda where, *_: (where / "file-000.mp4").write_bytes(v3.video([v3.picture(i) for i in range(23)], 10))  # noqa: E731
        return check_dataset(v3.write(tmp_path / name, [episode], video_hook=frames, rows_hook=rows))

    (finding,) = write("late", late)
    assert finding.path.endswith("data/chunk-000/file-000.parquet")
    assert "has a gap of 0.401 s after frame 6 of episode 0, in timestamps that are not whole periods of 0.1 s" in finding.problem
    assert write("jitter", times) == write("clock", 1.7e9 + late) == []  # the video says nothing of clock times


def test_rows_that_were_dropped_keep_the_pictures_of_the_others(v3, tmp_path, numbers):
    kept = [0, 1, 2, 5, 6, 9]
    episode = {**v3.episode(6), "timestamp": [row / 10 for row in kept]}

    def write(where, camera, frames):
        (where / "file-000.mp4").write_bytes(v3.video([v3.picture(row) for row in range(10)], 10))

    def rows(found):
        found[0][f"videos/{FRONT}/to_timestamp"] = 1.0
        return found

    dataset = open_dataset(v3.write(tmp_path / "d", [episode], video_hook=write, rows_hook=rows))
    assert numbers(dataset[0].images("front")) == kept


def test_few_rows_are_decoded_from_the_keyframes_before_them(v3, monkeypatch):
    pictures = [v3.picture(i) for i in range(400)]
    video = v3.video(pictures, 30, "libx264", options={"g": "10", "bf": "2"})
    with Decoder(video, "clip", 30.0) as decoder:
        decoded, time = [], Decoder._time
        monkeypatch.setattr(Decoder, "_time", lambda self, frame: decoded.append(frame.pts) or time(self, frame))
        wanted = np.array([350, 20, 355, 190])
        assert [v3.number(image) for image in decoder.frames_at(wanted / 30)] == wanted.tolist()
        assert len(set(decoded)) <= 60
        decoded.clear()
        assert v3.number(decoder.frames_at([3.0])[0]) == 90 and len(set(decoded)) <= 12


@pytest.mark.parametrize("target", [(32, 48), (24, 24), (40, 100)])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p"])
def test_pictures_are_resized_while_they_are_decoded(v3, target, pixels):
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (8, 12, 3), np.uint8)
    smooth = FitImage((8, 12), (96, 144)).forward(coarse)
    video = v3.video([smooth] * 3, 10, "libx264", pixels, {"crf": "2"})
    fit = FitImage((96, 144), target)
    with Decoder(video, "clip", 10.0) as decoder:
        got = decoder.frames_at([0.0, 0.1], fit)
        resized = fit.forward(decoder.frames_at([0.0, 0.1]))
    want = fit.forward(smooth)
    assert got.shape == (2, *target, 3)
    assert np.abs(got.astype(float) - want).mean() < np.abs(resized.astype(float) - want).mean() + 0.5
    for axis in (1, 2):  # nothing is shifted: the error grows where it is
        shifted = np.roll(got, 1, axis).astype(float) - want
        assert np.abs(shifted).mean() > 2 * np.abs(got.astype(float) - want).mean()


def test_pictures_of_another_size_than_the_dataset_says_are_named(v3):
    with (
        Decoder(v3.video([v3.picture(0)] * 3, 10, "libx264"), "clip", 10.0) as decoder,
        pytest.raises(CorruptFileError, match="clip: has pictures of 64×96; expected 480×640, as the dataset says"),
    ):
        decoder.frames_at([0.0], FitImage((480, 640), (32, 48)))


def depth_video(units: np.ndarray) -> bytes:
    """Depth (t, h, w) of 12 bits without loss."""
    import io

    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = *units.shape[1:], "gray12le"
        for each in units:
            frame = av.VideoFrame(units.shape[2], units.shape[1], "gray12le")
            plane = frame.planes[0]
            padded = np.zeros((units.shape[1], plane.line_size // 2), "<u2")
            padded[:, : units.shape[2]] = each
            plane.update(padded.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


def test_depth_is_read_in_meters(v3):
    units = np.random.default_rng(0).integers(0, 4096, (4, 20, 30)).astype(np.uint16)
    with Decoder(depth_video(units), "depth", 10.0) as decoder:
        meters = decoder.frames_at([0.0, 0.3], depth=DepthCode(unit_m=0.001))
        assert meters.dtype == np.float32 and np.allclose(meters, units[[0, 3]] / 1000)
        fit = FitImage((20, 30), (5, 5))
        small = decoder.frames_at([0.1], fit, depth=DepthCode(unit_m=0.001))
        assert np.allclose(small[0], units[1][1::4, 5 + 1 : 25 : 4] / 1000)  # pixels of the crop, not averages of them
    with (
        Decoder(v3.video([v3.picture(0)] * 3, 10, "libx264"), "clip", 10.0) as decoder,
        pytest.raises(CorruptFileError, match="is in yuv420p, whose pixels are no distances; 12 or 16 bits are needed"),
    ):
        decoder.frames_at([0.0], depth=DepthCode(unit_m=0.001))


def test_the_packets_of_a_video_are_read_once(v3, tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(v3.video([v3.picture(i) for i in range(30)], 10, "libx264", options={"g": "10", "bf": "2"}))
    found = packet_times(path)
    assert found.times_s == pytest.approx(np.arange(30) / 10, abs=1e-4)
    monkeypatch.setattr(av, "open", None)
    assert packet_times(path) is found


def test_a_check_decodes_nothing(case, monkeypatch):
    monkeypatch.setattr(Decoder, "__init__", None)
    assert check_dataset(case("l02_bframes")) == []


@pytest.mark.parametrize("value", [None, float("nan"), -1.0])
def test_an_episode_without_its_place_in_the_video_is_named(v3, tmp_path, value):
    def rows(found):
        found[1][f"videos/{FRONT}/from_timestamp"] = value
        return found

    root = v3.write(tmp_path / "d", [v3.episode(5), v3.episode(6)], codec="libx264", rows_hook=rows)
    with pytest.raises(
        CorruptFileError,
        match=f"episode 1 lies from .* s in the video of {FRONT}; expected two numbers",
    ):
        open_dataset(root)[1].images("front")
    assert any("episode 1 lies from" in finding.problem for finding in check_dataset(root))


@pytest.mark.parametrize("value", ["wide", 0, -0.1])
def test_a_tolerance_that_is_no_time_is_named(v3, tmp_path, value):
    root = v3.write(tmp_path / "d", [v3.episode(5)], codec="libx264", info_hook=lambda info: {**info, "tolerance_s": value})
    with pytest.raises(CorruptFileError, match=r"meta/info.json: .*tolerance_s.*; expected seconds"):
        open_dataset(root)[0].images("front")
