import av
import numpy as np
import pytest
from PIL import Image

from verbot.errors import ConfigError, MissingDependencyError
from verbot.rollout import video


def frames(count=8):
    rng = np.random.default_rng(0)
    spots = rng.integers(0, 255, (2, 16, 16, 3), np.uint8)
    return [
        video.compose({"front": np.roll(spots[0], i, 1), "wrist": spots[1]}, "put the red cube in the blue box", 64)
        for i in range(count)
    ]


def test_views_stand_side_by_side_over_the_caption():
    red, blue = np.full((8, 8, 3), (255, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 255), np.uint8)
    bare = video.compose({"front": red, "wrist": blue}, height=32)
    assert bare.shape[0] % 2 == 0
    assert bare.shape[1] % 2 == 0
    assert tuple(bare[20, 20]) == (255, 0, 0)
    assert tuple(bare[20, 60]) == (0, 0, 255)
    captioned = video.compose({"front": red, "wrist": blue}, "push it", height=32)
    assert captioned.shape[0] > bare.shape[0]
    assert (captioned[-16:] > 200).any()
    long = video.compose({"front": red, "wrist": blue}, "push it " * 8, height=32)
    assert long.shape[0] > captioned.shape[0]
    assert tuple(video.compose({"front": red}, border=video.GREEN)[0, 0]) == video.GREEN


def test_an_mp4_holds_every_frame(tmp_path):
    path = video.write(tmp_path / "deep" / "a.mp4", frames(), 10.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == 10.0
    assert len(decoded) == 8
    assert np.abs(decoded[3].astype(int) - frames()[3].astype(int)).mean() < 12


def test_a_gif_holds_every_frame(tmp_path):
    with Image.open(video.write(tmp_path / "a.gif", frames(), 10.0)) as image:
        assert image.n_frames == 8
        assert image.info["duration"] == 100


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.mp4 or \.gif"):
        video.write(tmp_path / "a.avi", frames(2), 10.0)
    with pytest.raises(ConfigError, match="no frames"):
        video.write(tmp_path / "a.mp4", [], 10.0)


def test_a_window_without_a_screen_says_what_to_do(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(MissingDependencyError, match="--out"):
        video.show(frames(2), 10.0)
