"""Corrections are mixed into the batches at their weight, and what a run learns depends on them."""

from __future__ import annotations

import numpy as np
import pytest
from test_loop import losses, same
from toys import PLAIN, SPEC, VIEW, toy_config, write_toy

from verbot.data import DatasetWriter, EpisodeRecord
from verbot.training import DaggerConfig, train_policy
from verbot.training.imitation import dagger
from verbot.training.imitation.data import TrainingData

DEMONSTRATED, CORRECTED, LENGTH = 6, 3, 8  # episodes of either kind, and frames of each
WAY_M = 0.05  # of every corrected action in z, where no demonstrated one is as large


def write_corrections(out, number=0, way_m=WAY_M):
    """A round of corrections whose actions, and nothing else, depend on `way_m`."""
    rng = np.random.default_rng(number)
    with DatasetWriter(dagger.folder(out, number), SPEC) as writer:
        for _ in range(CORRECTED):
            writer.save_episode(
                EpisodeRecord(
                    instruction="touch the red cube",
                    states=rng.uniform(0, 1, (LENGTH, 4)).astype(np.float32),
                    actions=np.tile(np.float32([0, 0, way_m, 1]), (LENGTH, 1)),
                    images={name: rng.integers(0, 256, (LENGTH, 16, 16, 3)).astype(np.uint8) for name in SPEC.camera_names},
                    calibration={"front": {**VIEW, "frame": "base"}},
                )
            )


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    return str(write_toy(tmp_path_factory.mktemp("demos") / "demos", DEMONSTRATED, LENGTH))


def settings(demos, weight=1.0, **changes):
    correct = DaggerConfig(rounds=1, first=0.5, weight=weight)
    return toy_config(demos, **{"dagger": correct, "augment": PLAIN, "validation_share": 0.0, **changes})


def corrected(batch):
    return np.isclose(batch.actions[:, 0, 2], WAY_M) & np.isclose(batch.actions[:, 0, 0], 0)


@pytest.mark.parametrize(("weight", "share"), [(0.0, 0.0), (1.0, 1 / 3), (4.0, 2 / 3), (1e6, 1.0)])
def test_a_frame_of_a_correction_is_drawn_as_often_as_its_weight_says(demos, tmp_path, weight, share):
    """A demonstration's frame counts 1, so 3 episodes among 6 of the same length make w · 3 / (6 + w · 3) of what is drawn.

    Kills the mutations that ignore the weight, and that leave corrections out of the batches.
    """
    write_corrections(tmp_path)
    with TrainingData(settings(demos, weight, batch_size=24), tmp_path, 1, 0) as training_data:
        drawn = np.concatenate([corrected(training_data.batch(step, 0)) for step in range(9)])  # 3 epochs of 72 frames
    assert drawn.mean() == pytest.approx(share, abs=0.02)


def test_corrections_are_drawn_from_when_the_supply_grows(demos, tmp_path):
    """Kills the mutation that gathers corrections and never trains on them; earlier rounds stay beside a new one."""
    with TrainingData(settings(demos, 1e6, batch_size=24), tmp_path, 0, 0) as training_data:
        assert not corrected(training_data.batch(0, 0)).any()
        write_corrections(tmp_path)
        training_data.add_correction_rounds(1)
        assert corrected(training_data.batch(1, 0)).all()
        write_corrections(tmp_path, 1, way_m=-WAY_M)
        training_data.add_correction_rounds(2)
        drawn = np.concatenate([corrected(training_data.batch(step, 0)) for step in range(2, 8)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.05)


def test_a_run_learns_from_the_corrections_that_it_gathers(demos, tmp_path, monkeypatch):
    """Two runs whose corrections differ are the same up to the round and differ after it.

    Kills the mutation of the loop that gathers a round and goes on with the demonstrations alone.
    """
    ways = {"a": WAY_M, "b": -WAY_M}
    monkeypatch.setattr(
        dagger,
        "collect_dagger_round",
        lambda config, policy, out, now, process_group, log, **more: write_corrections(out, now.rounds, ways[out.name]),
    )
    for name in ways:
        result = train_policy(settings(demos, 1e6), tmp_path / name, progress=False)
        assert (result.steps, result.corrections) == (4, 1)
    ours, theirs = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert ours[:2] == theirs[:2], "the round is before the third step"
    assert ours[2] != theirs[2]
    assert not same(tmp_path / "a", tmp_path / "b")
