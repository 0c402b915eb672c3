"""Fusions join the token groups of all encoders into one."""
