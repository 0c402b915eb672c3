"""Multi-task learning: a head per task or one for all, learned or fixed loss weights, each task alone or all together.

Run it as ``python experiments/multitask.py outputs/demos``, on the demonstrations of the recipe `starter`. Every arm uses the
same number of samples of each task. It prints one line of JSON per arm, then a table. A repeated call resumes.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import verbot
from verbot.contracts import EpisodeRequest
from verbot.envs import make_env
from verbot.evaluation.protocol.intervals import Estimate, proportion
from verbot.evaluation.report.summary import format_estimate
from verbot.spec import Observation

LEARNED = {"loss_weighting": "uncertainty"}
SUITE, TASKS = "tabletop-starter", ("pick", "push", "put")


@dataclass(frozen=True)
class Arguments:
    """What to measure. An arm is ``one`` (head), ``heads``, either with ``-learned``, or ``alone-TASK``."""

    data: tyro.conf.Positional[Path]
    out: Path = Path("outputs/multitask")
    arms: tuple[str, ...] = ("heads", "one", "heads-learned", *(f"alone-{task}" for task in TASKS))
    samples: int = 60_000  # of an arm that learns all tasks
    episodes: int = 150  # with canonical wordings; 99 with unseen wordings
    sentences: int = 300  # on which the classifier is measured, with either kind of wording
    seed: int = 0


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    tell(arguments.arms, lambda arm: measure(arguments, arm), lambda name, found: format_estimate("success_rate", found))


def tell(arms: Sequence[str], measured: Callable[[str], dict[str, Any]], cell: Callable[[str, Estimate], str]) -> None:
    """A line of JSON for each arm as it is measured, estimates by name, then a table whose cells `cell` writes."""
    rows = {}
    for arm in arms:
        rows[arm] = measured(arm)
        print(json.dumps({"arm": arm, **rows[arm]}), flush=True)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(f"\n| arm | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for arm, row in rows.items():
        print(f"| {arm} | {' | '.join(cell(name, Estimate(**row[name])) if name in row else '–' for name in names)} |")


def measure(arguments: Arguments, arm: str) -> dict[str, Any]:
    """One arm, trained as far as it is not yet, and its shares of success by name."""
    out, kind = arguments.out / arm, arm.partition("-")[0]
    settings: dict[str, Any] = {"processes": 1, "samples": arguments.samples}
    tasks = TASKS if kind != "alone" else (arm.partition("-")[2],)
    if kind == "alone":
        settings |= {"selections": [{"tasks": tasks}], "samples": arguments.samples // len(TASKS)}
    if arm.endswith("-learned"):
        settings["network"] = LEARNED
    recipe = "multi-task" if kind == "heads" else "starter"
    policy = verbot.train(recipe, data=arguments.data, out=out, seed=arguments.seed, progress=False, **settings).policy
    summary = verbot.evaluate(
        policy, SUITE, out=out / "evaluation", episodes=arguments.episodes * len(tasks) // len(TASKS), baselines=False, videos=0,
        conditions=() if kind == "alone" else ("paraphrase",), side_episodes=99, latency_calls=1, workers=1,
        tasks=tasks, progress=False,
    )  # fmt: skip
    found = {**summary.by_task}
    if kind != "alone":
        found = {"success": summary.metrics["success_rate"], **found, "paraphrase": summary.conditions["paraphrase"]}
    if kind == "heads":
        for wording in ("canonical", "unseen"):
            found[f"classified ({wording})"] = proportion(list(classified(policy, wording, arguments.sentences)))
    return {name: estimate.to_json() for name, estimate in found.items()}


def classified(folder: str, wording: str, count: int) -> Iterable[bool]:
    """Whether the likeliest task is the one that was asked for, at the start of unseen scenes."""
    policy, env = verbot.load_policy(folder), make_env(SUITE)
    for number in range(count):
        request = EpisodeRequest(task=TASKS[number % len(TASKS)], index=number // len(TASKS), wording=wording)
        record, info = env.reset(seed=0, options=vars(request))
        observation = Observation(record["images"], record["state"], record["instruction"])
        likely = policy.predict([observation])[0].extras["tasks"]
        yield max(likely, key=likely.__getitem__) == info["task"]


if __name__ == "__main__":
    main()
