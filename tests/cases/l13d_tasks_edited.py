"""meta/tasks.parquet edited by hand to reword the task (lerobot #2096: what users do). LeRobot resolves task_index through it at every frame.
Right: the new sentence is what episodes get (or check says that meta/episodes and meta/tasks.parquet disagree)."""
from _v3 import *
def make(root): return write(root, [episode(11), episode(9, task="put it down")], tasks_hook=lambda r, t: tasks_table(r, ["grasp the red block", "put it down"]))
