"""Memories: modules with explicit state between the predictions of an episode."""
