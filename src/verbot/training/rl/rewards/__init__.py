"""Rewards of reinforcement learning, registered by name."""
