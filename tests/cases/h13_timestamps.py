"""Cameras with clocks of their own: rows at 20 Hz, a camera that starts 2 pictures earlier and one at 30 Hz, each with timestamps.
Right: the picture of a row is the nearest in time (numbers: `expected`); an error if none lies within half a period."""
from _formats import *
import h5py
ROWS = 100.0 + np.arange(12) / 20
TIMES = {"front": 100.0 - 2 / 20 + np.arange(16) / 20 + 0.004, "wrist": 99.97 + np.arange(24) / 30}
def expected(camera): return [int(np.abs(TIMES[camera] - t).argmin()) for t in ROWS]
def make(root, lost=()):
    """lost: pictures of the wrist camera that were not recorded."""
    root = Path(root); root.mkdir(parents=True, exist_ok=True); rng = np.random.default_rng(0)
    with h5py.File(root / "episode_0.hdf5", "w") as f:
        f["action"] = rng.normal(0, .5, (12, 6)); f["observations/qpos"] = rng.normal(0, .5, (12, 6)); f["observations/timestamps"] = ROWS
        for name, times in TIMES.items():
            kept = [j for j in range(len(times)) if name != "wrist" or j not in lost]
            f[f"observations/images/{name}"] = np.stack([picture(j) for j in kept]); f[f"observations/image_timestamps/{name}"] = times[kept]
    return root
