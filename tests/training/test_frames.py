"""Training with frames cached at the network's size, or decoded while it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from test_loop import losses, same
from toys import changed, toy_config

from verbot.cli import main
from verbot.data import open_dataset
from verbot.data.samples.clips import DecodedClips
from verbot.data.storage.frame_cache import FrameCache
from verbot.errors import ConfigError
from verbot.policy.policy import VLAPolicy
from verbot.training import train_policy
from verbot.training.imitation.data import TrainingData
from verbot.training.imitation.records import DataConfig
from verbot.transforms import FitImage


def test_a_run_that_decodes_writes_no_frames_and_resumes_to_the_bit(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("VERBOT_CACHE", str(tmp_path / "cache"))
    config = toy_config(toy, **{"data.frames": "decode"})
    train_policy(config, tmp_path / "whole", progress=False)
    train_policy(config, tmp_path / "halves", progress=False, stop_at=2)
    train_policy(changed(config, loader_threads=1), tmp_path / "halves", progress=False)
    assert same(tmp_path / "whole", tmp_path / "halves") and losses(tmp_path / "whole") == losses(tmp_path / "halves")
    assert not list((tmp_path / "cache").rglob("*.rgb"))


@pytest.mark.parametrize("frames", ["cache", "decode"])
def test_batches_have_the_size_of_the_network(toy, tmp_path, frames):
    """What the policy then makes of them is what it makes of whole pictures, and it does not fit them a second time."""
    settings = {"network.image_size": (8, 8), "data.frames": frames, "data.cache": str(tmp_path), "data.cameras": ("wrist",)}
    config = toy_config(toy, **settings)
    TrainingData.prepare(config)
    with TrainingData(config, tmp_path / "run", 0, 0) as data:
        policy = VLAPolicy.create(data.network, data.spec, data.statistics, data.instructions)
        batch = data.batch(0, 0)
        source = data._train[0]._source
        assert isinstance(source, FrameCache if frames == "cache" else DecodedClips) and source.cameras == ("wrist",)
        assert batch.images.shape == (4, 1, 1, 8, 8, 3)
        collated = policy.collate(batch)
        assert np.array_equal(collated.images.numpy(), np.moveaxis(batch.images, -1, -3))
        episodes, rows = data._train[0].locate(batch.index)
    files = list(tmp_path.rglob("*.rgb"))
    assert [file.stat().st_size for file in files] == ([6 * 8 * 8 * 8 * 3] if frames == "cache" else [])
    plain = toy_config(toy, **{"augment.shift_pixels": 0, **settings})
    with TrainingData(plain, tmp_path / "run", 0, 0) as data:
        images = data.batch(0, 0).images[:, 0, 0]
        dataset, fit = open_dataset(toy), FitImage((16, 16), (8, 8))
        episodes, rows = data._train[0].locate(data._loader_now.indices(0))
        want = fit.forward(np.stack([dataset[int(e)].images("wrist")[r] for e, r in zip(episodes, rows, strict=True)]))
        assert np.abs(images.astype(float) - want).mean() < 1


def test_only_the_selected_episodes_are_cached(toy, tmp_path):
    from verbot.training.imitation.records import Selection

    config = toy_config(toy, **{"data.selections": (Selection(episodes=3),), "data.cache": str(tmp_path)})
    TrainingData.prepare(config)
    assert {file.stat().st_size for file in tmp_path.rglob("*.rgb")} == {3 * 8 * 16 * 16 * 3}
    with TrainingData(config, tmp_path / "run", 0, 0) as data:
        data.batch(0, 0)
        next(data.held_out())


def test_the_command_takes_a_folder_for_the_cache(toy, tmp_path, monkeypatch):
    shutil.copytree(toy, tmp_path / "d", ignore=shutil.ignore_patterns(".cache"))
    before = sorted(Path(tmp_path / "d").rglob("*"))
    arguments = [
        "--data",
        str(tmp_path / "d"),
        "--out",
        str(tmp_path / "run"),
        "--steps",
        "2",
        "--cache",
        str(tmp_path / "cache"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(["train", "tiny", *arguments])
    assert not ended.value.code
    assert sorted(Path(tmp_path / "d").rglob("*")) == before
    assert len(list((tmp_path / "cache/datasets").rglob("*.rgb"))) == 2


def test_another_kind_of_frames_is_refused():
    with pytest.raises(ConfigError, match="frames is 'memory'; expected 'auto', 'cache' or 'decode'"):
        DataConfig(("d",), frames="memory")
