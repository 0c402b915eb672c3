"""A buffer whose copy is not complete: a piece of the actions is absent, which zarr reads as zeros. Right: that episode is named."""
from pathlib import Path
from _zarr import *
def make(root):
    root = Path(root); root.mkdir(parents=True, exist_ok=True); rng = np.random.default_rng(0); n = (8, 8, 8)
    buffer(root / "buffer.zarr", {"action": rng.normal(0, 1, (24, 3)), "state": rng.normal(0, 1, (24, 4)), "img": np.stack([picture(j % 8) for j in range(24)])}, np.cumsum(n), chunks=(4, 64, 96, 3))
    for lost in ("buffer.zarr/data/action/3.0",): (root / lost).unlink()
    return root
