"""One action head per task on a shared network."""

from __future__ import annotations

from dataclasses import replace

from verbot.models.network import Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.imitation.starter import starter


@recipes.register("multi-task")
def multi_task() -> Recipe:
    """The starter's network with a head and an embedding for each task, and a classifier of the task."""
    run = starter()
    network = replace(run.training.network.with_objectives(task_classification=0.1), head=Part("multi_task"))
    return replace(
        run.with_training(replace(run.training, network=network)),
        name="multi-task",
        about="pick, push and put, each with its own action head, selected by a task classifier",
    )
