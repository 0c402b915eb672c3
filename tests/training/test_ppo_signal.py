"""A run of PPO that a signal ends counts nothing twice when it goes on."""

from __future__ import annotations

import os
import signal

import pytest
from test_ppo import TOY, toy  # noqa: F401  # a fixture

from verbot.errors import CorruptFileError
from verbot.parallel.signals import Stopped
from verbot.training.rl import ppo as running
from verbot.training.rl import train_ppo


def test_a_signal_counts_no_episode_twice(toy, tmp_path, monkeypatch):  # noqa: F811
    """Steps of a rollout that a signal ends happen again; so do its episodes."""
    step, at_start = running._RunCallback._on_step, []

    def signaled(self):
        if self.num_timesteps <= 256 + 8:
            at_start.append(self.episodes)
        if self.num_timesteps == 512 - 8:
            os.kill(os.getpid(), signal.SIGTERM)
            assert self.episodes > at_start[31], "episodes have ended in this rollout"
        return step(self)

    monkeypatch.setattr(running._RunCallback, "_on_step", signaled)
    with pytest.raises(Stopped, match="after 256 steps, with a checkpoint"):
        train_ppo(TOY, tmp_path, progress=False)
    state = running._progress(tmp_path)
    assert (state["steps"], state["updates"], state["episodes"]) == (256, 1, at_start[-1])
    assert len(state["ended"]) == at_start[-1]


def test_a_torn_result_is_named(toy, tmp_path):  # noqa: F811
    running._claim(TOY, tmp_path, True)
    (tmp_path / "result.json").write_text('{"steps": 6')
    with pytest.raises(CorruptFileError, match=r"result\.json: is not JSON"):
        train_ppo(TOY, tmp_path, progress=False)
