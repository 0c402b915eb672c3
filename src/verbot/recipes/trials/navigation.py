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
        about="three errands, steered by the compass, from pixels, words, headway and keypoints; not solved yet",
        reinforcement=ReinforceConfig(
            env="navigation-compass",
            options={"penalty": 0.5},
            network=network,
            steps=2_000_000,
            worlds=64,
            rollout=64,
            batch_size=512,
            epochs=4,
            learning_rate=2e-4,
            discount=0.95,
            trace=0.5,  # headway tells at once what a step was worth: what comes after it is noise
            value_weight=3.0,
            entropy=0.002,
            keypoint_weight=1.0,
            questions=1,
            headway=2.0,
            clip_norm=1.0,
        ),
    )
