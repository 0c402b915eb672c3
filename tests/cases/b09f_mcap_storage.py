"""MCAP with compressed chunks, as rosbags writes it, written by rosbags. Right: imports with rosbags or mcap; one episode, pictures 0 to 20."""
from _rosbags import *
def make(root): recording(Path(root) / "rec", "MCAP", "STORAGE"); return root
