"""What the complete models of this folder have in common: the starter suite, and how a network is trained and evaluated on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from verbot.evaluation import EvaluationConfig
from verbot.models.network import NetworkConfig, Part
from verbot.recipes.config import DEFAULT_DATASET, Imitation, Recipe
from verbot.recipes.imitation.starter import SUITE, training
from verbot.recipes.overrides import override
from verbot.rollout.collect import CollectConfig
from verbot.training import AugmentConfig, TrainConfig
from verbot.training.imitation.records import BudgetConfig, DataConfig, OptimizerConfig

MINILM = Part("minilm", {"depth": 3})
WORDS_ALONE = Part("minilm", {"layers": 0})  # the frozen encoder's states, projected


def tiny(
    name: str, about: str, network: NetworkConfig, learning_rate: float, *, decay: float | None = None, **changes: Any
) -> Recipe:
    """The starter recipe with another `network`: the same demonstrations, minutes and augmentation, on two processor cores.

    Args:
        decay: decay of temporal ensembling, if the model uses it.
        changes: further settings of the training (`verbot.recipes.overrides`).
    """
    return Recipe(
        name=name,
        about=about,
        collection=CollectConfig(env=SUITE, episodes=1600),
        stages=(Imitation(override(training(minutes=6.5), {"network": network, "learning_rate": learning_rate, **changes})),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300, decay=decay),
    )


def paper(
    name: str,
    about: str,
    network: NetworkConfig,
    image_size: int,
    cameras: list[str],
    *,
    decay: float | None = None,
    execute: int = 1,
    **settings: Any,
) -> Recipe:
    """`network` in its published size, with its published optimization, on the starter suite drawn at `image_size`."""
    options = {"image_size": image_size, "cameras": cameras}
    network = replace(network, image_size=(image_size, image_size))
    base = TrainConfig(DataConfig(DEFAULT_DATASET), BudgetConfig(steps=1), network, optimizer=OptimizerConfig(bf16=True))
    return Recipe(
        name=name,
        about=about,
        collection=CollectConfig(env=SUITE, episodes=4000, options=options),
        stages=(Imitation(override(base, {"augment": AugmentConfig(blank_instruction=0.05), **settings})),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300, decay=decay, execute=execute, options=options),
    )
