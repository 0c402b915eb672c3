"""image_transport publishes one camera raw and compressed, and both are recorded. Right: one camera, the raw images; the others named as left out."""
from _ros import *
def make(root):
    def body(ev, S, w):
        ev += [(t, topic + "/compressed", "compressed", {"header": hdr(t), "format": "rgb8; jpeg compressed bgr8", "data": jpeg(picture(9))}) for t, topic, kind, m in list(ev) if kind == "image"]
    bag(Path(root) / "ep_0.mcap", body=body); return root
