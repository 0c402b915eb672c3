"""Evaluation of policies on episodes fixed by (suite, task, index, seed), with baselines, intervals and a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import build, former_names
from verbot.evaluation.protocol.conditions import EvaluationConfig
from verbot.evaluation.protocol.intervals import Estimate
from verbot.evaluation.protocol.run import run_evaluation
from verbot.evaluation.report.summary import Summary
from verbot.rollout.baselines import BlindPolicy, PolicySource
from verbot.rollout.results import EpisodeResult, read_results

__all__ = [
    "BlindPolicy",
    "EpisodeResult",
    "Estimate",
    "EvaluationConfig",
    "PolicySource",
    "Summary",
    "evaluate_policy",
    "read_results",
    "run_evaluation",
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, evaluate="evaluate_policy", run="run_evaluation")


def evaluate_policy(
    policy: PolicySource | str,
    suite: str = "tabletop-starter",
    *,
    out: str | Path,
    command: str | None = None,
    progress: bool = True,
    cluster: str | None = None,
    **settings: Any,
) -> Summary:
    """Evaluate a policy on a suite; writes ``results.jsonl``, ``summary.json`` and ``report.html`` into `out`.

    A repeated call with the same arguments continues an interrupted run: it runs only the missing episodes.

    Args:
        policy: the source from which worker processes load the policy, or ``"random"`` or ``"expert"``.
        out: a folder; it may hold an interrupted run of the same policy.
        command: the command line, for the report.
        cluster: as in `run_evaluation`.
        settings: other fields of `EvaluationConfig`, e.g. ``episodes=200``, ``mode="paraphrase"``, ``axes={"lighting": 2}``.

    Raises:
        ConfigError: for a setting that does not exist, or a folder that holds another policy's results.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> settings = {"episodes": 2, "videos": 0, "baselines": False, "conditions": ()}
        >>> summary = evaluate_policy("expert", out=folder.name, progress=False, **settings)
        >>> summary.metrics["success_rate"].n, summary.errors
        (2, 0)
        >>> folder.cleanup()
    """
    config = build(EvaluationConfig, {"suite": suite, **settings})
    return run_evaluation(policy, config, Path(out), command=command, progress=progress, cluster=cluster)
