"""Two robots and four tasks at once: navigation, manipulation, detection and grasping."""

from __future__ import annotations

from dataclasses import replace

from verbot.envs.navigation.env import robot_spec
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe
from verbot.recipes.imitation.navigation import navigation
from verbot.recipes.imitation.starter import starter
from verbot.training import CotrainingEmbodiment


@recipes.register("multi-task-net")
def multi_task_net() -> Recipe:
    """An arm on a table and a rover on a floor learn together, by networks that share what reads words and what sees.

    Manipulation and navigation are the two robots' actions, detection is where each named thing lies in their pictures (the
    keypoint loss, with the scene's other goals asked for too), grasping is the state in which the hand will hold what it is told
    to take. Weights are those that were best in closed loop; equal or learned ones leave hardly any manipulation. The
    rover has the arm's kind of network, not that of its own recipe, with which it would have nothing in common.
    """
    arm, rover = starter(), navigation()
    companion = CotrainingEmbodiment(
        robot=robot_spec().name,
        network=replace(arm.training.network.with_objectives(action=0.3, keypoints=0.3, grounding_queries=0.3), chunk=4),
        augment=rover.training.augment,
    )
    network = arm.training.network.with_objectives(grasp_state=0.1)
    training = replace(arm.training, network=network, cotraining=(companion,)).with_budget(minutes=8.0)
    assert rover.collection is not None
    return replace(
        arm,
        name="multi-task-net",
        about="navigation, manipulation, detection and grasping together: two robots, shared encoders",
        stages=(Imitation(training, collections=(rover.collection,)),),
    )
