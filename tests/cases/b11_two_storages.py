"""A folder with a recording in MCAP and one in SQLite. Right: both are imported."""
from _rosbags import *
def make(root):
    recording(Path(root) / "rec_a"); bag(Path(root) / "rec_b" / "rec_b_0.mcap", joints=lambda j, t: [(t, "/joint_states", "joints", {"header": hdr(t), "name": ["a", "b"], "position": [j / 50, .2], "velocity": [], "effort": []})],
        body=lambda ev, S, w: [e[3].update(data=e[3]["data"][:2]) for e in ev if e[2] == "array"]); metadata(Path(root) / "rec_b", ["rec_b_0.mcap"]); return root
