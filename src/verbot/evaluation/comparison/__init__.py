"""Comparisons of evaluations."""
