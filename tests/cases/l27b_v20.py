"""LeRobotDataset v2.0: as v2.1, but one meta/stats.json for all (its lists are nested for images), and several tasks an episode.
Right: read directly; frames 0..4 of episode 1 have another sentence than the rest."""
from _v3 import *
import l27_v21
def make(root):
    root = l27_v21.make(root); info = json.loads((root / "meta/info.json").read_text()); info["codebase_version"] = "v2.0"
    (root / "meta/info.json").write_text(json.dumps(info))
    p = root / "data/chunk-000/episode_000001.parquet"; t = pq.read_table(p); n = len(t)
    t = t.set_column(t.schema.get_field_index("task_index"), "task_index", pa.array([0] * 5 + [1] * (n - 5)))
    pq.write_table(t, p)
    (root / "meta/episodes.jsonl").write_text("\n".join(json.dumps(e) for e in (
        {"episode_index": 0, "tasks": ["pick up the cube"], "length": 11}, {"episode_index": 1, "tasks": ["pick up the cube", "put it down"], "length": 9})))
    tables = [pq.read_table(root / f"data/chunk-000/episode_{i:06d}.parquet") for i in range(2)]
    stats = {k: stats_of(np.concatenate([np.array(t.column(k).to_pylist()) for t in tables])) for k in ("action", "observation.state")}
    (root / "meta/stats.json").write_text(json.dumps(stats)); return root
