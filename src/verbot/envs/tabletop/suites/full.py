"""Eleven tasks, with a drawer and a button on the table."""

from verbot.envs.tabletop.simulation.layout import SceneConfig, SceneConstraints
from verbot.envs.tabletop.suites import Suite, register

FULL = register(
    Suite(
        "tabletop-full",
        (
            "pick", "push", "put", "stack", "place_next_to", "move_away", "open_drawer", "close_drawer", "press_button",
            "lift_and_hold", "sort_color",
        ),
        SceneConfig(fixtures=("drawer", "button")),
        SceneConstraints(receptacles=(1, 1), repeat_color=0.4, fixtures=("drawer", "button")),
    )
)  # fmt: skip
