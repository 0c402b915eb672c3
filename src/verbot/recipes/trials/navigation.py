"""The navigation world, learned from nothing but pictures, words and rewards."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes.trials import TrialConfig, trials
from verbot.training.reinforcement.config import ReinforceConfig


@trials.register("navigation-ppo")
def navigation_ppo() -> TrialConfig:
    """The light network of one camera: queries, word embeddings, two wide layers."""
    network = NetworkConfig(
        vision=Part("query_conv", {"channels": 16, "features": 24}),
        language=Part("words"),
        fusion=Part("mlp"),
        chunk=1,
    )
    return TrialConfig(
        name="navigation-ppo",
        about="three errands, steered by the compass, from pixels, words, shaped rewards and keypoints; never run to its end",
        reinforcement=ReinforceConfig(
            env="navigation-compass",
            options={"reward": "shaped", "gamma": 0.98},
            network=network,
            steps=2_000_000,
            worlds=64,
            rollout=64,
            batch_size=512,
            epochs=4,
            learning_rate=7e-4,
            discount=0.98,
            value_weight=2.0,
            entropy=0.005,
            keypoint_weight=1.0,
            clip_norm=1.0,
        ),
    )
