"""Hostile policy folders: every one is loaded to the same policy, or refused in one line.

Each case changes a saved policy: a field of `policy.json`, `statistics.json` or `manifest.json` (its sha256 recomputed, so that
the content is reached), a weight, a byte, a file. Cases run in forked processes with a limit of memory and of time.

Example:
    python experiments/reliability/policy_folders.py --cases 400 --seed 0 --out outputs/policy_folders.json
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from isolated import forked
from safetensors.numpy import load_file, save_file

NAMES = ("policy.json", "statistics.json", "weights.safetensors")
DELETED = object()
VALUES: tuple[Any, ...] = (
    DELETED, None, True, -1, 0, 1, 2.5, 10**6, 10**9, 10**18, -(10**18), math.nan, math.inf, -math.inf, 1e300, "", "text", "64",
    "../../etc/passwd", "\ud800", [], [1], [[1]], ["a"], [math.nan], {}, {"a": 1}, {"name": "mlp", "options": {"hidden": 10**9}},
    [0.0] * 4, [0.0] * 100,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=400, help="generated changes, besides the listed ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the record")
    parser.add_argument("--show", action="store_true", help="print each fault")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(Path(folder), arguments.cases, arguments.seed, arguments.show)
    print(json.dumps(record))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1))


def measure(folder: Path, cases: int, seed: int, show: bool) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    base = folder / "base"
    actions = save_policy(base)
    found: Counter[str] = Counter()
    faults: list[str] = []
    peak = 0
    for name, change in [*listed(), *generated(base, cases, seed)]:
        root = folder / "case"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(base, root)
        change(root)
        outcome, detail, used = forked(partial(use, root, actions))
        found[outcome] += 1
        peak = max(peak, used)
        if outcome not in ("same", "refused"):
            faults.append(f"{name}: {outcome}: {detail}")
            if show:
                print(faults[-1])
    return {
        "test": "policy folders", "count": found.total(), "seed": seed, "same": found["same"], "refused": found["refused"],
        "untyped": found["untyped"], "hangs": found["hang"], "aborts": found["abort"], "non_finite": found["non-finite"],
        "not_one_line": found["lines"], "other_actions": found["other"], "peak_mb": round(peak / 1e6), "faults": faults[:20],
    }  # fmt: skip


def save_policy(folder: Path) -> np.ndarray:
    """A small policy of every kind of part that needs no other package; returns its actions for one observation."""
    from verbot.models.network import NetworkConfig
    from verbot.models.registries import Part
    from verbot.policy.policy import VLAPolicy
    from verbot.statistics import Statistics

    spec, rng = robot(), np.random.default_rng(0)
    statistics = Statistics.of({"state": rng.normal(size=(50, 4)), "action": rng.uniform(-0.05, 0.05, (50, 4))})
    config = NetworkConfig(
        width=16, chunk=4, fusion=Part("mlp", {"hidden": 32}), vision=Part("vit", {"depth": 1}), image_size=(16, 16)
    )
    VLAPolicy.create(config, spec, statistics, ["pick up the red cube"]).save(folder)
    return predicted(VLAPolicy.load(folder))


def robot() -> Any:
    from verbot.spec import Camera, Component, RobotSpec

    def component(name: str, kind: str, size: int, low: float) -> Component:
        return Component(name, kind, tuple(f"{name}{i}" for i in range(size)), "1", "base", (low,) * size, (1.0,) * size)

    state = (component("ee_position", "position", 3, -1.0), component("gripper", "gripper", 1, 0.0))
    action = (component("position_delta", "position_delta", 3, -1.0), component("gripper", "gripper", 1, 0.0))
    return RobotSpec("tiny", 10.0, (Camera("front", 16, 16),), state, action)


def predicted(policy: Any) -> np.ndarray:
    from verbot.spec import Observation

    images = {c.name: np.full((c.height, c.width, 3), 90, np.uint8) for c in policy.spec.cameras}
    (chunk,) = policy.predict([Observation(images, np.zeros(policy.spec.state_size, np.float32), "pick up the red cube")])
    return chunk.values


def use(root: Path, actions: np.ndarray) -> tuple[str, str]:
    """What loading the folder comes to: ``"same"``, ``"refused"``, or a fault."""
    from verbot.errors import CorruptFileError, PolicyError, VerbotError
    from verbot.policy.identity import policy_identity
    from verbot.policy.opening import load_policy

    try:
        policy_identity(root)
        policy = load_policy(root)
    except VerbotError as error:
        if not isinstance(error, PolicyError | CorruptFileError):
            return "untyped", f"{type(error).__name__}: {error}"
        return ("lines", str(error)) if "\n" in str(error) or len(str(error)) > 2000 else ("refused", str(error))
    try:
        values = predicted(policy)
    except VerbotError as error:
        return "refused", str(error)
    if not np.isfinite(values).all():
        return "non-finite", "actions"
    return "same", "" if np.array_equal(values, actions) else "other actions"


Case = tuple[str, Callable[[Path], object]]


def generated(base: Path, cases: int, seed: int) -> Iterator[Case]:
    """Changes of fields, and of bytes."""
    rng = random.Random(seed)
    files = {name: json.loads((base / name).read_text()) for name in ("policy.json", "statistics.json", "manifest.json")}
    places = {name: [keys for keys in fields(record) if keys] for name, record in files.items()}
    for number in range(cases):
        if number % 5 == 4:
            yield flipped(rng)
            continue
        name = rng.choices(list(files), (6, 3, 1))[0]
        keys, value = rng.choice(places[name]), rng.choice(VALUES)
        record = changed(files[name], keys, value)
        shown = "deleted" if value is DELETED else repr(value)[:40]
        yield f"{name} {'.'.join(map(str, keys))} = {shown}", on(rewrite, name, record)


def flipped(rng: random.Random) -> Case:
    name, place, bit = rng.choice((*NAMES, "manifest.json")), rng.random(), 1 << rng.randrange(8)

    def flip(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        at = int(place * min(len(content), 4000))
        content[at] ^= bit
        (root / name).write_bytes(content)
        if at % 2 and name != "manifest.json":
            reseal(root)

    return f"{name} bit {bit} at {place:.4f}", flip


def fields(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from ((key, *rest) for rest in fields(value[key]))


def changed(value: Any, keys: tuple[Any, ...], change: Any) -> Any:
    if not keys:
        return change
    value = copy.copy(value)
    if len(keys) == 1 and change is DELETED:
        del value[keys[0]]
    else:
        value[keys[0]] = changed(value[keys[0]], keys[1:], change)
    return value


def rewrite(root: Path, name: str, record: Any) -> None:
    (root / name).write_text(json.dumps(record))
    if name != "manifest.json":
        reseal(root)


def reseal(root: Path) -> None:
    record = json.loads((root / "manifest.json").read_text())
    record["sha256"] = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in NAMES if (root / name).is_file()}
    (root / "manifest.json").write_text(json.dumps(record))


def listed() -> Iterator[Case]:
    """What chance would not find."""
    for value in (math.nan, math.inf, -math.inf):
        yield f"a weight is {value}", on(poisoned, value)
    yield "a weight is missing", lambda root: weights(root, lambda w: w.pop(next(iter(w))))
    yield "a weight too many", lambda root: weights(root, lambda w: w.update(more=np.zeros(3, np.float32)))
    yield "a weight of integers", lambda root: weights(root, lambda w: w.update({k: v.astype(np.int64) for k, v in w.items()}))
    yield (
        "weights of float64 beyond float32",
        lambda root: weights(root, lambda w: w.update({k: v * np.float64(1e300) for k, v in w.items()})),
    )
    yield "a weight of another shape", lambda root: weights(root, lambda w: w.update({k: v.reshape(-1) for k, v in w.items()}))
    sizes = {
        "width": ("width",),
        "chunk": ("chunk",),
        "history": ("history",),
        "layers": ("vision", "options", "depth"),
        "hidden": ("fusion", "options", "hidden"),
        "task_embeddings": ("task_embeddings",),
    }
    for name, keys in sizes.items():
        for size in (10**5, 10**6, 10**9):
            yield f"{name} {size}", on(network, keys, size)
    yield "image_size", lambda root: network(root, ("image_size",), [10**5, 10**5])
    yield (
        "an unknown format",
        lambda root: rewrite(root, "policy.json", {**table(root, "policy.json"), "format": "verbot-policy/9"}),
    )
    yield (
        "an unknown format of the manifest",
        lambda root: rewrite(root, "manifest.json", {**table(root, "manifest.json"), "format": 7}),
    )
    for name in ("../outside.json", "/etc/passwd", "a/../policy.json", "/dev/zero", "link", "pipe", "folder", "\0", "x" * 5000):
        yield f"the manifest names {name[:20]!r}", on(names, name)
    for name in (*NAMES, "manifest.json"):
        yield f"{name} is empty", on(written, name, b"")
        yield f"{name} is binary", on(sealed, name, os.urandom(2000))
        yield f"{name} is deep", on(sealed, name, b"[" * 200_000)
        yield f"{name} is a long number", on(sealed, name, b'{"a": ' + b"9" * 10**6 + b"}")
        yield f"{name} is UTF-16", on(sealed, name, '{"a": 1}'.encode("utf-16"))
        yield f"{name} is a pipe", on(replaced, name, os.mkfifo)
        yield f"{name} is a folder", on(replaced, name, os.mkdir)
        yield f"{name} is missing", on(replaced, name, str)
    yield "a header of weights that claims too much", lambda root: sealed(root, "weights.safetensors", header(10**12))
    yield (
        "a header of weights beyond the file",
        lambda root: sealed(root, "weights.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
    )


def weights(root: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    held = load_file(root / "weights.safetensors")
    change(held)
    save_file({name: np.ascontiguousarray(value) for name, value in held.items()}, root / "weights.safetensors")
    reseal(root)


def first(held: dict[str, np.ndarray]) -> np.ndarray:
    return next(value for value in held.values() if value.ndim).reshape(-1)


def network(root: Path, keys: tuple[str, ...], value: Any) -> None:
    record = table(root, "policy.json")
    inner = record["network"]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    rewrite(root, "policy.json", record)


def table(root: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((root / name).read_text()))


def names(root: Path, name: str) -> None:
    (root.parent / "outside.json").write_text("{}")
    if name == "link":
        (root / name).symlink_to(root.parent / "outside.json")
    elif name == "pipe":
        os.mkfifo(root / name)
    elif name == "folder":
        (root / name).mkdir()
    record = table(root, "manifest.json")
    record["sha256"][name] = hashlib.sha256(b"{}").hexdigest()
    (root / "manifest.json").write_text(json.dumps(record))


def sealed(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(content)
    if name != "manifest.json":
        reseal(root)


def on(function: Callable[..., object], *arguments: Any) -> Callable[[Path], object]:
    return lambda root: function(root, *arguments)


def poisoned(root: Path, value: float) -> None:
    weights(root, lambda held: first(held).__setitem__(0, value))


def written(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(content)


def replaced(root: Path, name: str, make: Callable[[Path], object]) -> None:
    (root / name).unlink()
    make(root / name)


def header(size: int) -> bytes:
    record = json.dumps({"w": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}).encode()
    return len(record).to_bytes(8, "little") + record


if __name__ == "__main__":
    main()
