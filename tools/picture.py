"""The README's moving picture: one policy, several sentences, one loop.

Run it as ``python tools/picture.py docs/media/obey.gif --policy starter``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from verbot.rollout import video
from verbot.workflows.load_policy import agent_maker
from verbot.workflows.watch import watch

SENTENCES = (
    "put the red cube in the blue box",
    "push the yellow ball to the left",
    "pick up the green cylinder",
    "place the orange cube on the purple plate",
)
LIMIT_BYTES = 2 * 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--policy", default="starter", help="a policy's folder, starter or expert")
    parser.add_argument("--execute", type=int, default=2, help="actions of each chunk that are carried out")
    parser.add_argument("--height", type=int, default=192, help="of each view, pixels")
    arguments = parser.parse_args()
    agent = agent_maker(arguments.policy, arguments.execute)
    seen = [watch(text, agent, height=arguments.height) for text in SENTENCES]
    for one in seen:
        print(f"{'success' if one.success else 'FAILED'} in {one.seconds:.1f} s (scene {one.scene}): {one.instruction}")
    size = video.write(arguments.out, [frame for one in seen for frame in one.frames], seen[0].rate_hz).stat().st_size
    print(f"{arguments.out}: {size / 2**20:.2f} MiB")
    return 0 if all(one.success for one in seen) and size <= LIMIT_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
