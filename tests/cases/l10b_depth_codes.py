"""Depth as LeRobot records it: HEVC gray12le of codes that are equal steps of log(depth + 3.5 m) from 0.01 m to 10 m.
Right: left out by name; with depth, meters to within a step: row i of the dataset shows depth_m(i), and 0 (unknown) in the first column."""
from _v3 import *
def depth_m(n): return np.linspace(.3, 3, 96)[None].repeat(64, 0) + .01 * n
def codes(m): return np.rint((np.log(np.maximum(m, .01) + 3.5) - np.log(3.51)) / (np.log(13.5) - np.log(3.51)) * 4095).astype(np.uint16)
def deep(frames, fps):
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as c:
        s = c.add_stream("libx265", rate=fps, options={"x265-params": "lossless=1:log-level=none"}); s.height, s.width = frames[0].shape; s.pix_fmt = "gray12le"
        for f in frames:
            v = av.VideoFrame(f.shape[1], f.shape[0], "gray12le"); p = v.planes[0]; b = np.zeros((f.shape[0], p.line_size // 2), np.uint16); b[:, : f.shape[1]] = f; p.update(b); c.mux(s.encode(v))
        c.mux(s.encode())
    return sink.getvalue()
def make(root):
    key = "observation.images.front_depth"
    def info(i):
        f = i["features"][key]; f["shape"] = [64, 96, 1]
        f["info"] |= {"is_depth_map": True, "depth_unit": "mm", "video.channels": 1, "video.pix_fmt": "gray12le", "video.codec": "hevc", "video.depth_min": .01, "video.depth_max": 10., "video.shift": 3.5, "video.use_log": True}
    def vids(where, c, frames):
        if c != key: (where / "file-000.mp4").write_bytes(video(frames, 10)); return
        maps = [depth_m(n) for n in range(len(frames))]
        for m in maps: m[:, 0] = 0
        (where / "file-000.mp4").write_bytes(deep([codes(m) for m in maps], 10))
    return write(root, [episode(11), episode(9)], cams=["observation.images.front", key], info_hook=info, video_hook=vids)
