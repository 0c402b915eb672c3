"""What this version computes, in a form that names in the code do not change. See README.md for when to write it anew."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import verbot
from verbot.models.network import NetworkConfig, Part
from verbot.policy.storage import STARTER
from verbot.rollout.collect import demonstrate
from verbot.rollout.results import read_results
from verbot.training.rl import ReinforceConfig, train_ppo
from verbot.training.rl.config import EnvConfig, PerceptionWarmup, PPOConfig, ReinforceParallelismConfig, RewardShaping

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "numpy", "mujoco", "av", "pillow", "stable_baselines3")
PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "stepping")
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES")
FLAGS = ("avx", "avx2", "avx512", "amx", "fma", "f16c", "sse4")
# The record's name of each env, which stays where the env is renamed.
ENVS = {
    "navigation": "navigation",
    "navigation-compass": "navigation-compass",
    "again": "tabletop-revisit",
    "full": "tabletop-full",
    "memory": "tabletop-memory",
    "occluded": "tabletop-occluded",
    "relations": "tabletop-relations",
    "right": "tabletop-other-robot",
    "sentences": "tabletop-sentences",
    "starter": "tabletop-starter",
}
RANDOMIZED = {
    "positions": 2, "lighting": 2, "appearance": 2, "camera": 2, "distractors": 2, "robot_start": 2, "sensor_noise": 2,
    "dynamics": 2,
}  # fmt: skip
EPISODES = 50


def fingerprint() -> dict[str, Any]:
    """What results to the bit depend on beside the code: packages, processor, renderer."""
    return {
        "packages": {name: version(name) for name in PACKAGES},
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "opengl": _opengl(),
    }


def _processor() -> dict[str, Any]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first, _, _ = path.read_text(encoding="utf-8").partition("\n\n")
    lines = (line.partition(":") for line in first.splitlines())
    said = {name.strip(): value.strip() for name, _, value in lines}
    flags = sorted(flag for flag in said.get("flags", "").split() if flag.startswith(FLAGS))
    return {**{name: said.get(name) for name in PROCESSOR}, "flags": flags}


def _opengl() -> list[str]:
    with closing(verbot.make_env("tabletop-starter", image_size=32)) as env:
        env.reset(seed=0)  # opens a context, which stays this thread's
        from OpenGL import GL

        return [GL.glGetString(name).decode() for name in (GL.GL_RENDERER, GL.GL_VERSION)]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread: sums over several are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def array_sha256(array: np.ndarray) -> str:
    return sha256(f"{array.dtype.str} {array.shape} ".encode(), np.ascontiguousarray(array).tobytes())


def weights(folder: str | Path) -> dict[str, Any]:
    """A saved policy's weights, whatever they are called and in whatever order.

    Returns ``digest``, over the sorted digests of all tensors, and ``shapes``: for every dtype and shape the sorted root mean
    squares and the sorted greatest magnitudes of its tensors.
    """
    digests: list[str] = []
    found: defaultdict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for tensor in verbot.load_policy(folder).network.state_dict().values():
        array = tensor.detach().cpu().numpy()
        digests.append(array_sha256(array))
        size = np.abs(array.astype(np.float64))
        squares, greatest = found[f"{array.dtype} {array.shape}"]
        squares.append(float(np.sqrt(np.mean(size**2))))
        greatest.append(float(size.max()))
    shapes = {name: {"rms": sorted(rms), "max": sorted(most)} for name, (rms, most) in sorted(found.items())}
    return {"digest": sha256("\n".join(sorted(digests)).encode()), "shapes": shapes}


def trained(folder: Path) -> dict[str, Any]:
    """The weights of the tiny recipe after eight steps."""
    with one_thread():
        return weights(verbot.train("tiny", out=folder / "train", steps=8, seed=3, progress=False).policy)


def reinforced(folder: Path) -> dict[str, Any]:
    """The weights after one update by the keypoint loss alone and one by PPO."""
    config = ReinforceConfig(
        env=EnvConfig("navigation", num_envs=4),
        reward_shaping=RewardShaping(progress_weight=0.5),
        network=NetworkConfig(vision=Part("query_conv", {"channels": 4, "heatmaps": 4}), width=16, chunk=1),
        steps=256,
        ppo=PPOConfig(num_steps=32, batch_size=64),
        perception_warmup=PerceptionWarmup(updates=1, batch_size=32),
        keypoint_weight=0.5,
        parallelism=ReinforceParallelismConfig(workers=1),
        seed=3,
    )
    with one_thread():
        return weights(train_ppo(config, folder / "reinforce", progress=False).policy)


def results(folder: Path) -> list[dict[str, Any]]:
    """What the starter policy does in the canonical episodes, without times; sorted by task and scene."""
    settings: dict[str, Any] = {"videos": 0, "baselines": False, "conditions": (), "workers": 1, "latency_calls": 1}
    verbot.evaluate("starter", out=folder / "evaluate", episodes=EPISODES, seed=0, progress=False, **settings)
    lines = [
        {
            "task": result.task,
            "scene": result.index,
            "goal_index": result.goal_index,
            "instruction": result.instruction,
            "goal": dict(result.goal),
            "target": result.target_object,
            "touched": result.first_contact,
            "outcome": result.outcome,
            "steps": result.steps,
            "final_error_m": result.final_error_m,
            "error": result.error,
            "axes": dict(result.axes),
            "actions": result.actions,
        }
        for result in read_results(folder / "evaluate" / "results.jsonl")
    ]
    return sorted(lines, key=lambda line: (line["task"], line["scene"]))


def demonstrations() -> dict[str, Any]:
    """A demonstration of every task of every env, and of the starter tasks in randomized scenes."""
    found: dict[str, Any] = {}
    for name, env_name in ENVS.items():
        with closing(verbot.make_env(env_name)) as env:
            for task in env.tasks:
                found[f"{name}/{task}"] = demonstration(env, task)
            if name == "starter":
                for task in env.tasks:
                    found[f"{name} randomized/{task}"] = demonstration(env, task, RANDOMIZED)
    return found


def demonstration(env: Any, task: str, axes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The first attempt at `task` in which the expert succeeds."""
    for index in range(10):
        request = {"task": task, "split": "train", "index": index, "wording": "seen", "axes": dict(axes or {})}
        record = demonstrate(env, request, noise=0.15, seed=0, index=index).record
        if record is not None:
            break
    else:
        raise RuntimeError(f"the expert fails in ten scenes of {task}")
    return {
        "scene": index,
        "instruction": record.instruction,
        "goal": dict(record.extras["goal"]),
        "instructions": list(record.extras["instructions"]),
        "frames": len(record.actions),
        "states": array_sha256(record.states),
        "actions": array_sha256(record.actions),
        "images": {camera: array_sha256(images) for camera, images in record.images.items()},
        "grounding": sha256(json.dumps(leaves(record.extras["grounding"])).encode()),
        "calibration": sha256(json.dumps(leaves(record.calibration)).encode()),
        "first_state": record.states[0].tolist(),
        "last_state": record.states[-1].tolist(),
        "first_action": record.actions[0].tolist(),
        "last_action": record.actions[-1].tolist(),
        "mean_state": record.states.mean(axis=0, dtype=np.float64).tolist(),
        "mean_action": record.actions.mean(axis=0, dtype=np.float64).tolist(),
        "image_means": {camera: float(images.mean()) for camera, images in record.images.items()},
    }


