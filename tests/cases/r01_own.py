"""An OpenVLA-style dataset of one's own (kpertsch/rlds_dataset_builder; openvla #227, openvla-oft #93). Right: imports; sentence per step; frames right."""
from _formats import *
F = {**FLAGS, "steps/observation/image": image(), "steps/observation/wrist_image": image(), "steps/observation/state": tensor("float32", (8,)), "steps/action": tensor("float32", (7,)), "steps/language_instruction": text(), "episode_metadata/file_path": text()}
def rec(n, i=0, sentence=b"pick up the cube", **more):
    rng = np.random.default_rng(i)
    r = {**flags(n), "steps/observation/image": [jpeg(picture(j)) for j in range(n)], "steps/observation/wrist_image": [jpeg(picture(j)) for j in range(n)], "steps/observation/state": rng.normal(0, .3, (n, 8)).astype(np.float32), "steps/action": np.concatenate([rng.normal(0, .05, (n, 6)), (np.arange(n) < n // 2)[:, None]], 1).astype(np.float32), "steps/language_instruction": [sentence] * n, "episode_metadata/file_path": [b"/x/%d" % i]}
    for k, v in more.items():
        if v is None: r.pop(k.replace("__", "/"))
        else: r[k.replace("__", "/")] = v
    return r
def make(root): return rlds(root, "my_robot", [rec(9), rec(11, 1, b"put it down")], F)
