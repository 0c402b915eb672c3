"""One thread for everyone: two thread pools on two cores starve each other. And no test writes into a person's home."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if "VERBOT_CACHE" not in os.environ:
    os.environ["VERBOT_CACHE"] = tempfile.mkdtemp(prefix="verbot-tests-")
    atexit.register(shutil.rmtree, os.environ["VERBOT_CACHE"], ignore_errors=True)


CASES = Path(__file__).parent / "cases"


@pytest.fixture
def case(tmp_path, monkeypatch):
    """``case("l07_two_tasks_in_episode")`` makes that input of ``tests/cases`` in a fresh folder, and returns the folder."""

    def make(name: str) -> Path:
        monkeypatch.syspath_prepend(str(CASES))
        root = tmp_path / "cases" / name
        importlib.import_module(name).make(root)
        return root

    return make


@pytest.fixture(scope="session")
def picture_number():
    """The number that a picture of ``tests/cases`` carries: uint8 (h, w, 3) to int."""
    sys.path.insert(0, str(CASES))
    try:
        return importlib.import_module("_v3").number
    finally:
        sys.path.remove(str(CASES))


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


_WARM = {"process": None, "use": True}


@pytest.fixture(autouse=True, scope="session")
def warm_workers():
    """Workers are forked from a process that has imported everything; see `warm_workers.py`."""
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        from warm_workers import new_start
    finally:
        sys.path.pop(0)
    from verbot.parallel import workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_start", new_start(workers._start, _WARM))
        yield
    if _WARM["process"] is not None:
        _WARM["process"].close()


@pytest.fixture(autouse=True)
def cold_workers(request):
    """A test marked ``cold_workers`` starts a new interpreter for each worker, as users do."""
    _WARM["use"] = request.node.get_closest_marker("cold_workers") is None
