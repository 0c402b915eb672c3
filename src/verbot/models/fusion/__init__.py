"""Fusions: several token groups to one."""
