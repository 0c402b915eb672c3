"""Objects alike, of which a relation to other objects tells the one that is meant."""

from verbot.envs.tabletop.simulation.layout import SceneConfig, SceneConstraints
from verbot.envs.tabletop.suites import Suite, register

RELATIONS = register(
    Suite(
        "tabletop-relations",
        ("pick", "push", "put"),
        SceneConfig(movables=5, receptacles=1),
        SceneConstraints(movables=(4, 5), receptacles=(1, 1), twins=(2, 3)),
        relations=True,
        most_goals=24,
    )
)
