"""`verbot.train` and `verbot.evaluate`: recipes and policies by name, for a notebook and for the command line."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verbot.contracts import Policy
from verbot.errors import ConfigError, PolicyError
from verbot.evaluation import Summary
from verbot.evaluation import evaluate as measure
from verbot.evaluation.comparison.paired import Comparison
from verbot.evaluation.comparison.paired import compare as compare_folders
from verbot.recipes.config import RunConfig, change, resolve
from verbot.recipes.overrides import NETWORK, parse_design, resolve_word
from verbot.training import TrainResult
from verbot.training.distributed.launch import launched
from verbot.workflows.load_policy import policy_source
from verbot.workflows.stages import all_demonstrations, learn

SCRIPTED = ("expert", "random")


def train(
    recipe: str | Path | RunConfig = "starter",
    *,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    seed: int | None = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> TrainResult:
    """Train a policy by a recipe; leaves ``policy/``, ``config.yaml``, ``log.jsonl`` and ``result.json`` in `out`.

    Called again with the same arguments it continues an interrupted training, to the bit.

    Args:
        recipe: a name (`verbot list recipes`), a design (``"starter+head=flow"``), a YAML file of a `RunConfig`, or the
            configuration itself.
        out: the folder for the results.
        data: one or more datasets to train on; None gathers the recipe's demonstrations in ``out/dataset``.
        seed: of everything; the recipe's own if None.
        resume: False refuses a folder that holds a run.
        progress: show what is being done, its rate and time left.
        settings: fields of `verbot.training.TrainConfig`, e.g. ``minutes=3``, ``batch_size=128``, ``dagger={"rounds": 2}``, or
            ``start="outputs/demo/policy"`` (``"starter"`` is the policy that ships with verbot), whose network is trained on.

    Raises:
        ConfigError: a setting does not exist or does not fit, or `out` holds another run.
        TrainingError: the loss stays without a number, or a process dies.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> result = train("tiny", out=folder.name, steps=2, progress=False)
        >>> result.steps, result.finished
        (2, True)
        >>> folder.cleanup()
    """
    folders: Sequence[str | Path] = () if data is None else [data] if isinstance(data, str | Path) else list(data)
    told = {"datasets": [str(folder) for folder in folders], **settings} if folders else settings  # what weights are counted by
    run = change(resolve_word(recipe) if isinstance(recipe, str) else resolve(recipe), told, seed)
    if run.training.start is not None and run.training.start_parts is None:
        _check_start(recipe, settings)
    if data is None:
        if launched() is not None:
            raise ConfigError("processes that torchrun starts do not gather demonstrations: give data, gathered before")
        folders = all_demonstrations(run, Path(out) / "dataset", progress)
    return learn(run, folders, Path(out), resume=resume, progress=progress)


def _check_start(recipe: str | Path | RunConfig, settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a person sets what a start decides: it would be passed over in silence."""
    changed = [*settings, *(parse_design(recipe).settings if isinstance(recipe, str) else ())]
    names = dict.fromkeys(name.partition(".")[0] for name in changed)
    if fixed := [name for name in names if name in NETWORK or name in ("network", "preprocessing")]:
        raise ConfigError(f"{' and '.join(fixed)} cannot be set beside start: the network and its preprocessing are the start's")


def evaluate(
    policy: str | Path | Policy,
    suite: str = "tabletop-starter",
    *,
    out: str | Path,
    device: str = "cpu",
    **settings: Any,
) -> Summary:
    """Measure whether a policy obeys; writes ``results.jsonl``, ``summary.json`` and ``report.html`` into `out`.

    Called again with the same arguments it continues an interrupted evaluation.

    Args:
        policy: a policy's folder, ``"starter"``, a server's ``ws://`` address, ``"expert"``, ``"random"``, or a
            `verbot.policy.policy.Policy` in memory.
        suite: the env's name.
        out: the folder for the results.
        device: where a policy computes that is not a server's: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"mps"`` or ``"auto"``.
        settings: fields of `verbot.evaluation.EvaluationConfig`, e.g. ``episodes=200``, ``seed=1``, ``mode="paraphrase"``.

    Raises:
        PolicyError: there is no such policy.
        ConfigError: a setting or the device does not exist, or `out` holds another policy's results.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> summary = evaluate("expert", out=folder.name, episodes=2, videos=0, baselines=False, conditions=(), progress=False)
        >>> summary.metrics["success_rate"].n
        2
        >>> folder.cleanup()
    """
    if isinstance(policy, str | Path):
        return measure(str(policy) if str(policy) in SCRIPTED else policy_source(str(policy), device), suite, out=out, **settings)
    if not hasattr(policy, "save"):
        raise PolicyError(
            f"a policy of type {type(policy).__name__} cannot be saved, so no worker can load it; give a folder or an address"
        )
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder) / "policy")
        source = dataclasses.replace(policy_source(str(Path(folder) / "policy"), device), name="policy in memory")
        return measure(source, suite, out=out, **settings)


def compare(a: str | Path, b: str | Path, suite: str = "tabletop-starter", *, out: str | Path, **settings: Any) -> Comparison:
    """Two policies on the same episodes: the difference in success, and McNemar's exact test.

    Args:
        a, b: policies by name, as of `evaluate`, or folders that hold evaluations; the latter are read, not played.
        suite, settings: as of `evaluate`, for policies that are played.
        out: the folder for what is played: ``a`` and ``b`` in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = compare("expert", "random", out=folder, episodes=2, progress=False)
        >>> result.conditions[0].only_first, result.conditions[0].only_second
        (2, 0)
    """
    lean: dict[str, Any] = {"baselines": False, "videos": 0, "conditions": ()}
    folders: list[Path] = []
    for side, name in (("a", a), ("b", b)):
        folder = Path(name) if (Path(name) / "results.jsonl").is_file() else Path(out) / side
        if folder != Path(name):
            evaluate(name, suite, out=folder, **(lean | settings))
        folders.append(folder)
    return compare_folders(folders[0], folders[1])
