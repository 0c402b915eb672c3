"""rosbag2's default before Iron: a folder with .db3, written by rosbags. Right: imports with rosbags or mcap; one episode, pictures 0 to 20."""
from _rosbags import *
def make(root): recording(Path(root) / "rec", "SQLITE3", "NONE"); return root
