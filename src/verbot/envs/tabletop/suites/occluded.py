"""A screen hides the named object from the front camera; the side camera sees it."""

from verbot.envs.tabletop.simulation.layout import SceneConfig, SceneConstraints
from verbot.envs.tabletop.suites import Suite, register

CAMERAS = ("front", "side", "wrist")
OCCLUDED = register(
    Suite(
        "tabletop-occluded",
        ("pick", "push", "put"),
        SceneConfig(movables=4, screen=True, cameras=("side",)),
        SceneConstraints(movables=(3, 4), receptacles=(1, 1), screen=True),
        cameras=CAMERAS,
    )
)
