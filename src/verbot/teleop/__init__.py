"""People as teachers: they drive the robot in a browser page, correct a policy, and say in words what was done.

The way of a control step: `inputs` (what is held and pressed) → `session` (what that means now) → `controls` (an action in the
robot's own units) → the env. `server` shows the page and takes its messages; `teach` keeps the time.
"""

from __future__ import annotations

from verbot.teleop.controls import Teleoperator
from verbot.teleop.run import TeachConfig, TeachResult, teach

__all__ = ["TeachConfig", "TeachResult", "Teleoperator", "teach"]
