"""Where the joints of an SO arm are, with angles from the middle of each joint's range.

Source: the description of the SO-101 by TheRobotStudio (``so101_new_calib.urdf``), which LeRobot uses for the SO-100 too.
"""

from __future__ import annotations

import math

from verbot.spec import ChainJoint, KinematicChain
from verbot.spec.robot import TOOL

_HALF = math.sqrt(0.5)
# The last joint leads to the point between the fingertips.
SO_CHAIN = KinematicChain(
    TOOL,
    "joints",
    (
        ChainJoint("shoulder_pan", (0.0388353, 0.0, 0.0624), (0.0, 0.0, 1.0, 0.0)),
        ChainJoint("shoulder_lift", (-0.0303992, -0.0182778, -0.0542), (0.5, -0.5, -0.5, -0.5)),
        ChainJoint("elbow_flex", (-0.11257, -0.028, 0.0), (_HALF, 0.0, 0.0, _HALF)),
        ChainJoint("wrist_flex", (-0.1349, 0.0052, 0.0), (_HALF, 0.0, 0.0, -_HALF)),
        ChainJoint("wrist_roll", (0.0, -0.0611, 0.0181), (0.017209, -0.017209, 0.706897, 0.706897)),
        ChainJoint("fingertips", (-0.0079, -0.0002181, -0.0981274), (0.0, 0.0, 1.0, 0.0), kind="fixed"),
    ),
)
