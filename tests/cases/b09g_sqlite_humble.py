"""A .db3 of Humble: no definitions of messages in it. Right: those of ROS 2 are known; one episode, pictures 0 to 20."""
from _rosbags import *
def make(root): recording(Path(root) / "rec", version=8, defined=False); return root
