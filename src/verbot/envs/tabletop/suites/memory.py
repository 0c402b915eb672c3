"""What is no longer visible decides: colors that were covered, or the place where an object stood."""

from verbot.envs.tabletop.simulation.layout import SceneConfig, SceneConstraints
from verbot.envs.tabletop.suites import Show, Suite, register

COVERED = ("pick", "push", "put")
MEMORY = register(
    Suite(
        "tabletop-memory",
        (*COVERED, "put_back"),
        SceneConfig(movables=4),
        SceneConstraints(movables=(3, 4), receptacles=(1, 1), alike=True),
        show=Show(COVERED),
    )
)
