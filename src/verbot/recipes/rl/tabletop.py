"""A cloned policy of the tabletop, made better by trying."""

from __future__ import annotations

from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import Recipe, Reinforcement
from verbot.training.rl.config import ReinforceConfig


@recipes.register("starter-ppo", needs=("stable_baselines3",))
def starter_ppo() -> Recipe:
    """Begins with the policy that it is given: ``--policy outputs/demo/policy``."""
    return Recipe(
        name="starter-ppo",
        about="fine-tunes a policy of the starter suite on success, and on how far what it names still is from its goal",
        collection=None,
        stages=(
            Reinforcement(
                ReinforceConfig(
                    env="tabletop-starter",
                    policy="outputs/demo/policy",
                    steps=90_000,
                    worlds=16,
                    rollout=64,
                    batch_size=256,
                    epochs=3,
                    learning_rate=3e-5,
                    discount=0.98,
                    target_kl=0.02,
                    entropy=0.0,
                    value_apart=True,
                    critic_pace=30.0,
                    log_std=-2.0,
                    warmup=12,
                    shaping=2.0,
                )
            ),
        ),
        evaluation=EvaluationConfig(suite="tabletop-starter", episodes=300),
    )
