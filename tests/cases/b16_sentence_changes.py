"""/task says "pick it up" before the first frame and "put it down" 1.05 s later. Right: a frame's instruction is the last sentence at or before it, not either of two wordings."""
from _ros import *
def make(root):
    def body(ev, S, w): ev.append((T0 + 1_050_000_000, "/task", "string", {"data": "put it down"}))
    bag(Path(root) / "ep_0.mcap", body=body, sentence="pick it up"); return root
