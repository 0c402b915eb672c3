"""Heads: fused tokens to actions."""
