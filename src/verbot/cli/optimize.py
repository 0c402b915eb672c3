"""The command that makes a policy small and fast."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from verbot.cli.options import MACHINES, MachineOptions
from verbot.cli.terminal import refuse
from verbot.errors import PolicyError


@dataclass(frozen=True)
class ExportOptions:
    """What to make of the policy.

    Args:
        to: the runtime: onnx, openvino, torch-export, aoti, or one of another distribution; see `verbot list`.
        precision: of the weights and the computation; not every runtime has each of them.
        prune: set the smallest weights to zero: l1:SHARE of each layer, or l1-channels:SHARE of its output channels.
    """

    to: str = "onnx"
    precision: Literal["fp32", "bf16", "int8-dynamic", "int8-static", "int8-weights"] = "fp32"
    prune: str | None = None


@dataclass(frozen=True)
class EvidenceOptions:
    """What the optimized policy is compared with the original on.

    Args:
        data: a dataset whose observations are compared; otherwise the suite's expert is recorded.
        suite: the env; see `verbot list envs`.
        observations: number of recorded observations whose actions are compared.
        repeats: number of predictions that are timed; 0 measures neither time nor memory.
        scenes: number of scenes in which both policies act; 0 for none.
        seed: another seed is another set of scenes.
    """

    data: Path | None = None
    suite: str = "tabletop-starter"
    observations: int = 200
    repeats: int = 200
    scenes: int = 200
    seed: int = 0


EXPORT, EVIDENCE = ExportOptions(), EvidenceOptions()


def optimize_command(
    policy: Positional[str],
    export: ExportOptions = EXPORT,
    out: Path = Path("outputs/optimized"),
    evidence: EvidenceOptions = EVIDENCE,
    machines: MachineOptions = MACHINES,
) -> int:
    """Make a policy small and fast: graphs of another runtime, which need no torch, in the precision that you choose.

    A policy whose actions differ too much from those of the original is not written, and the exit code is 1.

    Example: verbot optimize starter --to onnx --precision int8-static --out outputs/small

    Args:
        policy: a policy's folder, or "starter" (the one that came with verbot).
        out: the folder for the optimized policy.
    """
    from verbot.policy.export.exporting import ExportConfig
    from verbot.policy.export.prune import Pruning
    from verbot.workflows.optimize import Evidence, optimize

    refuse("the episodes are run by processes of this machine", cluster=machines.cluster)
    if policy in ("expert", "random") or policy.startswith(("ws://", "wss://")):
        raise PolicyError(f"{policy} is no policy on this machine; give the folder of one")
    config = ExportConfig(export.to, export.precision, Pruning.parse(export.prune) if export.prune else None)
    given = {name: getattr(evidence, name) for name in ("data", "suite", "observations", "repeats", "scenes", "seed")}
    result = optimize(policy, out, config, Evidence(**given, workers=machines.workers))
    print(result.table())
    if result.refused:
        print(f"verbot: {result.refused}; {out} is not written", file=sys.stderr)
        return 1
    print(result.folder)
    return 0