def leaves(value: Any) -> list[Any]:
    """The values in nested mappings and sequences, without the mappings' keys."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def observations() -> tuple[list[verbot.Observation], dict[str, np.ndarray]]:
    """The first observation of two test scenes of each starter task, and its arrays by name."""
    found: list[verbot.Observation] = []
    with closing(verbot.make_env("tabletop-starter")) as env:
        for task in env.tasks:
            for index in range(2):
                record, _ = env.reset(seed=0, options={"task": task, "index": index})
                images = {name: np.array(image) for name, image in record["images"].items()}
                found.append(verbot.Observation(images, np.array(record["state"]), record["instruction"]))
    arrays = {f"image {name}": np.stack([o.images[name] for o in found]) for name in found[0].images}
    arrays |= {"state": np.stack([o.state for o in found]), "instruction": np.array([o.instruction for o in found])}
    return found, arrays


def stored_observations(arrays: Mapping[str, np.ndarray]) -> list[verbot.Observation]:
    """Inverse of `observations`, from its arrays."""
    cameras = [name.removeprefix("image ") for name in arrays if name.startswith("image ")]
    return [
        verbot.Observation({name: arrays[f"image {name}"][row] for name in cameras}, arrays["state"][row], str(instruction))
        for row, instruction in enumerate(arrays["instruction"])
    ]


def predictions(seen: Sequence[verbot.Observation]) -> dict[str, np.ndarray]:
    """What the starter policy predicts: ``actions`` (n, k, a), in the robot's units, and ``keypoints`` (n, v, 3, 2)."""
    with one_thread():
        chunks = verbot.load_policy(STARTER).predict(seen)
    return {
        "actions": np.stack([chunk.values for chunk in chunks]),
        "keypoints": np.stack([chunk.extras["keypoints"] for chunk in chunks]),
    }


def write_json(name: str, value: Any) -> None:
    (HERE / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write every file."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["VERBOT_CACHE"] = str(Path(temporary) / "cache")
        folder = Path(temporary)
        write_json("weights.json", {"train": trained(folder), "reinforce": reinforced(folder)})
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in results(folder)]
        (HERE / "results.jsonl").write_text("".join(lines), encoding="utf-8")
    write_json("episodes.json", demonstrations())
    seen, arrays = observations()
    np.savez_compressed(HERE / "predictions.npz", **arrays, **predictions(seen))
    write_json("fingerprint.json", fingerprint())


if __name__ == "__main__":
    main()
