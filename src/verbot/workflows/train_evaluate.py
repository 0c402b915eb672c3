"""`verbot.train` and `verbot.evaluate`: recipes and policies by name, for a notebook and for the command line."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import former_names
from verbot.contracts import Policy, SavablePolicy
from verbot.errors import ConfigError, PolicyError
from verbot.evaluation import Summary, evaluate_policy
from verbot.evaluation.comparison.paired import Comparison, compare_evaluations
from verbot.rollout.baselines import POLICY_FREE_AGENTS
from verbot.workflows.load_policy import policy_source
from verbot.workflows.thinking import ALL, plans_of, thinking_source

if TYPE_CHECKING:  # evaluation of a server or the expert needs no torch
    from verbot.recipes.config import Recipe, TrainingStage
    from verbot.training import TrainResult
    from verbot.training.rl import ReinforceResult
else:
    __getattr__ = former_names(__name__, compare="compare_policies")


def train(
    recipe: str | Path | Recipe = "starter",
    *,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    embodiments: Sequence[str | Path] = (),
    seed: int | None = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> TrainResult | ReinforceResult:
    """Train a policy by a recipe, from demonstrations or from rewards.

    It leaves ``policy/``, ``config.yaml``, ``log.jsonl`` and ``result.json`` in `out`. Called again with the same arguments it
    continues an interrupted training; an imitation continues to the bit.

    Args:
        recipe: a name (`verbot list recipes`), a name with settings (``"starter+head=flow"``), a YAML file of a
            `verbot.recipes.config.Recipe`, or the recipe itself.
        out: the folder for the results; of a recipe of several stages, the last is here and the others in ``stage-1``, ….
        data: one or more datasets to train on; None collects the recipe's demonstrations in ``out/dataset``.
        embodiments: datasets of other robots; each robot gets a policy of its own (``policy-ROBOT``) that shares weights with
            that of the first.
        seed: the seed of the whole run; None uses that of the recipe.
        resume: False refuses a folder that holds a run.
        progress: show what is being done, its rate and time left.
        settings: settings of the training, as `verbot.recipes.overrides` reads them, e.g. ``minutes=3``, ``batch_size=128``,
            ``dagger={"rounds": 2}``, or ``init_from="outputs/demo/policy"`` (``"starter"`` is the policy that ships with verbot),
            whose network is fine-tuned. `verbot config RECIPE` prints all of them.

    Raises:
        ConfigError: a setting does not exist, does not fit or does not apply, or `out` holds another run.
        TrainingError: the loss stays without a number, or a process dies.
        MissingDependencyError: the recipe needs a package that is not installed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> result = train("tiny", out=folder.name, steps=2, progress=False)
        >>> result.steps, result.finished
        (2, True)
        >>> folder.cleanup()
    """
    from verbot.recipes.config import parse_recipe_spec, resolve
    from verbot.recipes.overrides import locate
    from verbot.training.distributed.launch import launched
    from verbot.workflows.stages import all_demonstrations, learn

    base = resolve(recipe)
    if data is not None and base.collection is None:
        raise ConfigError(f"data does not apply: recipe {base.name!r} learns from rewards alone")
    folders: Sequence[str | Path] = () if data is None else [data] if isinstance(data, str | Path) else list(data)
    run = resolve(base, _with_folders(settings, folders, embodiments), seed)
    named = locate(base, parse_recipe_spec(recipe)[1], base.short_path_roots) if isinstance(recipe, str) else {}
    _check_applies(run, named, locate(base, settings, base.short_path_roots), data is not None)
    if data is None:
        if run.collection is not None and launched() is not None:
            raise ConfigError("processes that torchrun starts do not collect demonstrations: give data, collected before")
        folders = all_demonstrations(run, Path(out) / "dataset", progress)
    return learn(run, folders, Path(out), resume=resume, progress=progress)


def _with_folders(settings: dict[str, Any], folders: Sequence[str | Path], embodiments: Sequence[str | Path]) -> dict[str, Any]:
    """The settings of a training on these datasets, with whose number weights and selections must agree."""
    if embodiments:
        from verbot.workflows.stages import cotraining_records

        if not folders:
            raise ConfigError("embodiments are trained beside the robot of other datasets: give these as data")
        settings = {**settings, "cotraining": cotraining_records(folders[0], embodiments, settings.get("data.features"))}
    return {"datasets": [str(folder) for folder in folders], **settings} if folders else settings


Located = Mapping[tuple[str, ...], Any]


def _check_applies(run: Recipe, named: Located, settings: Located, data: bool) -> None:
    """Raise `ConfigError` for a setting that would change nothing.

    Args:
        named: settings in the recipe spec, by full path; those of the evaluation are recorded in the policy's card.
        data: whether datasets were given.
    """
    from verbot.recipes.config import Imitation

    for path in (*named, *settings):
        if path[0] == "evaluation" and path in settings:
            raise ConfigError(f"{'.'.join(path)} does not apply: training does not evaluate")
        if data and (path[0] == "collection" or "collections" in path[:3]):
            raise ConfigError(f"{'.'.join(path)} does not apply: data is given, so no demonstrations are collected")
    for number, stage in enumerate(run.stages):
        root = ("stages", str(number), "imitation" if isinstance(stage, Imitation) else "reinforcement")
        paths = [path for path in (*named, *settings) if path[:3] == root and path[3] in ("network", "preprocessing")]
        if paths and _keeps_network(stage, first=number == 0):
            fixed = " and ".join(dict.fromkeys(".".join(path[3:]) for path in paths))
            raise ConfigError(f"{fixed} cannot be set beside init_from: the network and its preprocessing are that policy's")


def _keeps_network(stage: TrainingStage, first: bool) -> bool:
    """Whether the stage continues with the network of another policy."""
    from verbot.recipes.config import Imitation

    if isinstance(stage, Imitation):
        return (stage.imitation.init.init_from is not None or not first) and stage.imitation.init.parts is None
    return stage.reinforcement.init.init_from is not None or not first


def result_text(result: TrainResult | ReinforceResult) -> str:
    """The result of a training on one line."""
    from verbot.training import TrainResult

    if isinstance(result, TrainResult):
        speed = f"{result.samples} samples in {result.seconds:.0f} s ({result.samples_per_s:.0f}/s)"
        why = ", where the loss was not a number" if result.skipped else ""
        return f"{result.steps} steps, {speed}, {result.skipped} skipped{why}: {result.policy}"
    success = "no episode ended" if result.success is None else f"{100 * result.success:.0f} % of the last ones succeeded"
    errors = f", {result.errors} simulator errors" if result.errors else ""
    return f"{result.steps} steps, {result.episodes} episodes in {result.seconds:.0f} s; {success}{errors}: {result.policy}"


def exit_code(result: TrainResult | ReinforceResult) -> int:
    """1 if the simulator failed in an episode, else 0."""
    from verbot.training import TrainResult

    return 0 if isinstance(result, TrainResult) else int(result.errors > 0)


def evaluate(
    policy: str | Path | Policy,
    suite: str = "tabletop-starter",
    *,
    out: str | Path,
    device: str = "cpu",
    think: str | None = None,
    think_from: int | None = None,
    **settings: Any,
) -> Summary:
    """Evaluate a policy; writes ``results.jsonl``, ``summary.json`` and ``report.html`` into `out`.

    Called again with the same arguments it continues an interrupted evaluation.

    Args:
        policy: a policy's folder, ``"starter"``, a server's ``ws://`` address, ``"expert"``, ``"random"``, or a
            `verbot.policy.policy.VLAPolicy` in memory.
        suite: the env's name.
        out: the folder for the results.
        device: the device of a policy that is not on a server: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"mps"`` or ``"auto"``.
        think: the part of reasoning that the policy says first before each action, or ``"all"``; None says none.
        think_from: give it the expert's plans of other test scenes, from this number on, in place of its own.
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
    thinks = think is not None or think_from is not None
    if isinstance(policy, str | Path):
        if str(policy) in POLICY_FREE_AGENTS:
            return evaluate_policy(str(policy), suite, out=out, **settings)
        source = policy_source(str(policy), device)
        if thinks:
            plans = () if think_from is None else plans_of(suite, think_from, settings.get("seed", 0))
            source = thinking_source(source, think or ALL, plans)
        return evaluate_policy(source, suite, out=out, **settings)
    if thinks:
        raise PolicyError("a policy in memory reasons by VLAPolicy.thinking; think is for a policy in a folder")
    if not isinstance(policy, SavablePolicy):
        raise PolicyError(
            f"a policy of type {type(policy).__name__} cannot be saved, so no worker can load it; give a folder or an address"
        )
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder) / "policy")
        source = dataclasses.replace(policy_source(str(Path(folder) / "policy"), device), name="policy in memory")
        return evaluate_policy(source, suite, out=out, **settings)


def compare_policies(
    a: str | Path, b: str | Path, suite: str = "tabletop-starter", *, out: str | Path, **settings: Any
) -> Comparison:
    """Two policies on the same episodes: the difference in success, and McNemar's exact test.

    Args:
        a, b: policies by name, as in `evaluate`, or folders of evaluations, which are only read.
        suite, settings: as in `evaluate`, for policies that are not folders of evaluations.
        out: the folder for new evaluations: ``a`` and ``b`` in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = compare_policies("expert", "random", out=folder, episodes=2, progress=False)
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
    return compare_evaluations(folders[0], folders[1])
