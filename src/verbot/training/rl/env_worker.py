"""A worker process that plays worlds: actions come, turns go."""

from __future__ import annotations

import contextlib
from contextlib import closing

from verbot.configuration import build
from verbot.envs import make_env
from verbot.parallel.workers import Channel, serve
from verbot.rollout.collect import CollectConfig
from verbot.training.rl.envs import Plan, Stage, World


def work(channel: Channel) -> None:
    """Told which worlds are its own; gives their first observations, then a turn of each for every list of actions.

    A dictionary, a `Stage`, says how far the run has come, and has no answer.
    """
    briefing = channel.receive()
    config, plan, count = build(CollectConfig, briefing["config"]), build(Plan, briefing["plan"]), briefing["count"]
    with contextlib.ExitStack() as opened:
        envs = [opened.enter_context(closing(make_env(config.env, **config.options))) for _ in briefing["numbers"]]
        own = [World(env, config, number, count, plan) for env, number in zip(envs, briefing["numbers"], strict=True)]
        channel.send([world.begin() for world in own])
        while True:
            message = channel.receive()
            if isinstance(message, dict):
                for world in own:
                    world.stage = build(Stage, message)
            else:
                channel.send([world.step(action) for world, action in zip(own, message, strict=True)])


if __name__ == "__main__":
    serve(work)
