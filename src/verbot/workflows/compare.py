"""Recipes and policies side by side: trained on the same windows in the same order, evaluated on the same episodes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import former_names, replace, written_yaml
from verbot.errors import ConfigError, CorruptFileError, UnknownNameError
from verbot.evaluation import EvaluationConfig, run_evaluation
from verbot.evaluation.comparison.page import write_comparison_page
from verbot.evaluation.comparison.paired import Comparison, compare_evaluations
from verbot.evaluation.comparison.ranking import versus
from verbot.evaluation.comparison.rows import Cost, TableRow
from verbot.evaluation.comparison.table import Table, read_figures, relative
from verbot.files import hold, read_record, write_atomic
from verbot.ranges import COUNT, COUNT_OR_NONE, SEED, check_ranges
from verbot.recipes.acting import ACTING
from verbot.rollout.baselines import POLICY_FREE_AGENTS
from verbot.workflows.compare_entries import ComparisonEntry, digest, find_entries, folder_for, slug
from verbot.workflows.load_policy import policy_folder, policy_source

if TYPE_CHECKING:  # only entries that are trained need torch
    from verbot.recipes.config import Recipe
else:
    __getattr__ = former_names(__name__, compare="run_comparison")

CONDITIONS = ("counterfactual", "paraphrase")
TRAININGS, EVALUATIONS, ERRORS, DATASET = "trainings", "evaluations", "errors", "dataset"
COLLECTION = "collection.yaml"
NOT_AFFECTING_EPISODES = ("workers", "videos", "latency_calls")  # fields of an evaluation on which no episode depends


@dataclass(frozen=True)
class ComparisonConfig:
    """The configuration of a comparison.

    Args:
        entries: recipes, also with settings (``"starter+vision=film_conv"``), policies, and folders of evaluations.
        list: further entries: the name of a comparison list that ships with verbot, or a YAML file.
        only: the names of the entries to run; empty runs all.
        budget: one of samples, minutes and steps, for every training.
        data: datasets to train on; otherwise the first recipe's demonstrations are collected.
        suite: the env's name; None uses that of the first recipe.
        episodes: number of scenes.
        seed: seed of the scenes, the demonstrations and the trainings.
        base: the entry that the others are compared with; the first if None.
        conditions: further conditions in which every entry is evaluated.
        baselines: also evaluate the expert and random actions, if anything is evaluated.
        workers: number of processes that evaluate; 0 uses the setting of the recipe.
    """

    entries: tuple[str, ...] = ()
    list: str | Path | None = None
    only: tuple[str, ...] = ()
    budget: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str | Path, ...] = ()
    suite: str | None = None
    episodes: int = 200
    seed: int = 0
    base: str | None = None
    conditions: tuple[str, ...] = CONDITIONS
    baselines: bool = True
    workers: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, episodes=COUNT, seed=SEED, workers=COUNT_OR_NONE)


def run_comparison(config: ComparisonConfig, out: str | Path, *, command: str | None = None, progress: bool = True) -> Table:
    """Train and evaluate the entries; writes ``table.json``, ``table.md`` and ``report.html`` into `out`.

    A further call resumes an interrupted comparison and repeats no finished work. An entry that raises an error becomes a row
    with its message; the other entries are still run.

    Args:
        command: the command line, for the report.

    Raises `ConfigError` if an entry, a list or the budget is wrong, or if `out` holds demonstrations of another recipe, and
    `DataError` while another comparison runs in `out`.

    Example:
        >>> import tempfile
        >>> config = ComparisonConfig(("expert", "random"), episodes=2, conditions=())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = run_comparison(config, folder, progress=False)
        >>> [row.value for row in table.rows], table.rows[1].against_base.p
        ([1.0, 0.0], 0.5)
    """
    out, budget = Path(out), dict(config.budget)
    wanted = find_entries(config.entries, config.list, config.only, budget, config.seed)
    base_name = _base(config.base, [entry.name for entry in wanted])
    first = next((entry.recipe for entry in wanted if entry.recipe), None)
    scenes = {"episodes": config.episodes, "seed": config.seed, "conditions": [*config.conditions]}
    evaluation = _evaluation(first, config.suite, config.workers, scenes)
    played = {"suite": evaluation.suite, **scenes} if any(entry.evaluation is None for entry in wanted) else {}
    if config.baselines and played:
        wanted += [
            ComparisonEntry(x, policy=x, baseline=True) for x in reversed(POLICY_FREE_AGENTS) if x not in {e.name for e in wanted}
        ]
    with hold(out, "another comparison is at work here; choose another folder, or wait for it"):
        comparison_run = ComparisonRun(out, _datasets(first, config.data, out, progress), evaluation, progress, command)
        about = {**played, **budget, **({"data": comparison_run.sources} if first else {})}
        title = f"Comparison on {evaluation.suite}" if played else "Comparison"
        return _run_entries(Table(title, base_name, (), about, command=command, out=out), comparison_run, wanted)


def pair(table: Table) -> Comparison | None:
    """The comparison of two entries by condition and by task; None for another number of entries.

    Raises `ConfigError` if the two have no episode in common.
    """
    two = [row for row in table.rows if row.kind != "baseline"]
    if len(two) != 2 or two[0].folder is None or two[1].folder is None or any(row.error for row in two):
        return None
    return compare_evaluations(two[0].folder, two[1].folder)


@dataclass(frozen=True)
class ComparisonRun:
    """Trains and evaluates entries with the same datasets, evaluation and folder of results."""

    out: Path
    datasets: tuple[str, ...]
    evaluation: EvaluationConfig
    progress: bool = True
    command: str | None = None

    @property
    def sources(self) -> list[str]:
        """The paths of the datasets relative to the table."""
        return [relative(Path(folder), self.out.resolve()) for folder in self.datasets]

    def run_entry(self, entry: ComparisonEntry, cached_only: bool = False) -> TableRow | None:
        """Train and evaluate the entry unless cached, and return its row.

        With `cached_only`, nothing is trained or evaluated: None if a result is missing.
        """
        folder, cost = entry.evaluation, Cost()
        if folder is None:
            policy = entry.policy or ""
            if entry.recipe is not None:
                from verbot.training.imitation.loop import POLICY, RESULT
                from verbot.workflows.stages import learn

                training = self.training(entry.recipe)
                if not (training / RESULT).is_file():
                    if cached_only:
                        return None
                    learn(entry.recipe, self.datasets, training, progress=self.progress)
                cost, policy = _cost(training), str(training / POLICY)
            elif entry.policy not in POLICY_FREE_AGENTS and "://" not in policy:
                cost = Cost(_parameters(policy_folder(policy)))
            folder = self.evaluated(entry, policy, cached_only)
            if folder is None:
                return None
        figures = read_figures(folder)
        fault = None if figures.metrics["success_rate"].n else f"every episode was an error: {figures.fault}"
        return dataclasses.replace(_row(entry), folder=folder, figures=figures, cost=cost, error=fault)

    def training(self, run: Recipe) -> Path:
        """The folder of a training, which recipes share if they differ only in how the policy acts."""
        from verbot.recipes.config import Imitation
        from verbot.training.imitation.loop import MAY_CHANGE_ON_RESUME

        data = [_fingerprint(Path(folder)) for folder in self.datasets]
        stages = [stage.imitation if isinstance(stage, Imitation) else stage.reinforcement for stage in run.stages]
        return folder_for(self.out / TRAININGS, run.name, digest(*stages, data, without=("data.datasets", *MAY_CHANGE_ON_RESUME)))

    def evaluated(self, entry: ComparisonEntry, policy: str, cached_only: bool) -> Path | None:
        """The folder of a policy's complete evaluation; None if `cached_only` is set and no complete evaluation exists."""
        source = policy if policy in POLICY_FREE_AGENTS else dataclasses.replace(policy_source(policy), name=entry.name)
        acting = entry.recipe.evaluation if entry.recipe else EvaluationConfig()
        own: dict[str, Any] = {name: getattr(acting, name) for name in ACTING} | ({"conditions": ()} if entry.baseline else {})
        config = dataclasses.replace(self.evaluation, **own)
        identity = source if isinstance(source, str) else source.identity
        folder = folder_for(self.out / EVALUATIONS, entry.name, digest(identity, config, without=NOT_AFFECTING_EPISODES))
        if _complete(folder):
            return folder
        if cached_only:
            return None
        run_evaluation(source, config, folder, command=self.command, progress=self.progress)
        return folder


