"""How often the scripted experts succeed, task by task, with the noise of demonstrations.

Run it as ``python benchmarks/experts.py --episodes 500``. Only physics: nothing is rendered.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tyro

from verbot.contracts import observation_from_env
from verbot.envs import make_env
from verbot.evaluation.intervals import wilson
from verbot.processes import cores
from verbot.progress import Progress

PART = 50  # episodes a process is given at once


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    env: str = "tabletop-full"
    tasks: tuple[str, ...] = ()  # all if not given
    episodes: int = 500  # of each task
    noise: float = 0.15  # of the executed actions; 0 is the clean expert
    split: str = "train"
    seed: int = 7
    out: Path | None = None  # writes the figures as JSON


def main() -> None:
    arguments = tyro.cli(Arguments)
    with closing(make_env(arguments.env, render_cameras=False)) as env:
        tasks = arguments.tasks or tuple(env.tasks)
    parts = [(arguments, task, start) for start in range(0, arguments.episodes, PART) for task in tasks]
    counts: dict[str, Counter[str]] = {task: Counter() for task in tasks}
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool, Progress("experts", len(parts), "parts") as bar:
        for number, (task, counted) in enumerate(pool.map(outcomes, parts), 1):
            counts[task] += counted
            bar.update(number)
    figures = {}
    for task in sorted(tasks):
        n, errors = counts[task].total(), counts[task]["error"]
        found = wilson(counts[task]["success"], n)
        figures[task] = {"value": found.value, "low": found.low, "high": found.high, "n": n, "errors": errors}
        print(f"{task:14s} {found.value:7.1%} [{found.low:.1%}, {found.high:.1%}] n={n} errors={errors}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def outcomes(part: tuple[Arguments, str, int]) -> tuple[str, Counter[str]]:
    """How the next episodes of one task ended."""
    arguments, task, start = part
    counts: Counter[str] = Counter()
    with closing(make_env(arguments.env, render_cameras=False)) as env:
        for index in range(start, min(start + PART, arguments.episodes)):
            request = {"task": task, "split": arguments.split, "index": index, "wording": "canonical"}
            record, info = env.reset(seed=arguments.seed, options=request)
            noise_seed = int(np.random.SeedSequence([arguments.seed, index]).generate_state(1)[0])
            expert, over = env.expert(noise=arguments.noise, seed=noise_seed), False
            expert.reset(record["instruction"])
            while not over:
                record, _, terminated, truncated, info = env.step(expert.act(observation_from_env(record)))
                over = terminated or truncated
            counts["error" if info["error"] else "success" if info["success"] else "failure"] += 1
    return task, counts


if __name__ == "__main__":
    main()
