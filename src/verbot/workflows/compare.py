"""Designs side by side: trained on the same windows in the same order, played on the same episodes, in one table."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.configuration import build, dump_yaml, replace
from verbot.data.storage.files import lock
from verbot.errors import ConfigError, UnknownNameError
from verbot.evaluation import EvaluationConfig
from verbot.evaluation import run as measure
from verbot.evaluation.comparison.page import write_comparison_page
from verbot.evaluation.comparison.paired import Comparison
from verbot.evaluation.comparison.paired import compare as compare_folders
from verbot.evaluation.comparison.ranking import versus
from verbot.evaluation.comparison.rows import Cost, TableRow
from verbot.evaluation.comparison.table import Table, read_figures, relative
from verbot.policy.policy import load_policy
from verbot.recipes.config import RunConfig
from verbot.recipes.overrides import ACTING
from verbot.rollout.baselines import SCRIPTED
from verbot.training import TrainResult
from verbot.training.imitation.loop import FREE, POLICY, RESULT
from verbot.workflows.compare_entries import Candidate, candidates, digest, place, slug
from verbot.workflows.load_policy import policy_folder, policy_source
from verbot.workflows.stages import demonstrations, learn

CONDITIONS = ("counterfactual", "paraphrase")
TRAININGS, EVALUATIONS, ERRORS, DATASET = "trainings", "evaluations", "errors", "dataset"
COLLECTION, LOCK = "collection.yaml", ".lock"
UNIMPORTANT = ("workers", "videos", "latency_calls")  # fields of an evaluation on which no episode depends


def compare(
    words: Sequence[str] = (),
    *,
    out: str | Path,
    designs: str | Path | None = None,
    only: Sequence[str] = (),
    budget: Mapping[str, Any] | None = None,
    data: Sequence[str | Path] = (),
    suite: str | None = None,
    episodes: int = 200,
    seed: int = 0,
    base: str | None = None,
    conditions: Sequence[str] = CONDITIONS,
    baselines: bool = True,
    workers: int = 0,
    command: str | None = None,
    progress: bool = True,
) -> Table:
    """Train what must be trained, play what must be played; writes ``table.json``, ``table.md`` and ``report.html`` into `out`.

    Called again it goes on where it was, and does nothing twice. What raises is a row with its message; the others go on.

    Args:
        words: recipes, designs (``"starter+vision=film_conv"``), policies, and folders that `verbot evaluate` left.
        designs: a list of designs: the name of one that ships with verbot, or a YAML file.
        only: of all these, the names of those that are wanted.
        budget: one of samples, minutes and steps, for every training.
        data: datasets to train on; otherwise the first design's demonstrations are gathered in ``out/dataset``.
        suite: the env's name; the first design's own if None.
        episodes: scenes; `seed` is of the scenes, the demonstrations and the trainings.
        base: the candidate that the others are held against; the first if None.
        conditions: further conditions that everyone plays.
        baselines: whether the expert and random actions stand beside, where anything is played.
        workers: processes that play; 0 leaves it to the recipe.

    Raises `ConfigError` where a design, a list or the budget is wrong, or `out` holds demonstrations of another recipe, and
    `DataError` while another comparison is at work in `out`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = compare(["expert", "random"], out=folder, episodes=2, conditions=(), progress=False)
        >>> [row.value for row in table.rows], table.rows[1].against_base.p
        ([1.0, 0.0], 0.5)
    """
    out, budget = Path(out), dict(budget or {})
    wanted = candidates(words, designs, only, budget, seed)
    held = _base(base, [candidate.name for candidate in wanted])
    first = next((candidate.run for candidate in wanted if candidate.run), None)
    scenes = {"episodes": episodes, "seed": seed, "conditions": list(conditions)}
    evaluation = _evaluation(first, suite, workers, scenes)
    played = {"suite": evaluation.suite, **scenes} if any(candidate.evaluation is None for candidate in wanted) else {}
    if baselines and played:
        wanted += [Candidate(x, policy=x, baseline=True) for x in reversed(SCRIPTED) if x not in {c.name for c in wanted}]
    out.mkdir(parents=True, exist_ok=True)
    with lock(out / LOCK, wait=False, holder="another comparison is at work here; choose another folder, or wait for it"):
        bench = Bench(out, _datasets(first, data, out, progress), evaluation, progress, command)
        about = {**played, **budget, **({"data": bench.sources} if first else {})}
        title = f"Comparison on {evaluation.suite}" if played else "Comparison"
        return _fill(Table(title, held, (), about, command=command, out=out), bench, wanted)


def pair(table: Table) -> Comparison | None:
    """Where there are two candidates, their comparison by condition and by task.

    Raises `ConfigError` where the two have no episode in common.
    """
    two = [row for row in table.rows if row.kind != "baseline"]
    if len(two) != 2 or two[0].folder is None or two[1].folder is None or any(row.error for row in two):
        return None
    return compare_folders(two[0].folder, two[1].folder)


@dataclass(frozen=True)
class Bench:
    """What all candidates have in common: where results go, what is trained on, what is played."""

    out: Path
    datasets: tuple[str, ...]
    evaluation: EvaluationConfig
    progress: bool = True
    command: str | None = None

    @property
    def sources(self) -> list[str]:
        """The datasets, as seen from the table."""
        return [relative(Path(folder), self.out.resolve()) for folder in self.datasets]

    def stand(self, candidate: Candidate, finished: bool = False) -> TableRow | None:
        """The row of a candidate, trained and played as far as need be; with `finished` only if nothing is left to do."""
        folder, cost = candidate.evaluation, Cost()
        if folder is None:
            policy = candidate.policy or ""
            if candidate.run is not None:
                training = self.training(candidate.run)
                if not (training / RESULT).is_file():
                    if finished:
                        return None
                    learn(candidate.run, self.datasets, training, progress=self.progress)
                cost, policy = _cost(training), str(training / POLICY)
            elif candidate.policy not in SCRIPTED and "://" not in policy:
                cost = Cost(_parameters(policy_folder(policy)))
            folder = self.evaluated(candidate, policy, finished)
            if folder is None:
                return None
        figures = read_figures(folder)
        fault = None if figures.metrics["success_rate"].n else f"every episode was an error: {figures.fault}"
        return dataclasses.replace(_row(candidate), folder=folder, figures=figures, cost=cost, error=fault)

    def training(self, run: RunConfig) -> Path:
        """Where this is trained: designs that differ only in how they act share it."""
        data = [_fingerprint(Path(folder)) for folder in self.datasets]
        identity = digest(run.training, data, without=("datasets", *FREE))
        return place(self.out / TRAININGS, run.name, identity)

    def evaluated(self, candidate: Candidate, policy: str, finished: bool) -> Path | None:
        """The folder of a policy's complete evaluation; None where it is not `finished` but should be."""
        source = policy if policy in SCRIPTED else dataclasses.replace(policy_source(policy), name=candidate.name)
        acting = candidate.run.evaluation if candidate.run else EvaluationConfig()
        own: dict[str, Any] = {name: getattr(acting, name) for name in ACTING} | (
            {"conditions": ()} if candidate.baseline else {}
        )
        config = dataclasses.replace(self.evaluation, **own)
        identity = source if isinstance(source, str) else source.identity
        folder = place(self.out / EVALUATIONS, candidate.name, digest(identity, config, without=UNIMPORTANT))
        if _complete(folder):
            return folder
        if finished:
            return None
        measure(source, config, folder, command=self.command, progress=self.progress)
        return folder