def _base(base: str | None, names: Sequence[str]) -> str:
    if base is not None and base not in names:
        raise UnknownNameError("entry of this comparison", base, names)
    return base or names[0]


def _evaluation(first: Recipe | None, suite: str | None, workers: int, scenes: Mapping[str, Any]) -> EvaluationConfig:
    """The evaluation of all entries: that of the first recipe, with the requested changes."""
    changes = {**scenes, "baselines": False, "videos": 0, **({"suite": suite} if suite else {})}
    return replace(first.evaluation if first else EvaluationConfig(), changes | ({"workers": workers} if workers else {}))


def _run_entries(table: Table, comparison_run: ComparisonRun, wanted: Sequence[ComparisonEntry]) -> Table:
    """Add the rows one by one and save the table after each; cached rows come first."""
    rows: dict[str, TableRow] = {}
    for entry in wanted:
        with contextlib.suppress(Exception):  # it is repeated below, and its error is reported
            row = comparison_run.run_entry(entry, cached_only=True)
            rows |= {entry.name: row} if row else {}
    left = [entry for entry in wanted if entry.name not in rows]
    table, started = _save_table(table, rows, wanted), time.monotonic()
    for number, entry in enumerate(left):
        _print_progress(comparison_run, len(wanted) - len(left) + number, len(wanted), entry, number, time.monotonic() - started)
        rows[entry.name] = _run_or_record_error(comparison_run, entry)
        table = _save_table(table, rows, wanted)
    if two := pair(table):
        two.save(table.out / "comparison.json")
    return table


