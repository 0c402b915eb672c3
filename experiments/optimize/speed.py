"""Speed of policies in every form: p50 and p99 on one core, size, memory, and success beside the original's.

It exports the starter policy, and others that are given (such as one with the head ``flow``), to each form. Each is timed in
turns with the original in one process, and acts in the scenes in which the original acts (McNemar's exact test); the original's
episodes and the recorded observations are made once for all forms. Forms of runtimes that need no torch also predict in a process
in which torch cannot be imported, or in the environment of ``--without-torch PYTHON``, which has none. It prints one JSON record.
With ``--out`` every row is kept as soon as it is known, and a later call with the same settings goes on with those that lack.

On two free cores a row of the starter policy takes about a minute with 200 scenes, one of a flow policy two: 40 minutes for both.

Example:
    python experiments/optimize/speed.py --policies starter outputs/flow/policy --scenes 200 --out outputs/speed.json
    python experiments/optimize/speed.py --only onnx:fp32 --scenes 0
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import VerbotError
from verbot.evaluation.comparison.paired import compare_evaluations
from verbot.files import write_atomic
from verbot.policy.export.exporting import ExportConfig
from verbot.policy.export.prune import Pruning
from verbot.policy.identity import policy_identity
from verbot.policy.opening import load_policy
from verbot.policy.runtime import TRUST
from verbot.policy.storage import policy_folder
from verbot.rollout.collect import collect
from verbot.workflows.load_policy import fitting
from verbot.workflows.optimize import Evidence, optimize
from verbot.workflows.parity import CALIBRATION, FRAMES, observations_of
from verbot.workflows.train_evaluate import evaluate

FORMS = (
    "onnx:fp32", "torch-export:fp32", "aoti:fp32", "openvino:fp32", "onnx:int8-dynamic", "onnx:int8-static",
    "openvino:int8-static", "onnx:fp32:l1:0.2", "onnx:bf16", "openvino:bf16", "onnx:int8-weights", "onnx:fp32:l1-channels:0.1",
)  # fmt: skip
TORCH_FREE = ("onnx", "openvino")
WITHOUT = Path(__file__).resolve().parents[2] / "tests" / "without"  # its sitecustomize.py hides packages
SETTINGS = ("scenes", "observations", "repeats", "suite", "seed")


def measured(policy: str, form: str, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The figures of a policy in one form, or why it was not written."""
    to, precision, *pruning = form.split(":", 2)
    folder = place / form.replace(":", "-")
    started = time.monotonic()
    try:
        config = ExportConfig(to, precision, Pruning.parse(pruning[0]) if pruning else None)
        data = recorded(policy, options, place)
        evidence = Evidence(data, options.suite, options.observations, options.repeats, scenes=0, seed=options.seed)
        result = optimize(policy, folder, config, evidence)
    except VerbotError as error:
        return {"refused": str(error)}
    found: dict[str, Any] = {**result.record, "refused": result.refused}
    if "latency" in found:
        eager, other = found["latency"].values()
        found["times_faster"] = round(eager["p50_ms"] / other["p50_ms"], 2)
    if not result.refused:
        if to in TORCH_FREE:
            found["without_torch"] = without_torch(policy, folder, options, place)
        if options.scenes:
            play(policy, place / "eager-evaluation", options)
            play(str(folder), place / f"{folder.name}-evaluation", options)
            comparison = compare_evaluations(place / "eager-evaluation", place / f"{folder.name}-evaluation")
            found["success"] = comparison.conditions[0].to_json()
    return {**found, "seconds": round(time.monotonic() - started, 1)}


