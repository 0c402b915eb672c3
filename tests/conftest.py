"""One thread for everyone: two thread pools on two cores starve each other. And no test writes into a person's home."""

import atexit
import importlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
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


@pytest.fixture(scope="session")
def killed():
    """``killed(work, number, folder)``: whether kill -9 came before the change number `number` of `work`, in a forked process.

    Counted are the changes below `folder`: files that are opened to write, flushed, renamed, cut or removed, folders that are
    made or removed. Of a draft that is being flushed only a half is left, as if the kill had come while it was written.
    """

    def run(work, number, folder):
        for _ in range(3):  # beside other threads a forked process may wait for a lock that nobody gives back
            status = once(work, number, folder)
            if status != signal.SIGALRM:
                break
        assert status in (0, signal.SIGKILL), f"the work itself failed at change {number}"
        return status != 0

    def once(work, number, folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forking beside threads, which these processes do not need
            child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(15)
            _die_at(number, str(folder))
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    return run


CHANGES = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1}  # and the number of their paths


def _die_at(number, folder):
    left = [number]
    inside = lambda path: isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(folder)  # noqa: E731

    def count():
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if event == "open":
            path, _, flags = arguments
            changes = inside(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        elif event in CHANGES:
            relative = event in ("os.remove", "os.rmdir") and arguments[1] != -1  # within a folder that is being removed
            changes = relative or any(map(inside, arguments[: CHANGES[event]]))
        else:
            changes = event == "ctypes.dlsym" and arguments[1] == "renameat2"  # about to exchange two folders
        if changes:
            count()

    def fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if inside(path):
            if left[0] == 0 and path.endswith(".tmp"):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            count()

    os.fsync = fsync
    sys.addaudithook(watch)
