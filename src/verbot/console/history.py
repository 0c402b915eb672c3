"""The episodes of a session, each with a video, within a bound of memory."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from verbot.console.streams import pixels_of
from verbot.rollout import video

EPISODES, BYTES = 40, 2**26  # kept at most; the oldest are dropped
FRAMES = 3000  # of one video; later ones are left out
HEIGHT = 256  # of a view in the video
_EDGES = {"success": video.GREEN, "failure": video.RED}


@dataclass
class ConsoleRecording:
    """One episode while it lasts.

    Args:
        about: what the page shows of it: instruction, policy, suite, scene and so on.
        frames: of each recorded step the instruction and the JPEG of each camera.
    """

    about: dict[str, Any]
    rate_hz: float
    frames: list[tuple[str, Mapping[str, bytes]]] = field(default_factory=list)

    def add(self, instruction: str, pictures: Mapping[str, bytes]) -> None:
        if len(self.frames) < FRAMES:
            self.frames.append((instruction, pictures))

    def encode(self, judgement: str) -> bytes:
        """The video, MP4; empty without frames."""
        if not self.frames:
            return b""
        views = [(text, {name: pixels_of(content) for name, content in shown.items()}) for text, shown in self.frames]
        images = [video.compose(shown, text, HEIGHT) for text, shown in views]
        text, shown = views[-1]
        images.append(video.compose(shown, text, HEIGHT, _EDGES.get(judgement, video.GRAY)))
        with tempfile.TemporaryDirectory(prefix="verbot-console-") as folder:
            return video.write(Path(folder) / "episode.mp4", _of_one_size(images), self.rate_hz).read_bytes()


class History:
    """Finished episodes, the latest last. Thread-safe. Videos are made in a thread, one at a time."""

    def __init__(self) -> None:
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self._episodes: dict[int, tuple[dict[str, Any], bytes | None]] = {}
        self._next = 1
        self.version = 0  # grows with every change

    def add(self, recording: ConsoleRecording, wait: bool = False) -> None:
        """Keep a finished episode; its video follows, at once with `wait`."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._episodes[number] = ({**recording.about, "number": number}, None)
            self.version += 1
        work = threading.Thread(target=self._encode, args=(number, recording), name="console-video", daemon=True)
        work.start()
        if wait:
            work.join()

    def listing(self) -> list[dict[str, Any]]:
        """What is known of each, the latest first; ``video`` says whether it can be replayed."""
        with self._lock:
            return [{**about, "video": bool(content)} for about, content in reversed(self._episodes.values())]

    def video(self, number: int) -> bytes | None:
        """The MP4 of an episode; None if there is none."""
        with self._lock:
            return self._episodes.get(number, ({}, None))[1]

    def _encode(self, number: int, recording: ConsoleRecording) -> None:
        with self._encoding:
            content = recording.encode(str(recording.about.get("judgement", "")))
        with self._lock:
            self._episodes[number] = (self._episodes[number][0], content)
            while len(self._episodes) > EPISODES or sum(len(each or b"") for _, each in self._episodes.values()) > BYTES:
                del self._episodes[min(self._episodes)]
            self.version += 1


def _of_one_size(images: list[Any]) -> list[Any]:
    """All at the size of the first: a caption of two lines makes a picture higher."""
    size = images[0].shape[1::-1]
    return [image if image.shape[1::-1] == size else np.asarray(Image.fromarray(image).resize(size)) for image in images]
