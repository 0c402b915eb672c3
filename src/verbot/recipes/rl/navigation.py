"""The navigation world, learned from nothing but pictures, words and rewards."""

from __future__ import annotations

from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import Recipe, Reinforcement
from verbot.recipes.imitation.navigation import NETWORK
from verbot.training.rl.config import Looking, ReinforceConfig


@recipes.register("navigation-ppo", needs=("stable_baselines3",))
def navigation_ppo() -> Recipe:
    """One camera, queries, word embeddings, two wide layers."""
    return Recipe(
        name="navigation-ppo",
        about="three errands, steered by the compass, from pixels, words, headway and keypoints",
        collection=None,
        stages=(
            Reinforcement(
                ReinforceConfig(
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
                )
            ),
        ),
        evaluation=EvaluationConfig(suite="navigation-compass", episodes=300),
    )
