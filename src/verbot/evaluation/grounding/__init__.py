"""Measures how a policy grounds instructions in images."""
