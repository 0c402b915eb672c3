"""Recipes that learn from rewards. One file each, or several of a kind."""
