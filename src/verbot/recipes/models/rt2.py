"""RT-2: a language model that sees and says its actions as words, co-trained on text (Brohan et al. 2023)."""

from __future__ import annotations

import dataclasses

from verbot.models.network import NetworkConfig, Part
from verbot.models.registries import Objective
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny
from verbot.training.imitation.text_config import TextConfig

TRUNK = {"name": "tiny", "options": {"width": 96, "layers": 4, "expansion": 2.5, "reserved": 256}}
TEXT = TextConfig(question=0.25, caption=0.05, reasoning=0.15, parts=("plan", "subtask", "move"))


@recipes.register("rt2")
def rt2() -> Recipe:
    """A decoder of half a million parameters from random weights, two actions in 256 words, and text beside them.

    Differences from the paper: nothing is pretrained, questions come from the simulator's truth instead of the web, the robot's
    state is in the prefix, actions are decoded by the median, and the vision encoder has the keypoint loss.
    """
    network = NetworkConfig(
        backbone=Part("vlm", {"trunk": TRUNK, "order": ["keypoints", "objects", "state", "text"], "readers": 1}),
        vision=Part("object_graph", {"channels": 24, "features": 48, "heatmaps": 8}),
        head=Part("action_tokens", {"convention": "rt2", "decode": "median"}),
        chunk=2,
    )
    network = network.with_objectives(text=Objective())
    base = tiny(
        "rt2", "a language model that says actions as words and answers questions, 256 bins", network, 1e-3,
        text=TEXT, minutes=25.0, batch_size=32,
    )  # fmt: skip
    assert base.collection is not None
    return dataclasses.replace(base, collection=dataclasses.replace(base.collection, truth=True))
