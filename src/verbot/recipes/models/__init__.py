"""Recipes of published model architectures."""
