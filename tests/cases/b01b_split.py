"""`ros2 bag record --max-bag-duration 1`: one recording in two files, one metadata.yaml; /task (transient local) is only in the first, and logged before the camera.
Right: one episode of 21 rows, pictures 0 to 20, with the sentence."""
from _ros import *
def make(root):
    d = Path(root) / "rec"; bag(d / "rec_0.mcap", seconds=1); bag(d / "rec_1.mcap", seconds=.9, first=11, t0=T0 + 11 * 10**8, sentence=None); metadata(d, ["rec_0.mcap", "rec_1.mcap"]); return root
