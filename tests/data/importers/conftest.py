"""Episodes that the tests write in each format, and how what was imported is held against them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from verbot.data import open_dataset

PSNR_DB = 38.0  # the native codec on these pictures; the worst measured is 38.6 dB


@dataclass(frozen=True)
class Truth:
    """One episode: float32 states (t, s) and actions (t, a), pictures by camera (t, h, w, 3), one sentence."""

    states: np.ndarray
    actions: np.ndarray
    images: dict[str, np.ndarray]
    instruction: str

    def __len__(self) -> int:
        return len(self.actions)


def pictures(number: int, length: int, height: int, width: int) -> np.ndarray:
    """A bright square that moves over a slope of colors."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([60 + 2 * x, 50 + 2 * y, 90 + x + y + 0 * x], -1)
    frames = np.repeat(base[None], length, 0)
    for t in range(length):
        frames[t, 6:14, 2 + t : 10 + t] = (220, 40 + 10 * (number % 10), 40)
    return np.clip(frames, 0, 255).astype(np.uint8)


def encoded(frame: np.ndarray, kind: str = "JPEG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, kind, quality=92)
    return sink.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(float) - other.astype(float)) ** 2), 1e-12)))


@pytest.fixture(scope="session")
def truth() -> Callable[..., Truth]:
    def make(number: int, states: int = 4, actions: int = 3, cameras: tuple[str, ...] = ("front",), length: int = 0) -> Truth:
        rng, length = np.random.default_rng(number), length or 5 + number % 3
        sizes = {camera: (24 + 8 * i, 32 + 8 * i) for i, camera in enumerate(cameras)}  # every camera its own size
        return Truth(
            rng.uniform(-1, 1, (length, states)).astype(np.float32),
            rng.uniform(-1, 1, (length, actions)).astype(np.float32),
            {camera: pictures(number + i, length, *sizes[camera]) for i, camera in enumerate(cameras)},
            f"move object {number}",
        )

    return make


@pytest.fixture(scope="session")
def same() -> Callable[..., Any]:
    """Everything imported equals `truths`: states and actions to the bit, pictures within the codec's loss."""

    def check(path: Any, truths: list[Truth], keys: list[str] | None = None) -> Any:
        dataset = open_dataset(path)
        assert len(dataset) == len(truths)
        for episode, truth in zip(dataset, truths, strict=True):
            assert episode.states.tobytes() == truth.states.tobytes() and episode.states.shape == truth.states.shape
            assert episode.actions.tobytes() == truth.actions.tobytes() and episode.actions.shape == truth.actions.shape
            assert episode.instruction == truth.instruction
            assert set(dataset.camera_names) == set(truth.images)
            for camera, frames in truth.images.items():
                assert psnr_db(episode.images(camera), frames) > PSNR_DB
        if keys is not None:
            assert [episode.extras["source"]["episode"] for episode in dataset] == keys
        return dataset

    return check
