"""Counts that contradict: num_samples of demo_1 and total. Right: demo_1 is named, the total is named, demo_0 is imported."""
import h5py
import h07_robomimic_abs
def make(root):
    root = h07_robomimic_abs.make(root, delta=True)
    with h5py.File(root / "image_abs.hdf5", "a") as f:
        f["data"].attrs["total"] = 30
        for i, n in enumerate((10, 12)): f[f"data/demo_{i}"].attrs["num_samples"] = n
    return root
