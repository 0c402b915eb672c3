"""A process that gathers corrections, started by `verbot.training.imitation.dagger`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from verbot.agents import ChunkAgent
from verbot.configuration import build
from verbot.envs import make_env
from verbot.parallel.workers import Channel, serve
from verbot.policy.policy import load_policy
from verbot.rollout.collect import LeadIn, demonstrate
from verbot.training.imitation.augment import numbers
from verbot.training.imitation.records import DaggerConfig

FIRST_INDEX = 10_000_000  # scenes of corrections: far from those of demonstrations
STRIDE = 1_000_000  # scenes between rounds


def work(channel: Channel) -> None:
    """Told once what to do, then one attempt for each index: the policy leads in for a random time, the expert finishes."""
    briefing: dict[str, Any] = channel.receive()
    config = build(DaggerConfig, briefing["config"])
    agent = ChunkAgent(load_policy(briefing["policy"]), config.execute)
    with closing(make_env(config.env, **config.options)) as env:
        while True:
            index = channel.receive()
            rng = numbers(briefing["seed"], briefing["round"], index)
            request = {
                "task": env.tasks[int(rng.integers(len(env.tasks)))],
                "split": "train",
                "index": FIRST_INDEX + STRIDE * briefing["round"] + index,
                "wording": "seen",
                "axes": dict(config.axes),
            }
            lead_in = LeadIn(agent, int(rng.integers(config.max_steps + 1)))
            channel.send(demonstrate(env, request, config.noise, briefing["seed"], index, lead_in))


if __name__ == "__main__":
    # Under the module's own name, so that messages are of the same classes on both sides.
    from verbot.training.imitation.dagger_worker import work as _work

    serve(_work)
