"""Success rate of a policy in the navigation env, on one task, with instructions that were or were not in its training data.

Run it as ``python experiments/navigation_success.py outputs/reinforced/policy outputs/cloned/policy --episodes 300``: the same
test scenes for every policy; "random" is an agent with random actions. With two policies McNemar's exact test
compares the last with the first.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch
import tyro

from verbot.agents import ChunkAgent
from verbot.contracts import EpisodeRequest
from verbot.envs import make_env
from verbot.errors import SimulationError
from verbot.evaluation.protocol.intervals import mcnemar, proportion
from verbot.policy.opening import load_policy
from verbot.rollout.results import Job
from verbot.rollout.vector import EnvFactories, VectorRunner


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    policies: tyro.conf.Positional[tuple[str, ...]]
    env: str = "navigation-compass"
    task: str = "go"
    episodes: int = 300
    wordings: tuple[str, ...] = ("canonical", "seen", "unseen")
    together: int = 50
    drawn: bool = False  # actions are drawn from the distribution of the policy's head, instead of the most likely ones
    seed: int = 0


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    for wording in arguments.wordings:
        first: list[bool] = []
        for name in arguments.policies:
            won = play(name, wording, arguments)
            first = first or won
            found = proportion(won)
            record = {"policy": name, "drawn": arguments.drawn, "wording": wording, "n": found.n,
                    "percent": found.percent()}  # fmt: skip
            if won is not first:
                record["p"] = mcnemar(list(zip(first, won, strict=True)))
            print(json.dumps(record), flush=True)


def play(name: str, wording: str, arguments: Arguments) -> list[bool]:
    """Success in each scene, in order. Raises `SimulationError` for an episode that could not be played."""
    policy = None if name == "random" else load_policy(name)
    factories = EnvFactories.of(functools.partial(make_env, arguments.env))
    runner = VectorRunner(factories, policy, ChunkAgent, arguments.together, sample=arguments.drawn)
    requests = (EpisodeRequest(arguments.task, index=index, wording=wording) for index in range(arguments.episodes))
    agent = "random" if policy is None else "policy"
    won: dict[int, bool] = {}
    for result in runner.play(Job(agent, request, arguments.seed) for request in requests):
        if result.error is not None:
            raise SimulationError(f"{result.key}: {result.error}")
        won[result.index] = result.success
    return [won[index] for index in range(arguments.episodes)]


if __name__ == "__main__":
    main()
