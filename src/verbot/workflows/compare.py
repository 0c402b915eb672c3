"""Recipes and policies side by side: trained on the same windows in the same order, evaluated on the same episodes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import dump_yaml, replace
from verbot.data.storage.files import lock
from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation import EvaluationConfig
from verbot.evaluation import run_evaluation as measure
from verbot.evaluation.comparison.page import write_comparison_page
from verbot.evaluation.comparison.paired import Comparison
from verbot.evaluation.comparison.paired import compare as compare_folders
from verbot.evaluation.comparison.ranking import versus
from verbot.evaluation.comparison.rows import Cost, TableRow
from verbot.evaluation.comparison.table import Table, read_figures, relative
from verbot.recipes.acting import ACTING
from verbot.rollout.baselines import SCRIPTED
from verbot.workflows.compare_entries import ComparisonEntry, digest, find_entries, place, slug
from verbot.workflows.load_policy import policy_folder, policy_source

if TYPE_CHECKING:  # only entries that are trained need torch
    from verbot.recipes.config import Recipe

CONDITIONS = ("counterfactual", "paraphrase")
TRAININGS, EVALUATIONS, ERRORS, DATASET = "trainings", "evaluations", "errors", "dataset"
COLLECTION, LOCK = "collection.yaml", ".lock"
UNIMPORTANT = ("workers", "videos", "latency_calls")  # fields of an evaluation on which no episode depends


@dataclass(frozen=True)
class ComparisonConfig:
    """What is compared, and on what.

    Args:
        entries: recipes, also with settings (``"starter+vision=film_conv"``), policies, and folders of evaluations.
        list: further entries: the name of a comparison list that ships with verbot, or a YAML file.
        only: the names of the entries that are wanted; empty takes all.
        budget: one of samples, minutes and steps, for every training.
        data: datasets to train on; otherwise the first recipe's demonstrations are collected.
        suite: the env's name; the first recipe's own if None.
        episodes: scenes; `seed` is of the scenes, the demonstrations and the trainings.
        base: the entry that the others are compared with; the first if None.
        conditions: further conditions that every entry plays.
        baselines: whether the expert and random actions stand beside, where anything is played.
        workers: processes that play; 0 leaves it to the recipe.
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


def compare(config: ComparisonConfig, out: str | Path, *, command: str | None = None, progress: bool = True) -> Table:
    """Train what must be trained, play what must be played; writes ``table.json``, ``table.md`` and ``report.html`` into `out`.

    Called again it goes on where it was, and does nothing twice. What raises is a row with its message; the others go on.

    Args:
        command: what a person typed, for the report.

    Raises `ConfigError` where an entry, a list or the budget is wrong, or `out` holds demonstrations of another recipe, and
    `DataError` while another comparison is at work in `out`.

    Example:
        >>> import tempfile
        >>> config = ComparisonConfig(("expert", "random"), episodes=2, conditions=())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = compare(config, folder, progress=False)
        >>> [row.value for row in table.rows], table.rows[1].against_base.p
        ([1.0, 0.0], 0.5)
    """
    out, budget = Path(out), dict(config.budget)
    wanted = find_entries(config.entries, config.list, config.only, budget, config.seed)
    held = _base(config.base, [entry.name for entry in wanted])
    first = next((entry.recipe for entry in wanted if entry.recipe), None)
    scenes = {"episodes": config.episodes, "seed": config.seed, "conditions": [*config.conditions]}
    evaluation = _evaluation(first, config.suite, config.workers, scenes)
    played = {"suite": evaluation.suite, **scenes} if any(entry.evaluation is None for entry in wanted) else {}
    if config.baselines and played:
        wanted += [ComparisonEntry(x, policy=x, baseline=True) for x in reversed(SCRIPTED) if x not in {e.name for e in wanted}]
    out.mkdir(parents=True, exist_ok=True)
    with lock(out / LOCK, wait=False, holder="another comparison is at work here; choose another folder, or wait for it"):
        bench = Bench(out, _datasets(first, config.data, out, progress), evaluation, progress, command)
        about = {**played, **budget, **({"data": bench.sources} if first else {})}
        title = f"Comparison on {evaluation.suite}" if played else "Comparison"
        return _fill(Table(title, held, (), about, command=command, out=out), bench, wanted)


