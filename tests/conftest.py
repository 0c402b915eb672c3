"""One thread for everyone: two thread pools on two cores starve each other. And no test writes into a person's home."""

import atexit
import os
import shutil
import tempfile

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if "VERBOT_CACHE" not in os.environ:
    os.environ["VERBOT_CACHE"] = tempfile.mkdtemp(prefix="verbot-tests-")
    atexit.register(shutil.rmtree, os.environ["VERBOT_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def two_arms():
    """A spec of two arms with grippers, the left one first, and a camera on each; `state` is (16,), `action` (14,)."""
    from verbot.spec import Camera, Component, EndEffector, RobotSpec

    xyz, sides = ("x", "y", "z"), ("left", "right")
    state, action = [], []
    for side in sides:
        state += [
            Component(f"{side}_position", "position", xyz, "m", "base", (-1.0,) * 3, (1.0,) * 3),
            Component(f"{side}_quaternion", "quaternion", ("w", *xyz), "1", "base", (-1.0,) * 4, (1.0,) * 4),
            Component(f"{side}_gripper", "gripper", ("open",), "1", side, (0.0,), (1.0,)),
        ]
        action += [
            Component(f"{side}_position_delta", "position_delta", xyz, "m", "base", (-0.05,) * 3, (0.05,) * 3),
            Component(f"{side}_rotation_delta", "rotation_delta", xyz, "rad", "base", (-0.2,) * 3, (0.2,) * 3),
            Component(f"{side}_gripper", "gripper", ("open",), "1", side, (0.0,), (1.0,)),
        ]
    groups = tuple(
        EndEffector(side, *(tuple(c.name for c in components if c.name.startswith(side)) for components in (state, action)))
        for side in sides
    )
    cameras = (Camera("front", 24, 32), *(Camera(f"{side}_wrist", 24, 32, frame=side) for side in sides))
    return RobotSpec("two-arms", 10.0, cameras, tuple(state), tuple(action), groups)
