"""How often a policy obeys in the navigation world, one task alone, told in wordings that it was or was not taught with.

Run it as ``python experiments/navigation_success.py outputs/reinforced/policy outputs/cloned/policy --episodes 300``: the same
test scenes for every policy; "random" is a player who draws its actions. With two policies McNemar's exact test
compares the last with the first.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro

from verbot.contracts import POINTS, observation_from_env
from verbot.envs import make_env
from verbot.evaluation.protocol.intervals import mcnemar, proportion
from verbot.models.stochastic import Exploration
from verbot.policy.policy import Policy
from verbot.rollout.baselines import RandomAgent
from verbot.spec import FloatArray, Observation
from verbot.training.rl.actor_critic import Senses
from verbot.training.rl.envs import Look


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    policies: tyro.conf.Positional[tuple[str, ...]]
    env: str = "navigation-compass"
    task: str = "go"
    episodes: int = 300
    wordings: tuple[str, ...] = ("canonical", "seen", "unseen")
    together: int = 50
    drawn: bool = False  # actions drawn from the policy's probabilities, as while it learned, instead of the likeliest
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
            told = {"policy": name, "drawn": arguments.drawn, "wording": wording, "n": found.n,
                    "percent": [round(100 * x, 1) for x in (found.value, found.low, found.high)]}  # fmt: skip
            if won is not first:
                told["p"] = mcnemar(list(zip(first, won, strict=True)))
            print(json.dumps(told), flush=True)


def play(name: str, wording: str, arguments: Arguments) -> list[bool]:
    """Success in each scene, in order."""
    policy = None if name == "random" else Policy.load(name)
    torch.manual_seed(arguments.seed)
    won: list[bool] = []
    for start in range(0, arguments.episodes, arguments.together):
        won.extend(_play(policy, wording, range(start, min(start + arguments.together, arguments.episodes)), arguments))
    return won


def _play(policy: Policy | None, wording: str, scenes: range, arguments: Arguments) -> list[bool]:
    """A prediction every control step, for all scenes at once."""
    envs = [make_env(arguments.env, render_cameras=policy is not None) for _ in scenes]
    records, won, left = {}, dict.fromkeys(scenes, False), dict(zip(scenes, envs, strict=True))
    players = {index: RandomAgent(env.robot_spec, index) for index, env in left.items()}
    for index, env in left.items():
        request = {"task": arguments.task, "split": "test", "index": index, "wording": wording}
        records[index], info = env.reset(seed=arguments.seed, options=request)
        players[index].reset(info["instruction"])
    while left:
        looks = {index: observation_from_env(records[index]) for index in left}
        if policy is None:
            actions = {index: players[index].act(look) for index, look in looks.items()}
        else:
            actions = dict(zip(looks, act(policy, list(looks.values()), arguments.drawn), strict=True))
        for index, action in actions.items():
            records[index], _, terminated, truncated, info = left[index].step(np.asarray(action))
            won[index] = bool(info["success"])
            if terminated or truncated:
                with closing(left.pop(index)):
                    pass
    return list(won.values())


def act(policy: Policy, looks: list[Observation], drawn: bool) -> list[FloatArray]:
    """An action (a,) for each look: drawn from the policy's probabilities, or the likeliest."""
    if not drawn:
        return [chunk.values[0] for chunk in policy.predict(looks)]
    shape = (1, len(policy.spec.camera_names), len(POINTS))
    unknown = np.zeros((*shape, 2), np.float32), np.zeros(shape, bool)
    senses = Senses(policy)
    obs = {name: torch.as_tensor(value) for name, value in senses.take([Look(look, *unknown) for look in looks]).items()}
    with torch.no_grad():
        head: Any = policy.network.head
        draw = Exploration(head.readout)(head(policy.network(senses.batch(obs)).fused)[:, 0])
        return list(policy.action_steps.inverse(draw.sample().numpy()).astype(np.float32))


if __name__ == "__main__":
    main()
