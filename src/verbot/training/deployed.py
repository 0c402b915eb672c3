"""A process in which a deployed policy acts: ``python -m verbot.training.deployed``, for `verbot.training.adaptation`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from verbot.agents import ChunkAgent
from verbot.collection import Attempt
from verbot.configuration import build
from verbot.envs import make_env
from verbot.errors import SimulationError
from verbot.policy import load_policy
from verbot.processes import Channel, serve
from verbot.training.adaptation import AdaptConfig, live
from verbot.training.augment import numbers

FIRST_INDEX = 40_000_000  # scenes of deployment: far from those of demonstrations and of corrections
STRIDE = 1_000_000  # scenes between rounds


def work(channel: Channel) -> None:
    """Told once what to do, then one episode for each index."""
    briefing: dict[str, Any] = channel.receive()
    config = build(AdaptConfig, briefing["config"])
    agent = ChunkAgent(load_policy(briefing["policy"]), config.execute)
    with closing(make_env(config.env, **config.options)) as env:
        while True:
            index = channel.receive()
            rng = numbers(config.seed, briefing["round"], index)
            request = {
                "task": env.tasks[int(rng.integers(len(env.tasks)))],
                "split": "train",
                "index": FIRST_INDEX + STRIDE * briefing["round"] + index,
                "wording": "seen",
                "axes": dict(config.axes),
            }
            try:
                attempt = live(env, agent, request, config.keep, config.seed, index)
            except SimulationError as error:
                attempt = Attempt(index, None, str(error))
            channel.send(attempt)


if __name__ == "__main__":
    # Under the module's own name, so that messages are of the same classes on both sides.
    from verbot.training.deployed import work as _work

    serve(_work)
