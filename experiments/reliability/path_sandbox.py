"""The sandbox of `paths`: what lies beside the target of a case, and the sources that its cases share."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data import DatasetWriter, EpisodeRecord, ImportConfig, check_dataset, import_dataset, open_dataset
from verbot.data.storage.video import encode_video
from verbot.data.storage.writer import example_dataset
from verbot.spec import Camera, Component, RobotSpec

SECRET, COLOR = 1234.5, (250, 5, 245)  # the numbers and the pictures of private files
LENGTH, SIDE = 6, 32
ESCAPES = (
    "x/../../../victim/videos/observation.images.front", "../../victim/data", "../victim", "../../private", "..", ".", "/", "a/b",
    "{victim}", "{private}", "~/victim", "a\0b", "front\n", "left shoulder", "关节1", "\ud83d", "a" * 300,
    "concat:{private}/v.mp4", "file:{private}/v.mp4",
    "http:0.mp4", "\x1b[2Jx", "CON", "..%2f..%2fvictim", "", " ", "-", "x/..", "observation.images.front",
)  # fmt: skip


@dataclass
class Sandbox:
    """The folders of one case. Everything but `target` must stay as it is; what is in `private` must not become data."""

    root: Path
    rng: random.Random
    facts: dict[str, bool] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def target(self) -> Path:
        return self.root / "target"

    @property
    def victim(self) -> Path:
        return self.root / "victim"

    @property
    def private(self) -> Path:
        return self.root / "private"

    def name(self) -> str:
        """A hostile name: one of the list, or several joined."""
        parts = [self.rng.choice(ESCAPES) for _ in range(self.rng.choice((1, 1, 1, 2, 3)))]
        return self.rng.choice(("/", "", "..", "\\")).join(parts).format(victim=self.victim, private=self.private)

    def snapshot(self) -> dict[str, str]:
        """A checksum of every file outside the target, and what each link is."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if Path(folder, name) != self.target and name != ".cache"]
            for name in (*folders, *files):
                path = Path(folder, name)
                if path.is_symlink():
                    found[str(path)] = f"link {os.readlink(path)}"
                elif path.is_file() and not name.startswith(".lock"):
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def spec_of(cameras: tuple[str, ...] = ("front",)) -> RobotSpec:
    grip = Component("grip", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    return RobotSpec("toy", 10.0, tuple(Camera(name, SIDE, SIDE) for name in cameras), (grip,), (grip,))


def record(instruction: str = "go", cameras: tuple[str, ...] = ("front",), value: float = 0.5) -> EpisodeRecord:
    vectors = np.full((LENGTH, 1), value, np.float32)
    return EpisodeRecord(instruction, vectors, vectors, {name: gray() for name in cameras})


def gray(color: tuple[int, int, int] = (90, 90, 90)) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (LENGTH, SIDE, SIDE, 3)).copy()


def png(color: tuple[int, int, int]) -> bytes:
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(gray(color)[0]).save(sink, "PNG")
    return sink.getvalue()


def prepare(template: Path, root: Path) -> None:
    """The victim and the private files, which are the same in every case."""
    shutil.copytree(template, root)
    (root / "source").mkdir()


def make_template(root: Path) -> None:
    import h5py

    root.mkdir()
    example_dataset(root / "victim")
    (root / "victim/data/notes.txt").write_text("a person's notes")
    private = root / "private"
    private.mkdir()
    (private / "a.png").write_bytes(png(COLOR))
    (private / "v.mp4").write_bytes(encode_video(gray(COLOR), 10.0))
    (private / "numbers.bin").write_bytes(np.full(4096, SECRET, np.float32).tobytes())
    (private / "file").write_bytes(np.full(4096, SECRET, "<f4").tobytes())
    with h5py.File(private / "p.h5", "w") as file:
        file["action"] = file["observations/qpos"] = np.full((LENGTH, 2), SECRET, np.float32)
    with DatasetWriter(private / "dataset", spec_of()) as writer:
        secret = np.full((LENGTH, 1), SECRET, np.float32)
        writer.save_episode(EpisodeRecord("go", secret, secret, {"front": gray(COLOR)}))


def write_manifest(box: Sandbox, pictures: Any) -> None:
    entry: dict[str, Any] = {"image_path": pictures, "instruction": "go", "robot_state": [0.2], "episode_id": 0}
    several = isinstance(pictures, list) or str(pictures).endswith((".mp4", ".mkv", ".mov"))
    entries = [entry | {"action_sequence": [[0.1]] * LENGTH}] if several else [entry | {"action": [0.1]}] * 2
    (box.source / "manifest.json").write_text(json.dumps(entries))


def import_source(box: Sandbox, cameras: int | None = None) -> None:
    import_dataset(box.source, box.target, ImportConfig(rate_hz=10.0, instruction="go"))
    if cameras is not None:
        box.facts["joined"] = len(open_dataset(box.target).camera_names) != cameras


def write_dataset(root: Path) -> None:
    with DatasetWriter(root, spec_of()) as writer:
        writer.save_episode(record())


def native_source(box: Sandbox, version: str) -> dict[str, Any]:
    """A dataset as other software writes it. Its ``info.json``, which the caller writes."""
    shutil.rmtree(box.source, ignore_errors=True)
    write_dataset(box.source)
    info: dict[str, Any] = json.loads((box.source / "meta/info.json").read_text())
    del info["verbot"]
    (box.source / "v.mp4").symlink_to(box.private / "v.mp4")
    return info


def read_source(box: Sandbox, own: bool = False) -> None:
    check_dataset(box.source)
    dataset = open_dataset(box.source)
    box.facts["leaked"] = not own and any(holds_private_content(dataset))


def holds_private_content(dataset: Any) -> Iterator[bool]:
    for episode in dataset:
        yield bool((episode.actions == SECRET).any() or (episode.states == SECRET).any())
        for camera in dataset.camera_names:
            yield bool(np.abs(episode.images(camera).astype(int) - COLOR).mean() < 30)
