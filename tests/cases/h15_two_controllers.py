"""One folder with a file of changes of pose and a file of absolute poses. Right: the second file is named, not read as the first."""
from pathlib import Path
import h07_robomimic_abs
def make(root):
    root = Path(root)
    for name, delta in (("a_delta", True), ("b_abs", False)):
        made = h07_robomimic_abs.make(root / name, delta=delta); (made / "image_abs.hdf5").rename(root / f"{name}.hdf5"); made.rmdir()
    return root
