"""Episodes played by agents: vectorized runners, workers, collection, results, video."""
