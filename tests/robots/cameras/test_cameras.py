"""Cameras: the newest frame and its age, losses, and sizes that are never converted silently."""

import socket
import threading
import time

import av
import numpy as np
import pytest
from PIL import Image

from verbot.errors import ConfigError, RobotError, UnknownNameError
from verbot.robots.cameras import CameraSource, FrameStream, cameras, live
from verbot.robots.cameras.av_stream import AVStream
from verbot.robots.cameras.group import CameraGroup
from verbot.robots.cameras.live import LiveCamera
from verbot.robots.cameras.views import CameraView
from verbot.rollout import video

LIMIT_S = 30.0


def eventually(holds):
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


class Device:
    """A device under the test's control: it shows what is put, is lost on an error, and counts how often it is opened."""

    def __init__(self):
        self.waiting, self.changed, self.opened, self.closed = [], threading.Condition(), 0, 0

    def open(self):
        self.opened += 1
        return self

    def put(self, item):
        with self.changed:
            self.waiting.append(item)
            self.changed.notify()

    def read(self):
        with self.changed:
            self.changed.wait_for(lambda: self.waiting, LIMIT_S)
            item = self.waiting.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self):
        self.closed += 1


def refused(options, reason):
    """A camera that shows nothing says why."""
    group = CameraGroup({"front": options}, start_s=0.0)
    group.cameras["front"].open()
    eventually(lambda: group.cameras["front"].problem)
    with pytest.raises(RobotError, match=f"camera 'front' gave no image within 0 s: .*{reason}"):
        group.start()


def picture(value, height=4, width=6):
    return np.full((height, width, 3), value, np.uint8)


VIEW = CameraView(4, 6)


def test_the_newest_frame_counts_its_age_grows_and_a_lost_device_is_opened_again():
    now, device = [100.0], Device()
    assert isinstance(device, CameraSource) and isinstance(device, FrameStream)
    camera = LiveCamera("front", device, VIEW, first_wait_s=0.001, clock=lambda: now[0])
    with pytest.raises(RobotError, match="camera 'front' is not open"):
        camera.read()
    for value in (1, 2, 3):
        device.put(picture(value))
    camera.start(LIMIT_S)
    eventually(lambda: camera.frames == 3)
    assert camera.read().image[0, 0, 0] == 3
    now[0] = 102.5
    assert camera.age_s() == 2.5  # it stalls
    device.put(OSError("unplugged"))
    eventually(lambda: device.opened == 2)
    assert (camera.losses, camera.problem, device.closed) == (1, "unplugged", 1)
    assert camera.read().image[0, 0, 0] == 3 and camera.age_s() == 2.5
    device.put(picture(9))
    eventually(lambda: camera.frames == 4)
    assert camera.read().image[0, 0, 0] == 9 and camera.age_s() == 0.0 and camera.problem == ""
    device.put(EOFError())
    camera.close()
    camera.close()


def test_a_camera_that_never_comes_is_an_error_with_its_reason(monkeypatch):
    monkeypatch.setattr(live, "LEAVING_S", 0.01)
    device = Device()
    device.put(OSError("no such device"))
    camera = LiveCamera("front", device, VIEW, first_wait_s=0.001)
    device.put(OSError("no such device"))
    camera.open()
    eventually(lambda: camera.problem)
    with pytest.raises(RobotError, match="camera 'front' gave no image within 0 s: no such device"):
        camera.start(0.0)
    device.put(OSError("end"))
    other = LiveCamera("wrist", device := Device(), VIEW)
    device.put(picture(0, 8, 8))
    with pytest.raises(RobotError, match="frames are 8×8, and the robot's images 6×4; say how to convert them: fit=crop"):
        other.start(LIMIT_S)


@pytest.mark.parametrize(
    ("fit", "expected", "words"),
    [
        ("crop", [10, 20], "8×4 → the middle 4×4 → scaled to 2×2"),
        ("resize", [0, 30], "8×4 → scaled to 2×2"),
    ],
)
def test_sizes_are_converted_as_declared_and_the_intrinsics_with_them(fit, expected, words):
    frame = np.repeat(np.array([0, 0, 10, 10, 20, 20, 30, 30], np.uint8)[None, :, None], 4, 0).repeat(3, 2)
    if fit == "resize":
        frame = np.repeat(np.array([0] * 4 + [30] * 4, np.uint8)[None, :, None], 4, 0).repeat(3, 2)
    matrix = (8.0, 0.0, 4.0, 0.0, 8.0, 2.0, 0.0, 0.0, 1.0)
    view = CameraView(2, 2, fit, source_height=4, source_width=8, intrinsics=matrix)
    image = view.apply(frame)
    assert image.shape == (2, 2, 3) and image[0, :, 0].tolist() == expected
    assert view.words(4, 8) == words
    found = np.reshape(view.camera("front").intrinsics, (3, 3))
    assert found[0, 2] == found[1, 2] == 1.0  # the middle stays the middle
    assert found[0, 0] == (4.0 if fit == "crop" else 2.0)


