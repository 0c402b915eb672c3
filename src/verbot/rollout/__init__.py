"""Rollouts: the episode loop, vectorized runners, workers, collection of demonstrations, results, video."""
