"""Small sources of every format that `verbot data import` reads: three good episodes each, a function of their number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EPISODES, LENGTH, SIDE = 3, 5, 16
START = 1_700_000_000_000_000_000
RATE = ("--rate-hz", "10")
WORDS = ("--instruction", "pick it")


@dataclass(frozen=True)
class Template:
    """A way to write a source.

    Args:
        make: writes it into an empty folder.
        options: of the import.
        separate: whether every file is an episode of its own, so that damage to one must not touch the others.
    """

    name: str
    make: Callable[[Path], Any]
    options: tuple[str, ...]
    separate: bool = False


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, kind)
    return sink.getvalue()


def pictures(number: int, length: int = LENGTH) -> np.ndarray:
    return np.full((length, SIDE, SIDE, 3), 40 + 20 * number, np.uint8) + np.arange(length, dtype=np.uint8)[:, None, None, None]


def arrays(number: int) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(number).normal(size=(LENGTH, 7)).astype(np.float32)
    return {"observations.front": pictures(number), "observations.state": numbers[:, :4], "actions": numbers[:, :3]}


def safetensors(root: Path) -> None:
    from safetensors.numpy import save_file

    for number in range(EPISODES):
        save_file(arrays(number), root / f"episode_{number}.safetensors", {"language": json.dumps(f"move {number}")})


def npz(root: Path) -> None:
    for number in range(EPISODES):
        np.savez_compressed(root / f"episode_{number}.npz", language=np.array(["move it"]), **arrays(number))


def torch_file(root: Path) -> None:
    import torch

    for number in range(EPISODES):
        content = {name: torch.from_numpy(array) for name, array in arrays(number).items()}
        torch.save({**content, "language": "move it"}, root / f"episode_{number}.pt")


def record(number: int) -> dict[str, Any]:
    import _formats

    found = arrays(number)
    return {
        **_formats.flags(LENGTH),
        "steps/observation/image": [encoded(frame, "JPEG") for frame in pictures(number)],
        "steps/observation/state": found["observations.state"],
        "steps/action": found["actions"],
        "steps/language_instruction": [b"move it"] * LENGTH,
        "episode_metadata/file_path": [b"/x"],
    }


def features() -> dict[str, Any]:
    import _formats

    return {
        **_formats.FLAGS,
        "steps/observation/image": _formats.image((SIDE, SIDE, 3)),
        "steps/observation/state": _formats.tensor("float32", (4,)),
        "steps/action": _formats.tensor("float32", (3,)),
        "steps/language_instruction": _formats.text(),
        "episode_metadata/file_path": _formats.text(),
    }


def rlds(root: Path) -> None:
    import _formats

    _formats.rlds(root, "toy", [record(number) for number in range(EPISODES)], features(), shards=EPISODES)


def rlds_gzip(root: Path) -> None:
    import gzip

    rlds(root)
    for path in root.rglob("*.tfrecord-*"):
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def aloha(root: Path) -> None:
    import h5py

    for number in range(EPISODES):
        with h5py.File(root / f"episode_{number}.hdf5", "w") as file:
            numbers = np.random.default_rng(number).normal(size=(LENGTH, 14))
            file["action"], file["observations/qpos"], file["observations/qvel"] = numbers, numbers, numbers
            file.create_dataset(
                "observations/images/cam_high", data=pictures(number), compression="gzip", chunks=(1, SIDE, SIDE, 3)
            )
            file.attrs["language_instruction"] = "fold it"


def robomimic(root: Path) -> None:
    import h5py

    with h5py.File(root / "demos.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
        for number in range(EPISODES):
            demo = data.create_group(f"demo_{number}")
            numbers = np.random.default_rng(number).normal(size=(LENGTH, 7))
            demo["actions"], demo["obs/robot0_eef_pos"] = numbers, numbers[:, :3]
            demo["obs/agentview_image"] = pictures(number)
            demo.attrs["num_samples"] = LENGTH


def zarr(root: Path, name: str = "buffer.zarr", compressor: Any = "blosc") -> None:
    import _zarr
    import numcodecs

    rows = np.random.default_rng(0).normal(size=(EPISODES * LENGTH, 4)).astype(np.float32)
    data = {"action": rows[:, :2], "state": rows, "img": np.concatenate([pictures(number) for number in range(EPISODES)])}
    ends = LENGTH * np.arange(1, EPISODES + 1)
    _zarr.buffer(root / name, data, ends, compressor=numcodecs.Blosc("lz4") if compressor == "blosc" else compressor)


def zarr_zip(root: Path) -> None:
    zarr(root, "buffer.zarr.zip")


def zarr_gzip(root: Path) -> None:
    import numcodecs

    zarr(root, compressor=numcodecs.GZip())


def log(path: Path, number: int = 0, **options: Any) -> None:
    """A log of ROS 2 messages with one image, state, action and sentence a row; see ``tests/cases/_ros.py``."""
    import _ros

    _ros.bag(path, seconds=0.4, joint_hz=10, first=number, t0=START + number * 10**10, **options)


def mcap(root: Path) -> None:
    for number in range(EPISODES):
        log(root / f"log_{number}.mcap", number)


def rosbag(root: Path) -> None:
    import _rosbags

    for number in range(EPISODES):
        _rosbags.recording(root / f"rec_{number}", rows=LENGTH)


def manifest(root: Path) -> None:
    import _v3

    entries = []
    (root / "clip.mp4").write_bytes(_v3.video(list(np.repeat(np.repeat(pictures(0), 4, 1), 4, 2)), 10, "mpeg4"))
    for number in range(EPISODES):
        for step, frame in enumerate(pictures(number)):
            name = f"{number}_{step}.png"
            (root / name).write_bytes(encoded(frame))
            entries.append({"episode_id": number, "image_path": name, "instruction": "move", "action": [0.1 * step, 1.0]})
    (root / "manifest.json").write_text(json.dumps(entries))


def manifest_of_videos(root: Path) -> None:
    manifest(root)
    entry = {"image_path": "clip.mp4", "instruction": "move", "action_sequence": [[0.1, step] for step in range(LENGTH)]}
    (root / "manifest.json").write_text(json.dumps([entry] * EPISODES))


TEMPLATES = (
    Template("safetensors", safetensors, RATE, True),
    Template("npz", npz, RATE, True),
    Template("pt", torch_file, RATE, True),
    Template("rlds", rlds, RATE, True),
    Template("rlds gzip", rlds_gzip, RATE, True),
    Template("hdf5 aloha", aloha, (*RATE, *WORDS), True),
    Template("hdf5 robomimic", robomimic, (*RATE, *WORDS)),
    Template("zarr", zarr, (*RATE, *WORDS)),
    Template("zarr gzip", zarr_gzip, (*RATE, *WORDS)),
    Template("zarr zip", zarr_zip, (*RATE, *WORDS)),
    Template("mcap", mcap, RATE, True),
    Template("rosbag", rosbag, RATE, True),
    Template("manifest", manifest, RATE),
    Template("manifest of videos", manifest_of_videos, RATE),
)
