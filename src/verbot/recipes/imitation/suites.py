"""The suites that need a part: a memory, a second view, sentences, a graph. Each recipe is the network without that part."""

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
    """Colors are covered before the arm may move, or a thing must go back to where it stood."""
    run = special("memory", "what is no longer to be seen, for a network that forgets")
    network = run.training.network.with_objectives(keypoint_memory=1.0)
    return run.with_training(dataclasses.replace(run.training, network=network))


@recipes.register("visits")
def visits() -> Recipe:
    """Every scene is visited twice: shown and then covered, then covered from the start."""
    run, again = memory(), "tabletop-revisit"
    collection = dataclasses.replace(run.collection, episodes=3200, tasks=COVERED, again=again)
    network = dataclasses.replace(run.training.network, memory=Part("external"), sequence=4, stride=5)
    return dataclasses.replace(
        run.with_training(dataclasses.replace(run.training, network=network)),
        name="visits",
        about="slots that hold what was seen from one episode to the next",
        collection=collection,
    )


@recipes.register("occluded")
def occluded() -> Recipe:
    """A screen hides what is named from the front camera; the side camera sees it."""
    return special("occluded", "a screen before the first camera, and a second one", cameras=["front", "side"])


@recipes.register("sentences")
def sentences() -> Recipe:
    """Two or three sentences, the first of which often names what is not to be touched."""
    return special("sentences", "commands of several sentences")


@recipes.register("relations")
def relations() -> Recipe:
    """Things alike: where one stands tells which is meant. A hundred thousand sentences: too many for MiniLM to read first."""
    run = special("relations", "which one is meant only a relation to other things tells")
    network = dataclasses.replace(run.training.network, language=Part("word_embedding"))
    augment = dataclasses.replace(run.training.augment, grounding_queries=8)
    return run.with_training(dataclasses.replace(run.training, network=network, augment=augment))