def pair(table: Table) -> Comparison | None:
    """Where there are two entries, their comparison by condition and by task.

    Raises `ConfigError` where the two have no episode in common.
    """
    two = [row for row in table.rows if row.kind != "baseline"]
    if len(two) != 2 or two[0].folder is None or two[1].folder is None or any(row.error for row in two):
        return None
    return compare_folders(two[0].folder, two[1].folder)


@dataclass(frozen=True)
class Bench:
    """What all entries have in common: where results go, what is trained on, what is played."""

    out: Path
    datasets: tuple[str, ...]
    evaluation: EvaluationConfig
    progress: bool = True
    command: str | None = None

    @property
    def sources(self) -> list[str]:
        """The datasets, as seen from the table."""
        return [relative(Path(folder), self.out.resolve()) for folder in self.datasets]

    def stand(self, entry: ComparisonEntry, finished: bool = False) -> TableRow | None:
        """The row of an entry, trained and played as far as need be; with `finished` only if nothing is left to do."""
        folder, cost = entry.evaluation, Cost()
        if folder is None:
            policy = entry.policy or ""
            if entry.recipe is not None:
                from verbot.training.imitation.loop import POLICY, RESULT
                from verbot.workflows.stages import learn

                training = self.training(entry.recipe)
                if not (training / RESULT).is_file():
                    if finished:
                        return None
                    learn(entry.recipe, self.datasets, training, progress=self.progress)
                cost, policy = _cost(training), str(training / POLICY)
            elif entry.policy not in SCRIPTED and "://" not in policy:
                cost = Cost(_parameters(policy_folder(policy)))
            folder = self.evaluated(entry, policy, finished)
            if folder is None:
                return None
        figures = read_figures(folder)
        fault = None if figures.metrics["success_rate"].n else f"every episode was an error: {figures.fault}"
        return dataclasses.replace(_row(entry), folder=folder, figures=figures, cost=cost, error=fault)

    def training(self, run: Recipe) -> Path:
        """Where this is trained: recipes that differ only in how the policy acts share it."""
        from verbot.recipes.config import Imitation
        from verbot.training.imitation.loop import MAY_CHANGE_ON_RESUME

        data = [_fingerprint(Path(folder)) for folder in self.datasets]
        stages = [stage.imitation if isinstance(stage, Imitation) else stage.reinforcement for stage in run.stages]
        return place(self.out / TRAININGS, run.name, digest(*stages, data, without=("data.datasets", *MAY_CHANGE_ON_RESUME)))

    def evaluated(self, entry: ComparisonEntry, policy: str, finished: bool) -> Path | None:
        """The folder of a policy's complete evaluation; None where it is not `finished` but should be."""
        source = policy if policy in SCRIPTED else dataclasses.replace(policy_source(policy), name=entry.name)
        acting = entry.recipe.evaluation if entry.recipe else EvaluationConfig()
        own: dict[str, Any] = {name: getattr(acting, name) for name in ACTING} | ({"conditions": ()} if entry.baseline else {})
        config = dataclasses.replace(self.evaluation, **own)
        identity = source if isinstance(source, str) else source.identity
        folder = place(self.out / EVALUATIONS, entry.name, digest(identity, config, without=UNIMPORTANT))
        if _complete(folder):
            return folder
        if finished:
            return None
        measure(source, config, folder, command=self.command, progress=self.progress)
        return folder


def _base(base: str | None, names: Sequence[str]) -> str:
    if base is not None and base not in names:
        raise UnknownNameError("entry of this comparison", base, names)
    return base or names[0]


def _evaluation(first: Recipe | None, suite: str | None, workers: int, scenes: Mapping[str, Any]) -> EvaluationConfig:
    """What everyone plays: as the first recipe says, but for what was asked for."""
    changes = {**scenes, "baselines": False, "videos": 0, **({"suite": suite} if suite else {})}
    return replace(first.evaluation if first else EvaluationConfig(), changes | ({"workers": workers} if workers else {}))


