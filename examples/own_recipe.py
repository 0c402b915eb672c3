"""A new recipe in one file: what to collect, how to train, and what to evaluate, under a name.

To use it in commands too, install it as a package with this entry point: `verbot demo --recipe pick-only`

    [project.entry-points."verbot.recipes"]
    pick-only = "own_recipe:pick_only"

Run it: python examples/own_recipe.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from verbot.configuration import replace
from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe
from verbot.recipes.imitation.starter import training
from verbot.rollout.collect import CollectConfig
from verbot.workflows.demo import demo


@recipes.register("pick-only")
def pick_only() -> Recipe:
    """One task of the starter suite, from 400 demonstrations, in two minutes of training."""
    return Recipe(
        name="pick-only",
        about="one task from 400 demonstrations",
        collection=CollectConfig(env="tabletop-starter", episodes=400, tasks=("pick",)),
        stages=(Imitation(replace(training(minutes=2.0), {"optimizer": {"learning_rate": 1e-3}})),),
        evaluation=EvaluationConfig(suite="tabletop-starter", episodes=100, tasks=("pick",)),
    )


def main(folder: Path, recipe: str | Recipe = "pick-only") -> int:
    """Collect, train and evaluate by this recipe."""
    summary = demo(folder, recipe)
    print(summary.table())
    return summary.exit_code


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/own_recipe"))
