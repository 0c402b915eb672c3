"""The starter suite's scenes and words for another robot: the same arm, which stands at the table's right side."""

import dataclasses

from verbot.envs.tabletop.simulation.layout import SceneConfig
from verbot.envs.tabletop.suites import register
from verbot.envs.tabletop.suites.starter import STARTER

RIGHT = register(dataclasses.replace(STARTER, name="tabletop-right", scene=SceneConfig(mount="right"), scenes_of=STARTER.name))
