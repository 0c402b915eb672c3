"""Encoders: images, instructions, states and actions to token groups."""
