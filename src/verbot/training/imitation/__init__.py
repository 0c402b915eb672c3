"""Imitation learning from demonstrations."""
