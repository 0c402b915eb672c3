"""The language of the tabletop: eleven kinds of questions, captions, and words for motions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verbot.contracts import Question, SceneTruth
from verbot.envs.scene_languages import scene_languages
from verbot.envs.tabletop.language.scene_captions import caption
from verbot.envs.tabletop.language.scene_questions import KINDS, ask, find

MOVED_M, TURNED_RAD = 0.01, 0.12  # less in a chunk is no motion that needs a word
MINOR = 0.4  # a part of a motion that is smaller than this share of the largest one is left out


@scene_languages.register("tabletop")
class TabletopLanguage:
    """Implements `verbot.contracts.SceneLanguage` and `JudgingLanguage`; left and near are
    those of a person who looks through the front camera."""

    kinds = KINDS

    def question(
        self,
        truth: SceneTruth,
        rng: np.random.Generator,
        wording: str = "seen",
        composition: str = "seen",
        kind: str | None = None,
    ) -> Question | None:
        return ask(truth, rng, wording, composition, kind)

    def find(self, truth: SceneTruth, text: str) -> Question | None:
        return find(truth, text)

    def caption(self, truth: SceneTruth, rng: np.random.Generator, wording: str = "seen") -> Question | None:
        return caption(truth, rng, wording)

    def motion(self, moved_m: Sequence[float], turned_rad: float, gripper: str) -> str:
        """As "move left and down, close the gripper", the largest part first; "hold still" for none.

        Example:
            >>> TabletopLanguage().motion((-0.08, 0.0, -0.05), 0.0, "close")
            'move left and down, close the gripper'
        """
        right_m, near_m, up_m = moved_m
        parts = [(right_m, "right", "left"), (near_m, "forward", "backward"), (up_m, "up", "down")]
        least = max(MOVED_M, MINOR * max(abs(amount) for amount, *_ in parts))
        large = sorted((part for part in parts if abs(part[0]) >= least), key=lambda part: -abs(part[0]))
        ways = [more if amount > 0 else less for amount, more, less in large]
        said = ["move " + " and ".join(ways if len(ways) < 3 else [", ".join(ways[:2]), ways[2]])] if ways else []
        if abs(turned_rad) >= TURNED_RAD:
            said.append(f"turn {'counterclockwise' if turned_rad > 0 else 'clockwise'}")
        if gripper:
            said.append(f"{gripper} the gripper")
        return ", ".join(said) or "hold still"
