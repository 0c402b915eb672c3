"""Memory across episodes: scenes of `tabletop-memory`, then the same scenes with objects covered from the start.

Run it as ``python experiments/cross_episode_memory.py outputs/memory/trainings/external/policy``. Each scene is visited three
times: objects visible and then covered; covered from the start, with the memory of the first visit
(``ChunkAgent(across_episodes=True)``); and covered from the start, with an empty memory.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from verbot.agents import ChunkAgent
from verbot.envs import make_env
from verbot.envs.tabletop.suites.memory import MEMORY
from verbot.envs.tabletop.suites.revisit import REVISIT
from verbot.evaluation.protocol.intervals import mcnemar, proportion
from verbot.policy.opening import load_policy
from verbot.rollout.episode import final, play


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    policies: tyro.conf.Positional[tuple[str, ...]]
    episodes: int = 200
    goal: int = 0  # of the second visit, among those that the scene admits; the first visit has goal 0
    seed: int = 0


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    for folder in arguments.policies:
        print(json.dumps({"policy": folder, **measure(folder, arguments)}))


def measure(folder: str, arguments: Arguments) -> dict[str, Any]:
    """Success of each visit with its 95 % interval, and McNemar's p of the two covered visits."""
    policy = load_policy(folder)
    shown, covered = make_env(MEMORY.name), make_env(REVISIT.name)
    visits: dict[str, list[bool]] = {"shown": [], "remembered": [], "not remembered": []}
    touched: dict[str, list[bool]] = {name: [] for name in visits}
    for number in range(arguments.episodes):
        scene = {"task": REVISIT.tasks[number % len(REVISIT.tasks)], "split": "test", "index": number // len(REVISIT.tasks)}
        lasting = ChunkAgent(policy, across_episodes=True)
        for name, env, agent, goal in (
            ("shown", shown, lasting, 0),
            ("remembered", covered, lasting, arguments.goal),
            ("not remembered", covered, ChunkAgent(policy), arguments.goal),
        ):
            info = final(play(env, agent, {**scene, "goal": goal}, arguments.seed)).info
            visits[name].append(bool(info["success"]))
            touched[name].append(info["first_contact"] == info["target_object"])
        print(f"{number + 1}/{arguments.episodes}", *(f"{n} {sum(v)}" for n, v in visits.items()), file=sys.stderr, end="\r")
    print(file=sys.stderr)

    def summary(outcomes: dict[str, list[bool]]) -> dict[str, Any]:
        found = {name: proportion(values) for name, values in outcomes.items()}
        p = mcnemar(list(zip(outcomes["remembered"], outcomes["not remembered"], strict=True)))
        return {**{name: e.percent() for name, e in found.items()}, "p": p}

    return {"n": arguments.episodes, "success": summary(visits), "touched the target object first": summary(touched)}


if __name__ == "__main__":
    main()
