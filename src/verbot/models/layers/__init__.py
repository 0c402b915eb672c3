"""Layers that several parts use."""
