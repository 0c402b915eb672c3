"""Short captions that are true of the present scene, by the templates of `captions`. Needs no simulator."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Question, SceneTruth
from verbot.envs.tabletop.language.captions import true_caption
from verbot.envs.tabletop.language.templates_scene import CAPTIONS
from verbot.envs.tabletop.language.vocabulary import RECEPTACLES, SHAPES
from verbot.envs.tabletop.simulation.layout import Layout, SceneObject

HELD = 0.5  # how often a caption says what the gripper holds, while it holds something


def caption(truth: SceneTruth, rng: np.random.Generator, wording: str = "seen") -> Question | None:
    """A request for a caption, and a caption; see `verbot.contracts.SceneLanguage`. None while colors are covered."""
    if truth.covered:
        return None
    prompt = CAPTIONS[wording][int(rng.integers(len(CAPTIONS[wording])))]
    held = [each.name for each in truth.objects if each.id == truth.held]
    if held and rng.random() < HELD:
        return Question(prompt, f"the robot holds the {held[0]}", "caption")
    answer = true_caption(as_layout(truth), rng, counts=not held)
    return None if answer is None else Question(prompt, answer, "caption")


def as_layout(truth: SceneTruth) -> Layout:
    """The colored objects that are not in the gripper, in the viewer's axes: x toward the viewer, y to the right."""
    axes, movables, receptacles = np.array((truth.near, truth.right)), list[SceneObject](), list[SceneObject]()
    for each in truth.objects:
        color, _, shape = each.name.partition(" ")
        if each.id == truth.held or shape not in (*SHAPES, *RECEPTACLES):
            continue
        x, y = (float(value) for value in axes @ np.array(each.position_m))
        pile = movables if shape in SHAPES else receptacles
        number = 1 + sum((obj.color, obj.shape) == (color, shape) for obj in pile)
        pile.append(SceneObject(color, shape, x, y, number=number))
    return Layout(tuple(movables), tuple(receptacles))
