"""Speed of policies in every form: p50 and p99 on one core, size, and success beside the original's.

It exports the starter policy, and others that are given (such as one with the head ``flow``), to each form. Each is timed in
turns with the original in one process, and both act in the same scenes (McNemar's exact test). It prints one JSON record.

Example:
    python experiments/optimize/speed.py --scenes 200 --out outputs/speed.json
    python experiments/optimize/speed.py --policies starter outputs/flow/policy --only onnx:fp32 --scenes 0
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from verbot.errors import VerbotError
from verbot.files import write_atomic
from verbot.policy.export.exporting import ExportConfig
from verbot.policy.export.prune import Pruning
from verbot.workflows.optimize import Evidence, optimize

FORMS = (
    "onnx:fp32", "onnx:bf16", "onnx:int8-dynamic", "onnx:int8-static", "onnx:int8-weights", "onnx:fp32:l1:0.2",
    "onnx:fp32:l1-channels:0.1", "openvino:fp32", "openvino:bf16", "openvino:int8-static", "torch-export:fp32", "aoti:fp32",
)  # fmt: skip


def measured(policy: str, form: str, evidence: Evidence, folder: Path) -> dict[str, Any]:
    """The figures of a policy in one form, or why it was not written."""
    to, precision, *pruning = form.split(":", 2)
    config = ExportConfig(to, precision, Pruning.parse(pruning[0]) if pruning else None)
    try:
        result = optimize(policy, folder / form.replace(":", "-"), config, evidence)
    except VerbotError as error:
        return {"policy": policy, "form": form, "refused": str(error)}
    found: dict[str, Any] = {**result.record, "form": form, "refused": result.refused}
    if result.comparison is not None:
        found["success"] = result.comparison.conditions[0].to_json()
    if "latency" in found:
        eager, other = found["latency"].values()
        found["times_faster"] = eager["p50_ms"] / other["p50_ms"]
    return found


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
    parser.add_argument("--keep", type=Path, help="keep policies and evaluations in this folder, to go on after an interruption")
    parser.add_argument("--out", type=Path, help="also write the record here")
    arguments = parser.parse_args()
    evidence = Evidence(
        None, arguments.suite, arguments.observations, arguments.repeats, arguments.scenes, arguments.seed, arguments.workers
    )
    with tempfile.TemporaryDirectory(prefix="verbot-speed-") as temporary:
        root, rows = arguments.keep or Path(temporary), []
        for number, policy in enumerate(arguments.policies):
            rows += [measured(policy, form, evidence, root / str(number)) for form in arguments.only]
    record = json.dumps({"seed": arguments.seed, "scenes": arguments.scenes, "rows": rows}, indent=2)
    if arguments.out:
        write_atomic(arguments.out, record + "\n")
    print(record)


if __name__ == "__main__":
    main()
