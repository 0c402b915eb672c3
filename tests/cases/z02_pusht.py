"""diffusion policy's pusht_cchi_v7_replay.zarr: action (n, 2), state (n, 5), img float32 0..255, keypoint, n_contacts.
Right: state and action, pictures as uint8 of the same numbers, keypoint and n_contacts noted, the rate asked for."""
from _zarr import *
def make(root, path="pusht.zarr", n=(9, 11)):
    root = Path(root); root.mkdir(parents=True, exist_ok=True); k = sum(n); rng = np.random.default_rng(0)
    img = np.concatenate([np.stack([picture(j, 96, 96) for j in range(m)]) for m in n]).astype(np.float32)
    buffer(root / path, {"action": rng.uniform(0, 512, (k, 2)).astype(np.float32), "state": rng.uniform(0, 512, (k, 5)).astype(np.float32), "img": img,
                         "keypoint": rng.uniform(0, 512, (k, 9, 2)).astype(np.float32), "n_contacts": np.ones((k, 1), np.float32)}, np.cumsum(n))
    return root
