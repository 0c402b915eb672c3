"""`verbot.train` and `verbot.evaluate`: recipes and policies by name, for a notebook and for the command line."""

from __future__ import annotations

import functools
import hashlib
import pickle
from pathlib import Path
from typing import Any

from verbot.contracts import Policy
from verbot.evaluation import PolicySource, Summary
from verbot.evaluation import evaluate as measure
from verbot.recipes.players import policy_source

SCRIPTED = ("expert", "random")


def evaluate(policy: str | Path | Policy, suite: str = "tabletop-starter", *, out: str | Path, **settings: Any) -> Summary:
    """Measure whether a policy obeys; writes ``results.jsonl``, ``summary.json`` and ``report.html`` into `out`.

    Called again with the same arguments it continues an interrupted evaluation.

    Args:
        policy: a policy's folder, ``"starter"``, a server's ``ws://`` address, ``"expert"``, ``"random"``, or a policy in memory
            that can be pickled.
        suite: the env's name.
        out: the folder for the results.
        settings: fields of `verbot.evaluation.EvaluationConfig`, e.g. ``episodes=200``, ``seed=1``, ``mode="paraphrase"``.

    Raises:
        PolicyError: there is no such policy.
        ConfigError: a setting does not exist, or `out` holds another policy's results.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> summary = evaluate("expert", out=folder.name, episodes=2, videos=0, baselines=False, conditions=(), progress=False)
        >>> summary.metrics["success_rate"].n
        2
        >>> folder.cleanup()
    """
    return measure(_source(policy), suite, out=out, **settings)


def _source(policy: str | Path | Policy) -> PolicySource | str:
    if isinstance(policy, str | Path):
        return str(policy) if str(policy) in SCRIPTED else policy_source(str(policy))
    data = pickle.dumps(policy)
    return PolicySource(type(policy).__name__, functools.partial(pickle.loads, data), hashlib.sha256(data).hexdigest()[:16])
