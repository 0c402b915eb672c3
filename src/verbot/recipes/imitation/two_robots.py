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
    """Co-training of an arm and a rover, whose networks share the language and vision encoders.

    Manipulation and navigation are the two robots' actions. Detection is the position of each named object in the image (the
    keypoint loss, with grounding queries). Grasping predicts the robot state at which the gripper will hold the target object.
    The loss weights were best in closed loop; with equal or learned weights hardly any manipulation succeeds. The rover has the
    arm's architecture, not that of its own recipe, so that weights can be shared.
    """
    arm, rover = starter(), navigation()
    rover_training = CotrainingEmbodiment(
        robot=robot_spec().name,
        network=replace(arm.training.network.with_objectives(action=0.3, keypoints=0.3, grounding_queries=0.3), chunk=4),
        augment=rover.training.augment,
    )
    network = arm.training.network.with_objectives(grasp_state=0.1)
    training = replace(arm.training, network=network, cotraining=(rover_training,)).with_budget(minutes=8.0)
    assert rover.collection is not None
    return replace(
        arm,
        name="multi-task-net",
        about="navigation, manipulation, detection and grasping together: two robots, shared encoders",
        stages=(Imitation(training, collections=(rover.collection,)),),
    )
