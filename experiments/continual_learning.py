"""Continual learning: train on tasks in sequence, with and without replay of earlier ones, and measure forgetting.

Run it as ``python experiments/continual_learning.py outputs/demo/dataset``. Training on each task of the starter suite starts
from the previous task's policy. Each policy is evaluated on all tasks learned so far, on the same scenes. It prints one line of
JSON per policy, then for each share of replay the success matrix and forgetting: the mean over earlier tasks of (best earlier
success − final success). A repeated call resumes.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

import verbot
from verbot.evaluation import read_results
from verbot.evaluation.comparison.forgetting import Outcomes, forgetting
from verbot.evaluation.protocol.intervals import proportion
from verbot.evaluation.report.summary import format_estimate
from verbot.recipes.config import resolve
from verbot.recipes.overrides import override
from verbot.training import Selection
from verbot.training.imitation.continual import ContinualTask, train_sequentially

SUITE = "tabletop-starter"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    data: tyro.conf.Positional[str]
    out: Path = Path("outputs/continual")
    tasks: tuple[str, ...] = ("pick", "push", "put")
    replay: tuple[float, ...] = (0.0, 0.4)
    first_samples: int = 32_000  # of the first task, from random weights
    samples: int = 40_000  # of each later one
    learning_rate: float = 1e-3  # of the later ones; of the first the recipe's own
    episodes: int = 60  # of each task, after each that was learned by then


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    tasks = [
        ContinualTask(task, arguments.data, Selection(tasks=(task,)), arguments.samples if number else arguments.first_samples)
        for number, task in enumerate(arguments.tasks)
    ]
    recipe = override(resolve("starter").training, {"processes": 1, "checkpoint_every": 100})
    first = train_sequentially(recipe, tasks[:1], arguments.out, progress=False)  # the same for every share of replay
    later = override(recipe, {"learning_rate": arguments.learning_rate, "init_from": first[0].policy})
    runs = {}
    for replay in arguments.replay:
        folder = arguments.out / f"replay-{replay:g}"
        results = [*first, *train_sequentially(later, tasks, folder, replay, known=1, progress=False)]
        runs[replay] = [measure(arguments, result.policy, arguments.tasks[: n + 1]) for n, result in enumerate(results)]
        for task, stage in zip(arguments.tasks, runs[replay], strict=True):
            success = {name: round(sum(won) / len(won), 3) for name, won in stage.items()}
            print(json.dumps({"replay": replay, "after": task, "success": success}), flush=True)
    for replay, stages in runs.items():
        tell(arguments.tasks, replay, stages)


def measure(arguments: Arguments, policy: str, tasks: tuple[str, ...]) -> Outcomes:
    """Task to the success of each of its scenes, in their order."""
    found = {}
    for task in tasks:
        out = Path(policy).parent / f"evaluation-{task}"
        verbot.evaluate(
            policy, SUITE, out=out, episodes=arguments.episodes, baselines=False, videos=0, conditions=(),
            latency_calls=1, workers=1, options={"tasks": [task]}, progress=False,
        )  # fmt: skip
        won = {result.index: result.outcome == "success" for result in read_results(out / "results.jsonl")}
        found[task] = [won[index] for index in sorted(won)]
    return found


def tell(tasks: tuple[str, ...], replay: float, stages: list[Outcomes]) -> None:
    """Print the success matrix as Markdown, and forgetting as JSON."""
    print(f"\n| after (replay {replay:g}) | {' | '.join(tasks)} |\n|---|{'---|' * len(tasks)}")
    for task, stage in zip(tasks, stages, strict=True):
        cells = (format_estimate("success_rate", proportion(stage[name])) if name in stage else "" for name in tasks)
        print(f"| {task} | {' | '.join(cells)} |")
    print(json.dumps({"replay": replay, "forgetting": forgetting(stages, tasks).to_json()}))


if __name__ == "__main__":
    main()
