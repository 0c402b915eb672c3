"""Memories: what a network carries from one prediction of an episode to the next, as explicit state."""
