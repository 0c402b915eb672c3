"""The starter suite with domain randomization in every episode."""

from __future__ import annotations

from dataclasses import replace

from verbot.evaluation import EvaluationConfig
from verbot.policy.policy import Preprocessing
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe
from verbot.recipes.imitation.starter import SUITE, training
from verbot.rollout.collect import CollectConfig

STRENGTH = 2  # the greatest that is trained on: strength 3 is for tests alone


@recipes.register("starter-random")
def starter_random() -> Recipe:
    """The starter recipe on demonstrations with random strengths of all axes, and on images of which a camera may be missing.

    Source: domain randomization, Tobin et al. 2017. Recordings contain all cameras; missing cameras are sampled
    during training. Varied scenes need more samples than the starter recipe has (docs/results/robustness.md).
    """
    plain = training(minutes=12.0)
    return Recipe(
        name="starter-random",
        about="pick, push and put with domain randomization; twelve minutes of training",
        collection=CollectConfig(env=SUITE, episodes=1600, randomize={"all": STRENGTH}),
        stages=(
            Imitation(
                replace(
                    plain,
                    augment=replace(plain.augment, camera_dropout=0.5),
                    preprocessing=Preprocessing(allow_missing_cameras=True),
                )
            ),
        ),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300),
    )
