"""A policy with depth from recording to evaluation."""

import numpy as np

import verbot
from verbot import collect, load_policy, open_dataset
from verbot.data import WindowConfig, Windows
from verbot.workflows.train_evaluate import evaluate


def test_depth_from_recording_to_evaluation(tmp_path):
    """Depth is recorded to the millimeter, trained on, stored with the policy, and given to it by the env of an evaluation."""
    collect("tabletop-starter", tmp_path / "demos", 3, workers=1, progress=False, options={"depth": True, "image_size": 32})
    dataset = open_dataset(tmp_path / "demos", depth=True)
    assert [camera.name for camera in dataset.spec.depth_cameras] == ["front_depth", "wrist_depth"]
    depth = dataset[0].images("front_depth")
    assert depth.dtype == np.float32 and depth.shape[1:] == (32, 32) and 0.4 < depth.min() < depth.max() < 3
    result = verbot.train(
        "tiny", out=tmp_path / "run", data=tmp_path / "demos", steps=3, progress=False,
        network={"depth": "depth_conv"}, **{"data.depth": True},
    )  # fmt: skip
    policy = load_policy(result.policy)
    assert policy.config.depth is not None and len(policy.spec.depth_cameras) == 2
    windows = Windows(dataset, WindowConfig(chunk=policy.config.chunk))
    batch = policy.collate(windows.batch(np.array([0, 1]), np.random.default_rng(0)))
    assert batch.depth is not None and batch.depth.mask.all()
    np.testing.assert_array_equal(batch.depth.values[:, 0, 0].numpy(), depth[:2])
    summary = evaluate(
        result.policy, "tabletop-starter", out=tmp_path / "evaluation", episodes=2, workers=1, baselines=False, conditions=(),
        videos=1, progress=False,
    )  # fmt: skip
    assert summary.errors == 0
