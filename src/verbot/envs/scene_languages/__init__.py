"""Languages that ask and speak of scenes, by name; one file each. Importing this package loads no simulator.

A `verbot.contracts.SceneTruth` names its language. That of another package is registered with `scene_languages.register`, or by
an entry point of the group ``verbot.scene_languages``.
"""

from __future__ import annotations

from verbot.contracts import SceneLanguage
from verbot.registry import Registry

scene_languages: Registry[type[SceneLanguage]] = Registry(
    "scene language", package="verbot.envs.scene_languages", group="verbot.scene_languages"
)
