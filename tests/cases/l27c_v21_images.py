"""LeRobotDataset v2.1 with pictures in the parquet files (dtype image), and episodes 0 and 3 (two were removed), chunks of one episode.
Right: read directly; every frame is the one of its row (episode 3 begins with picture 100)."""
from _v3 import *
def make(root):
    root = Path(root); (root / "meta").mkdir(parents=True, exist_ok=True); e = {0: episode(6), 3: episode(5, task="put it down")}
    f = {"action": {"dtype": "float32", "shape": [7], "names": None}, "observation.state": {"dtype": "float32", "shape": [7], "names": None},
         "observation.images.front": {"dtype": "image", "shape": [3, 64, 96], "names": ["channels", "height", "width"]}}
    (root / "meta/info.json").write_text(json.dumps({"codebase_version": "v2.1", "robot_type": "so100", "total_episodes": 2, "total_frames": 11, "total_tasks": 2, "chunks_size": 1, "fps": 10,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "video_path": None, "features": f}))
    (root / "meta/tasks.jsonl").write_text("\n".join(json.dumps({"task_index": i, "task": t}) for i, t in enumerate(["pick up the cube", "put it down"])))
    (root / "meta/episodes.jsonl").write_text("\n".join(json.dumps({"episode_index": i, "tasks": [x["tasks"][0]], "length": len(x["action"])}) for i, x in e.items()))
    for i, x in e.items():
        n = len(x["action"]); p = root / f"data/chunk-{i:03d}/episode_{i:06d}.parquet"; p.parent.mkdir(parents=True, exist_ok=True)
        cells = pa.array([{"bytes": png(picture(100 * (i > 0) + j)), "path": f"frame_{j:06d}.png"} for j in range(n)], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        pq.write_table(pa.table({"action": x["action"].tolist(), "observation.state": x["state"].tolist(), "observation.images.front": cells, "frame_index": list(range(n)),
                                 "episode_index": [i] * n, "index": list(range(n)), "task_index": [int(i > 0)] * n}), p)
    return root
