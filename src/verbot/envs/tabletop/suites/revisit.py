"""The scenes of `tabletop-memory` once more, covered from the start: for a policy that has been there before."""

import dataclasses

from verbot.envs.tabletop.suites import Show, register
from verbot.envs.tabletop.suites.memory import COVERED, MEMORY

REVISIT = register(
    dataclasses.replace(
        MEMORY,
        name="tabletop-revisit",
        tasks=COVERED,
        show=Show(COVERED, steps=(0, 0), still_steps=0),
        scenes_of=MEMORY.name,
    )
)
