"""UMI: dataset.zarr.zip without actions, two grippers, camera0_rgb. Right: without options an error that names the poses;
with --set action=… they are the actions. The pose of the whole episode is noted, not part of the state."""
from _zarr import *
def make(root, n=(9, 11), path="dataset.zarr.zip", hands=1):
    root = Path(root); root.mkdir(parents=True, exist_ok=True); k = sum(n); rng = np.random.default_rng(0); data = {}
    for h in range(hands):
        data |= {f"robot{h}_eef_pos": rng.normal(0, .3, (k, 3)).astype(np.float32), f"robot{h}_eef_rot_axis_angle": rng.normal(0, .3, (k, 3)).astype(np.float32), f"robot{h}_gripper_width": rng.uniform(.01, .08, (k, 1)).astype(np.float32),
                 f"robot{h}_demo_start_pose": np.ones((k, 6)), f"robot{h}_demo_end_pose": np.ones((k, 6)), f"camera{h}_rgb": np.concatenate([np.stack([picture(j, 112, 112) for j in range(m)]) for m in n])}
    buffer(root / path, data, np.cumsum(n)); return root
