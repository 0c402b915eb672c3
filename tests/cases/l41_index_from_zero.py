"""Two data files whose index column counts from 0 again (own converters; LeRobot reads by position). Right: the right frames."""
from _v3 import *
def make(root):
    def rows(r): r[1]["data/file_index"] = 1
    def tables(root, t, r):
        t = t.set_column(t.schema.get_field_index("index"), "index", t.column("frame_index"))
        pq.write_table(t.slice(0, 11), root / "data/chunk-000/file-000.parquet"); pq.write_table(t.slice(11), root / "data/chunk-000/file-001.parquet")
    return write(root, [episode(11), episode(9, task="put it down")], rows_hook=rows, tables_hook=tables)
