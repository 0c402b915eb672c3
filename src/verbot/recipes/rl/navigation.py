"""The navigation world, learned from nothing but pictures, words and rewards."""

from __future__ import annotations

from verbot.recipes.imitation.navigation import NETWORK
from verbot.recipes.rl import TrialConfig, trials
from verbot.training.rl.config import Looking, ReinforceConfig


@trials.register("navigation-ppo")
def navigation_ppo() -> TrialConfig:
    """One camera, queries, word embeddings, two wide layers."""
    return TrialConfig(
        name="navigation-ppo",
        about="three errands, steered by the compass, from pixels, words, headway and keypoints",
        reinforcement=ReinforceConfig(
            env="navigation-compass",
            network=NETWORK,
            steps=1_300_000,
            worlds=64,
            rollout=64,
            batch_size=512,
            epochs=4,
            learning_rate=5e-4,
            discount=0.95,
            trace=0.5,  # headway tells at once what a step was worth: what comes after it is noise
            value_weight=3.0,
            entropy=0.002,
            entropy_end=0.0,  # in the end one stray stop is one errand lost
            # A line that is half followed is the hardest to see.
            looking=Looking(updates=30, learning_rate=3e-3, tasks=("go", "around", "follow", "follow", "follow")),
            keypoint_weight=1.0,
            questions=4,
            headway=2.0,
            ratchet=0.8,
            clip_norm=1.0,
        ),
    )