def _base(base: str | None, names: Sequence[str]) -> str:
    if base is not None and base not in names:
        raise UnknownNameError("design in this comparison", base, names)
    return base or names[0]


def _evaluation(first: RunConfig | None, suite: str | None, workers: int, scenes: Mapping[str, Any]) -> EvaluationConfig:
    """What everyone plays: as the first design's recipe says, but for what was asked for."""
    changes = {**scenes, "baselines": False, "videos": 0, **({"suite": suite} if suite else {})}
    return replace(first.evaluation if first else EvaluationConfig(), changes | ({"workers": workers} if workers else {}))


def _fill(table: Table, bench: Bench, wanted: Sequence[Candidate]) -> Table:
    """The table row by row, written anew with each; what an earlier call finished comes first."""
    rows: dict[str, TableRow] = {}
    for candidate in wanted:
        with contextlib.suppress(Exception):  # it is tried again below, where its error is told
            found = bench.stand(candidate, finished=True)
            rows |= {candidate.name: found} if found else {}
    left = [candidate for candidate in wanted if candidate.name not in rows]
    table, started = _written(table, rows, wanted), time.monotonic()
    for number, candidate in enumerate(left):
        _tell(bench, len(wanted) - len(left) + number, len(wanted), candidate, number, time.monotonic() - started)
        rows[candidate.name] = _attempt(bench, candidate)
        table = _written(table, rows, wanted)
    if two := pair(table):
        two.save(table.out / "comparison.json")
    return table


