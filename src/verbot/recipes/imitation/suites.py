"""Suites that need a memory, a second camera, several sentences or an object graph. Each recipe is a baseline without it."""

from __future__ import annotations

import dataclasses

from verbot.envs.tabletop.suites.memory import COVERED
from verbot.evaluation import EvaluationConfig
from verbot.models.network import Part
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe
from verbot.recipes.imitation.starter import training
from verbot.rollout.collect import CollectConfig


def special(name: str, about: str, **options: object) -> Recipe:
    """The starter's network on ``tabletop-{name}``."""
    suite = f"tabletop-{name}"
    return Recipe(
        name=name,
        about=about,
        collection=CollectConfig(env=suite, episodes=1600, options=options),
        stages=(Imitation(training(minutes=10.0)),),
        evaluation=EvaluationConfig(suite=suite, episodes=200, options=options),
    )


@recipes.register("memory")
def memory() -> Recipe:
    """Objects are covered before the arm may move, or an object must return to its first position. A baseline without memory."""
    run = special("memory", "tasks on objects that are no longer visible, for a network without memory")
    network = run.training.network.with_objectives(keypoint_memory=1.0)
    return run.with_training(dataclasses.replace(run.training, network=network))


@recipes.register("visits")
def visits() -> Recipe:
    """Two episodes per scene: objects are visible and then covered, then covered from the start."""
    run, revisit_env = memory(), "tabletop-revisit"
    collection = dataclasses.replace(run.collection, episodes=3200, tasks=COVERED, revisit_env=revisit_env)
    network = dataclasses.replace(run.training.network, memory=Part("external"), sequence=4, stride=5)
    return dataclasses.replace(
        run.with_training(dataclasses.replace(run.training, network=network)),
        name="visits",
        about="an external memory that keeps observations from one episode to the next",
        collection=collection,
    )


@recipes.register("occluded")
def occluded() -> Recipe:
    """A screen hides the target object from the front camera; the side camera sees it."""
    return special("occluded", "a screen in front of the first camera, and a second camera", cameras=["front", "side"])


@recipes.register("sentences")
def sentences() -> Recipe:
    """Instructions of two or three sentences. The first often names an object that must not be touched."""
    return special("sentences", "instructions of several sentences")


@recipes.register("relations")
def relations() -> Recipe:
    """Similar objects; the target is given by its position. 100,000 sentences are too many to encode first with MiniLM."""
    run = special("relations", "referring expressions: the target is given by its relation to other objects")
    network = dataclasses.replace(run.training.network, language=Part("word_embedding"))
    augment = dataclasses.replace(run.training.augment, grounding_queries=8)
    return run.with_training(dataclasses.replace(run.training, network=network, augment=augment))
