from __future__ import annotations

import io

import av
import numpy as np
import pytest

from verbot.data.storage.dataset_statistics import combined_image_statistics, image_statistics
from verbot.data.storage.encoded_video import EncodedVideo, join
from verbot.data.storage.video import GOP, Decoder, encode_video
from verbot.errors import CorruptFileError, DataError


def scene(length: int, seed: int = 0, size: int = 64) -> np.ndarray:
    """Small saturated objects that move over a noisy table."""
    rng = np.random.default_rng(seed)
    table = rng.normal(120, 4, (size, size, 1)) + np.linspace(0, 40, size)[:, None]
    frames = np.repeat(np.clip(np.repeat(table, 3, axis=2), 0, 255).astype(np.uint8)[None], length, axis=0)
    for color in ((220, 30, 30), (30, 60, 220), (30, 200, 60), (240, 220, 40)):
        x, y = rng.integers(0, size - 18, 2)
        for t in range(length):
            frames[t, y : y + 7, x + t % 10 : x + t % 10 + 8] = color
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_small_colored_objects_survive_encoding():
    frames = scene(25)
    with Decoder(encode_video(frames, 10.0), "clip", 10.0) as decoder:
        assert psnr(decoder.frames_at(np.arange(25) / 10), frames) > 40


@pytest.mark.parametrize("rate_hz", [10.0, 30.0, 12.5, 29.97, 50.0])
def test_joined_videos_hold_every_frame_at_its_time(rate_hz):
    lengths = [3, GOP + 5, 1, 7]
    clips = [
        encode_video(
            np.full((n, 16, 16, 3), 40 * i + 20, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None] * 2, rate_hz
        )
        for i, n in enumerate(lengths)
    ]
    video = join([EncodedVideo.of(clip) for clip in clips])
    with av.open(io.BytesIO(video)) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times == pytest.approx(np.arange(sum(lengths)) / rate_hz, abs=1e-4)
    starts = np.cumsum([0, *lengths])
    with Decoder(video, "joined", rate_hz) as decoder:
        for i in (2, 0, 3, 1):  # in any order
            frames = decoder.frames_at((starts[i] + np.arange(lengths[i])) / rate_hz)
            expected = 40 * i + 20 + 2 * np.arange(lengths[i])
            assert np.abs(frames.mean(axis=(1, 2, 3)) - expected).max() < 2
        late = decoder.frames_at((starts[1] + GOP + np.array([2, 3])) / rate_hz)  # not a keyframe
        assert np.abs(late.mean(axis=(1, 2, 3)) - (60 + 2 * (GOP + np.array([2, 3])))).max() < 2


def test_videos_of_different_encodings_are_not_joined():
    clips = [encode_video(np.zeros((2, size, 16, 3), np.uint8), 10.0) for size in (16, 32)]
    with pytest.raises(DataError, match="2 videos of 2 encodings"):
        join([EncodedVideo.of(clip) for clip in clips])


def test_a_file_that_is_no_video_or_too_short_is_named():
    with pytest.raises(CorruptFileError, match="clip: is not a video"):
        Decoder(b"no video", "clip", 10.0)
    with (
        Decoder(encode_video(scene(4), 10.0), "clip", 10.0) as decoder,
        pytest.raises(CorruptFileError, match="clip: holds 2 frames"),
    ):
        decoder.frames_at(0.2 + np.arange(5) / 10)


def test_image_statistics_are_those_of_the_pixels():
    episodes = [scene(20, seed) for seed in (1, 2)]
    each = [image_statistics(frames) for frames in episodes]
    pixels = episodes[0][:, ::2, ::2].reshape(-1, 3) / 255  # what is sampled
    assert np.ravel(each[0]["mean"]) == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert np.ravel(each[0]["std"]) == pytest.approx(pixels.std(axis=0), abs=1e-9)
    assert np.ravel(each[0]["q90"]) == pytest.approx(np.quantile(pixels, 0.9, axis=0), abs=1 / 255)
    both = combined_image_statistics(each)
    pixels = np.concatenate(episodes)[:, ::2, ::2].reshape(-1, 3) / 255
    assert np.ravel(both["std"]) == pytest.approx(pixels.std(axis=0), abs=1e-9)
    assert np.ravel(both["max"]) == pytest.approx(pixels.max(axis=0)) and both["count"] == [40]