def test_options_are_checked():
    for options, message in [
        ({"name": "folder"}, "camera 'folder' lacks the field 'path'"),
        ({"name": "folder", "path": "x", "rate": 3}, "has no field 'rate'. Did you mean 'rate_hz'"),
        ({"name": "folder", "path": "x", "rate_hz": "fast"}, "rate_hz is 'fast'; expected float"),
        ({"name": "folder", "path": "x", "fit": "squeeze"}, "fit is 'squeeze'; expected one of exact, resize, crop"),
        ({"name": "v4l2", "width": 0}, "width is 0; expected pixels"),
        ({"name": "rtsp", "url": "http://x"}, "url is 'http://x'; expected rtsp://"),
        ({"path": "x"}, "expected its options, with the name"),
    ]:
        with pytest.raises(ConfigError, match=message):
            CameraGroup({"front": options})
    with pytest.raises(UnknownNameError, match="no camera named 'v4l'. Did you mean 'v4l2'"):
        CameraGroup({"front": {"name": "v4l"}})
    with pytest.raises(ConfigError, match="need source_height"):
        CameraView(2, 2, "crop", intrinsics=(1.0,) * 9)


def test_a_folder_of_pictures_and_a_video_are_cameras(tmp_path):
    for value in (10, 200):
        Image.fromarray(picture(value, 8, 8)).save(tmp_path / f"{value}.png")
    video.write(tmp_path / "a.mp4", [picture(120, 64, 64)] * 3, 30.0)
    group = CameraGroup(
        {
            "front": {"name": "folder", "path": str(tmp_path), "rate_hz": 500, "width": 4, "height": 4, "fit": "resize"},
            "wrist": {"name": "video", "path": str(tmp_path / "a.mp4"), "rate_hz": 500.0, "width": 64, "height": 64},
        }
    )
    assert [(c.name, c.height, c.width) for c in group.spec] == [("front", 4, 4), ("wrist", 64, 64)]
    group.start()
    images, seen = group.read(), set()
    assert images["wrist"].shape == (64, 64, 3) and abs(int(images["wrist"][5, 5, 0]) - 120) < 8
    eventually(lambda: seen.add(int(group.read()["front"][0, 0, 0])) or len(seen) == 2)  # and again from the first
    eventually(lambda: group.cameras["wrist"].frames > 6)
    assert group.ages_s().keys() == {"front", "wrist"} and min(group.ages_s().values()) >= 0
    assert group.lines() == ["front: 8×8 → scaled to 4×4", "wrist: 64×64"]
    group.close()
    (tmp_path / "empty").mkdir()
    refused({"name": "folder", "path": str(tmp_path / "empty")}, "has no picture")


def test_the_class_of_devices_reads_what_ffmpeg_opens_and_says_what_is_not_there():
    refused({"name": "v4l2", "device": "/dev/video-none", "size": "640x480"}, "No such file")
    options = {"name": "v4l2", "device": "testsrc=size=64x48:rate=200", "format": "lavfi", "height": 48, "width": 64}
    group = CameraGroup({"front": options})
    group.start()
    first = group.read()["front"]
    eventually(lambda: not np.array_equal(group.read()["front"], first))
    group.close()


def test_a_network_camera_pushes_by_rtsp_and_is_lost(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, ended = f"rtsp://user:secret@127.0.0.1:{port}/front", threading.Event()

    def push():
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and not ended.is_set():
            try:
                with av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"}) as sink:
                    stream = sink.add_stream("mpeg4", rate=30)
                    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                    while not ended.wait(0.01):
                        sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture(80, 48, 64), format="rgb24")))
            except OSError:
                time.sleep(0.02)

    publisher = threading.Thread(target=push, daemon=True)
    publisher.start()
    group = CameraGroup({"front": {"name": "rtsp", "url": url, "listen": True, "height": 48, "width": 64}}, start_s=LIMIT_S)
    group.start()
    assert abs(int(group.read()["front"][9, 9, 0]) - 80) < 8
    ended.set()
    eventually(lambda: group.cameras["front"].problem)
    assert "secret" not in group.lines()[0]
    group.close()
    publisher.join(5)


def test_a_stream_without_video_is_refused():
    with pytest.raises(OSError, match="has no video"):
        AVStream("sine=frequency=440", "lavfi")
    assert {"v4l2", "rtsp", "folder", "video"} <= set(cameras.names())
