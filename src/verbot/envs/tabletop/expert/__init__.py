"""Scripted experts of the tabletop."""
