"""The evaluation protocol: conditions, metrics, intervals, and the run."""