def recorded(policy: str, options: argparse.Namespace, place: Path) -> Path:
    """A dataset of the suite's expert, made once for all forms of a policy."""
    data = place / f"data-{options.suite}-{options.observations}-{options.seed}"
    if not data.is_dir():
        episodes = max(2, -(-(options.observations + CALIBRATION) // FRAMES))
        with tempfile.TemporaryDirectory(dir=place) as folder:
            made = Path(folder) / "data"
            fitted = fitting(policy, options.suite)
            collect(options.suite, made, episodes, options.seed, workers=1, images="image", options=fitted, progress=False)
            made.rename(data)
    return data


def play(policy: str, folder: Path, options: argparse.Namespace) -> None:
    """Let a policy act in all scenes; what it did already is not done again."""
    evaluate(policy, options.suite, out=folder, baselines=False, videos=0, conditions=(), progress=False,
             episodes=options.scenes, seed=options.seed, workers=options.workers)  # fmt: skip


def without_torch(policy: str, folder: Path, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """What a process without torch predicts, its latency and its memory."""
    seen, _ = observations_of(policy, recorded(policy, options, place), options.suite, options.observations, options.seed, False)
    images: dict[str, Any] = {f"images.{name}": np.stack([each.images[name] for each in seen]) for name in seen[0].images}
    actions = np.stack([chunk.values for chunk in load_policy(str(folder)).predict(seen)])
    with tempfile.TemporaryDirectory(dir=place) as temporary:
        path = Path(temporary) / "seen.npz"
        np.savez(path, state=np.stack([each.state for each in seen]), text=[each.instruction for each in seen],
                 actions=actions, **images)  # fmt: skip
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if options.without_torch is None:
            paths = (str(WITHOUT), *filter(None, [env.get("PYTHONPATH")]))
            env |= {"VERBOT_TEST_MISSING": "torch", "PYTHONPATH": os.pathsep.join(paths)}
        command = [str(options.without_torch or sys.executable), "-c", _AGAIN, str(folder), str(path), str(options.repeats)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode:
        return {"error": done.stderr.strip()[-300:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


_AGAIN = """
import importlib.util, json, sys, time
import numpy as np
assert importlib.util.find_spec("torch") is None, "torch is installed here"
from verbot.policy.opening import load_policy
from verbot.spec import Observation
from verbot.workflows.timing import highest_mb
policy, data, repeats = load_policy(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
cameras = [name[7:] for name in data.files if name.startswith("images.")]
arrays = {name: data["images." + name] for name in cameras}
seen = [Observation({name: arrays[name][row] for name in cameras}, state, str(text))
        for row, (state, text) in enumerate(zip(data["state"], data["text"]))]
actions = np.stack([chunk.values for chunk in policy.predict(seen)])
took = []
for turn in range(20 + repeats):
    started = time.perf_counter()
    policy.predict([seen[turn % len(seen)]])
    took.append(time.perf_counter() - started)
p50, p99 = 1000 * np.quantile(took[20:] or took, [0.5, 0.99])
assert "torch" not in sys.modules
print(json.dumps({"most_difference": float(np.abs(actions - data["actions"]).max()), "observations": len(seen),
                  "p50_ms": float(p50), "p99_ms": float(p99), "peak_memory_mb": highest_mb()}))
"""


def known_rows(out: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier call with the same settings."""
    if out is None or not out.is_file():
        return []
    record = json.loads(out.read_text())
    if record.get("settings") != settings:
        raise SystemExit(f"{out} holds rows with the settings {record.get('settings')}; name another file for {settings}")
    return list(record["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["starter"], help="folders of policies, or starter")
    parser.add_argument("--only", nargs="+", default=FORMS, help="forms, TO:PRECISION[:PRUNING]")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--observations", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--suite", default="tabletop-starter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep policies and evaluations in this folder, to go on within a row")
    parser.add_argument("--without-torch", type=Path, help="the Python of an environment without torch, with verbot's extras")
    parser.add_argument("--out", type=Path, help="also write the record here, and go on with what it holds")
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in SETTINGS}
    rows, trusted = known_rows(options.out, settings), os.environ.get(TRUST)
    os.environ[TRUST] = "1"  # for the workers, which open what was just written
    with tempfile.TemporaryDirectory(prefix="verbot-speed-") as temporary:
        for policy in options.policies:
            identity = policy_identity(policy_folder(policy))[:16]
            place = (options.keep or Path(temporary)) / identity
            place.mkdir(parents=True, exist_ok=True)
            for form in options.only:
                if any((row["identity"], row["form"]) == (identity, form) for row in rows):
                    continue
                rows.append({"policy": policy, "identity": identity, "form": form, **measured(policy, form, options, place)})
                print(f"{policy} {form}: {rows[-1].get('times_faster') or rows[-1]['refused']}", file=sys.stderr, flush=True)
                if options.out:
                    write_atomic(options.out, json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    del os.environ[TRUST]
    os.environ |= {} if trusted is None else {TRUST: trusted}
    print(json.dumps({"settings": settings, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
