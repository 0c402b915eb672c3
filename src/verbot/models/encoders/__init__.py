"""Encoders: pixels, words and joint readings to token groups."""
