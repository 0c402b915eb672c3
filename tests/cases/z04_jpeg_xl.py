"""UMI as published: camera0_rgb in JPEG XL, whose codec comes with imagecodecs. Right: without it one line that names the codec."""
import json
from pathlib import Path
import z03_umi
def make(root):
    z03_umi.make(root, path="dataset.zarr"); meta = Path(root) / "dataset.zarr/data/camera0_rgb/.zarray"; d = json.loads(meta.read_text())
    d["compressor"] = {"id": "imagecodecs_jpegxl", "level": 99, "distance": 0.3, "effort": 4, "decodingspeed": None, "photometric": None, "usecontainer": None, "numthreads": 1}
    meta.write_text(json.dumps(d)); return Path(root)
