"""Videos of earlier episodes, by replaying their actions. Replay is exact, so no policy is needed."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any, cast

from verbot.contracts import Env
from verbot.rollout import video
from verbot.rollout.episode import EpisodeRunner, Replay
from verbot.rollout.results import Job, decode_actions
from verbot.spec import UInt8Array

HOLD_S = 0.7  # the last frame is held, so that the end of a looping video is visible


def episode_video(env: Env, job: Job, actions: str) -> bytes:
    """The episode of `job` as an mp4, at a higher resolution than the policy's images.

    Args:
        env: built with ``render_mode="rgb_array"``.
        actions: as `EpisodeResult.actions`.
    """
    episode = EpisodeRunner(env, job.request, job.seed)
    frames, recorded = [_frame(env)], decode_actions(actions, env.robot_spec.action_size)
    for _ in itertools.islice(episode.run(Replay(recorded)), len(recorded)):
        frames.append(_frame(env))
    rate = env.robot_spec.rate_hz
    frames += [frames[-1]] * round(HOLD_S * rate)
    with tempfile.TemporaryDirectory() as folder:
        return video.write(Path(folder) / "episode.mp4", frames, rate).read_bytes()


def _frame(env: Env) -> UInt8Array:
    return cast(UInt8Array, cast(Any, env).render())
