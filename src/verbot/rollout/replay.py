"""Films of episodes that were played before: the executed actions repeat them exactly, so no policy is needed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

from verbot.contracts import Env
from verbot.rollout import video
from verbot.rollout.results import Job, decode_actions
from verbot.rollout.vector import request_options
from verbot.spec import UInt8Array

HOLD_S = 0.7  # the last frame stays, so that a loop's end can be seen


def film_episode(env: Env, job: Job, actions: str) -> bytes:
    """The episode of `job` as an mp4, larger than what the policy saw.

    Args:
        actions: as `EpisodeResult.actions`.
    """
    env.reset(seed=job.seed, options=request_options(job))
    frames = [_picture(env)]
    for action in decode_actions(actions, env.robot_spec.action_size):
        env.step(action)
        frames.append(_picture(env))
    rate = env.robot_spec.rate_hz
    frames += [frames[-1]] * round(HOLD_S * rate)
    with tempfile.TemporaryDirectory() as folder:
        return video.write(Path(folder) / "episode.mp4", frames, rate).read_bytes()


def _picture(env: Env) -> UInt8Array:
    return cast(UInt8Array, cast(Any, env).render())