def _attempt(bench: Bench, candidate: Candidate) -> TableRow:
    """A candidate's row; whatever it raises is its error, and the whole of it lies in ``errors``."""
    path = bench.out / ERRORS / f"{slug(candidate.name)}.txt"
    path.unlink(missing_ok=True)
    try:
        row = bench.stand(candidate)
        assert row is not None
        return row
    except Exception as error:
        path.parent.mkdir(exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
        told = str(error).strip().splitlines() or ["no message"]
        message = f"{type(error).__name__}: " + " … ".join(dict.fromkeys((told[0], told[-1])))
        print(f"compare: {candidate.name} failed: {message} (all of it: {path})", file=sys.stderr, flush=True)
        return dataclasses.replace(_row(candidate), error=message)


def _row(candidate: Candidate) -> TableRow:
    """What is known of a candidate beforehand."""
    about = candidate.run.about if candidate.run else ""
    recipe, settings = (candidate.design.recipe, candidate.design.settings) if candidate.design else (None, {})
    return TableRow(candidate.name, candidate.kind, about, recipe, settings)


def _written(table: Table, rows: Mapping[str, TableRow], wanted: Sequence[Candidate]) -> Table:
    """The table with these rows, each held against the base, on disk."""
    base = rows.get(table.base)
    paired = []
    for name in (candidate.name for candidate in wanted if candidate.name in rows):
        row = rows[name]
        if base and base.folder and base.figures and row.folder and name != table.base:
            row = dataclasses.replace(row, conditions_against_base=versus(row.folder, base.folder))
        paired.append(row)
    pending = tuple(candidate.name for candidate in wanted if candidate.name not in rows)
    table = dataclasses.replace(table, rows=tuple(paired), pending=pending)
    table.save()
    write_comparison_page(table, table.out / "report.html")
    return table


def _datasets(first: RunConfig | None, data: Sequence[str | Path], out: Path, progress: bool) -> tuple[str, ...]:
    """What all designs are trained on, as absolute paths; gathered where none was given."""
    if first is None:
        return ()
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
    return (str(demonstrations(first, out / DATASET, progress).resolve()),)


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
    result = build(TrainResult, json.loads((training / RESULT).read_text(encoding="utf-8")))
    return Cost(_parameters(training / POLICY), result.samples, result.seconds)


def _parameters(policy: Path) -> int:
    return sum(parameter.numel() for parameter in load_policy(policy).network.parameters())


def _tell(bench: Bench, done: int, total: int, candidate: Candidate, ours: int, seconds: float) -> None:
    """Which of how many, how long it took so far and how long it may take."""
    if not bench.progress:
        return
    gone, left = (datetime.timedelta(seconds=round(s)) for s in (seconds, seconds / max(ours, 1) * (total - done)))
    clock = f"; {gone} gone, about {left} left" if ours else ""
    what = "train and play" if candidate.run else "play"
    print(f"compare: {done + 1} of {total}, {candidate.name}: {what}{clock}", file=sys.stderr, flush=True)
