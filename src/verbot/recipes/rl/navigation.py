"""Navigation by reinforcement learning from images and instructions."""

from __future__ import annotations

from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import Recipe, Reinforcement
from verbot.recipes.imitation.navigation import NETWORK
from verbot.training.rl.config import EnvConfig, PerceptionWarmup, PPOConfig, ReinforceConfig, RewardShaping


@recipes.register("navigation-ppo", needs=("stable_baselines3",))
def navigation_ppo() -> Recipe:
    """One camera, queries, word embeddings, two wide layers."""
    return Recipe(
        name="navigation-ppo",
        about="three tasks in compass directions, from images, instructions, a progress reward and keypoints",
        collection=None,
        stages=(
            Reinforcement(
                ReinforceConfig(
                    env=EnvConfig("navigation-compass", num_envs=64),
                    reward_shaping=RewardShaping(progress_weight=2.0, best_so_far_share=0.8),
                    network=NETWORK,
                    steps=1_300_000,
                    ppo=PPOConfig(
                        num_steps=64,
                        batch_size=512,
                        epochs=4,
                        learning_rate=5e-4,
                        gamma=0.95,
                        gae_lambda=0.5,  # the progress reward credits a step at once; later rewards are noise to it
                        entropy_coef=0.002,
                        entropy_coef_end=0.0,  # late in training one random `stop` fails the episode
                        value_coef=3.0,
                        clip_norm=1.0,
                    ),
                    # The next point of a line that is half followed is the hardest to locate.
                    perception_warmup=PerceptionWarmup(
                        updates=30, learning_rate=3e-3, tasks=("go", "around", "follow", "follow", "follow")
                    ),
                    keypoint_weight=1.0,
                    grounding_queries=4,
                )
            ),
        ),
        evaluation=EvaluationConfig(suite="navigation-compass", episodes=300),
    )
