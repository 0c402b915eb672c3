"""The command demo: collect, train, evaluate and report by a recipe. Every stage resumes after an interruption."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from verbot.configuration import written_yaml
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.evaluation import Summary, run_evaluation
from verbot.evaluation.report.summary import format_estimate
from verbot.files import hold, read_record, write_atomic
from verbot.policy.policy import VLAPolicy
from verbot.recipes.config import Recipe, resolve
from verbot.workflows.load_policy import policy_source
from verbot.workflows.stages import all_demonstrations, card, learn

STAGES = ("collect", "train", "evaluate")


def demo(
    out: str | Path,
    recipe: str | Path | Recipe = "starter",
    seed: int | None = None,
    *,
    command: str | None = None,
    progress: bool = True,
) -> Summary:
    """Carry out a whole recipe in `out`: ``dataset``, ``policy``, ``evaluation``, ``report.html`` and ``timing.json``.

    Args:
        recipe: as in `verbot.train`.
        seed: seed of collection, training and evaluation; None uses that of the recipe.
        command: the command line, for the report.

    Raises:
        ConfigError: `out` holds the demo of another recipe or seed.
        DataError: another process runs a demo or a training in `out`.
    """
    out, run = Path(out), resolve(recipe, seed=seed)
    with hold(out, "another demo runs here; wait for it, or choose another folder"):
        _claim(out, run)
        with _timed(out, "collect"):
            datasets = all_demonstrations(run, out / "dataset", progress)
        with _timed(out, "train"):
            learn(run, datasets, out, progress=progress)
        with _timed(out, "evaluate"):
            source = dataclasses.replace(policy_source(str(out / "policy")), name=f"{run.name} policy")
            summary = run_evaluation(source, run.evaluation, out / "evaluation", command=command, progress=progress)
        write_atomic(out / "report.html", (out / "evaluation" / "report.html").read_bytes())
        VLAPolicy.load(out / "policy").save(out / "policy", card=card(run) + metrics_markdown(summary))
    return summary


def metrics_markdown(summary: Summary) -> str:
    """The metrics of an evaluation as Markdown, for a policy's card."""
    rows = [f"| `{name}` | {format_estimate(name, estimate)} | {estimate.n} |" for name, estimate in summary.metrics.items()]
    head = f"\n## Figures\n\n{summary.episodes} unseen scenes of `{summary.suite}`, seed {summary.seed}; 95 % intervals.\n\n"
    return head + "\n".join(["| metric | value | n |", "|---|---|---|", *rows, ""])


def timing(out: Path) -> dict[str, float]:
    """Seconds of each stage so far. Raises `CorruptFileError` for a file of another form."""
    path = out / "timing.json"
    seconds = read_record(path) if path.is_file() else {}
    if not all(isinstance(value, int | float) for value in seconds.values()):
        raise CorruptFileError(path, "holds other values than seconds; delete it")
    return seconds


@contextmanager
def _timed(out: Path, stage: str) -> Iterator[None]:
    """Adds this call's seconds to the stage's; a stage that an earlier call had finished takes next to none."""
    before, started = timing(out), time.monotonic()
    try:
        yield
    except BaseException:
        with suppress(DataError):  # the error of the stage says more
            _add(out, before, stage, started)
        raise
    _add(out, before, stage, started)


def _add(out: Path, before: dict[str, float], stage: str, started: float) -> None:
    seconds = before | {stage: round(before.get(stage, 0.0) + time.monotonic() - started, 2)}
    write_atomic(out / "timing.json", json.dumps(seconds, indent=2) + "\n")


def _claim(out: Path, run: Recipe) -> None:
    """Write the resolved recipe beside its results, or check that `out` holds the same."""
    path, record = out / "recipe.yaml", written_yaml(run)
    if path.is_file() and path.read_text(encoding="utf-8") != record:
        raise ConfigError(f"{out} holds the demo of another recipe or seed; choose another folder, or delete it")
    write_atomic(path, record)
