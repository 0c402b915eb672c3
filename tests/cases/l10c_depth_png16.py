"""Depth as 16-bit PNG in millimeters (dtype image). Row i shows 500 + i mm.
Right: left out by name; with depth, meters. Read as color it would saturate to white."""
from _v3 import *
def make(root):
    key = "observation.images.front_depth"
    def info(i): f = i["features"][key]; f["shape"] = [64, 96, 1]; f["info"] = {"is_depth_map": True, "depth_unit": "mm"}
    def frame(cols, features): cols[key] = [{"bytes": png(np.full((64, 96), 500 + n, np.uint16)), "path": None} for n in cols["index"]]
    return write(root, [episode(11), episode(9)], dtype="image", cams=["observation.images.front", key], info_hook=info, frame_hook=frame)
