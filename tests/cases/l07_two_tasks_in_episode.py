"""An episode whose frames have two task_index (lerobot-dataset-visualizer #62; LeRobot writes tasks as a list).
Right: frames 0..9 have the first, frames 10..19 the second; never the other one."""
from _v3 import *
def make(root):
    e = episode(20); e["tasks"] = ["open the drawer"] * 10 + ["put the spoon in the drawer"] * 10
    return write(root, [e, episode(12, task="open the drawer")])
