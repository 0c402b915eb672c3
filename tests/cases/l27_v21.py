"""LeRobotDataset v2.1: one parquet and mp4 an episode, jsonl meta (lerobot #2643, #2858; GR00T #774 reads only v2.1).
Right: read or imported; at least the message says exactly what to run."""
from _v3 import *
def make(root):
    root = Path(root); e = [episode(11), episode(9, task="put it down")]
    (root / "meta").mkdir(parents=True, exist_ok=True)
    f = {"action": {"dtype": "float32", "shape": [7], "names": None}, "observation.state": {"dtype": "float32", "shape": [7], "names": None}, "observation.images.front": {"dtype": "video", "shape": [64, 96, 3], "names": ["height", "width", "channels"]}}
    (root / "meta/info.json").write_text(json.dumps({"codebase_version": "v2.1", "robot_type": "so100", "total_episodes": 2, "total_frames": 20, "total_tasks": 2, "total_videos": 2, "total_chunks": 1, "chunks_size": 1000, "fps": 10, "splits": {"train": "0:2"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4", "features": f}))
    (root / "meta/tasks.jsonl").write_text("\n".join(json.dumps({"task_index": i, "task": t}) for i, t in enumerate(["pick up the cube", "put it down"])))
    (root / "meta/episodes.jsonl").write_text("\n".join(json.dumps({"episode_index": i, "tasks": [x["tasks"][0]], "length": len(x["action"])}) for i, x in enumerate(e)))
    for i, x in enumerate(e):
        (root / "data/chunk-000").mkdir(parents=True, exist_ok=True); (root / "videos/chunk-000/observation.images.front").mkdir(parents=True, exist_ok=True)
        n = len(x["action"])
        pq.write_table(pa.table({"action": x["action"].tolist(), "observation.state": x["state"].tolist(), "timestamp": (np.arange(n) / 10).tolist(), "frame_index": list(range(n)), "episode_index": [i] * n, "index": list(range(n)), "task_index": [i] * n}), root / f"data/chunk-000/episode_{i:06d}.parquet")
        (root / f"videos/chunk-000/observation.images.front/episode_{i:06d}.mp4").write_bytes(video([picture(j) for j in range(n)], 10))
    return root
