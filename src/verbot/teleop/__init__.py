"""Teleoperation in a browser page: demonstrate, correct a policy, and annotate episodes with instructions.

The data flow of a control step: `inputs` (keys and gamepad) → `session` (their meaning in the present phase) → `controls` (an
action in the robot's units) → the env. `server` serves the page and receives its messages; `run` keeps the control rate.
"""

from __future__ import annotations

from verbot.teleop.controls import Teleoperator
from verbot.teleop.run import TeleopConfig, TeleopResult, teleoperate

__all__ = ["TeleopConfig", "TeleopResult", "Teleoperator", "teleoperate"]
