"""The starter suite's scenes and words for another robot: the same arm, which stands at the table's right side."""

import dataclasses

from verbot.envs.tabletop.simulation.layout import SceneConfig
from verbot.envs.tabletop.suites import register
from verbot.envs.tabletop.suites.starter import STARTER

OTHER_ROBOT = register(
    dataclasses.replace(STARTER, name="tabletop-other-robot", scene=SceneConfig(mount="right"), scenes_of=STARTER.name)
)
