"""A policy of the tabletop, fine-tuned by reinforcement learning."""

from __future__ import annotations

from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import Recipe, Reinforcement
from verbot.training.rl.config import EnvConfig, PPOConfig, ReinforceConfig, ReinforceInitConfig, RewardShaping


@recipes.register("starter-ppo", needs=("stable_baselines3",))
def starter_ppo() -> Recipe:
    """Starts from an existing policy: ``--init-from outputs/demo/policy``."""
    return Recipe(
        name="starter-ppo",
        about="fine-tunes a policy of the starter suite on success and on the distance of the target object from its goal",
        collection=None,
        stages=(
            Reinforcement(
                ReinforceConfig(
                    env=EnvConfig("tabletop-starter", num_envs=16),
                    init=ReinforceInitConfig("outputs/demo/policy"),
                    reward_shaping=RewardShaping(potential_weight=2.0),
                    steps=90_000,
                    ppo=PPOConfig(
                        num_steps=64,
                        batch_size=256,
                        epochs=3,
                        learning_rate=3e-5,
                        gamma=0.98,
                        target_kl=0.02,
                        entropy_coef=0.0,
                        detach_critic=True,
                        critic_lr_multiplier=30.0,
                        critic_warmup=12,
                        log_std=-2.0,
                    ),
                )
            ),
        ),
        evaluation=EvaluationConfig(suite="tabletop-starter", episodes=300),
    )