def _fill(table: Table, bench: Bench, wanted: Sequence[ComparisonEntry]) -> Table:
    """The table row by row, written anew with each; what an earlier call finished comes first."""
    rows: dict[str, TableRow] = {}
    for entry in wanted:
        with contextlib.suppress(Exception):  # it is tried again below, where its error is reported
            found = bench.stand(entry, finished=True)
            rows |= {entry.name: found} if found else {}
    left = [entry for entry in wanted if entry.name not in rows]
    table, started = _written(table, rows, wanted), time.monotonic()
    for number, entry in enumerate(left):
        _tell(bench, len(wanted) - len(left) + number, len(wanted), entry, number, time.monotonic() - started)
        rows[entry.name] = _attempt(bench, entry)
        table = _written(table, rows, wanted)
    if two := pair(table):
        two.save(table.out / "comparison.json")
    return table


def _attempt(bench: Bench, entry: ComparisonEntry) -> TableRow:
    """An entry's row; whatever it raises is its error, and the whole of it lies in ``errors``."""
    path = bench.out / ERRORS / f"{slug(entry.name)}.txt"
    path.unlink(missing_ok=True)
    try:
        row = bench.stand(entry)
        assert row is not None
        return row
    except Exception as error:
        path.parent.mkdir(exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
        lines = str(error).strip().splitlines() or ["no message"]
        message = f"{type(error).__name__}: " + " … ".join(dict.fromkeys((lines[0], lines[-1])))
        print(f"compare: {entry.name} failed: {message} (all of it: {path})", file=sys.stderr, flush=True)
        return dataclasses.replace(_row(entry), error=message)


def _row(entry: ComparisonEntry) -> TableRow:
    """What is known of an entry beforehand."""
    about = entry.recipe.about if entry.recipe else ""
    recipe, settings = (entry.variant.recipe, entry.variant.settings) if entry.variant else (None, {})
    return TableRow(entry.name, entry.kind, about, recipe, settings)


def _written(table: Table, rows: Mapping[str, TableRow], wanted: Sequence[ComparisonEntry]) -> Table:
    """The table with these rows, each held against the base, on disk."""
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
    """What all recipes are trained on, as absolute paths; gathered where none was given."""
    if first is None or first.collection is None:
        return ()
    from verbot.workflows.stages import demonstrations

    if data:
        return tuple(str(Path(folder).resolve()) for folder in data)
    path, fresh = out / COLLECTION, out / f".{COLLECTION}"
    dump_yaml(first.collection, fresh)
    if path.is_file() and path.read_text() != fresh.read_text():
        fresh.unlink()
        raise ConfigError(
            f"{out / DATASET} holds demonstrations of another recipe or seed; choose another folder, or give the data"
        )
    fresh.replace(path)
    return (str(demonstrations(first.collection, out / DATASET, progress).resolve()),)


def _fingerprint(dataset: Path) -> list[Any]:
    """Changes when a dataset does, wherever it lies: its description, which seals its checksums, and its files' sizes."""
    info = dataset / "meta" / "info.json"
    sizes = sorted([path.relative_to(dataset).as_posix(), path.stat().st_size] for path in dataset.glob("data/**/*.parquet"))
    return [hashlib.sha256(info.read_bytes()).hexdigest() if info.is_file() else "", sizes]


def _complete(folder: Path) -> bool:
    """Whether an evaluation ended there, and without errors: episodes that were errors are played again."""
    path = folder / "summary.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["errors"] == 0


def _cost(training: Path) -> Cost:
    from verbot.training.imitation.loop import POLICY, RESULT

    result = json.loads((training / RESULT).read_text(encoding="utf-8"))
    samples = result.get("samples", result["steps"])  # a reinforcement counts control steps
    return Cost(_parameters(training / POLICY), samples, result["seconds"])


def _parameters(policy: Path) -> int:
    from verbot.policy.policy import load_policy

    return sum(parameter.numel() for parameter in load_policy(policy).network.parameters())


def _tell(bench: Bench, done: int, total: int, entry: ComparisonEntry, ours: int, seconds: float) -> None:
    """Which of how many, how long it took so far and how long it may take."""
    if not bench.progress:
        return
    gone, left = (datetime.timedelta(seconds=round(s)) for s in (seconds, seconds / max(ours, 1) * (total - done)))
    clock = f"; {gone} gone, about {left} left" if ours else ""
    what = "train and play" if entry.recipe else "play"
    print(f"compare: {done + 1} of {total}, {entry.name}: {what}{clock}", file=sys.stderr, flush=True)