def _run_or_record_error(comparison_run: ComparisonRun, entry: ComparisonEntry) -> TableRow:
    """The row of an entry; an exception becomes its error message, with the traceback in ``errors``."""
    path = comparison_run.out / ERRORS / f"{slug(entry.name)}.txt"
    path.unlink(missing_ok=True)
    try:
        row = comparison_run.run_entry(entry)
        assert row is not None
        return row
    except Exception as error:
        write_atomic(path, traceback.format_exc())
        lines = str(error).strip().splitlines() or ["no message"]
        message = f"{type(error).__name__}: " + " … ".join(dict.fromkeys((lines[0], lines[-1])))
        print(f"compare: {entry.name} failed: {message} (all of it: {path})", file=sys.stderr, flush=True)
        return dataclasses.replace(_row(entry), error=message)


def _row(entry: ComparisonEntry) -> TableRow:
    """The row of an entry before training and evaluation."""
    about = entry.recipe.about if entry.recipe else ""
    recipe, settings = (entry.variant.recipe, entry.variant.settings) if entry.variant else (None, {})
    return TableRow(entry.name, entry.kind, about, recipe, settings)


def _save_table(table: Table, rows: Mapping[str, TableRow], wanted: Sequence[ComparisonEntry]) -> Table:
    """Save and return the table with these rows, each compared with the base."""
    base = rows.get(table.base)
    paired = []
    for name in (entry.name for entry in wanted if entry.name in rows):
        row = rows[name]
        if base and base.folder and base.figures and row.folder and name != table.base:
            row = dataclasses.replace(row, conditions_against_base=versus(row.folder, base.folder))
        paired.append(row)
    pending = tuple(entry.name for entry in wanted if entry.name not in rows)
    table = dataclasses.replace(table, rows=tuple(paired), pending=pending)
    table.save()
    write_comparison_page(table, table.out / "report.html")
    return table


def _datasets(first: Recipe | None, data: Sequence[str | Path], out: Path, progress: bool) -> tuple[str, ...]:
    """The absolute paths of the datasets for all recipes; collected if none was given."""
    if first is None or first.collection is None:
        return ()
    from verbot.workflows.stages import demonstrations

    if data:
        return tuple(str(Path(folder).resolve()) for folder in data)
    path, record = out / COLLECTION, written_yaml(first.collection)
    if path.is_file() and path.read_text(encoding="utf-8") != record:
        raise ConfigError(
            f"{out / DATASET} holds demonstrations of another recipe or seed; choose another folder, or give the data"
        )
    write_atomic(path, record)
    return (str(demonstrations(first.collection, out / DATASET, progress).resolve()),)


def _fingerprint(dataset: Path) -> list[Any]:
    """Identifies the content of a dataset, independent of its path: the hash of info.json (with checksums) and file sizes."""
    info = dataset / "meta" / "info.json"
    sizes = sorted([path.relative_to(dataset).as_posix(), path.stat().st_size] for path in dataset.glob("data/**/*.parquet"))
    return [hashlib.sha256(info.read_bytes()).hexdigest() if info.is_file() else "", sizes]


def _complete(folder: Path) -> bool:
    """Whether `folder` has a complete evaluation without errors; otherwise it is resumed, and failed episodes are repeated."""
    try:
        return read_record(folder / "summary.json").get("errors") == 0
    except CorruptFileError:  # there is none, or it is written anew from the results
        return False


def _cost(training: Path) -> Cost:
    from verbot.training.imitation.loop import POLICY, RESULT

    result = read_record(training / RESULT)
    try:
        samples = result["samples"] if "samples" in result else result["steps"]  # a reinforcement counts control steps
        return Cost(_parameters(training / POLICY), int(samples), float(result["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(training / RESULT, f"is no result of a training ({error!r})") from error


def _parameters(policy: Path) -> int:
    from verbot.policy.policy import VLAPolicy

    return sum(parameter.numel() for parameter in VLAPolicy.load(policy).network.parameters())


def _print_progress(
    comparison_run: ComparisonRun, done: int, total: int, entry: ComparisonEntry, ours: int, seconds: float
) -> None:
    """Print the number of the entry, the elapsed time and the estimated remaining time."""
    if not comparison_run.progress:
        return
    gone, left = (datetime.timedelta(seconds=round(s)) for s in (seconds, seconds / max(ours, 1) * (total - done)))
    clock = f"; {gone} gone, about {left} left" if ours else ""
    what = "train and evaluate" if entry.recipe else "evaluate"
    print(f"compare: {done + 1} of {total}, {entry.name}: {what}{clock}", file=sys.stderr, flush=True)
